//! The backends: instances appear late, are listed late, and answers get lost.

use std::time::Duration;

use actors::id::*;
use actors::port::backend::*;
use async_trait::async_trait;

use super::scenario::{Kind, Twist};
use super::world::{Machine, Site, State, What};

/// One of the backends, as one life of the manager reaches it.
pub struct Place {
    pub site: Site,
    pub name: String,
}

fn instance(name: &str, running: bool) -> Instance {
    let status = if running { InstanceStatus::Running } else { InstanceStatus::Stopped };
    Instance { id: InstanceId::new(format!("i-{name}")).unwrap(), runner: RunnerName::new(name).unwrap(), status }
}

impl State {
    /// Why this backend makes nothing now.
    fn makes_nothing(&mut self, place: &str) -> Option<BackendError> {
        if self.faults.healed {
            return None;
        }
        let at = self.elapsed();
        if self.full.get(place).is_some_and(|until| *until > at) {
            return Some(BackendError::NoCapacity("it is full".into()));
        }
        if self.faults.strikes(Kind::CreateThrottled) {
            let wait = self.faults.between(Kind::CreateThrottled, 1, 240);
            let retry_after = Some(Duration::from_secs(wait));
            return Some(BackendError::Throttled { text: "slowly".into(), retry_after });
        }
        if !self.faults.strikes(Kind::CreateFails) {
            return None;
        }
        Some(match self.faults.between(Kind::CreateFails, 0, 4) {
            0 => BackendError::NoCapacity("none".into()),
            1 => BackendError::Quota("used up".into()),
            2 => BackendError::Invalid("no such image".into()),
            3 => BackendError::Unauthorized("bad key".into()),
            _ => BackendError::Unreachable("no route".into()),
        })
    }
}

/// A create that is out. When it is given up before it had its effect, because its group ended or the lease of that, what
/// is on its way arrives within the two seconds that the next owner waits for it, as with a process that ends.
struct Out<'a>(&'a Site, &'a str);

impl Drop for Out<'_> {
    fn drop(&mut self) {
        let mut state = self.0.world.lock();
        if state.scenario.is_wide() && state.lives.contains(&self.0.life) {
            state.abandoned(self.1);
        }
    }
}

#[async_trait]
impl Backend for Place {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        let name = spec.runner.to_string();
        self.site.panics(Kind::BackendPanics);
        let hangs = {
            let mut state = self.site.enter().await;
            state.check_create(&name, &self.name, self.site.life);
            state.check_owner(&name, self.site.life, "an instance is asked for");
            if let Some(error) = state.makes_nothing(&self.name) {
                state.note(format_args!("no instance {name} at {}: {error}", self.name));
                if let BackendError::Throttled { retry_after: Some(wait), .. } = error {
                    state.throttled(&name, &self.name, wait, self.site.life);
                }
                return Err(error);
            }
            let hangs = state.faults.strikes(Kind::CreateHangs);
            // A create of a process that ends has its effect soon or never, see `State::die`.
            let wait = if hangs {
                state.faults.between(Kind::CreateHangs, 0, 55_000)
            } else {
                state.chance.between(10, 3_000)
            };
            let due = state.elapsed() + wait;
            state.creating.insert(name.clone(), (due, spec.owner, self.name.clone()));
            state.makers.insert(name.clone(), self.site.me.slot);
            state.after(wait, What::Appears(name.clone()));
            state.check_max(&name);
            if hangs { None } else { Some(wait) }
        };
        let _out = Out(&self.site, &name);
        let Some(wait) = hangs else { return std::future::pending().await };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        self.site.enter().await.appear(&name);
        self.site.effect().await;
        self.site.panics(Kind::BackendPanics);
        self.site.pause(5, 500).await;
        let lost = {
            let mut state = self.site.enter().await;
            let first = state.scenario.twist.take_if(|twist| *twist == Twist::LosesCreate).is_some();
            let lost = state.faults.strikes(Kind::CreateLost) || first;
            if lost {
                state.note(format_args!("the answer to the create of {name} is lost"));
            }
            lost
        };
        if lost { Err(BackendError::Timeout("the answer is lost".into())) } else { Ok(instance(&name, true)) }
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        let name = runner.as_str();
        self.site.pause(10, 1_500).await;
        self.site.panics(Kind::BackendPanics);
        {
            let mut state = self.site.enter().await;
            state.check_delete(name);
            state.check_owner(name, self.site.life, "an instance is deleted");
            if state.faults.strikes(Kind::DeleteFails) {
                return Err(match state.faults.between(Kind::DeleteFails, 0, 2) {
                    0 => BackendError::Unavailable("502".into()),
                    1 => BackendError::Throttled { text: "slowly".into(), retry_after: None },
                    _ => BackendError::Timeout("no answer".into()),
                });
            }
            let is_here = state.machines.get(name).is_some_and(|machine| machine.place == self.name);
            if is_here {
                state.note(format_args!("instance {name} is deleted"));
                state.machines.remove(name);
                state.off(name);
            }
        }
        self.site.effect().await;
        let hangs = self.site.enter().await.faults.strikes(Kind::DeleteHangs);
        if hangs {
            return std::future::pending().await;
        }
        self.site.pause(5, 300).await;
        Ok(())
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.site.pause(5, 300).await;
        self.site.panics(Kind::BackendPanics);
        let mut state = self.site.enter().await;
        if state.faults.strikes(Kind::ListFails) {
            return Err(BackendError::Unavailable("503".into()));
        }
        let found = state.machines.get(runner.as_str()).filter(|machine| machine.place == self.name);
        Ok(found.map(|machine| instance(runner.as_str(), machine.running)))
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.site.pause(5, 600).await;
        self.site.panics(Kind::BackendPanics);
        let all = {
            let mut state = self.site.enter().await;
            state.oracle.count("list");
            if state.faults.strikes(Kind::ListFails) {
                return Err(BackendError::Unavailable("503".into()));
            }
            let at = state.elapsed();
            let ours = |m: &Machine| m.owner == *owner && m.place == self.name && m.listed_from <= at;
            let shown = state.machines.iter_mut().filter(|(_, machine)| ours(machine));
            let show = |(name, machine): (&String, &mut Machine)| {
                machine.shown = true;
                instance(name, machine.running)
            };
            shown.map(show).collect()
        };
        self.site.pause(5, 100).await;
        Ok(all)
    }

    async fn update_metadata(&self, _: &RunnerName, _: &Metadata) -> Result<(), BackendError> {
        self.site.pause(5, 100).await;
        Ok(())
    }

    async fn probe(&self) -> Result<(), BackendError> {
        self.site.pause(5, 100).await;
        let mut state = self.site.enter().await;
        state.makes_nothing(&self.name).map_or(Ok(()), Err)
    }
}
