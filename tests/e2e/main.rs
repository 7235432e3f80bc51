//! The whole product against a real kernel: `picosegd`, `picoseg` and real sockets in network namespaces.
//!
//! [`lab`] builds a host and a provider, [`agent`] is the process whose traffic is judged, the other modules are
//! the tests. They need root, network namespaces and a cgroup2 hierarchy, and say `SKIPPED: why` where one of
//! them is missing. Nothing outside the namespaces and cgroups of a test is touched.

mod agent;
mod lab;

mod accounts;
mod anywhere;
mod attempts;
mod audit;
mod behind;
mod chaos;
mod clock_steps;
mod closing;
mod coexist;
mod confirm;
mod containers;
mod differences;
mod explain;
mod extend;
mod failsafe;
mod findings;
mod flood;
mod flows;
mod follow;
mod forward;
mod full_disk;
mod harness;
mod heal;
mod hostile;
mod journal;
mod ledger;
mod lifecycle;
mod metrics;
mod monitoring;
mod mutations;
mod names;
mod notify;
mod observe;
mod opening;
mod orders;
mod ordinary;
mod overlap;
mod packets;
mod plan;
mod programs;
mod reload;
mod report;
mod restart;
mod segments;
mod settle;
mod shipped;
mod soak;
mod stall;
mod startup;
mod tcp_cases;
mod tls;
mod tls_clients;
mod whois;
