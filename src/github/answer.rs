//! One answer of GitHub: what it means, what it says about limits, where the next page is.

use std::time::Duration;

use actors::port::GitHubError;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::wire::Problem;

/// Longest wait that is taken from a header: the longest window of GitHub's limits is an hour.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// An answer that was read to its end.
pub(super) struct Answer {
    /// `METHOD /path`, for error texts.
    pub(super) request: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What is left of a limit.
pub(super) struct Left {
    pub(super) resource: &'static str,
    pub(super) limit: Option<u64>,
    pub(super) remaining: u64,
    /// When it starts anew, by GitHub's clock.
    pub(super) resets_at: Option<Timestamp>,
    /// The same, from now.
    pub(super) resets_in: Duration,
}

/// What a refusal for a limit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// How long to wait, if it says so.
    pub(super) wait: Option<Duration>,
    /// Whether nothing is left of a resource until it starts anew. Else GitHub was asked too much at once.
    pub(super) used_up: bool,
}

impl Answer {
    /// Whether GitHub refused because of a limit.
    pub(super) fn limited(&self) -> Option<Refusal> {
        let retry_after = self.number("retry-after").map(Duration::from_secs);
        let exhausted = self.number("x-ratelimit-remaining") == Some(0);
        let limited = match self.status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::FORBIDDEN => retry_after.is_some() || exhausted || self.speaks_of_a_limit(),
            _ => false,
        };
        let used_up = exhausted && retry_after.is_none();
        let said = retry_after.or_else(|| if used_up { self.until_reset() } else { None });
        limited.then(|| Refusal { wait: said.map(|wait| wait.clamp(Duration::from_secs(1), RETRY_MAX)), used_up })
    }

    fn speaks_of_a_limit(&self) -> bool {
        let said = self.problem().to_string().to_ascii_lowercase();
        said.contains("rate limit") || said.contains("abuse detection")
    }

    fn until_reset(&self) -> Option<Duration> {
        Some(Duration::try_from(self.reset()?.duration_since(self.date())).unwrap_or_default())
    }

    fn reset(&self) -> Option<Timestamp> {
        Timestamp::from_second(i64::try_from(self.number("x-ratelimit-reset")?).ok()?).ok()
    }

    /// GitHub's clock when it answered, if it tells.
    pub(super) fn sent_at(&self) -> Option<Timestamp> {
        let date = self.text("date").and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        date.map(|date| date.timestamp())
    }

    /// GitHub's clock, or ours where it does not tell.
    pub(super) fn date(&self) -> Timestamp {
        self.sent_at().unwrap_or_else(Timestamp::now)
    }

    /// What is left of the limit that this call counted against.
    pub(super) fn left(&self) -> Option<Left> {
        Some(Left {
            resource: self.resource(),
            limit: self.number("x-ratelimit-limit"),
            remaining: self.number("x-ratelimit-remaining")?,
            resets_at: self.reset(),
            resets_in: self.until_reset().unwrap_or_default().min(RETRY_MAX),
        })
    }

    /// The limit that this call counted against, a bounded word. `core` where GitHub does not tell.
    pub(super) fn resource(&self) -> &'static str {
        const KNOWN: [&str; 5] = ["core", "actions_runner_registration", "search", "graphql", "integration_manifest"];
        let Some(name) = self.text("x-ratelimit-resource") else { return "core" };
        KNOWN.into_iter().find(|known| *known == name).unwrap_or("other")
    }

    /// The error that this answer is, when it is not what was asked for. Limits are [`Self::limited`]'s.
    pub(super) fn error(&self) -> GitHubError {
        let text = self.describe();
        match self.status.as_u16() {
            401 => GitHubError::Unauthorized(text),
            403 => GitHubError::Forbidden(match self.text("x-accepted-github-permissions") {
                Some(needed) if !needed.is_empty() && needed.len() <= 200 => {
                    format!("{text} (GitHub accepts the permission {needed})")
                }
                _ => text,
            }),
            404 | 410 => GitHubError::NotFound(text),
            408 | 425 => GitHubError::Unknown(text),
            409 => GitHubError::Conflict(text),
            // Some servers say it this way when a name is taken.
            422 if text.to_ascii_lowercase().contains("already exists") => GitHubError::Conflict(text),
            400..500 => GitHubError::Invalid(text),
            _ => GitHubError::Unknown(text),
        }
    }

    /// What was asked and what came back, without the body of a success.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{} answered {}", self.request, self.status);
        let problem = self.problem().to_string();
        if !problem.is_empty() {
            text = format!("{text}: {problem}");
        }
        match self.text("x-github-request-id") {
            Some(id) if id.len() <= 64 => format!("{text} [request id {id}]"),
            _ => text,
        }
    }

    /// What an error answer says. A body that is not GitHub's JSON (a proxy's page) says nothing.
    fn problem(&self) -> Problem {
        if self.status.is_success() {
            return Problem::default();
        }
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body. The error of an unreadable one shows nothing of it: it may hold a secret.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, GitHubError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "JSON in which a field is missing or has another type",
                serde_json::error::Category::Eof => "JSON that ends too early",
                serde_json::error::Category::Syntax | serde_json::error::Category::Io => "something that is not JSON",
            };
            let (line, column) = (error.line(), error.column());
            GitHubError::Unknown(format!("{} with {what} (line {line}, column {column})", self.describe()))
        })
    }

    /// Path and query of the next page (`Link: <…>; rel="next"`).
    pub(super) fn next(&self) -> Option<String> {
        let links = self.headers.get_all("link").iter().filter_map(|value| value.to_str().ok());
        links.flat_map(|value| value.split('<').skip(1)).find_map(next_link)
    }

    pub(super) fn text(&self, header: &str) -> Option<&str> {
        self.headers.get(header)?.to_str().ok().map(str::trim)
    }

    fn number(&self, header: &str) -> Option<u64> {
        self.text(header)?.parse().ok()
    }
}

