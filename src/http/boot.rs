//! What instances fetch and report while they boot, each by a token of its own: the endpoints that runners' install
//! scripts of external providers call, and two of ours (`jit-config`, `startup-script`).

use std::sync::Arc;

use actors::actor::directory::{Command, Refused};
use actors::model::report::{InstanceReport, ReportStatus};
use actors::port::boot::{Boot, BootError, Booting};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use poem::http::header::{AUTHORIZATION, CONTENT_DISPOSITION};
use poem::http::{HeaderMap, StatusCode};
use poem::{Endpoint, IntoResponse, Request, Response, Route, get, post};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::auth::bearer;
use super::body::{self, Bounds};
use super::problem::Problem;
use super::routes::App;

/// Where all of this is.
pub(super) const PREFIX: &str = "/instances/v1";
/// Requests of instances in progress; further ones are answered 503.
const REQUESTS_MAX: usize = 128;
/// Longest name of a user that a unit may run as.
const USER_MAX: usize = 32;

/// What is asked for.
#[derive(Clone, Copy)]
enum What {
    /// A file of the just-in-time config.
    File(&'static str),
    RegistrationToken,
    ServiceName,
    UnitFile,
    CertBundle,
    JitConfig,
    StartupScript,
    Status,
    SystemInfo,
}

use What::{CertBundle, File, JitConfig, RegistrationToken, ServiceName, StartupScript, Status, SystemInfo, UnitFile};

/// All paths behind the prefix.
const PATHS: [(&str, What); 10] = [
    ("/metadata/credentials/runner", File(".runner")),
    ("/metadata/credentials/credentials", File(".credentials")),
    ("/metadata/credentials/credentials_rsaparams", File(".credentials_rsaparams")),
    ("/metadata/runner-registration-token", RegistrationToken),
    ("/metadata/system/service-name", ServiceName),
    ("/metadata/systemd/unit-file", UnitFile),
    ("/metadata/system/cert-bundle", CertBundle),
    ("/metadata/jit-config", JitConfig),
    ("/metadata/startup-script", StartupScript),
    ("/callback/status", Status),
];

/// The paths, each with and without a slash at its end.
pub(super) fn routes(app: &Arc<App>, boot: &Arc<dyn Boot>) -> Route {
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut route = Route::new();
    for (path, what) in PATHS.into_iter().chain([("/callback/system-info", SystemInfo)]) {
        for path in [path.to_owned(), format!("{path}/")] {
            let door = Door { app: Arc::clone(app), boot: Arc::clone(boot), requests: Arc::clone(&requests), what };
            let methods = if matches!(what, Status | SystemInfo) { post(door) } else { get(door) };
            route = route.at(path, methods);
        }
    }
    route
}

/// One path.
struct Door {
    app: Arc<App>,
    boot: Arc<dyn Boot>,
    requests: Arc<Semaphore>,
    what: What,
}

impl Endpoint for Door {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        Ok(self.answer(request).await.unwrap_or_else(IntoResponse::into_response))
    }
}

