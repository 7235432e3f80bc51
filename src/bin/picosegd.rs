//! The daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Opens and closes third-party access on this host, by schedule, in the kernel.
#[derive(Parser)]
#[command(name = "picosegd", version)]
struct Arguments {
    /// The settings file [default: /etc/picoseg/picoseg.toml].
    #[arg(long, value_name = "FILE", env = "PICOSEG_CONFIG")]
    config: Option<PathBuf>,
    /// Removes the table and exits.
    #[arg(long)]
    unload: bool,
}

fn main() -> ExitCode {
    picoseg::daemon::subscribe();
    let arguments = Arguments::parse();
    let options = picoseg::daemon::Options { config: arguments.config, unload: arguments.unload };
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
