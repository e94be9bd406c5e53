//! The command line's way into the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    runner_manager::commands::run(runner_manager::cli::Cli::parse())
}
