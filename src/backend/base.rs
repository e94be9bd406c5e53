//! Keeps instances in memory: for tests, benches and dry runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actors::id::{InstanceId, RunnerName};
use actors::port::Backend;
use actors::port::backend::{BackendError, Instance, InstanceSpec, InstanceStatus, Metadata, Owner};
use async_trait::async_trait;

/// One owner's view of a memory full of instances. Clones, and what [`Base::for_owner`] returns, share the memory.
#[derive(Debug, Clone)]
pub struct Base {
    owner: Owner,
    memory: Arc<Mutex<HashMap<Owner, HashMap<RunnerName, Kept>>>>,
}

#[derive(Debug, Clone)]
struct Kept {
    instance: Instance,
    metadata: Option<Metadata>,
}

impl Base {
    /// An empty memory, seen by `owner`.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self { owner, memory: Arc::default() }
    }

    /// The same memory, seen by another owner.
    #[must_use]
    pub fn for_owner(&self, owner: Owner) -> Self {
        Self { owner, memory: Arc::clone(&self.memory) }
    }

    /// Marks the instance of `runner` as ended, as if it had ended by itself; false when there is none.
    pub fn stop(&self, runner: &RunnerName) -> bool {
        let mut memory = self.memory();
        let kept = memory.get_mut(&self.owner).and_then(|instances| instances.get_mut(runner));
        kept.map(|kept| kept.instance.status = InstanceStatus::Stopped).is_some()
    }

    /// What [`Backend::update_metadata`] last said of `runner`; none when it said nothing or there is no instance.
    #[must_use]
    pub fn metadata(&self, runner: &RunnerName) -> Option<Metadata> {
        self.memory()
            .get(&self.owner)
            .and_then(|instances| instances.get(runner))
            .and_then(|kept| kept.metadata.clone())
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<Owner, HashMap<RunnerName, Kept>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for Base {
    fn name(&self) -> &'static str {
        "base"
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        super::check_owner(&self.owner, &spec)?;
        let id = InstanceId::new(format!("base-{}", spec.runner))
            .map_err(|error| BackendError::Invalid(error.to_string()))?;
        let mut memory = self.memory();
        let kept = memory.entry(spec.owner).or_default().entry(spec.runner.clone()).or_insert_with(|| Kept {
            instance: Instance { id, runner: spec.runner, status: InstanceStatus::Running },
            metadata: None,
        });
        Ok(kept.instance.clone())
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        if let Some(instances) = self.memory().get_mut(&self.owner) {
            instances.remove(runner);
        }
        Ok(())
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        let memory = self.memory();
        Ok(memory.get(&self.owner).and_then(|instances| instances.get(runner)).map(|kept| kept.instance.clone()))
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let memory = self.memory();
        Ok(memory.get(owner).into_iter().flat_map(HashMap::values).map(|kept| kept.instance.clone()).collect())
    }

    async fn update_metadata(&self, runner: &RunnerName, metadata: &Metadata) -> Result<(), BackendError> {
        if let Some(kept) = self.memory().get_mut(&self.owner).and_then(|instances| instances.get_mut(runner)) {
            kept.metadata = Some(metadata.clone());
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), BackendError> {
        Ok(())
    }
}
