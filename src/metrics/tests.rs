//! Names, labels and values as Prometheus reads them.

use std::collections::BTreeSet;

use actors::id::GroupName;
use actors::model::runner::DeleteReason;

use super::*;

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn everything(metrics: &Metrics, group: &GroupName) {
    let took = Duration::from_millis(20);
    for observation in [
        Observation::Webhook { event: "workflow_job", action: "queued", outcome: "accepted", took },
        Observation::Group {
            group,
            runners: [1, 0, 0, 2, 3, 4, 0, 0, 0],
            jobs: [7, 1, 4, 0, 0],
            min: 1,
            max: 20,
            demand_oldest_since: Some(Timestamp::now().as_duration().as_secs_f64() - 100.0),
            inbox_depth: 5,
        },
        Observation::JobTaken { group, waited: Duration::from_secs(40) },
        Observation::JobFinished { group, conclusion: "success", ran: Some(Duration::from_secs(400)) },
        Observation::JobFinished { group, conclusion: "cancelled", ran: None },
        Observation::ScaleUp { group, took },
        Observation::RunnerOnline { group, backend: "base", took },
        Observation::RunnerDeleted { group, reason: DeleteReason::Completed },
        Observation::Leak { group, side: "instance" },
        Observation::BackendCall { backend: "base", operation: "create", outcome: "ok", took },
        Observation::Breaker { group, backend: "base", open: true },
        Observation::GitHubCall { operation: "list_runners", outcome: "ok" },
        Observation::RateLimit { credential: "token", resource: "core", remaining: 4999 },
        Observation::FoundWithoutWebhook { by: "listing" },
        Observation::StoreOperation { operation: "record", took },
        Observation::SnapshotsSetAside { group, count: 2 },
        Observation::ActorRestarted { actor: "group" },
        Observation::GroupsOwned(3),
    ] {
        metrics.observe(&observation);
    }
}

#[test]
fn every_metric_of_the_specification_is_there_under_its_name_and_labels() {
    let metrics = Metrics::new().unwrap();
    everything(&metrics, &group("octo"));
    let text = metrics.render();
    for line in [
        r#"webhooks_total{action="queued",event="workflow_job",outcome="accepted"} 1"#,
        "webhook_duration_seconds_count 1",
        r#"inbox_depth{group="octo"} 5"#,
        r#"found_without_webhook_total{by="listing"} 1"#,
        r#"jobs{group="octo",status="queued"} 7"#,
        r#"jobs{group="octo",status="in_progress"} 4"#,
        r#"jobs_total{conclusion="success",group="octo"} 1"#,
        r#"jobs_total{conclusion="cancelled",group="octo"} 1"#,
        r#"job_wait_seconds_sum{group="octo"} 40"#,
        r#"job_duration_seconds_count{group="octo"} 1"#,
        r#"runners{group="octo",state="requested"} 1"#,
        r#"runners{group="octo",state="busy"} 4"#,
        r#"runners{group="octo",state="failed"} 0"#,
        r#"runners_min{group="octo"} 1"#,
        r#"runners_max{group="octo"} 20"#,
        r#"demand{group="octo"} 7"#,
        r#"demand_oldest_seconds{group="octo"} 10"#,
        r#"scale_up_seconds_bucket{group="octo",le="0.025"} 1"#,
        r#"runner_start_seconds_count{backend="base",group="octo"} 1"#,
        r#"runner_deletions_total{group="octo",reason="completed"} 1"#,
        r#"leaks_total{group="octo",side="instance"} 1"#,
        r#"backend_requests_total{backend="base",operation="create",outcome="ok"} 1"#,
        r#"backend_request_duration_seconds_count{backend="base",operation="create"} 1"#,
        r#"backend_breaker_open{backend="base"} 1"#,
        r#"github_requests_total{operation="list_runners",outcome="ok"} 1"#,
        r#"github_rate_limit_remaining{credential="token",resource="core"} 4999"#,
        r#"store_operation_duration_seconds_count{operation="record"} 1"#,
        r#"snapshots_set_aside_total{group="octo"} 2"#,
        r#"actor_restarts_total{actor="group"} 1"#,
        "groups_owned 3",
        r#"build_info{commit="unknown",version="0.1.0"} 1"#,
    ] {
        let line = format!("\nrunner_manager_{line}");
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
}

#[test]
fn a_stopped_group_takes_all_its_series_with_it_and_no_others() {
    let metrics = Metrics::new().unwrap();
    everything(&metrics, &group("octo"));
    let names = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|l| l.contains("group=\"")).map(|l| l.split(' ').next().unwrap().to_owned()).collect()
    };
    let before = names(&metrics.render());
    everything(&metrics, &group("other"));
    metrics.observe(&Observation::GroupStopped { group: &group("other") });
    assert_eq!(names(&metrics.render()), before);
    metrics.observe(&Observation::GroupStopped { group: &group("octo") });
    assert_eq!(names(&metrics.render()), BTreeSet::new());
}

#[test]
fn demand_has_no_age_without_a_job() {
    let metrics = Metrics::new().unwrap();
    let group = group("octo");
    let mut observation = Observation::Group {
        group: &group,
        runners: [0; 9],
        jobs: [0; 5],
        min: 0,
        max: 1,
        demand_oldest_since: Some(0.0),
        inbox_depth: 0,
    };
    metrics.observe(&observation);
    if let Observation::Group { demand_oldest_since, .. } = &mut observation {
        *demand_oldest_since = None;
    }
    metrics.observe(&observation);
    assert!(metrics.render().contains("runner_manager_demand_oldest_seconds{group=\"octo\"} 0\n"));
}

#[test]
fn a_backends_breaker_counts_the_groups_that_leave_it_alone() {
    let metrics = Metrics::new().unwrap();
    let (a, b) = (group("a"), group("b"));
    let shows = |n: u32| metrics.render().contains(&format!("backend_breaker_open{{backend=\"aws\"}} {n}\n"));
    for (group, open, expected) in [(&a, true, 1), (&b, false, 1), (&b, true, 2), (&a, false, 1), (&a, true, 2)] {
        metrics.observe(&Observation::Breaker { group, backend: "aws", open });
        assert!(shows(expected), "{group} {open}");
    }
    metrics.observe(&Observation::GroupStopped { group: &b });
    assert!(shows(1));
}
