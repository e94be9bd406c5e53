//! What every backend promises, whatever it is made of. A world gives the suite its backends.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::{GroupName, ManagerName, RunnerName};
use actors::model::secret::Secret;
use actors::port::Backend;
use actors::port::backend::{Instance, InstanceSpec, InstanceStatus, Machine, Metadata, Owner};
use async_trait::async_trait;

/// How long a test waits for something that takes its time outside.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somewhere that instances live in, seen through backends.
#[async_trait]
pub trait World: Send + Sync {
    /// Starts the names of all managers in this world: worlds that live side by side on one host use different ones.
    fn tag(&self) -> String;

    /// A new backend of `owner`, as a restarted manager would have it: it sees what earlier ones made.
    fn backend(&self, owner: &Owner) -> Arc<dyn Backend>;

    /// Makes the instance of `runner` end by itself.
    async fn end(&self, owner: &Owner, runner: &RunnerName);
}

/// An owner: group `group` of manager `manager`.
pub fn owner(manager: impl AsRef<str>, group: &str) -> Owner {
    Owner { manager: ManagerName::new(manager).unwrap(), group: GroupName::new(group).unwrap() }
}

fn own(world: &dyn World, group: &str) -> Owner {
    owner(format!("{}-contract", world.tag()), group)
}

fn foreign(world: &dyn World, group: &str) -> Owner {
    owner(format!("{}-other", world.tag()), group)
}

/// A name for the `number`th runner of `owner`.
pub fn runner(owner: &Owner, number: u64) -> RunnerName {
    owner.group.runner_name(number)
}

/// What a group asks for when it wants `runner`.
pub fn spec(owner: &Owner, runner: &RunnerName) -> InstanceSpec {
    InstanceSpec {
        owner: owner.clone(),
        runner: runner.clone(),
        env: vec![("RUNNER_NAME", runner.to_string()), ("RUNNER_LABELS", "self-hosted,linux".to_owned())],
        jit_config: Secret::new("eyJqaXQiOiAidG9wIHNlY3JldCJ9".to_owned()),
        machine: Machine::default(),
    }
}

/// Waits for `condition`, and says what was awaited when it does not come.
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn listed(backend: &dyn Backend, owner: &Owner) -> Vec<Instance> {
    let mut all = backend.list(owner).await.unwrap();
    all.sort_by(|a, b| a.runner.cmp(&b.runner));
    all
}

pub async fn a_created_instance_is_shown_by_get_and_list(world: &dyn World) {
    let mine = own(world, "shown");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    let created = backend.create(spec(&mine, &name)).await.unwrap();
    assert_eq!((&created.runner, created.status), (&name, InstanceStatus::Running));
    assert_eq!(backend.get(&name).await.unwrap(), Some(created.clone()));
    assert_eq!(listed(&*backend, &mine).await, [created]);
    backend.delete(&name).await.unwrap();
}

pub async fn a_second_create_returns_the_first_instance(world: &dyn World) {
    let mine = own(world, "twice");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    let first = backend.create(spec(&mine, &name)).await.unwrap();
    let second = world.backend(&mine).create(spec(&mine, &name)).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(listed(&*backend, &mine).await, [first]);
    backend.delete(&name).await.unwrap();
}

pub async fn concurrent_creates_of_one_runner_make_one_instance(world: &dyn World) {
    let mine = own(world, "concurrent");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    let creates: Vec<_> = (0..8)
        .map(|_| {
            let (backend, spec) = (Arc::clone(&backend), spec(&mine, &name));
            tokio::spawn(async move { backend.create(spec).await.unwrap() })
        })
        .collect();
    let mut made = Vec::new();
    for create in creates {
        made.push(create.await.unwrap());
    }
    assert!(made.iter().all(|instance| *instance == made[0]), "{made:?}");
    assert_eq!(listed(&*backend, &mine).await, [made[0].clone()]);
    backend.delete(&name).await.unwrap();
}

pub async fn an_unknown_runner_has_no_instance_and_can_be_deleted(world: &dyn World) {
    let mine = own(world, "unknown");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    assert_eq!(backend.get(&name).await.unwrap(), None);
    assert_eq!(listed(&*backend, &mine).await, []);
    backend.delete(&name).await.unwrap();
    backend.delete(&name).await.unwrap();
}

pub async fn a_deleted_instance_is_gone_and_its_name_is_free(world: &dyn World) {
    let mine = own(world, "deleted");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    for _ in 0..2 {
        backend.create(spec(&mine, &name)).await.unwrap();
        backend.delete(&name).await.unwrap();
        assert_eq!(backend.get(&name).await.unwrap(), None);
        assert_eq!(listed(&*backend, &mine).await, []);
    }
}

pub async fn concurrent_deletes_of_one_runner_all_succeed(world: &dyn World) {
    let mine = own(world, "deletes");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    backend.create(spec(&mine, &name)).await.unwrap();
    let (first, second) = tokio::join!(backend.delete(&name), backend.delete(&name));
    first.unwrap();
    second.unwrap();
    assert_eq!(backend.get(&name).await.unwrap(), None);
}

pub async fn a_list_shows_only_what_its_owner_made(world: &dyn World) {
    let owners = [own(world, "a"), own(world, "b"), foreign(world, "a")];
    let mut made = Vec::new();
    for (number, mine) in (1..).zip(&owners) {
        made.push(world.backend(mine).create(spec(mine, &runner(mine, number))).await.unwrap());
    }
    let backend = world.backend(&owners[0]);
    for (mine, instance) in owners.iter().zip(&made) {
        assert_eq!(listed(&*backend, mine).await, std::slice::from_ref(instance), "{mine:?}");
        assert_eq!(listed(&*world.backend(mine), mine).await, std::slice::from_ref(instance), "{mine:?}");
    }
    assert_eq!(listed(&*backend, &own(world, "nobody")).await, []);
    for (mine, instance) in owners.iter().zip(&made) {
        world.backend(mine).delete(&instance.runner).await.unwrap();
    }
}

