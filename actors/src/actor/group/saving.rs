//! How a group saves what changed, and what it does when the store refuses, or has lost what it acknowledged.

use std::sync::Arc;

use ractor::{ActorRef, RpcReplyPort};

use super::{GroupMsg, LOST, State};
use crate::actor::runner::{Msg as RunnerMsg, SAVE_RETRY};
use crate::id::FencingToken;
use crate::port::StoreError;
use crate::port::store::{Changes, Loaded};

impl State {
    pub(super) fn flush(&mut self, myself: &ActorRef<GroupMsg>) {
        let Some(running) = &mut self.running else { return };
        if running.saving || running.acquiring {
            return;
        }
        let Some((snapshot, jobs)) = running.group.take_changes() else { return };
        let mut changes = Changes { snapshot: Some(snapshot), jobs, runners: vec![] };
        if std::mem::take(&mut running.rewrite) {
            let fleet = running.group.fleet().iter();
            changes.runners = fleet.filter(|runner| !running.runners.contains_key(&runner.name)).cloned().collect();
        }
        running.saving = true;
        running.confirm_out.append(&mut running.confirm);
        let (store, token, actor) = (Arc::clone(&self.args.world.store), self.interpreter.token(), myself.clone());
        let name = self.name().clone();
        self.task(async move {
            let result = store.save(&name, token, changes.clone()).await;
            let _ = actor.cast(GroupMsg::Saved(changes, token, result));
        });
    }

    pub(super) fn saved(
        &mut self,
        myself: &ActorRef<GroupMsg>,
        changes: &Changes,
        token: FencingToken,
        result: Result<(), StoreError>,
    ) {
        let Some(running) = &mut self.running else { return };
        let Err(error) = result else {
            running.saving = false;
            running.save_failures = 0;
            running.group.has_again(changes.runners.iter().map(|runner| &runner.name));
            for reply in running.confirm_out.drain(..) {
                let _ = reply.send(());
            }
            self.flush(myself);
            return;
        };
        running.save_failures += 1;
        running.group.changes_were_not_saved(&changes.jobs);
        running.confirm.append(&mut running.confirm_out);
        running.rewrite |= !changes.runners.is_empty();
        for runner in changes.runners.iter().filter_map(|runner| running.runners.get(&runner.name)) {
            let _ = runner.cast(RunnerMsg::WriteAgain);
        }
        let wait = SAVE_RETRY.delay(running.save_failures, self.args.world.clock.entropy());
        tracing::error!(group = %self.name(), %error, "cannot save, trying again");
        let actor = myself.clone();
        self.task(async move {
            tokio::time::sleep(wait).await;
            let _ = actor.cast(GroupMsg::SaveAgain);
        });
        self.refused(myself, token, &error);
    }

    /// The store refused a save with this token. What it refused is tried again by whoever saved; here is decided
    /// whether this process goes on at all.
    pub(super) fn refused(&mut self, myself: &ActorRef<GroupMsg>, token: FencingToken, error: &StoreError) {
        // One that was under way while the group was acquired anew says nothing about the new token.
        if token != self.interpreter.token() || self.running.as_ref().is_none_or(|running| running.acquiring) {
            return;
        }
        match error {
            StoreError::Fenced { .. } | StoreError::NotOwner { .. } => self.lost(myself, error),
            StoreError::Forgotten { .. } => {
                tracing::error!(group = %self.name(), %error, "writing everything that is known of it again");
                self.acquire(myself);
            }
            StoreError::Unavailable(_) | StoreError::Overloaded(_) => {}
        }
    }

    /// Ends this actor at once: somebody else acts for the group.
    pub(super) fn lost(&self, myself: &ActorRef<GroupMsg>, error: &StoreError) {
        tracing::error!(group = %self.name(), %error, "stopping to act for this group");
        myself.stop(Some(LOST.to_owned()));
    }

    pub(super) fn confirm(&mut self, myself: &ActorRef<GroupMsg>, reply: RpcReplyPort<()>) {
        // While it loads there is nothing that could be lost.
        let Some(running) = &mut self.running else {
            let _ = reply.send(());
            return;
        };
        running.confirm.push(reply);
        running.group.save_again();
        self.flush(myself);
    }

    pub(super) fn acquire(&mut self, myself: &ActorRef<GroupMsg>) {
        let Some(running) = &mut self.running else { return };
        running.acquiring = true;
        let (store, name, actor) = (Arc::clone(&self.args.world.store), self.name().clone(), myself.clone());
        self.task(async move {
            let acquired = async { Ok((store.acquire(&name).await?, store.load(&name).await?)) };
            let _ = actor.cast(GroupMsg::Acquired(acquired.await));
        });
    }

    /// Everything this process knows is saved again under the new token: the group and its jobs here, each runner by
    /// its actor, or here where it has none. Those that the store has and the fleet has not get actors too.
    pub(super) async fn acquired(
        &mut self,
        myself: &ActorRef<GroupMsg>,
        result: Result<(FencingToken, Loaded), StoreError>,
    ) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        match result {
            Ok((token, loaded)) => {
                self.interpreter.set_token(token);
                running.acquiring = false;
                running.rewrite = true;
                running.reread = running.reading;
                for runner in running.runners.values() {
                    let _ = runner.cast(RunnerMsg::WriteAgain);
                }
                let effects = running.group.write_again(loaded.runners, now);
                self.perform(myself, effects).await;
                self.flush(myself);
                self.read_inbox(myself);
            }
            Err(error @ (StoreError::Fenced { .. } | StoreError::NotOwner { .. })) => self.lost(myself, &error),
            Err(error) => {
                running.save_failures += 1;
                let wait = SAVE_RETRY.delay(running.save_failures, self.args.world.clock.entropy());
                tracing::error!(group = %self.name(), %error, "cannot acquire the group again, trying again");
                let actor = myself.clone();
                self.task(async move {
                    tokio::time::sleep(wait).await;
                    let _ = actor.cast(GroupMsg::Acquire);
                });
            }
        }
    }
}
