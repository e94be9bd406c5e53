//! What a provider's executable prints and how it ends: an instance or a typed error.
//!
//! An input is three parts, `====` between them: the call and the exit status, what it prints, what it says on stderr.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use actors::id::{GroupName, ManagerName};
use actors::model::secret::Secret;
use actors::port::Backend;
use actors::port::backend::{BackendError, InstanceSpec, Machine, Owner};
use runner_manager::backend::external::{External, InterfaceVersion, Settings};

use crate::door::{Door, fuzz};
use crate::provider_support::{TOKEN, Tokens};

const SCRIPT: &str = "#!/bin/sh
dir=${GARM_PROVIDER_CONFIG_FILE%/*}
cat \"$dir/stderr\" >&2
cat \"$dir/stdout\"
read -r status <\"$dir/status\"
exit \"$status\"
";
/// A just-in-time config.
const JIT_CONFIG: &str = "c2VjcmV0LWppdC1jb25maWctb2YtYS1ydW5uZXI=";
/// Longest text of an error, in characters: 2,000 of the provider's, twice where a removal failed as well.
const TEXT_MAX: usize = 5000;

fn spec(owner: &Owner) -> InstanceSpec {
    InstanceSpec {
        owner: owner.clone(),
        runner: owner.group.runner_name(1),
        env: vec![],
        jit_config: Secret::new(JIT_CONFIG.to_owned()),
        machine: Machine::default(),
    }
}

async fn operate(backend: &External, call: &str, owner: &Owner) -> Result<String, BackendError> {
    let runner = owner.group.runner_name(1);
    Ok(match call {
        "create" => {
            let made = backend.create(spec(owner)).await?;
            assert_eq!(made.runner, runner);
            format!("{made:?}")
        }
        "delete" => format!("{:?}", backend.delete(&runner).await?),
        "list" => {
            let listed = backend.list(owner).await?;
            assert!(listed.iter().all(|instance| owner.group.owns_name(instance.runner.as_str())), "{listed:?}");
            format!("{} {:?}", listed.len(), listed.first())
        }
        "probe" => format!("{:?}", backend.probe().await?),
        _ => format!("{:?}", backend.get(&runner).await?),
    })
}

#[test]
fn provider() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    fs::write(place("provider"), SCRIPT).unwrap();
    fs::set_permissions(place("provider"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(place("config"), "").unwrap();
    let owner = Owner { manager: ManagerName::new("m").unwrap(), group: GroupName::new("octo").unwrap() };
    let settings = Settings {
        provider_executable: place("provider"),
        provider_config_file: place("config"),
        interface_version: InterfaceVersion::V011,
        environment_variables: vec!["PATH".to_owned()],
        exec_timeout: Duration::from_secs(20),
        image: "ubuntu-24.04".to_owned(),
        flavor: "large".to_owned(),
        extra_specs: None,
        github_url: "https://github.com".to_owned(),
    };
    let backend = External::new(settings, owner.clone(), Arc::new(Tokens::default()));
    // 128 kB printed, and parsed; what is said is copied once for each form that a secret may have.
    fuzz(&Door { name: "provider", runs: 500, memory: 16 << 20 }, |input| {
        let text = String::from_utf8_lossy(input);
        let separated = text.contains("\n====\n");
        let mut parts = if separated { split(input) } else { vec![b"get 0".to_vec(), input.to_vec()] }.into_iter();
        let mut part = || parts.next().unwrap_or_default();
        let head = String::from_utf8_lossy(&part()).into_owned();
        let (call, status) = head.trim().split_once(' ').unwrap_or(("get", "0"));
        fs::write(place("status"), format!("{}\n", status.parse::<u8>().unwrap_or(1))).unwrap();
        fs::write(place("stdout"), part()).unwrap();
        fs::write(place("stderr"), part()).unwrap();
        match runtime.block_on(operate(&backend, call, &owner)) {
            Ok(text) => format!("{call} {text}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.chars().count() <= TEXT_MAX, "{} characters: {text}", text.chars().count());
                assert!(!text.chars().any(char::is_control), "{text:?}");
                if call == "create" {
                    assert!(!text.contains(TOKEN) && !text.contains(JIT_CONFIG), "a secret in {text}");
                }
                format!("{call} {} {text}", error.kind())
            }
        }
    });
}

/// The parts of an input.
fn split(input: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![];
    let mut rest = input;
    while let Some(at) = rest.windows(6).position(|six| six == b"\n====\n") {
        parts.push(rest[..at].to_vec());
        rest = &rest[at + 6..];
    }
    parts.push(rest.to_vec());
    parts
}
