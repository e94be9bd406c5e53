//! What a runner talks to: its session, the question for a job that is held open, and the job's end.
//!
//! | request under `/runner-service/{runner}` | answer |
//! |---|---|
//! | `POST /session` | 200: the runner is online |
//! | `DELETE /session` | 204: it is offline, and still registered; a job it had claimed fails |
//! | `GET /message` | 200 `{"job_id"}` once there is a job for it, 204 after a while without |
//! | `POST /jobs/{job}/claim` | 200 `{"duration_ms"}`: the job is in progress; 409: it is somebody else's by now |
//! | `GET /jobs/{job}/watch` | 200 `{"cancelled": true}` once it is to stop, 204 after a while without |
//! | `POST /jobs/{job}/finish` `{"stopped"}` | 204: the job is over, and so is the registration |
//!
//! 404 everywhere: the runner is not registered (any more); 401: its secret is wrong.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::What;
use super::jobs::JobId;
use super::rest::Answer;
use super::socket::Line;
use super::state::{Shared, World};

/// Answers a runner's request to `path`, relative to `/runner-service/`.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    line: &Line,
    method: &str,
    path: &str,
    secret: &str,
    body: &[u8],
) -> Answer {
    let segments: Vec<&str> = path.split('/').collect();
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    let Some(runner) = segments.first().map(|id| number(id)) else { return Answer::not_found() };
    match shared.lock().runners.get(&runner) {
        None => return Answer::not_found(),
        Some(runner) if runner.secret != secret => return Answer::error(401, "Bad credentials"),
        Some(_) => {}
    }
    match (method, &segments[1..]) {
        ("POST", ["session"]) => open(&mut shared.lock(), runner),
        ("DELETE", ["session"]) => close(&mut shared.lock(), runner),
        ("GET", ["message"]) => next_job(shared, line, runner).await,
        ("POST", ["jobs", job, "claim"]) => match shared.lock().claim(runner, JobId(number(job))) {
            Some(duration) => Answer::new(200, json!({"duration_ms": duration.as_millis()})),
            None => Answer::error(409, "the job is not this runner's"),
        },
        ("GET", ["jobs", job, "watch"]) => watch(shared, line, runner, JobId(number(job))).await,
        ("POST", ["jobs", job, "finish"]) => {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let stopped = body["stopped"].as_bool().unwrap_or_default();
            match shared.lock().finish(runner, JobId(number(job)), stopped) {
                true => Answer::empty(204),
                false => Answer::not_found(),
            }
        }
        _ => Answer::not_found(),
    }
}

fn open(world: &mut World, id: u64) -> Answer {
    let Some(runner) = world.runners.get_mut(&id) else { return Answer::not_found() };
    if runner.in_session && runner.polls > 0 {
        return Answer::error(409, "a session for this runner exists already");
    }
    let now = Instant::now();
    let first = runner.first_contact.is_none();
    runner.first_contact.get_or_insert(now);
    runner.in_session = true;
    runner.last_contact = now;
    let name = runner.name.clone();
    if first {
        world.tell(What::RunnerStarted { runner: name });
    }
    Answer::new(200, json!({}))
}

fn close(world: &mut World, id: u64) -> Answer {
    let Some(runner) = world.runners.get_mut(&id) else { return Answer::not_found() };
    runner.in_session = false;
    let Some((job, _)) = runner.job else { return Answer::empty(204) };
    if world.jobs.get(&job).is_some_and(|job| job.taken_at.is_some()) {
        world.finish(id, job, true);
    } else {
        runner.job = None;
        world.requeue(job);
    }
    Answer::empty(204)
}

async fn next_job(shared: &Arc<Shared>, line: &Line, id: u64) -> Answer {
    let _connection = Connection::open(shared, id);
    shared.lock().feed(id);
    held_open(shared, line, id, |world| {
        let (job, _) = world.runners.get(&id)?.job?;
        Some(Answer::new(200, json!({"job_id": job.0})))
    })
    .await
}

async fn watch(shared: &Arc<Shared>, line: &Line, id: u64, job: JobId) -> Answer {
    let _connection = Connection::open(shared, id);
    held_open(shared, line, id, |world| {
        let job = world.jobs.get(&job)?;
        job.cancelled.then(|| Answer::new(200, json!({"cancelled": true})))
    })
    .await
}

/// Waits for `news` of a runner; 204 when none came in time or nobody listens any more, 404 when the runner is gone.
async fn held_open(shared: &Shared, line: &Line, id: u64, news: impl Fn(&World) -> Option<Answer>) -> Answer {
    let deadline = tokio::time::Instant::now() + shared.lock().settings.poll_timeout;
    loop {
        let wake = {
            let world = shared.lock();
            let Some(runner) = world.runners.get(&id) else { return Answer::not_found() };
            if let Some(answer) = news(&world) {
                return answer;
            }
            Arc::clone(&runner.wake)
        };
        tokio::select! {
            () = wake.notified() => {}
            () = line.closed() => return Answer::empty(204),
            () = tokio::time::sleep_until(deadline) => return Answer::empty(204),
        }
    }
}

/// An open connection of a runner: counted from its making until it is dropped, however it ends.
struct Connection {
    shared: Arc<Shared>,
    runner: u64,
}

impl Connection {
    fn open(shared: &Arc<Shared>, runner: u64) -> Self {
        if let Some(runner) = shared.lock().runners.get_mut(&runner) {
            runner.polls += 1;
        }
        Self { shared: Arc::clone(shared), runner }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runner) = self.shared.lock().runners.get_mut(&self.runner) {
            runner.polls = runner.polls.saturating_sub(1);
            runner.last_contact = Instant::now();
        }
    }
}
