//! What engines and the kernel say of a container: its names, and where its network is.
//!
//! Neighbour: [`super::cgroups::ContainerWatcher`] finds the containers themselves. Deliberately absent: the engines'
//! sockets; whoever may write to one of them is root, and what we need stands in files.

mod engines;
mod network;

pub use engines::Engines;
pub use network::{Home, Network, network_of};
