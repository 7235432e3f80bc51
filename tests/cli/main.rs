//! `picoseg` as a process: what it prints, and how it exits.

mod etc;
mod offline;
mod online;
mod shapes;
