//! The port [`Replicas`]: each operation is one script; what others tell comes from the listener.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use actors::id::{GroupName, ReplicaId};
use actors::port::StoreError;
use actors::port::replicas::{Notice, Replicas, Report, Roster};
use async_trait::async_trait;
use redis::Value;

use super::Redis;
use super::lane::Kind;
use super::script::{BEAT, CLAIM, Call, LEAVE, RELEASE, SEND};

#[async_trait]
impl Replicas for Redis {
    fn me(&self) -> &ReplicaId {
        &self.me
    }

    async fn beat(&self, report: &Report) -> Result<Roster, StoreError> {
        let text = serde_json::to_string(report).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let call = Call::new(&BEAT).arg(self.me.as_str()).arg(self.lease.as_micros().to_string()).arg(text);
        let answer = self.ask_urgently(call).await?;
        self.listener.beaten();
        let (live, owners): (Vec<(String, String)>, Vec<(String, String)>) = self.parse(answer)?;
        let mut replicas = BTreeMap::new();
        for (id, report) in live {
            if let Ok(id) = ReplicaId::new(id) {
                let report = self.report(&id, &report);
                replicas.insert(id, report);
            }
        }
        self.unread_reports.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| replicas.contains_key(id));
        let owners = owners.into_iter().filter_map(|(group, owner)| {
            let (group, owner) = (GroupName::new(group).ok()?, ReplicaId::new(owner).ok()?);
            replicas.contains_key(&owner).then_some((group, owner))
        });
        let owners = owners.collect();
        Ok(Roster { replicas, owners })
    }

    async fn claim(&self, group: &GroupName) -> Result<bool, StoreError> {
        let answer = self.write(Call::new(&CLAIM).arg(group.as_str()).arg(self.me.as_str()), Kind::Plain).await?;
        Ok(answer == Value::Int(1))
    }

    async fn release(&self, group: &GroupName) -> Result<(), StoreError> {
        self.write(Call::new(&RELEASE).arg(group.as_str()).arg(self.me.as_str()), Kind::Plain).await.map(drop)
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.ask_urgently(Call::new(&LEAVE).arg(self.me.as_str())).await.map(drop)
    }

    async fn send(&self, to: &ReplicaId, message: String) -> Result<bool, StoreError> {
        let heard = self.ask(Call::new(&SEND).arg(to.as_str()).arg(message)).await?;
        Ok(heard == Value::Int(1))
    }

    async fn next(&self) -> Notice {
        self.listener.next().await
    }
}

impl Redis {
    /// A report; an empty one when it cannot be read, which is said once.
    fn report(&self, id: &ReplicaId, text: &str) -> Report {
        serde_json::from_str(text).unwrap_or_else(|error| {
            if self.unread_reports.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
                tracing::warn!(replica = %id, %error, "the report of a replica cannot be read: does it run another release?");
            }
            Report::default()
        })
    }
}