impl Door {
    async fn answer(&self, request: Request) -> Result<Response, Problem> {
        let Ok(_place) = self.requests.try_acquire() else {
            return Err(Problem::unavailable("too many instances are asking: try again"));
        };
        let token = token(request.headers())?.to_owned();
        let booting = self.in_time(self.boot.open(&token)).await?;
        match self.what {
            File(name) => file(&booting, name),
            RegistrationToken => {
                Err(Problem::not_found("there are no registration tokens: runners start with just-in-time configs"))
            }
            ServiceName => Ok(plain(service_name(&booting))),
            UnitFile => unit_file(&booting, request.uri().query()).map(plain),
            CertBundle => Ok(json_answer(&json!({ "root_certificates": {} }))),
            JitConfig => Ok(plain(booting.jit_config.expose().to_owned())),
            StartupScript => {
                let script = self.in_time(self.boot.startup_script(&token)).await?;
                Ok(Response::builder().content_type("text/x-shellscript; charset=utf-8").body(script))
            }
            Status => {
                let report = status(&self.body(request).await?)?;
                self.report(booting, report).await
            }
            SystemInfo => {
                let report = system_info(&self.body(request).await?);
                self.report(booting, report).await
            }
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, BootError>>) -> Result<T, Problem> {
        match timeout(self.app.settings.limits.read_deadline, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error @ BootError::Refused)) => Err(Problem::new(StatusCode::UNAUTHORIZED, error.to_string())),
            Ok(Err(BootError::Unavailable(error))) => {
                tracing::warn!(error, "an instance got no answer");
                Err(Problem::unavailable("the instance's config cannot be read at the moment: try again"))
            }
            Err(_) => Err(Problem::unavailable("the store does not answer at the moment: try again")),
        }
    }

    /// The fields of a report.
    async fn body(&self, request: Request) -> Result<Map<String, Value>, Problem> {
        let limits = &self.app.settings.limits;
        let bounds = Bounds { bytes: limits.admin_bytes, deadline: limits.body_deadline, stall: limits.body_stall };
        let (parts, body) = request.into_parts();
        let body = body::read(&parts.headers, body, bounds, &self.app.bodies).await?;
        serde_json::from_slice(&body.bytes).map_err(|_| Problem::bad_request("the body is not a JSON object"))
    }

    /// Passes a report on to the runner, wherever its group runs.
    async fn report(&self, booting: Booting, report: InstanceReport) -> Result<Response, Problem> {
        let command = Command::InstanceReport { runner: booting.runner, report };
        match self.app.front.directory.command(booting.group.as_str(), command).await {
            Ok(_) => Ok(json_answer(&json!({}))),
            Err(Refused::NoGroup(_) | Refused::NoRunner { .. }) => {
                Err(Problem::new(StatusCode::UNAUTHORIZED, BootError::Refused.to_string()))
            }
            Err(Refused::Conflict(why)) => Err(Problem::new(StatusCode::CONFLICT, why)),
            Err(Refused::Unavailable(why)) => Err(Problem::unavailable(why)),
        }
    }
}

/// The one token of a request.
fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    let refused = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
    let mut presented = headers.get_all(AUTHORIZATION).iter();
    let header = presented
        .next()
        .ok_or_else(|| refused("the instance's token is needed: send it as \"Authorization: Bearer <token>\""))?;
    if presented.next().is_some() {
        return Err(refused("more than one token was sent"));
    }
    let token = bearer(header.as_bytes()).ok_or_else(|| refused("the scheme of Authorization is not Bearer"))?;
    std::str::from_utf8(token).map_err(|_| refused(&BootError::Refused.to_string()))
}

fn plain(text: String) -> Response {
    Response::builder().content_type("text/plain; charset=utf-8").body(text)
}

fn json_answer(value: &Value) -> Response {
    Response::builder().content_type("application/json").body(value.to_string())
}

/// A file of the just-in-time config, as the runner wants to have it.
fn file(booting: &Booting, name: &'static str) -> Result<Response, Problem> {
    let config = STANDARD.decode(booting.jit_config.expose()).ok();
    let config: Option<Map<String, Value>> = config.and_then(|json| serde_json::from_slice(&json).ok());
    let content = config.as_ref().and_then(|files| files.get(name)).and_then(Value::as_str);
    let content = content.and_then(|content| STANDARD.decode(content).ok());
    let content = content.ok_or_else(|| Problem::not_found(format!("the just-in-time config has no file {name}")))?;
    Ok(Response::builder()
        .content_type("application/octet-stream")
        .header(CONTENT_DISPOSITION, format!("attachment; filename={name}"))
        .body(content))
}

/// The name of the runner's service, without its ending.
fn service_name(booting: &Booting) -> String {
    let scope: String = booting
        .scope_path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    format!("actions.runner.{scope}.{}", booting.runner)
}

