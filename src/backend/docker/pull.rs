//! Pulls the image, once for all who wait for it, and says how far it is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actors::port::backend::BackendError;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::error::{answer, chain, no_room, unsent};

/// How often the progress of a pull is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How long a pull may make no progress.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// What a pull came to; none while it runs.
type Outcome = Option<Result<(), BackendError>>;

/// The pull that runs, if one does.
#[derive(Debug, Default)]
pub(super) struct Pulls(Mutex<Option<watch::Receiver<Outcome>>>);

impl Pulls {
    /// Waits for the pull that runs, or for a new one. It goes on when nobody waits any more.
    pub(super) async fn pull(&self, api: Docker, image: &str) -> Result<(), BackendError> {
        let mut outcome = {
            let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let runs = |outcome: &watch::Receiver<Outcome>| outcome.borrow().is_none() && outcome.has_changed().is_ok();
            match running.clone().filter(runs) {
                Some(outcome) => outcome,
                None => {
                    let (sender, outcome) = watch::channel(None);
                    let image = image.to_owned();
                    tokio::spawn(async move {
                        let result = pull(&api, &image).await;
                        if let Err(error) = &result {
                            tracing::warn!(image, %error, "the image is not pulled");
                        }
                        sender.send_replace(Some(result));
                    });
                    *running = Some(outcome.clone());
                    outcome
                }
            }
        };
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => Err(BackendError::Unreachable(format!("the pull of {image} was interrupted"))),
        }
    }
}

async fn pull(api: &Docker, image: &str) -> Result<(), BackendError> {
    let began = Instant::now();
    tracing::info!(image, "pulling the image");
    let options = CreateImageOptionsBuilder::new().from_image(&tagged(image)).build();
    let mut answers = api.create_image(Some(options), None, None);
    let mut progress = Progress::default();
    let mut said = began;
    loop {
        let Ok(answer) = tokio::time::timeout(SILENCE_MAX, answers.next()).await else {
            let seconds = SILENCE_MAX.as_secs();
            return Err(BackendError::Unreachable(format!("the pull of {image} makes no progress for {seconds} s")));
        };
        match answer {
            Some(Ok(info)) => progress.note(info),
            Some(Err(error)) => return Err(failure(image, &error)),
            None => break,
        }
        if said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            let (layers_done, layers, megabytes_done, megabytes) = progress.sum();
            tracing::info!(image, layers_done, layers, megabytes_done, megabytes, "pulling the image");
        }
    }
    let (_, layers, _, megabytes) = progress.sum();
    tracing::info!(image, layers, megabytes, seconds = began.elapsed().as_secs(), "the image is pulled");
    Ok(())
}

