//! How one group is ended without losing what is out for it.

use std::time::Duration;

use ractor::ActorRef;

use crate::actor::effect::World;
use crate::actor::group::GroupMsg;

/// Longest time an actor takes to end, and for its tasks to notice.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Begins no further call for the group of this world, lets those that are out finish and be saved for at most `grace`,
/// then ends the actor and what is still out. Says whether all of it finished.
pub(crate) async fn end(world: &World, group: &ActorRef<GroupMsg>, grace: Duration) -> bool {
    world.stopping.cancel();
    let in_time = tokio::select! {
        biased;
        quiet = tokio::time::timeout(grace, quiet(world, group)) => quiet.is_ok(),
        // It may end by itself, or be ended by somebody who cannot wait.
        _ = group.wait(None) => false,
    };
    group.stop(None);
    let _ = group.wait(Some(END_DEADLINE)).await;
    // Those that are out end with the actor.
    world.tasks.close();
    let _ = tokio::time::timeout(END_DEADLINE, world.tasks.wait()).await;
    in_time
}

/// A result that came back leads to a save, and that to a message: it is quiet only when none of them is left.
async fn quiet(world: &World, group: &ActorRef<GroupMsg>) {
    world.tasks.close();
    loop {
        world.tasks.wait().await;
        // The runners handle what came back, then the group what they told it.
        let _ = group.call(GroupMsg::Barrier, None).await;
        let _ = group.call(GroupMsg::Barrier, None).await;
        if world.tasks.is_empty() {
            return;
        }
    }
}