/// The unit of the runner's service, for the user that the query names.
fn unit_file(booting: &Booting, query: Option<&str>) -> Result<String, Problem> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let user = pairs.filter(|(name, _)| *name == "runAsUser").map(|(_, value)| value).next().unwrap_or("runner");
    let valid = (1..=USER_MAX).contains(&user.len())
        && user.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if !valid {
        let expected = format!("1 to {USER_MAX} letters, digits, '_', '-' or '.', first a letter or '_'");
        return Err(Problem::invalid("runAsUser", expected));
    }
    let hooks: String = [
        ("ACTIONS_RUNNER_HOOK_JOB_STARTED", booting.variable("RUNNER_JOB_STARTED_SCRIPT")),
        ("ACTIONS_RUNNER_HOOK_JOB_COMPLETED", booting.variable("RUNNER_JOB_COMPLETED_SCRIPT")),
    ]
    .into_iter()
    // A text that is not a path would need a file at the instance.
    .filter(|(_, path)| {
        path.starts_with('/') && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
    })
    .map(|(name, path)| format!("Environment={name}={path}\n"))
    .collect();
    let name = service_name(booting);
    Ok(format!(
        "[Unit]\nDescription=GitHub Actions Runner ({name})\nAfter=network.target\n\n\
         [Service]\nExecStart=/home/{user}/actions-runner/runsvc.sh\nUser={user}\n\
         WorkingDirectory=/home/{user}/actions-runner\n{hooks}KillMode=process\nKillSignal=SIGTERM\n\
         TimeoutStopSec=5min\n\n[Install]\nWantedBy=multi-user.target\n"
    ))
}

/// A text field; absent, null or of another type: empty.
fn text<'a>(body: &'a Map<String, Value>, name: &str) -> &'a str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn status(body: &Map<String, Value>) -> Result<InstanceReport, Problem> {
    let status = match text(body, "status") {
        "installing" => ReportStatus::Installing,
        "idle" => ReportStatus::Idle,
        "failed" => ReportStatus::Failed,
        _ => return Err(Problem::invalid("#/status", "one of installing, idle, failed")),
    };
    Ok(InstanceReport::new(status, text(body, "message")))
}

fn system_info(body: &Map<String, Value>) -> InstanceReport {
    let message = format!("it runs {} {}", text(body, "os_name"), text(body, "os_version"));
    InstanceReport::new(ReportStatus::Installing, &message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actors::id::{GroupName, RunnerName};
    use actors::model::secret::Secret;

    use super::*;

    fn booting() -> Booting {
        Booting {
            runner: RunnerName::new("octo-1").unwrap(),
            group: GroupName::new("octo").unwrap(),
            env: vec![
                ("RUNNER_JOB_STARTED_SCRIPT".to_owned(), "/opt/hooks/start.sh".to_owned()),
                ("RUNNER_JOB_COMPLETED_SCRIPT".to_owned(), "/opt/x\nExecStart=/bin/evil".to_owned()),
            ],
            scope_path: "octo-org/app".to_owned(),
            jit_config: Secret::new(String::new()),
            left: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_unit_names_its_user_and_hooks_that_are_paths_and_nothing_that_could_be_another_line() {
        let unit = unit_file(&booting(), Some("a=b&runAsUser=build_1")).unwrap();
        assert!(unit.contains("\nUser=build_1\n") && unit.contains("/home/build_1/actions-runner/runsvc.sh"), "{unit}");
        assert!(unit.contains("\nEnvironment=ACTIONS_RUNNER_HOOK_JOB_STARTED=/opt/hooks/start.sh\n"), "{unit}");
        assert!(unit.contains("(actions.runner.octo-org-app.octo-1)"), "{unit}");
        assert_eq!(unit.matches("Exec").count(), 1, "{unit}");
        assert!(unit_file(&booting(), None).unwrap().contains("\nUser=runner\n"));
    }

    #[test]
    fn a_user_that_is_no_name_is_refused() {
        for user in ["", "a b", "a%0aExecStart=x", "../root", "1a", "-x", "ü", &"u".repeat(33)] {
            let problem = unit_file(&booting(), Some(&format!("runAsUser={user}"))).unwrap_err();
            assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY, "{user}");
        }
    }
}
