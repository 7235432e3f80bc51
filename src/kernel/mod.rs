//! The edge towards the kernel: everything that speaks netlink.

pub mod commit;
mod ffi;
