//! Which group serves a job, and why that one or why none.

use crate::id::GroupName;
use crate::model::delivery::JobFacts;
use crate::model::remote::Reach;
use crate::model::settings::{GroupSettings, Scope};

/// Every self-hosted runner has this label.
const IMPLICIT: &str = "self-hosted";

/// A group that may serve the job.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its settings.
    pub settings: &'a GroupSettings,
    /// Whether it could create a runner now.
    pub has_capacity: bool,
    /// Whom its runners serve according to GitHub.
    pub reach: &'a Reach,
}

/// The answer, with its reason in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// This group serves it.
    Group {
        /// Which.
        name: GroupName,
        /// Why.
        reason: String,
    },
    /// None does.
    None {
        /// Why.
        reason: String,
    },
}

/// Chooses the group for a job: the labels that its runners register with (the group's own, `self-hosted`, operating
/// system and architecture) and its scope must admit it; among several the highest priority wins, then the
/// fewest labels, then free capacity, then the order of the configuration.
#[must_use]
pub fn match_job<'a>(job: &JobFacts, candidates: impl IntoIterator<Item = Candidate<'a>>) -> Match {
    if job.labels.is_empty() {
        return Match::None {
            reason: "the job asks for no label, so any runner of its runner group would do; \
            give `runs-on` at least one label of a configured group"
                .to_owned(),
        };
    }
    if job.labels.iter().all(|label| is_github_hosted(label)) {
        return Match::None {
            reason: format!("the job asks for [{}], which GitHub hosts itself", job.labels.join(", ")),
        };
    }
    let mut best: Option<Candidate<'a>> = None;
    let mut admitted = 0_u32;
    let mut nearest: Option<(usize, String)> = None;
    for candidate in candidates {
        match refusal(job, candidate) {
            Some((distance, why)) => {
                if nearest.as_ref().is_none_or(|(d, _)| distance < *d) {
                    nearest = Some((distance, format!("group {} {why}", candidate.settings.name)));
                }
            }
            None => {
                admitted += 1;
                if best.is_none_or(|b| rank(candidate) > rank(b)) {
                    best = Some(candidate);
                }
            }
        }
    }
    match best {
        Some(best) => Match::Group { name: best.settings.name.clone(), reason: reason(job, best, admitted) },
        None => Match::None {
            reason: match nearest {
                Some((_, why)) => format!("no group serves [{}]: the nearest, {why}", job.labels.join(", ")),
                None => "no group is configured".to_owned(),
            },
        },
    }
}

/// Greater is better; equal keeps the earlier one.
fn rank(candidate: Candidate<'_>) -> (i32, std::cmp::Reverse<usize>, bool) {
    (candidate.settings.priority, std::cmp::Reverse(candidate.settings.labels.len()), candidate.has_capacity)
}

fn reason(job: &JobFacts, best: Candidate<'_>, admitted: u32) -> String {
    let labels = best.settings.labels.join(", ");
    let mut reason = match admitted {
        1 => format!("it is the only group that serves the job's labels (it has [{labels}])"),
        _ => format!(
            "of {admitted} groups that serve the job's labels it comes first by priority ({}), fewest labels \
             ([{labels}]), free capacity ({}) and order in the configuration",
            best.settings.priority,
            if best.has_capacity { "yes" } else { "no" },
        ),
    };
    if let Scope::Repository { owner, name } = &best.settings.scope
        && !is_named(job, owner, name)
    {
        let now = format!("{}/{}", job.repository.owner, job.repository.name);
        reason = format!("{reason}; repository {now} was called {owner}/{name}: change the configuration");
    }
    reason
}

/// Why the group does not serve the job, and how far it is from doing so (smaller is nearer).
fn refusal(job: &JobFacts, candidate: Candidate<'_>) -> Option<(usize, String)> {
    let Candidate { settings: group, reach, .. } = candidate;
    let repository = format!("{}/{}", job.repository.owner, job.repository.name);
    if !in_scope(job, &group.scope, reach) {
        let why = format!(
            "is for {}, not for {repository} (if it only has another name now, change the configuration)",
            group.scope
        );
        return Some((3000, why));
    }
    let missing: Vec<&str> = job
        .labels
        .iter()
        .filter(|label| {
            ![IMPLICIT, group.os.label(), group.arch.label()].iter().any(|own| own.eq_ignore_ascii_case(label))
        })
        .filter(|label| !group.labels.iter().any(|own| same_label(own, label)))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let word = if missing.len() == 1 { "label" } else { "labels" };
        return Some((1000 + missing.len().min(999), format!("lacks the {word} {}", missing.join(", "))));
    }
    if !job.repository.private && !group.allows_public_repositories {
        return Some((2, format!("does not serve public repositories, and {repository} is public")));
    }
    if !group.selected_repository_ids.is_empty() && !group.selected_repository_ids.contains(&job.repository.id) {
        return Some((
            1,
            format!("serves selected repositories only, and {repository} ({}) is not one of them", job.repository.id),
        ));
    }
    let access = reach.access.as_ref().filter(|access| !access.admits(&job.repository));
    access.map(|access| {
        let (kind, id) = (if job.repository.private { "private" } else { "public" }, job.repository.id);
        let name = &access.runner_group;
        (
            1,
            format!(
                "cannot: its runner group {name:?} at GitHub does not admit the {kind} repository {repository} ({id})"
            ),
        )
    })
}