pub async fn instances_of_others_are_never_touched(world: &dyn World) {
    let (mine, sibling, stranger) = (own(world, "own"), own(world, "sibling"), foreign(world, "own"));
    let backend = world.backend(&mine);
    for (number, other) in [(1, &sibling), (2, &stranger)] {
        let theirs = world.backend(other);
        let instance = theirs.create(spec(other, &runner(other, number))).await.unwrap();
        assert_eq!(backend.get(&instance.runner).await.unwrap(), None, "{other:?}");
        backend.delete(&instance.runner).await.unwrap();
        let metadata = Metadata { state: "busy", job: None };
        backend.update_metadata(&instance.runner, &metadata).await.unwrap();
        assert_eq!(theirs.get(&instance.runner).await.unwrap(), Some(instance.clone()), "{other:?}");
        theirs.delete(&instance.runner).await.unwrap();
    }
}

pub async fn metadata_is_taken_for_present_and_absent_instances(world: &dyn World) {
    let mine = own(world, "metadata");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    let metadata = Metadata { state: "busy", job: Some(actors::id::JobId(7)) };
    backend.update_metadata(&name, &metadata).await.unwrap();
    assert_eq!(backend.get(&name).await.unwrap(), None);
    let created = backend.create(spec(&mine, &name)).await.unwrap();
    backend.update_metadata(&name, &metadata).await.unwrap();
    assert_eq!(backend.get(&name).await.unwrap(), Some(created));
    backend.delete(&name).await.unwrap();
}

pub async fn an_ended_instance_never_runs_and_can_be_deleted(world: &dyn World) {
    let mine = own(world, "ended");
    let (backend, name) = (world.backend(&mine), runner(&mine, 1));
    backend.create(spec(&mine, &name)).await.unwrap();
    world.end(&mine, &name).await;
    let backend = &backend;
    let name = &name;
    eventually("the instance to end", || async move {
        backend.get(name).await.unwrap().is_none_or(|instance| instance.status == InstanceStatus::Stopped)
    })
    .await;
    let list = listed(&**backend, &mine).await;
    assert!(list.iter().all(|instance| instance.status == InstanceStatus::Stopped), "{list:?}");
    backend.delete(name).await.unwrap();
    assert_eq!(backend.get(name).await.unwrap(), None);
    assert_eq!(listed(&**backend, &mine).await, []);
}

pub async fn a_restarted_manager_finds_and_deletes_what_it_made(world: &dyn World) {
    let mine = own(world, "restart");
    let name = runner(&mine, 1);
    let created = world.backend(&mine).create(spec(&mine, &name)).await.unwrap();
    let next = world.backend(&mine);
    assert_eq!(next.get(&name).await.unwrap(), Some(created.clone()));
    assert_eq!(listed(&*next, &mine).await, [created]);
    next.delete(&name).await.unwrap();
    assert_eq!(listed(&*world.backend(&mine), &mine).await, []);
}

pub async fn many_instances_come_and_go_at_once(world: &dyn World) {
    let mine = own(world, "many");
    let backend = world.backend(&mine);
    let names: Vec<_> = (0..20).map(|number| runner(&mine, number)).collect();
    let each = |work: fn(Arc<dyn Backend>, Owner, RunnerName) -> tokio::task::JoinHandle<()>| {
        let all: Vec<_> = names.iter().map(|name| work(Arc::clone(&backend), mine.clone(), name.clone())).collect();
        async move {
            for one in all {
                one.await.unwrap();
            }
        }
    };
    each(|backend, mine, name| tokio::spawn(async move { drop(backend.create(spec(&mine, &name)).await.unwrap()) }))
        .await;
    assert_eq!(backend.list(&mine).await.unwrap().len(), names.len());
    each(|backend, _, name| tokio::spawn(async move { backend.delete(&name).await.unwrap() })).await;
    assert_eq!(listed(&*backend, &mine).await, []);
}

pub async fn a_probe_of_a_working_backend_succeeds_and_makes_nothing(world: &dyn World) {
    let mine = own(world, "probe");
    let backend = world.backend(&mine);
    backend.probe().await.unwrap();
    assert_eq!(listed(&*backend, &mine).await, []);
    assert!(!backend.name().is_empty());
}

/// Runs every promise as a test of its own, each in a new world.
macro_rules! backend_contract {
    ($world:expr) => {
        backend_contract!(@each $world,
            a_created_instance_is_shown_by_get_and_list,
            a_second_create_returns_the_first_instance,
            concurrent_creates_of_one_runner_make_one_instance,
            an_unknown_runner_has_no_instance_and_can_be_deleted,
            a_deleted_instance_is_gone_and_its_name_is_free,
            concurrent_deletes_of_one_runner_all_succeed,
            a_list_shows_only_what_its_owner_made,
            instances_of_others_are_never_touched,
            metadata_is_taken_for_present_and_absent_instances,
            an_ended_instance_never_runs_and_can_be_deleted,
            a_restarted_manager_finds_and_deletes_what_it_made,
            many_instances_come_and_go_at_once,
            a_probe_of_a_working_backend_succeeds_and_makes_nothing,
        );
    };
    (@each $world:expr, $($promise:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let world = $world;
                crate::contract::$promise(&world).await;
            }
        )+
    };
}
pub(crate) use backend_contract;