/// `link` is what follows a `<`: `address>; rel="next", `.
fn next_link(link: &str) -> Option<String> {
    let (address, parameters) = link.split_once('>')?;
    let next = parameters.trim_end().trim_end_matches(',').split(';').any(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or_default();
        let mut relations = value.trim().trim_matches('"').split_whitespace();
        key.trim().eq_ignore_ascii_case("rel") && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
    });
    let uri: Uri = address.parse().ok()?;
    if next { uri.path_and_query().map(ToString::to_string) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        let status = StatusCode::from_u16(status).unwrap();
        Answer { request: "GET /x".to_owned(), status, headers: map, body }
    }

    #[test]
    fn the_next_page_is_the_link_with_that_relation() {
        let next = |link: &str| answer(200, &[("link", link)], "").next();
        let both = "<https://h/a?q=1,2&page=1>; rel=\"prev\", <https://h/a?q=1,2&page=3>; rel=\"next\"";
        assert_eq!(next(both).as_deref(), Some("/a?q=1,2&page=3"));
        assert_eq!(next("</a?page=2>; title=\"x\"; REL=next , </a?page=9>; rel=last").as_deref(), Some("/a?page=2"));
        assert_eq!(next("<https://h/a?page=1>; rel=\"last nextish\""), None);
        assert_eq!(next("https://h/a; rel=next"), None);
        assert_eq!(answer(200, &[], "").next(), None);
    }

    #[test]
    fn a_limit_is_told_from_a_missing_permission() {
        let secondary = r#"{"message": "You have exceeded a secondary rate limit."}"#;
        let exhausted = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1700000090"),
            ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ];
        let wait = |seconds| Some(Refusal { wait: Some(Duration::from_secs(seconds)), used_up: false });
        let unsaid = |used_up| Some(Refusal { wait: None, used_up });
        assert_eq!(answer(403, &[("retry-after", "30")], "{}").limited(), wait(30));
        assert_eq!(answer(429, &[("retry-after", "0")], "{}").limited(), wait(1));
        assert_eq!(answer(429, &[("retry-after", "99999999")], "{}").limited(), wait(3600));
        let used_up = Refusal { wait: Some(Duration::from_secs(90)), used_up: true };
        assert_eq!(answer(403, &exhausted, "{}").limited(), Some(used_up));
        assert_eq!(answer(403, &exhausted[..1], "{}").limited(), unsaid(true));
        assert_eq!(answer(403, &[("x-ratelimit-remaining", "17")], secondary).limited(), unsaid(false));
        assert_eq!(answer(429, &[], "").limited(), unsaid(false));
        assert_eq!(answer(403, &[("x-ratelimit-remaining", "17")], "{}").limited(), None);
        assert_eq!(answer(200, &exhausted, "{}").limited(), None);
        assert_eq!(answer(503, &[("retry-after", "30")], "{}").limited(), None);
    }

    #[test]
    fn a_missing_permission_is_named_as_github_names_it() {
        let needed = [("x-accepted-github-permissions", "actions=read")];
        let refused = |headers: &[(&'static str, &str)]| answer(403, headers, r#"{"message": "No"}"#).error();
        let text = "GET /x answered 403 Forbidden: No";
        assert_eq!(refused(&[]), GitHubError::Forbidden(text.to_owned()));
        let named = format!("{text} (GitHub accepts the permission actions=read)");
        assert_eq!(refused(&needed), GitHubError::Forbidden(named));
    }

    #[test]
    fn unreadable_json_is_described_without_showing_it() {
        for body in [r#"{"id": "s3cret"}"#, "s3cret", r#"{"id": 1, "x": "s3cret"#] {
            let error = answer(201, &[], body).json::<super::super::wire::Installation>().err().unwrap();
            assert!(matches!(error, GitHubError::Unknown(_)), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }
}
