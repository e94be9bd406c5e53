//! Jobs as GitHub has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actors::actor::front::Accepted;
use actors::model::delivery::JobAction::{Completed, InProgress, Queued};

use super::{Earth, Manager};

/// GitHub's part: jobs are taken by any instance that has none, and are over one step later.
#[derive(Default)]
pub struct Jobs {
    pub queued: Vec<u64>,
    pub running: BTreeMap<String, u64>,
    used: Vec<String>,
    pub done: Vec<u64>,
}

impl Jobs {
    pub async fn queue(&mut self, manager: &Manager, group: &str, job: u64) {
        assert_eq!(manager.deliver(format!("q-{job}"), group, job, Queued, None).await, Accepted::Accepted);
        self.queued.push(job);
    }

    pub async fn step(&mut self, earth: &Arc<Earth>, manager: &Manager, group: &str) {
        for (runner, job) in std::mem::take(&mut self.running) {
            earth.things().registered.remove(&runner);
            manager.deliver(format!("c-{job}"), group, job, Completed, Some(&runner)).await;
            self.done.push(job);
        }
        let mut free: Vec<String> = earth
            .things()
            .instances
            .keys()
            .map(ToString::to_string)
            .filter(|name| name.starts_with(group) && !self.used.contains(name))
            .collect();
        free.retain(|name| earth.things().registered.contains_key(name));
        for runner in free {
            let Some(job) = self.queued.pop() else { break };
            self.used.push(runner.clone());
            manager.deliver(format!("p-{job}"), group, job, InProgress, Some(&runner)).await;
            self.running.insert(runner, job);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
