//! The helper for `exe` subjects.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Puts each process of a program that a schedule names into a cgroup of its own before its first instruction.
#[derive(Parser)]
#[command(name = "picoseg-execd", version)]
struct Arguments {
    /// The settings file [default: /etc/picoseg/picoseg.toml].
    #[arg(long, value_name = "FILE", env = "PICOSEG_CONFIG")]
    config: Option<PathBuf>,
    /// For the helper itself: the process that watches this one.
    #[arg(long, hide = true, value_name = "PID")]
    responder_of: Option<u32>,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PICOSEG_LOG").unwrap_or_else(|_| "info".into()),
        )
        .init();
    let arguments = Arguments::parse();
    let options = picoseg::execd::Options { config: arguments.config, responder_of: arguments.responder_of };
    picoseg::execd::main(&options)
}
