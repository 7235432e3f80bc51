//! The daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use picoseg::daemon::{Options, Task};

/// glibc's heap keeps a third more than lives in it, also after `malloc_trim`: what lies between that which stayed of a load. With
/// 10,000 services at rest 57 MiB were resident instead of 68 (one arena, purged at once), with mimalloc 116.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Opens and closes third-party access on this host, by schedule, in the kernel.
#[derive(Parser)]
#[command(name = "picosegd", version)]
struct Arguments {
    /// The settings file [default: /etc/picoseg/picoseg.toml].
    #[arg(long, value_name = "FILE", env = "PICOSEG_CONFIG")]
    config: Option<PathBuf>,
    /// Puts the table in force that was there last, where none is, and exits: for the boot, before the network is up.
    #[arg(long)]
    early: bool,
    /// Removes the table and exits.
    #[arg(long, conflicts_with = "early")]
    unload: bool,
}

impl Arguments {
    fn task(&self) -> Task {
        match (self.early, self.unload) {
            (true, _) => Task::Early,
            (false, true) => Task::Unload,
            (false, false) => Task::Run,
        }
    }
}

fn main() -> ExitCode {
    picoseg::daemon::subscribe();
    let arguments = Arguments::parse();
    let options = Options { task: arguments.task(), config: arguments.config };
    // The netlink socket owns the table and belongs to one network namespace: one thread is enough, and simplest.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("picosegd: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(picoseg::daemon::main(options))
}
