//! A group's settings, already checked: nothing past the configuration checks them again.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{GroupName, RepositoryId};

/// Where a group's runners are registered at GitHub. Logins and names compare without case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A GitHub enterprise, by slug.
    Enterprise(String),
    /// An organization, by login.
    Organization(String),
    /// One repository.
    Repository {
        /// Login of the owner.
        owner: String,
        /// Name without the owner.
        name: String,
    },
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enterprise(slug) => write!(f, "enterprise {slug}"),
            Self::Organization(login) => write!(f, "organization {login}"),
            Self::Repository { owner, name } => write!(f, "repository {owner}/{name}"),
        }
    }
}

/// Who asks GitHub: a credential, on behalf of the groups of a scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker {
    /// Name of the credential.
    pub credential: String,
    /// Where the groups' runners are registered.
    pub scope: Scope,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, credential {}", self.scope, self.credential)
    }
}

/// Operating system of a runner, spelt as in `runs-on` labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Os {
    /// Linux, the default.
    Linux,
    /// Windows.
    Windows,
    /// macOS.
    Macos,
}

impl Os {
    /// As a label, lower case: `linux`, `windows`, `macos`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
            Self::Macos => "macos",
        }
    }

    /// As GitHub's list of runner downloads spells it: `linux`, `win`, `osx`.
    #[must_use]
    pub fn download_name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "win",
            Self::Macos => "osx",
        }
    }
}

/// Processor architecture of a runner, spelt as in `runs-on` labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86, the default.
    X64,
    /// 64-bit ARM.
    Arm64,
    /// 32-bit ARM.
    Arm,
}

impl Arch {
    /// As a label and in GitHub's list of runner downloads: `x64`, `arm64`, `arm`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
            Self::Arm => "arm",
        }
    }
}

/// Everything the brain needs to know of one runner group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// Its name, unique in the configuration.
    pub name: GroupName,
    /// Where its runners are registered.
    pub scope: Scope,
    /// Name of the credential that GitHub is asked with. Default `default`.
    pub github_credential: String,
    /// Labels of its runners, lower case, without duplicates, without the implicit `self-hosted`.
    pub labels: Vec<String>,
    /// Runners kept available beyond demand.
    pub min: u32,
    /// Runners that may exist at once, in whatever state.
    pub max: u32,
    /// Among groups that serve a job the highest wins. Default 0.
    pub priority: i32,
    /// Operating system. Default Linux.
    pub os: Os,
    /// Architecture. Default x64.
    pub arch: Arch,
    /// How long a runner may take from the creation of its instance until it is online.
    pub time_to_start: Duration,
    /// How long a runner may be online, busy or not.
    pub time_to_live: Duration,
    /// How long a runner above `min` may be idle.
    pub idle_timeout: Duration,
    /// Time between two health checks.
    pub healthcheck_interval: Duration,
    /// Whether jobs of public repositories are served. Default true.
    pub allows_public_repositories: bool,
    /// Only these repositories are served; empty: all.
    pub selected_repository_ids: Vec<RepositoryId>,
    /// Whether GitHub lets only `selected_workflows` use the runner group. Default false.
    pub restricted_to_workflows: bool,
    /// Workflows that may use the runner group, as GitHub spells them: `octo/app/.github/workflows/ci.yml@main`.
    pub selected_workflows: Vec<String>,
    /// Path or text of the script the runner runs before each job; empty: none.
    pub job_started_script: String,
    /// Path or text of the script the runner runs after each job; empty: none.
    pub job_completed_script: String,
    /// Where instances are made: the first one that takes them. Never empty, each with a name of its own.
    pub backends: Vec<BackendLimits>,
}

/// The limits of one of a group's backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendLimits {
    /// Its name within the group, for people, metrics and snapshots: `process`, `docker`, …; further ones of a kind have
    /// a number: `docker-2`.
    pub name: String,
    /// Longest time one create may take before its outcome counts as unknown. Default 5 minutes.
    pub create_timeout: Duration,
    /// Longest time any other call may take before its outcome counts as unknown. Default 5 minutes.
    pub delete_timeout: Duration,
    /// Calls that may run at once, at least 1. Default 16.
    pub max_concurrency: usize,
    /// Failed creates in a row that open its breaker, at least 1. Default 5.
    pub breaker_failures: u32,
    /// How long the breaker stays open the first time; it doubles up to 5 minutes or to this. Default 15 s.
    pub breaker_wait: Duration,
}

impl BackendLimits {
    /// The documented defaults, for a backend of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            create_timeout: Duration::from_secs(300),
            delete_timeout: Duration::from_secs(300),
            max_concurrency: 16,
            breaker_failures: 5,
            breaker_wait: Duration::from_secs(15),
        }
    }
}

impl GroupSettings {
    /// A group with the documented defaults for all but these: no runners beyond demand, 15 minutes to start, 12 hours to
    /// live, 5 minutes idle, a health check every 15 minutes, the backend `base` with its defaults.
    #[must_use]
    pub fn new(name: GroupName, scope: Scope, labels: Vec<String>, max: u32) -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            name,
            scope,
            github_credential: "default".to_owned(),
            labels,
            min: 0,
            max,
            priority: 0,
            os: Os::Linux,
            arch: Arch::X64,
            time_to_start: MINUTE * 15,
            time_to_live: MINUTE * 720,
            idle_timeout: MINUTE * 5,
            healthcheck_interval: MINUTE * 15,
            allows_public_repositories: true,
            selected_repository_ids: vec![],
            restricted_to_workflows: false,
            selected_workflows: vec![],
            job_started_script: String::new(),
            job_completed_script: String::new(),
            backends: vec![BackendLimits::new("base")],
        }
    }

    /// The name of the backend that is asked first.
    #[must_use]
    pub fn backend(&self) -> &str {
        self.backends.first().map_or("", |backend| &backend.name)
    }

    /// As whom GitHub is asked about what concerns the group.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker { credential: self.github_credential.clone(), scope: self.scope.clone() }
    }

    /// Labels a runner registers with: `self-hosted`, the operating system, the architecture and the group's own.
    #[must_use]
    pub fn runner_labels(&self) -> Vec<String> {
        let mut labels = vec!["self-hosted".to_owned(), self.os.label().to_owned(), self.arch.label().to_owned()];
        for label in &self.labels {
            if !labels.iter().any(|l| l.eq_ignore_ascii_case(label)) {
                labels.push(label.clone());
            }
        }
        labels
    }
}
