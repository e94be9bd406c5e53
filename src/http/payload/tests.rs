//! Tables of payloads, old, odd and hostile.

use serde_json::{Value, json};

use super::*;

fn full() -> Value {
    json!({
        "action": "in_progress",
        "workflow_job": {
            "id": 4711, "run_id": 99, "run_attempt": 2, "name": "build", "workflow_name": "CI",
            "head_branch": "main", "labels": ["self-hosted", "Linux"], "status": "in_progress", "conclusion": null,
            "runner_id": 7, "runner_name": "octo-linux-0a1b2c3d", "created_at": "2024-05-01T10:00:00Z",
            "started_at": "2024-05-01T10:00:05Z", "completed_at": null, "steps": [{"name": "x"}]
        },
        "repository": {"id": 12, "name": "app", "private": true, "owner": {"login": "octo", "type": "Organization"}},
        "organization": {"login": "octo"},
        "enterprise": {"slug": "octo-inc"},
        "installation": {"id": 5}
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut payload = full();
    *payload.pointer_mut(pointer).unwrap() = value;
    payload
}

fn without(parent: &str, key: &str) -> Value {
    let mut payload = full();
    payload.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
    payload
}

fn event(payload: &Value) -> JobEvent {
    match parse(payload.to_string().as_bytes()) {
        Ok(Parsed::Job(event)) => *event,
        other => panic!("{other:?}"),
    }
}

fn refused(payload: &Value) -> String {
    match parse(payload.to_string().as_bytes()) {
        Err(PayloadError::Field { pointer, .. }) => pointer,
        other => panic!("{payload}: {other:?}"),
    }
}

#[test]
fn everything_that_matters_is_kept() {
    let event = event(&full());
    assert_eq!(event.action, JobAction::InProgress);
    assert_eq!(event.job.id, JobId(4711));
    assert_eq!(event.job.run_attempt, Some(2));
    assert_eq!(event.job.labels, ["self-hosted", "Linux"]);
    assert_eq!(event.job.repository.owner, "octo");
    assert!(event.job.repository.private);
    assert_eq!(event.job.organization.as_deref(), Some("octo"));
    assert_eq!(event.job.enterprise.as_deref(), Some("octo-inc"));
    assert_eq!(event.job.installation_id, Some(5));
    assert_eq!(event.job.started_at.unwrap().to_string(), "2024-05-01T10:00:05Z");
    assert_eq!(event.runner, Some(RunnerRef { id: Some(RunnerId(7)), name: "octo-linux-0a1b2c3d".to_owned() }));
}

#[test]
fn old_payload_shapes_are_accepted() {
    for key in ["run_attempt", "workflow_name", "head_branch", "created_at", "labels", "runner_id", "name"] {
        event(&without("/workflow_job", key));
        event(&with(&format!("/workflow_job/{key}"), Value::Null));
    }
    for key in ["organization", "enterprise", "installation"] {
        event(&without("", key));
        event(&with(&format!("/{key}"), Value::Null));
    }
    assert!(!event(&without("/repository", "private")).job.repository.private);
    assert_eq!(event(&with("/workflow_job/labels", Value::Null)).job.labels, Vec::<String>::new());
    event(&with("/workflow_job/status", json!("pondering")));
    let done = with("/action", json!("completed"));
    assert_eq!(event(&done).conclusion, None);
}

#[test]
fn an_unknown_conclusion_is_kept_as_it_is() {
    let mut payload = with("/action", json!("completed"));
    payload["workflow_job"]["conclusion"] = json!("abducted");
    assert_eq!(event(&payload).conclusion.as_deref(), Some("abducted"));
}

#[test]
fn only_events_of_taken_jobs_name_a_runner() {
    assert_eq!(event(&with("/action", json!("queued"))).runner, None);
    let mut nobody = with("/workflow_job/runner_id", json!(0));
    nobody["workflow_job"]["runner_name"] = json!("");
    assert_eq!(event(&nobody).runner, None);
    nobody["workflow_job"]["runner_id"] = Value::Null;
    nobody["workflow_job"]["runner_name"] = Value::Null;
    assert_eq!(event(&nobody).runner, None);
    let named = event(&with("/workflow_job/runner_id", json!(0))).runner.unwrap();
    assert_eq!((named.id, named.name.as_str()), (None, "octo-linux-0a1b2c3d"));
}

#[test]
fn the_owner_is_the_organization_when_the_payload_leaves_it_out() {
    assert_eq!(event(&without("", "organization")).job.organization.as_deref(), Some("octo"));
    let mut user = without("", "organization");
    user["repository"]["owner"]["type"] = json!("User");
    assert_eq!(event(&user).job.organization, None);
}

#[test]
fn fields_that_only_describe_may_be_anything() {
    for key in ["run_attempt", "workflow_name", "head_branch", "created_at", "started_at", "name", "conclusion"] {
        for odd in [json!(-1), json!(1.5), json!(true), json!([[1]]), json!({"a": {"b": 1}}), json!("?")] {
            event(&with(&format!("/workflow_job/{key}"), odd));
        }
    }
}

#[test]
fn a_wrong_type_in_a_needed_field_is_refused_and_named() {
    for (pointer, wrong) in [
        ("/action", json!(1)),
        ("/workflow_job", json!([])),
        ("/workflow_job/id", json!("4711")),
        ("/workflow_job/id", json!(-1)),
        ("/workflow_job/id", json!(1.5)),
        ("/workflow_job/id", Value::Null),
        ("/workflow_job/run_id", json!({})),
        ("/workflow_job/labels", json!("linux")),
        ("/workflow_job/labels/1", json!(1)),
        ("/workflow_job/runner_id", json!("7")),
        ("/workflow_job/runner_name", json!(7)),
        ("/repository", json!("octo/app")),
        ("/repository/id", json!(true)),
        ("/repository/name", Value::Null),
        ("/repository/private", json!("yes")),
        ("/repository/owner/login", json!(1)),
        ("/organization", json!("octo")),
        ("/organization/login", json!(0)),
        ("/installation/id", json!("5")),
    ] {
        let named = refused(&with(pointer, wrong));
        assert!(named == format!("#{pointer}"), "{pointer} was named {named}");
    }
    for (parent, key) in [("", "workflow_job"), ("", "repository"), ("/workflow_job", "id"), ("/repository", "owner")] {
        assert_eq!(refused(&without(parent, key)), format!("#{parent}/{key}"));
    }
}

#[test]
fn an_action_of_tomorrow_is_no_error_whatever_else_the_payload_holds() {
    assert_eq!(parse(with("/action", json!("pondering")).to_string().as_bytes()), Ok(Parsed::UnknownAction));
    assert_eq!(parse(br#"{"action": "pondering", "workflow_job": []}"#), Ok(Parsed::UnknownAction));
}

#[test]
fn names_that_decide_are_never_cut() {
    assert_eq!(refused(&with("/repository/name", json!("a".repeat(101)))), "#/repository/name");
    assert_eq!(refused(&with("/repository/name", json!("../etc"))), "#/repository/name");
    assert_eq!(refused(&with("/organization/login", json!("oc\nto"))), "#/organization/login");
    assert_eq!(refused(&with("/workflow_job/labels/0", json!("x".repeat(257)))), "#/workflow_job/labels/0");
    assert_eq!(refused(&with("/workflow_job/labels/0", json!("a\u{0}b"))), "#/workflow_job/labels/0");
    assert_eq!(refused(&with("/workflow_job/labels", json!(vec!["a"; 101]))), "#/workflow_job/labels");
    event(&with("/workflow_job/labels", json!(vec!["ü".repeat(256); 100])));
}

#[test]
fn descriptions_are_cut_and_cleaned() {
    let event = event(&with("/workflow_job/name", json!(format!("a\n\u{1b}[31m{}", "ö".repeat(1000)))));
    assert_eq!(event.job.name.chars().count(), 256);
    assert!(!event.job.name.chars().any(char::is_control));
}

#[test]
fn what_is_not_json_is_refused_as_such() {
    for body in ["", "{", "hello", "{\"action\": \"queued\"} x", "{\"action\": \"queued\"", "{\"a\": 1,}"] {
        assert!(matches!(parse(body.as_bytes()), Err(PayloadError::NotJson(_))), "{body}");
    }
    assert!(matches!(parse(b"{\"action\": \"\xff\"}"), Err(PayloadError::NotJson(_))));
    for body in ["null", "[]", "1", "\"queued\""] {
        assert_eq!(parse(body.as_bytes()).map_err(|e| matches!(e, PayloadError::Field { .. })), Err(true), "{body}");
    }
}

#[test]
fn deep_nesting_is_refused_also_where_nothing_is_read() {
    let deep =
        |levels: usize| format!("{{\"action\": \"queued\", \"x\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(parse(deep(100_000).as_bytes()), Err(PayloadError::TooDeep));
    assert_eq!(parse(deep(DEPTH_MAX).as_bytes()), Err(PayloadError::TooDeep));
    assert_ne!(parse(deep(DEPTH_MAX - 1).as_bytes()), Err(PayloadError::TooDeep));
    let in_text = with("/workflow_job/name", json!(format!("\\\"{}", "[".repeat(1000))));
    event(&in_text);
}

#[test]
fn the_payload_of_a_form_is_decoded() {
    assert_eq!(form_payload(b"payload=%7B%22a%22%3A+1%7d").unwrap(), b"{\"a\": 1}");
    assert_eq!(form_payload(b"x=1&payload=a%26b&y=").unwrap(), b"a&b");
    for broken in ["", "{}", "payload", "payload=%", "payload=%2", "payload=%zz", "payload=1&payload=2"] {
        assert!(form_payload(broken.as_bytes()).is_err(), "{broken}");
    }
}
