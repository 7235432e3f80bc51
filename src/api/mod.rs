//! Requests and answers over the two unix sockets: HTTP and JSON.
//!
//! | file | duty |
//! |---|---|
//! | [`body`] | the JSON bodies |
//! | [`view`] | from the world to the bodies |
//! | [`ask`] | what a request asks of the daemon, and how it answers |

pub mod ask;
pub mod body;
pub mod view;