fn same_label(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || a.to_lowercase() == b.to_lowercase()
}

fn in_scope(job: &JobFacts, scope: &Scope, reach: &Reach) -> bool {
    match scope {
        Scope::Enterprise(slug) => job.enterprise.as_ref().is_some_and(|e| e.eq_ignore_ascii_case(slug)),
        Scope::Organization(login) => {
            job.repository.owner.eq_ignore_ascii_case(login)
                || job.organization.as_ref().is_some_and(|o| o.eq_ignore_ascii_case(login))
        }
        Scope::Repository { owner, name } => is_named(job, owner, name) || reach.repository == Some(job.repository.id),
    }
}

fn is_named(job: &JobFacts, owner: &str, name: &str) -> bool {
    job.repository.owner.eq_ignore_ascii_case(owner) && job.repository.name.eq_ignore_ascii_case(name)
}

/// Whether a label names machines that GitHub hosts: `ubuntu-latest`, `windows-2025`, `macos-15-xlarge`, …
/// Source: GitHub's table of runner images.
fn is_github_hosted(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    ["ubuntu-", "windows-", "macos-"].iter().any(|system| {
        label.strip_prefix(system).is_some_and(|version| {
            version.starts_with("latest") || version == "slim" || version.starts_with(|c: char| c.is_ascii_digit())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RepositoryId;
    use crate::machine::group::tests::{facts, settings};
    use crate::model::remote::Access;

    fn chosen(job: &JobFacts, groups: &[(GroupSettings, bool)]) -> Result<String, String> {
        let reach = Reach::default();
        let candidates = groups.iter();
        let candidates = candidates.map(|(settings, has_capacity)| Candidate {
            settings,
            has_capacity: *has_capacity,
            reach: &reach,
        });
        match match_job(job, candidates) {
            Match::Group { name, .. } => Ok(name.to_string()),
            Match::None { reason } => Err(reason),
        }
    }

    /// The reason why this group serves a job, or why not, when GitHub says this of whom it serves.
    fn reason(job: &JobFacts, settings: &GroupSettings, reach: &Reach) -> Result<String, String> {
        match match_job(job, [Candidate { settings, has_capacity: true, reach }]) {
            Match::Group { reason, .. } => Ok(reason),
            Match::None { reason } => Err(reason),
        }
    }

    fn group(name: &str, labels: &[&str]) -> GroupSettings {
        let mut group = settings(name, 0, 5);
        group.labels = labels.iter().map(|l| (*l).to_owned()).collect();
        group
    }

    fn job(labels: &[&str]) -> JobFacts {
        let mut job = facts(1);
        job.labels = labels.iter().map(|l| (*l).to_owned()).collect();
        job
    }

    #[test]
    fn labels_compare_without_case_and_self_hosted_is_implicit() {
        let groups = [(group("a", &["linux-big"]), true)];
        assert_eq!(chosen(&job(&["Self-Hosted", "LINUX-Big"]), &groups), Ok("a".into()));
        assert_eq!(chosen(&job(&["self-hosted"]), &groups), Ok("a".into()));
    }

    #[test]
    fn the_system_and_the_architecture_that_runners_register_with_are_labels_too() {
        let groups = [(group("a", &["octo"]), true)];
        assert_eq!(chosen(&job(&["self-hosted", "Linux", "X64", "octo"]), &groups), Ok("a".into()));
        assert!(
            chosen(&job(&["self-hosted", "windows", "octo"]), &groups).unwrap_err().contains("lacks the label windows")
        );
    }

    #[test]
    fn a_missing_label_is_named() {
        let groups = [(group("a", &["x"]), true), (group("b", &["x", "gpu"]), true)];
        assert_eq!(
            chosen(&job(&["x", "gpu", "arm"]), &groups),
            Err("no group serves [x, gpu, arm]: the nearest, group b lacks the label arm".into())
        );
    }

    #[test]
    fn jobs_without_labels_or_with_githubs_own_match_nothing() {
        let groups = [(group("a", &["ubuntu-latest", "x"]), true)];
        assert!(chosen(&job(&[]), &groups).is_err());
        for label in ["ubuntu-latest", "windows-2025", "macos-15-xlarge", "Ubuntu-24.04-arm"] {
            assert!(chosen(&job(&[label]), &groups).unwrap_err().contains("GitHub hosts"), "{label}");
        }
        assert_eq!(chosen(&job(&["ubuntu-latest", "x"]), &groups), Ok("a".into()));
    }

    #[test]
    fn priority_then_fewest_labels_then_capacity_then_order_decide() {
        let mut first = group("first", &["x", "y"]);
        let second = group("second", &["x"]);
        let third = group("third", &["x"]);
        let all = |a: &GroupSettings, cap: [bool; 3]| {
            [(a.clone(), cap[0]), (second.clone(), cap[1]), (third.clone(), cap[2])]
        };
        assert_eq!(chosen(&job(&["x"]), &all(&first, [true, true, true])), Ok("second".into()));
        assert_eq!(chosen(&job(&["x"]), &all(&first, [true, false, true])), Ok("third".into()));
        assert_eq!(chosen(&job(&["x"]), &all(&first, [true, false, false])), Ok("second".into()));
        first.priority = 1;
        assert_eq!(chosen(&job(&["x"]), &all(&first, [false, true, true])), Ok("first".into()));
    }

    #[test]
    fn scope_and_access_admit_the_repository_or_say_why_not() {
        let mut a = group("a", &["x"]);
        a.scope = Scope::Organization("Other".into());
        assert!(chosen(&job(&["x"]), &[(a.clone(), true)]).unwrap_err().contains("is for organization Other"));
        a.scope = Scope::Repository { owner: "OCTO-org".into(), name: "App".into() };
        assert_eq!(chosen(&job(&["x"]), &[(a.clone(), true)]), Ok("a".into()));
        a.selected_repository_ids = vec![RepositoryId(99)];
        assert!(chosen(&job(&["x"]), &[(a.clone(), true)]).unwrap_err().contains("selected repositories only"));
        a.selected_repository_ids.clear();
        a.allows_public_repositories = false;
        let mut public = job(&["x"]);
        public.repository.private = false;
        assert!(chosen(&public, &[(a, true)]).unwrap_err().contains("is public"));
    }

    #[test]
    fn a_repository_that_the_runner_group_at_github_does_not_admit_is_not_promised_a_runner() {
        let group = group("a", &["x"]);
        let (private, mut public) = (job(&["x"]), job(&["x"]));
        public.repository.private = false;
        let id = private.repository.id;
        let reach = |public, selected: Option<&[RepositoryId]>| {
            let selected = selected.map(|ids| ids.iter().copied().collect());
            Reach { access: Some(Access { runner_group: "Default".into(), public, selected }), ..Reach::default() }
        };
        let refused = |job: &JobFacts, reach: &Reach| {
            let answer = reason(job, &group, reach);
            answer.err().is_some_and(|why| why.contains("its runner group \"Default\" at GitHub does not admit the"))
        };
        assert!(reason(&public, &group, &Reach::default()).is_ok(), "nothing is known: everybody is admitted");
        let (all, private_only, other, this) =
            (reach(true, None), reach(false, None), reach(true, Some(&[RepositoryId(99)])), reach(false, Some(&[id])));
        assert_eq!(
            [&all, &private_only, &other, &this].map(|reach| refused(&private, reach)),
            [false, false, true, false]
        );
        assert_eq!(
            [&all, &private_only, &other, &this].map(|reach| refused(&public, reach)),
            [false, true, true, true]
        );
    }

    #[test]
    fn a_repository_that_was_renamed_is_known_by_its_id_and_the_reason_says_what_to_change() {
        let mut group = group("a", &["x"]);
        group.scope = Scope::Repository { owner: "octo".into(), name: "old".into() };
        let mut renamed = job(&["x"]);
        (renamed.repository.owner, renamed.repository.name) = ("octo".into(), "new".into());
        let reach = |id| Reach { repository: Some(id), ..Reach::default() };
        let text = reason(&renamed, &group, &reach(renamed.repository.id)).unwrap();
        assert!(text.ends_with("; repository octo/new was called octo/old: change the configuration"), "{text}");
        for other in [Reach::default(), reach(RepositoryId(99))] {
            let text = reason(&renamed, &group, &other).unwrap_err();
            assert!(
                text.contains("is for repository octo/old, not for octo/new (if it only has another name"),
                "{text}"
            );
        }
        renamed.repository.name = "OLD".into();
        let text = reason(&renamed, &group, &reach(RepositoryId(99))).unwrap();
        assert!(!text.contains("was called"), "one that was made anew has the name: {text}");
    }
}
