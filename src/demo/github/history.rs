//! The webhook at the REST API: whose it is, what it sent, and that it is sent again.

use serde_json::{Value, json};

use super::hooks::HOOK_ID;
use super::log::Operation;
use super::rest::{Answer, Call};
use super::settings::HookOwner;
use super::state::{Scope, World};
use super::{Delivery, DeliveryStatus, wire};

/// Carries a call about hooks out; `Call::scope` is none for the App's.
pub(super) fn answer(world: &mut World, call: &Call) -> Answer {
    let here = match (&world.settings.hook_owner, &call.scope) {
        (HookOwner::App, None) | (HookOwner::Organization, Some(Scope::Organization)) => true,
        (HookOwner::Repository(owner), Some(Scope::Repository(name))) => owner.eq_ignore_ascii_case(name),
        _ => false,
    };
    match (call.operation, &call.scope) {
        (_, Some(Scope::Enterprise)) => Answer::not_found(),
        (Operation::ListHooks, None) => Answer::new(200, config(world, here)),
        (Operation::ListHooks, Some(scope)) if here => Answer::new(200, json!([hook(world, scope)])),
        (Operation::ListHooks, Some(_)) => Answer::new(200, json!([])),
        (Operation::ListDeliveries, None) if !here => Answer::new(200, json!([])),
        (Operation::ListDeliveries, scope) if here && (scope.is_none() || call.id == HOOK_ID) => {
            deliveries(world, call)
        }
        (Operation::Redeliver, _) if here => redeliver(world, call.id),
        _ => Answer::not_found(),
    }
}

fn config(world: &World, with_url: bool) -> Value {
    let mut config = json!({"content_type": "json", "insecure_ssl": "0", "secret": "********"});
    if let (true, Some(url)) = (with_url, &world.settings.webhook_url) {
        config["url"] = json!(url);
    }
    config
}

fn hook(world: &World, scope: &Scope) -> Value {
    let (home, kind) = match scope {
        Scope::Repository(name) => (format!("repos/{}/{name}", world.settings.organization), "Repository"),
        _ => (format!("orgs/{}", world.settings.organization), "Organization"),
    };
    let url = format!("{}/{home}/hooks/{HOOK_ID}", world.base_url);
    let mut hook = json!({
        "type": kind, "id": HOOK_ID, "name": "web", "active": true, "events": ["workflow_job"],
        "config": config(world, true), "created_at": wire::EPOCH, "updated_at": wire::EPOCH, "url": url,
        "ping_url": format!("{url}/pings"), "deliveries_url": format!("{url}/deliveries"),
    });
    if kind == "Repository" {
        hook["test_url"] = json!(format!("{url}/test"));
        hook["last_response"] = json!({"code": null, "status": "unused", "message": null});
    }
    hook
}

/// Deliveries that have ended, newest first; `cursor` is the id of the first one of the next page.
fn deliveries(world: &World, call: &Call) -> Answer {
    let size = call.param("per_page").and_then(|v| v.parse().ok()).unwrap_or(30usize).clamp(1, 100);
    let newest = call.param("cursor").and_then(|v| v.parse().ok()).unwrap_or(u64::MAX);
    let ended = |d: &&Delivery| d.status != DeliveryStatus::Pending && d.id <= newest;
    let failed = |d: &&Delivery| match call.param("status") {
        Some("success") => d.status.is_success(),
        Some("failure") => (400..600).contains(&d.status.code()),
        _ => true,
    };
    let mut shown: Vec<_> = world.hooks.history.iter().rev().filter(ended).filter(failed).take(size + 1).collect();
    let next = (shown.len() > size).then(|| shown.pop()).flatten();
    let mut answer = Answer::new(200, shown.iter().map(|d| wire::delivery(world, d)).collect());
    if let Some(next) = next {
        let address = format!("{}{}?per_page={size}&cursor={}", world.base_url, call.path, next.id);
        answer.headers.push(("link", format!("<{address}>; rel=\"next\"")));
    }
    answer
}

fn redeliver(world: &mut World, id: u64) -> Answer {
    let guid = world.hooks.history.iter().find(|d| d.id == id).map(|d| d.guid.clone());
    match guid {
        Some(guid) if world.redeliver(&guid) => Answer::new(202, json!({})),
        _ => Answer::not_found(),
    }
}
