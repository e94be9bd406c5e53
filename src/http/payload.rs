//! Wire types of `workflow_job` deliveries, and what is kept of them.
//!
//! The fields come from GitHub's published schema of the event. Those that decide (ids, labels, names of the
//! repository and the runner) must have the right type; those that only describe are left out when they have not.

use std::fmt;

use actors::id::{JobId, RepositoryId, RunnerId};
use actors::model::delivery::{JobAction, JobEvent, JobFacts, RepositoryRef, RunnerRef};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::Segment;
use thiserror::Error;

/// Deepest nesting that is read. GitHub's payloads have less than 10.
const DEPTH_MAX: usize = 100;
/// Most characters of a text that only describes; longer ones are cut.
const TEXT_MAX: usize = 256;
/// Most characters of a login or the name of a repository; GitHub allows 39 and 100.
const NAME_MAX: usize = 100;
/// Most labels of a job, and characters of a label; GitHub allows 100 and 256.
const LABELS_MAX: usize = 100;
const LABEL_MAX: usize = 256;

/// What a `workflow_job` body says.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed {
    /// One of the actions that matter.
    Job(Box<JobEvent>),
    /// An action that came after this program.
    UnknownAction,
}

/// Why a body is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum PayloadError {
    /// Not JSON at all.
    #[error("the payload is not JSON: {0}")]
    NotJson(String),
    /// Nested deeper than any payload of GitHub.
    #[error("the payload is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// No `payload` field, or not readable.
    #[error("the form is not readable: {0}")]
    Form(&'static str),
    /// One field is missing, or has the wrong type or size.
    #[error("the payload is not a workflow_job event: {pointer}: {detail}")]
    Field {
        /// JSON pointer to the field.
        pointer: String,
        /// What was expected.
        detail: String,
    },
}

/// Reads the body of a `workflow_job` delivery.
pub(super) fn parse(body: &[u8]) -> Result<Parsed, PayloadError> {
    let text = std::str::from_utf8(body)
        .map_err(|e| PayloadError::NotJson(format!("it is not UTF-8 at byte {}", e.valid_up_to())))?;
    check_depth(body)?;
    match serde_json::from_str::<Wire>(text) {
        Ok(wire) => wire.into_parsed(),
        Err(error) => explain(text, &error),
    }
}

/// The `payload` field of a form, decoded.
pub(super) fn form_payload(body: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let mut found = body.split(|b| *b == b'&').filter_map(|field| field.strip_prefix(b"payload="));
    let value = found.next().ok_or(PayloadError::Form("it has no field \"payload\""))?;
    if found.next().is_some() {
        return Err(PayloadError::Form("it has more than one field \"payload\""));
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.iter().copied();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(), digit());
                let value = high.zip(low).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
                value.ok_or(PayloadError::Form("a \"%\" is not followed by two hexadecimal digits"))?
            }
            other => other,
        });
    }
    Ok(decoded)
}

/// Refuses deep nesting before any recursive parser sees it.
fn check_depth(json: &[u8]) -> Result<(), PayloadError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(PayloadError::TooDeep);
        }
    }
    Ok(())
}

/// The slow way, for bodies that were not understood: is it JSON, is the action a new one, which field is wrong?
fn explain(text: &str, error: &serde_json::Error) -> Result<Parsed, PayloadError> {
    if !error.is_data() {
        return Err(PayloadError::NotJson(error.to_string()));
    }
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(PayloadError::NotJson(error.to_string()));
    }
    if let Ok(WireAction { action: Scalar::Text(action) }) = serde_json::from_str(text)
        && known_action(&action).is_none()
    {
        return Ok(Parsed::UnknownAction);
    }
    match serde_path_to_error::deserialize::<_, Wire>(&mut serde_json::Deserializer::from_str(text)) {
        Ok(wire) => wire.into_parsed(),
        Err(error) => {
            let mut pointer = String::from("#");
            for segment in error.path() {
                match segment {
                    Segment::Map { key } => pointer.extend(["/", key]),
                    Segment::Seq { index } => pointer.extend(["/", &index.to_string()]),
                    Segment::Enum { .. } | Segment::Unknown => {}
                }
            }
            let detail = error.inner().to_string();
            if let Some(missing) = detail.strip_prefix("missing field `").and_then(|d| d.split('`').next()) {
                pointer.extend(["/", missing]);
            }
            Err(PayloadError::Field { pointer, detail })
        }
    }
}

fn known_action(action: &str) -> Option<JobAction> {
    match action {
        "queued" => Some(JobAction::Queued),
        "waiting" => Some(JobAction::Waiting),
        "in_progress" => Some(JobAction::InProgress),
        "completed" => Some(JobAction::Completed),
        _ => None,
    }
}

/// The least that every action has.
#[derive(Deserialize)]
struct WireAction {
    action: Scalar,
}

#[derive(Deserialize)]
struct Wire {
    action: String,
    workflow_job: WireJob,
    repository: WireRepository,
    organization: Option<WireOrganization>,
    enterprise: Option<WireEnterprise>,
    installation: Option<WireInstallation>,
}

