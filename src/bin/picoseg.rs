//! The command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    picoseg::cli::main()
}
