//! Requests and answers over the two unix sockets: HTTP and JSON.
//!
//! | file | duty |
//! |---|---|
//! | [`body`] | the JSON bodies |
//! | [`view`] | from the world to the bodies |
//! | [`ask`] | what a request asks of the daemon, and how it answers |
//! | [`explain`] | would a packet pass: question and answer |
//! | [`reason`] | what an order has to say |
//! | [`word`] | words of closed sets as written |
//! | [`server`] | the daemon's end of the sockets |
//! | [`client`] | the command line's end |

pub mod ask;
pub mod body;
pub mod client;
pub mod explain;
pub mod reason;
pub mod server;
pub mod view;
pub mod word;