#[derive(Deserialize)]
struct WireJob {
    id: u64,
    run_id: u64,
    labels: Option<Vec<String>>,
    runner_id: Option<u64>,
    runner_name: Option<String>,
    #[serde(default)]
    run_attempt: Scalar,
    #[serde(default)]
    name: Scalar,
    #[serde(default)]
    workflow_name: Scalar,
    #[serde(default)]
    head_branch: Scalar,
    #[serde(default)]
    conclusion: Scalar,
    #[serde(default)]
    created_at: Scalar,
    #[serde(default)]
    started_at: Scalar,
    #[serde(default)]
    completed_at: Scalar,
}

#[derive(Deserialize)]
struct WireRepository {
    id: u64,
    name: String,
    private: Option<bool>,
    owner: WireOwner,
}

#[derive(Deserialize)]
struct WireOwner {
    login: String,
    #[serde(default, rename = "type")]
    kind: Scalar,
}

#[derive(Deserialize)]
struct WireOrganization {
    login: String,
}

#[derive(Deserialize)]
struct WireEnterprise {
    #[serde(default)]
    slug: Scalar,
}

#[derive(Deserialize)]
struct WireInstallation {
    id: u64,
}

impl Wire {
    fn into_parsed(self) -> Result<Parsed, PayloadError> {
        let Some(action) = known_action(&self.action) else { return Ok(Parsed::UnknownAction) };
        let job = self.workflow_job;
        let labels = job.labels.unwrap_or_default();
        if labels.len() > LABELS_MAX {
            return Err(field("#/workflow_job/labels", format!("{} labels are more than {LABELS_MAX}", labels.len())));
        }
        if let Some(at) = labels.iter().position(|l| !is_plain(l, LABEL_MAX)) {
            let expected = format!("a label has at most {LABEL_MAX} characters and no control characters");
            return Err(field(&format!("#/workflow_job/labels/{at}"), expected));
        }
        let repository = self.repository;
        let owner = name("#/repository/owner/login", repository.owner.login)?;
        let organization = match self.organization {
            Some(organization) => Some(name("#/organization/login", organization.login)?),
            None => repository.owner.kind.is("Organization").then(|| owner.clone()),
        };
        let repository = RepositoryRef {
            id: RepositoryId(repository.id),
            owner,
            name: name("#/repository/name", repository.name)?,
            private: repository.private.unwrap_or(false),
        };
        let conclusion = (action == JobAction::Completed).then(|| job.conclusion.text()).flatten();
        Ok(Parsed::Job(Box::new(JobEvent {
            action,
            runner: runner(action, job.runner_id, job.runner_name),
            conclusion,
            job: JobFacts {
                id: JobId(job.id),
                run_id: job.run_id,
                run_attempt: job.run_attempt.number(),
                name: job.name.text().unwrap_or_default(),
                workflow_name: job.workflow_name.text(),
                head_branch: job.head_branch.text(),
                labels,
                repository,
                organization,
                enterprise: self.enterprise.and_then(|e| e.slug.text()),
                installation_id: self.installation.map(|i| i.id),
                created_at: job.created_at.time(),
                started_at: job.started_at.time(),
                completed_at: job.completed_at.time(),
            },
        })))
    }
}

/// The runner that took the job. Payloads of jobs that nobody took may name one all the same: it is not believed.
fn runner(action: JobAction, id: Option<u64>, name: Option<String>) -> Option<RunnerRef> {
    if matches!(action, JobAction::Queued | JobAction::Waiting) {
        return None;
    }
    let id = id.filter(|id| *id != 0).map(RunnerId);
    let name = name.map(clean).unwrap_or_default();
    (id.is_some() || !name.is_empty()).then_some(RunnerRef { id, name })
}

fn field(pointer: &str, detail: String) -> PayloadError {
    PayloadError::Field { pointer: pointer.to_owned(), detail }
}

/// Names that decide are refused rather than cut: a cut one would be another's.
fn name(pointer: &str, value: String) -> Result<String, PayloadError> {
    if value.is_empty() || value.contains('/') || !is_plain(&value, NAME_MAX) {
        return Err(field(pointer, format!("expected 1 to {NAME_MAX} characters, no \"/\" and no control characters")));
    }
    Ok(value)
}

fn is_plain(text: &str, max: usize) -> bool {
    text.chars().nth(max).is_none() && !text.chars().any(char::is_control)
}

/// Cuts to [`TEXT_MAX`] characters and replaces control characters.
fn clean(text: String) -> String {
    if is_plain(&text, TEXT_MAX) {
        return text;
    }
    text.chars().take(TEXT_MAX).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A value that only describes: whatever it is, it is no error.
#[derive(Debug, Default)]
enum Scalar {
    Text(String),
    Number(u64),
    #[default]
    Other,
}

impl Scalar {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(clean(text)),
            Self::Number(_) | Self::Other => None,
        }
    }

    fn is(&self, expected: &str) -> bool {
        matches!(self, Self::Text(text) if text == expected)
    }

    fn number(self) -> Option<u32> {
        match self {
            Self::Number(number) => u32::try_from(number).ok(),
            Self::Text(_) | Self::Other => None,
        }
    }

    fn time(self) -> Option<jiff::Timestamp> {
        match self {
            Self::Text(text) => text.parse().ok(),
            Self::Number(_) | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests;