/// The image with its tag: without one the daemon would pull all tags there are.
fn tagged(image: &str) -> String {
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    if name.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// Whether the image could be pulled, as the registry says.
pub(super) async fn check(api: &Docker, image: &str) -> Result<(), BackendError> {
    match api.inspect_registry_image(&tagged(image), None).await {
        Ok(_) => Ok(()),
        // Podman does not have the question.
        Err(error) if answer(&error).is_some_and(|(status, text)| status == 404 && unknown_path(text)) => Ok(()),
        Err(error) => Err(failure(image, &error)),
    }
}

fn unknown_path(text: &str) -> bool {
    matches!(text.trim(), "Not Found" | "page not found" | "404 page not found")
}

/// Why an image is not pulled. Nothing was made.
fn failure(image: &str, error: &Error) -> BackendError {
    if let Some(unsent) = unsent(error) {
        return unsent;
    }
    let (status, message) = match error {
        Error::DockerStreamError { error } => (0, error.clone()),
        other => answer(other).map_or_else(|| (0, chain(other)), |(status, message)| (status, message.to_owned())),
    };
    let text = format!("image {image} cannot be pulled: {}", message.trim());
    let lower = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    if status == 429 || says(&["toomanyrequests", "too many requests", "rate limit"]) {
        BackendError::Throttled { text, retry_after: None }
    } else if lower.starts_with("denied")
        || says(&["unauthorized", "authentication required", "access denied", "access to the resource is denied"])
    {
        BackendError::Unauthorized(format!("{text}; a private image has to be there before (pull: never)"))
    } else if says(&["manifest unknown", "not found", "no matching manifest", "name unknown", "invalid reference"]) {
        BackendError::Invalid(text)
    } else if no_room(&message) {
        BackendError::NoCapacity(text)
    } else {
        BackendError::Unreachable(text)
    }
}

/// How far the layers are.
#[derive(Debug, Default)]
struct Progress(BTreeMap<String, Layer>);

#[derive(Debug, Default)]
struct Layer {
    done: bool,
    bytes: i64,
    of: i64,
}

impl Progress {
    fn note(&mut self, info: CreateImageInfo) {
        let (Some(id), Some(status)) = (info.id, info.status) else { return };
        match &*status {
            // The tag, not a layer.
            status if status.starts_with("Pulling from") => {}
            "Pull complete" | "Already exists" => {
                let layer = self.0.entry(id).or_default();
                layer.done = true;
                layer.bytes = layer.of;
            }
            status => {
                let layer = self.0.entry(id).or_default();
                if let ("Downloading", Some(detail)) = (status, info.progress_detail) {
                    layer.bytes = detail.current.unwrap_or(layer.bytes);
                    layer.of = detail.total.unwrap_or(layer.of);
                }
            }
        }
    }

    /// Layers done, layers, megabytes loaded, megabytes as far as they are known.
    fn sum(&self) -> (usize, usize, i64, i64) {
        let layers = self.0.values();
        let (bytes, of) = layers.fold((0, 0), |(bytes, of), layer| (bytes + layer.bytes, of + layer.of));
        (self.0.values().filter(|layer| layer.done).count(), self.0.len(), bytes / 1_000_000, of / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest_one() {
        for (image, pulled) in [
            ("runner", "runner:latest"),
            ("host:5000/octo/runner", "host:5000/octo/runner:latest"),
            ("host:5000/runner:2", "host:5000/runner:2"),
            ("runner@sha256:abc", "runner@sha256:abc"),
        ] {
            assert_eq!(tagged(image), pulled);
        }
    }

    #[test]
    fn progress_is_the_sum_over_the_layers() {
        let mut progress = Progress::default();
        let mut note = |id: &str, status: &str, current, total| {
            let detail = ProgressDetail { current, total };
            progress.note(CreateImageInfo {
                id: Some(id.to_owned()),
                status: Some(status.to_owned()),
                progress_detail: Some(detail),
                ..CreateImageInfo::default()
            });
        };
        note("latest", "Pulling from octo/runner", None, None);
        note("a", "Pulling fs layer", None, None);
        note("b", "Already exists", None, None);
        note("c", "Downloading", Some(1_000_000), Some(3_000_000));
        note("a", "Downloading", Some(2_000_000), Some(4_000_000));
        note("a", "Extracting", Some(1), Some(9));
        note("c", "Pull complete", None, None);
        assert_eq!(progress.sum(), (2, 3, 5, 7));
    }

    #[test]
    fn why_a_pull_fails_decides_what_happens_next() {
        let kind = |text: &str| failure("i", &Error::DockerStreamError { error: text.to_owned() }).kind();
        assert_eq!(kind("toomanyrequests: You have reached your pull rate limit."), "throttled");
        assert_eq!(kind("manifest for i:latest not found: manifest unknown: manifest unknown"), "invalid");
        assert_eq!(
            kind("pull access denied for i, repository does not exist or may require 'docker login': denied"),
            "unauthorized"
        );
        assert_eq!(kind("failed to register layer: write /x: no space left on device"), "no_capacity");
        let down = "Get \"https://r/v2/\": dial tcp: lookup r: no such host";
        let error = failure("i", &Error::DockerStreamError { error: down.to_owned() });
        assert!(matches!(&error, BackendError::Unreachable(text) if text.contains("no such host")), "{error:?}");
    }
}
