//! What each command does, up to its exit status.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::online::{self, Verdict};
use crate::app::{self, App, StartError};
use crate::cli::{CheckArgs, Cli, Command, ConfigArgs, DemoArgs, exit};
use crate::config::{self, Config, LogFormat, LogLevel};
use crate::demo::{self, RunningService};
use crate::{check, telemetry};

/// Why a command ended without having done its work.
struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    fn failed(text: impl Into<String>) -> Self {
        Self { status: exit::FAILED, text: text.into() }
    }

    fn usage(text: impl Into<String>) -> Self {
        Self { status: exit::USAGE, text: text.into() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(text) => Self::usage(text),
            StartError::System(text) => Self::failed(text),
        }
    }
}

/// Runs a command and tells its exit status; what went wrong is told on standard error.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Serve(args) => block_on(serve(args)),
        Command::Demo(args) => block_on(run_demo(args)),
        Command::Check(args) => check_config(args),
        Command::Schema => print(&format!("{:#}\n", config::schema())),
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "runner-manager", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::DemoRunner => demo_runner(),
    };
    match done {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(failure) => {
            // Nothing is left to be told when standard error is closed.
            let _ = writeln!(io::stderr(), "runner-manager: {}", failure.text);
            ExitCode::from(failure.status)
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough: `runner-manager schema | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn load(args: ConfigArgs) -> Result<Config, Failure> {
    let file: Option<PathBuf> = config::config_file(args.config, &config::process_environment);
    config::load(file.as_deref(), &config::process_environment).map_err(|errors| Failure::usage(errors.to_string()))
}

fn check_config(args: CheckArgs) -> Result<(), Failure> {
    let config = load(args.config)?;
    print(&check::describe(&config))?;
    app::supported(&config)?;
    if args.online { block_on(check_online(&config)) } else { Ok(()) }
}

async fn check_online(config: &Config) -> Result<(), Failure> {
    let findings = online::check(config).await?;
    let lines: String = findings.iter().map(|finding| format!("  {finding}\n")).collect();
    print(&format!("\nonline\n{lines}"))?;
    match findings.iter().filter(|finding| finding.verdict == Verdict::Error).count() {
        0 => Ok(()),
        1 => Err(Failure::failed("1 thing is wrong: see the line that begins with \"error\"")),
        wrong => Err(Failure::failed(format!("{wrong} things are wrong: see the lines that begin with \"error\""))),
    }
}

async fn serve(args: ConfigArgs) -> Result<(), Failure> {
    let config = load(args)?;
    let level = match config.log_level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warning => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    };
    let format = match config.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(level, format).map_err(|error| Failure::failed(error.to_string()))?;
    for warning in check::warnings(&config) {
        tracing::warn!("{warning}");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut app = App::start(config).await?;
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hang_up.recv() => tracing::warn!("SIGHUP ignored: this version reads its configuration at the start only"),
            why = app.failed() => break Some(why),
        }
    };
    tracing::info!("stopping: runners go on and are found again at the next start");
    let in_time = app.stop().await;
    tracing::info!(in_time, "stopped");
    match failed {
        None => Ok(()),
        Some(why) => Err(Failure::failed(why)),
    }
}

async fn run_demo(args: DemoArgs) -> Result<(), Failure> {
    telemetry::init(tracing::Level::ERROR, telemetry::Format::Text)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let data_dir = tempfile::Builder::new().prefix("runner-manager-demo-").tempdir()?;
    let name = format!("demo-{}", std::process::id());
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let DemoArgs { jobs, rate, max, seed, exit, faults } = args;
    let options = demo::Options { jobs, rate, max, seed, exit, faults };
    let stdout = io::stdout();
    let live = stdout.is_terminal();
    let start = async |request: demo::ServiceRequest| -> Result<RunningService, String> {
        let dir = data_dir.path().to_string_lossy();
        let text = app::demo_config(&name, &dir, &request, &[program.clone(), "demo-runner".to_owned()]);
        let config = config::parse(&text, "demo", &|_| None).map_err(|errors| errors.to_string())?;
        let app = App::start(config).await.map_err(|error| error.to_string())?;
        let address = app.address;
        let mark = format!("RUNNER_MANAGER_NAME={name}");
        Ok(RunningService {
            webhook_url: format!("http://{address}/webhook"),
            dashboard_url: format!("http://{address}/"),
            count_processes: Box::new(move || demo::processes::count_marked(&mark)),
            stop: Box::new(move || {
                Box::pin(async move {
                    app.stop().await;
                })
            }),
        })
    };
    let summary = demo::run(options, stdout, live, start).await.map_err(|error| Failure::failed(error.to_string()))?;
    if args.exit && !summary.ok() {
        return Err(Failure::failed("the demo did not end as it should: see the table"));
    }
    Ok(())
}

fn demo_runner() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(demo::runner::run(|name| std::env::var(name).ok()))
        .map_err(|error| Failure::failed(error.to_string()))
}
