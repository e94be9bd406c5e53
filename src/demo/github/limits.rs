//! What requests cost, what is left, and the headers that say so.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::log::Operation;
use super::rest::Answer;
use super::settings::random_hex;
use super::state::{Resource, World};

/// What may be registered in a window by other means.
const REGISTRATIONS: u64 = 10_000;

impl World {
    /// What calls of `operation` are counted against.
    pub(super) fn resource(&self, operation: Operation) -> Resource {
        let own = self.settings.registration_limit.is_some();
        if operation == Operation::GenerateJitConfig && own { Resource::Registration } else { Resource::Core }
    }

    fn limit(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Core => self.settings.rate_limit,
            Resource::Registration => self.settings.registration_limit.unwrap_or(REGISTRATIONS),
        }
    }

    /// What may be asked in a window, and what was.
    pub(super) fn used(&self, resource: Resource) -> (u64, u64) {
        let limit = self.limit(resource);
        let window = self.settings.rate_window;
        let spent = self.spent.get(&resource).filter(|(_, since)| since.elapsed() < window);
        (limit, spent.map_or(0, |(spent, _)| *spent).min(limit))
    }

    /// When a limit starts anew, in whole seconds and never too early.
    pub(super) fn reset(&self, resource: Resource) -> Timestamp {
        let window = self.settings.rate_window;
        let running = self.spent.get(&resource).filter(|(_, since)| since.elapsed() < window);
        let since = running.map_or_else(Instant::now, |(_, since)| *since);
        self.stamp(since + window + Duration::from_millis(999))
    }

    /// Counts one request; false when none was left.
    pub(super) fn spend(&mut self, resource: Resource) -> bool {
        let (limit, window) = (self.limit(resource), self.settings.rate_window);
        let spent = self.spent.entry(resource).or_insert_with(|| (0, Instant::now()));
        if spent.1.elapsed() >= window {
            *spent = (0, Instant::now());
        }
        let left = spent.0 < limit;
        spent.0 += u64::from(left);
        left
    }

    /// Takes one request back: it turned out to cost nothing.
    pub(super) fn refund(&mut self, resource: Resource) {
        if let Some((spent, _)) = self.spent.get_mut(&resource) {
            *spent = spent.saturating_sub(1);
        }
    }

    /// The headers that every answer has; those that `answer` has already stay.
    pub(super) fn standard_headers(&self, operation: Operation, answer: &mut Answer) {
        let resource = self.resource(operation);
        let (limit, used) = self.used(resource);
        let date = self.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let headers = [
            ("date", date),
            ("x-ratelimit-limit", limit.to_string()),
            ("x-ratelimit-remaining", (limit - used).to_string()),
            ("x-ratelimit-used", used.to_string()),
            ("x-ratelimit-reset", self.reset(resource).as_second().to_string()),
            ("x-ratelimit-resource", resource.as_str().to_owned()),
            ("x-github-api-version-selected", "2022-11-28".to_owned()),
            ("x-github-media-type", "github.v3; format=json".to_owned()),
            ("x-github-request-id", random_hex(10).to_uppercase()),
        ];
        for (name, value) in headers {
            if answer.headers.iter().all(|(known, _)| *known != name) {
                answer.headers.push((name, value));
            }
        }
    }
}
