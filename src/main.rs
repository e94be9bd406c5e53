//! The command line's way into the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    runner_manager::memory::give_back_large_blocks();
    runner_manager::commands::run(runner_manager::cli::Cli::parse())
}
