//! Backends that do as they are told: one place of [`Earth`] each.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actors::id::RunnerName;
use actors::port::Backend;
use actors::port::backend::{BackendError, Instance, InstanceSpec, Metadata, Owner};
use async_trait::async_trait;
use tokio::time::Instant;

use super::Earth;

/// What happens to a call, instead of what should.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This error, and nothing is done.
    Fails(BackendError),
    /// It is done, and the answer never comes.
    DoneWithoutAnswer,
    /// It is done after this time, and given up at once.
    DoneLater(Duration),
    /// Nothing is done, and no answer comes.
    Hangs,
    /// A listing misses every instance.
    Misses,
}

/// One backend.
pub struct Place {
    earth: Arc<Earth>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    here: BTreeSet<RunnerName>,
    creates: VecDeque<Fault>,
    deletes: VecDeque<Fault>,
    lists: VecDeque<Fault>,
    /// What every create does that has no fault of its own.
    always: Option<BackendError>,
    down: bool,
    created_at: Vec<Instant>,
    most: usize,
    probes: usize,
}

impl State {
    fn has(&mut self, runner: &RunnerName) {
        self.here.insert(runner.clone());
        self.most = self.most.max(self.here.len());
    }
}

impl Place {
    pub fn of(earth: &Arc<Earth>) -> Arc<Self> {
        Arc::new(Self { earth: Arc::clone(earth), state: Arc::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn creates(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().creates.extend(faults);
    }

    pub fn deletes(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().deletes.extend(faults);
    }

    pub fn lists(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().lists.extend(faults);
    }

    /// Whether creates fail with this error from now on, and probes with it.
    pub fn always(&self, error: Option<BackendError>) {
        let mut state = self.state();
        state.down = error.is_some();
        state.always = error;
    }

    /// When creates were called.
    pub fn created_at(&self) -> Vec<Instant> {
        self.state().created_at.clone()
    }

    pub fn probes(&self) -> usize {
        self.state().probes
    }

    /// The instances here.
    pub fn instances(&self) -> usize {
        self.state().here.len()
    }

    /// The most instances that there were at once.
    pub fn most(&self) -> usize {
        self.state().most
    }

    /// Every instance here ends by itself.
    pub fn all_die(&self) {
        let here = std::mem::take(&mut self.state().here);
        self.earth.things().instances.retain(|name, _| !here.contains(name));
    }

    async fn fault(
        &self,
        queue: impl FnOnce(&mut State) -> &mut VecDeque<Fault>,
    ) -> Result<Option<Fault>, BackendError> {
        self.earth.pause().await;
        let fault = queue(&mut self.state()).pop_front();
        match fault {
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::Hangs) => std::future::pending().await,
            other => Ok(other),
        }
    }
}

#[async_trait]
impl Backend for Place {
    fn name(&self) -> &'static str {
        "place"
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        self.state().created_at.push(Instant::now());
        let fault = self.fault(|state| &mut state.creates).await?;
        if let (None, Some(error)) = (&fault, self.state().always.clone()) {
            return Err(error);
        }
        if let Some(Fault::DoneLater(wait)) = fault {
            let (earth, state) = (Arc::clone(&self.earth), Arc::clone(&self.state));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                state.lock().unwrap().has(&spec.runner);
                let _ = Backend::create(&*earth, spec).await;
            });
            return Err(BackendError::Timeout("nobody waits for it".into()));
        }
        self.state().has(&spec.runner);
        let made = Backend::create(&*self.earth, spec).await;
        if fault.is_some() {
            std::future::pending::<()>().await;
        }
        made
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        self.fault(|state| &mut state.deletes).await?;
        if self.state().here.remove(runner) {
            Backend::delete(&*self.earth, runner).await?;
        }
        Ok(())
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        if self.state().here.contains(runner) { self.earth.get(runner).await } else { Ok(None) }
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let misses = self.fault(|state| &mut state.lists).await?.is_some();
        let mut all = self.earth.list(owner).await?;
        all.retain(|instance| !misses && self.state().here.contains(&instance.runner));
        Ok(all)
    }

    async fn update_metadata(&self, _: &RunnerName, _: &Metadata) -> Result<(), BackendError> {
        Ok(())
    }

    async fn probe(&self) -> Result<(), BackendError> {
        self.earth.pause().await;
        let mut state = self.state();
        state.probes += 1;
        if state.down { Err(BackendError::Unreachable("nobody is there".into())) } else { Ok(()) }
    }
}

/// Longest time a call of the tests may take.
pub const CALL: Duration = Duration::from_secs(60);
