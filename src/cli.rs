//! The command line: what can be asked of the program, and with which exit status it answers.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Exit statuses, the same for every command.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Tried and failed.
    pub const FAILED: u8 = 1;
    /// The arguments or the configuration are wrong.
    pub const USAGE: u8 = 2;
}

/// Runs fleets of self-hosted GitHub Actions runners.
#[derive(Debug, Parser)]
#[command(name = "runner-manager", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service
    Serve(ConfigArgs),
    /// Show the whole service at work on this machine, with a simulated GitHub and nothing to install
    Demo(DemoArgs),
    /// Validate a configuration and print what it means
    Check(CheckArgs),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The simulated runner of the demo; started by its process backend, not by people
    #[command(hide = true)]
    DemoRunner,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file [env: CONFIG_FILE]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What is validated.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also ask GitHub, the store and each backend whether they would serve, without making anything there
    #[arg(long)]
    pub online: bool,
}

/// How the demo goes.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Jobs that arrive
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub jobs: u32,
    /// Jobs that arrive in a second, on average
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub rate: f64,
    /// Runners that may exist at once
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub max: u32,
    /// Decides when jobs arrive and how long they run
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// End with a table once all jobs are done
    #[arg(long)]
    pub exit: bool,
    /// Let GitHub misbehave: webhooks get lost, come late and twice, answers get lost, calls fail
    #[arg(long)]
    pub faults: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 && rate <= 10_000.0 => Ok(rate),
        _ => Err("expected jobs per second, above 0 and at most 10000".to_owned()),
    }
}
