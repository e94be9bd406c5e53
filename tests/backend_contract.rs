//! Every backend that needs nothing outside, against what every backend promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "contract/backend.rs"]
mod contract;

#[path = "contract/cleanup.rs"]
mod cleanup;

#[path = "support/docker.rs"]
mod dockerd;

mod base {
    use std::sync::Arc;

    use actors::id::RunnerName;
    use actors::port::Backend;
    use actors::port::backend::{BackendError, Metadata, Owner};
    use async_trait::async_trait;
    use runner_manager::backend::base::Base;

    use crate::contract::{World, backend_contract, owner, runner, spec};

    struct Memory(Base);

    #[async_trait]
    impl World for Memory {
        fn tag(&self) -> String {
            "memory".to_owned()
        }

        fn backend(&self, owner: &Owner) -> Arc<dyn Backend> {
            Arc::new(self.0.for_owner(owner.clone()))
        }

        async fn end(&self, owner: &Owner, runner: &RunnerName) {
            assert!(self.0.for_owner(owner.clone()).stop(runner));
        }
    }

    backend_contract!(Memory(Base::new(owner("nobody", "none"))));

    #[tokio::test]
    async fn metadata_can_be_read_back() {
        let mine = owner("m", "g");
        let (base, name) = (Base::new(mine.clone()), runner(&mine, 1));
        base.create(spec(&mine, &name)).await.unwrap();
        assert_eq!(base.metadata(&name), None);
        let metadata = Metadata { state: "idle", job: None };
        base.update_metadata(&name, &metadata).await.unwrap();
        assert_eq!(base.metadata(&name), Some(metadata));
    }

    #[tokio::test]
    async fn a_runner_of_another_group_is_refused() {
        let (mine, other) = (owner("m", "g"), owner("m", "h"));
        let refused = Base::new(mine).create(spec(&other, &runner(&other, 1))).await;
        assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    }
}

mod process {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use actors::id::RunnerName;
    use actors::port::Backend;
    use actors::port::backend::Owner;
    use async_trait::async_trait;
    use runner_manager::backend::process::{Process, Settings};
    use rustix::process::{Pid, Signal, kill_process_group};
    use tempfile::TempDir;

    use crate::cleanup;
    use crate::contract::{World, backend_contract};

    /// This host, with a state directory of its own.
    struct Host(TempDir);

    impl Host {
        fn settings(&self) -> Settings {
            let command = ["/bin/sh", "-c", "sleep 1000"].map(str::to_owned).to_vec();
            let env = BTreeMap::from([(cleanup::HOST.to_owned(), self.0.path().display().to_string())]);
            Settings { command, working_dir: None, env, stop_grace: Duration::from_secs(30) }
        }
    }

    impl Drop for Host {
        /// A failed test leaves no process behind either.
        fn drop(&mut self) {
            cleanup::kill_all(self.0.path());
        }
    }

    #[async_trait]
    impl World for Host {
        fn tag(&self) -> String {
            self.0.path().file_name().and_then(|name| name.to_str()).unwrap().to_owned()
        }

        fn backend(&self, owner: &Owner) -> Arc<dyn Backend> {
            Arc::new(Process::new(self.settings(), self.0.path().join("state"), owner.clone()))
        }

        async fn end(&self, owner: &Owner, runner: &RunnerName) {
            let instance = self.backend(owner).get(runner).await.unwrap().unwrap();
            let group = Pid::from_raw(instance.id.as_str().parse().unwrap()).unwrap();
            kill_process_group(group, Signal::KILL).unwrap();
        }
    }

    backend_contract!(Host(tempfile::Builder::new().prefix("host-").tempdir().unwrap()));
}

mod docker {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use actors::id::RunnerName;
    use actors::port::Backend;
    use actors::port::backend::Owner;
    use async_trait::async_trait;
    use reqwest::Method;
    use runner_manager::backend::docker::{Docker, Endpoint, Pull, Settings};

    use crate::contract::{World, backend_contract};
    use crate::dockerd::Dockerd;

    /// A daemon that has the image.
    struct Containers(Arc<Dockerd>);

    impl Containers {
        async fn new() -> Self {
            let daemon = Dockerd::shared();
            daemon.image("contract").await;
            Self(daemon)
        }

        fn settings(&self) -> Settings {
            Settings {
                endpoint: Endpoint::Unix(self.0.socket()),
                image: "contract".to_owned(),
                command: ["sleep", "1000"].map(str::to_owned).to_vec(),
                labels: BTreeMap::new(),
                env: BTreeMap::new(),
                pull: Pull::Never,
                network: Some("none".to_owned()),
                volumes: vec![],
                nano_cpus: None,
                memory: None,
                privileged: false,
                remove: false,
            }
        }
    }

    #[async_trait]
    impl World for Containers {
        /// All worlds share the daemon: the groups tell them apart.
        fn tag(&self) -> String {
            "docker".to_owned()
        }

        fn backend(&self, owner: &Owner) -> Arc<dyn Backend> {
            Arc::new(Docker::new(self.settings(), owner.clone()))
        }

        async fn end(&self, _: &Owner, runner: &RunnerName) {
            let (status, answer) = self.0.ask(Method::POST, &format!("/containers/{runner}/kill"), None).await;
            assert_eq!(status, 204, "{answer}");
        }
    }

    backend_contract!(Containers::new().await);
}
