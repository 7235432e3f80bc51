//! A door to what reads answers of name servers, for [`crate::fuzzing`] alone.

use std::net::IpAddr;
use std::time::Duration;

use super::names;

/// The name that was asked for and its addresses, of a datagram of a name server.
pub fn answer(datagram: &[u8]) -> Option<(String, Vec<(IpAddr, Duration)>)> {
    names::read(datagram).map(|answer| (answer.asked, answer.addresses))
}
