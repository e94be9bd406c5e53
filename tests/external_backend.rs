//! The backend that runs external providers: the protocol to the letter, and providers that hang, fail and lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "contract/backend.rs"]
mod contract;
#[path = "support/provider.rs"]
mod provider;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::RunnerName;
use actors::model::settings::{Arch, Os};
use actors::port::Backend;
use actors::port::backend::{BackendError, Download, InstanceSpec, Machine, Owner};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{World, backend_contract, eventually, owner, runner, spec};
use provider::{Cloud, TOKEN, Tokens, executable};
use runner_manager::backend::external::{External, InterfaceVersion};
use serde_json::{Value, json};

use InterfaceVersion::{V010, V011};

#[async_trait]
impl World for Cloud {
    fn tag(&self) -> String {
        "cloud".to_owned()
    }

    fn backend(&self, owner: &Owner) -> Arc<dyn Backend> {
        Arc::new(Cloud::backend(self, owner))
    }

    async fn end(&self, _: &Owner, runner: &RunnerName) {
        fs::write(self.instance(runner).unwrap().join("status"), "stopped").unwrap();
    }
}

mod v010 {
    use super::*;
    backend_contract!(Cloud::new(V010));
}

mod v011 {
    use super::*;
    backend_contract!(Cloud::new(V011));
}

fn mine() -> Owner {
    owner("m", "octo")
}

fn name() -> RunnerName {
    runner(&mine(), 1)
}

/// As a group asks for it.
fn full_spec() -> InstanceSpec {
    let download = Download {
        url: "https://github.com/actions/runner/releases/download/v2/actions-runner-linux-arm64.tar.gz".to_owned(),
        filename: "actions-runner-linux-arm64.tar.gz".to_owned(),
        sha256: Some("ab".repeat(32)),
    };
    let machine = Machine {
        os: Os::Linux,
        arch: Arch::Arm64,
        download: Some(download),
        scope_path: "octo-org/app".to_owned(),
        ..Machine::default()
    };
    InstanceSpec { machine, ..spec(&mine(), &name()) }
}

const JIT: &str = "eyJqaXQiOiAidG9wIHNlY3JldCJ9";

/// A process that has ended counts as gone, also when nobody has taken note of its end.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit(')').next().unwrap().contains(" Z "))
}

/// The variables of the protocol, and their values where they are known.
fn expected(version: InterfaceVersion, command: &str, config: &Path) -> BTreeMap<String, Option<String>> {
    let mut all = BTreeMap::from([
        ("GARM_COMMAND".to_owned(), Some(command.to_owned())),
        ("GARM_CONTROLLER_ID".to_owned(), None),
        ("GARM_PROVIDER_CONFIG_FILE".to_owned(), Some(config.display().to_string())),
        ("GARM_INTERFACE_VERSION".to_owned(), Some(version.as_str().to_owned())),
    ]);
    if version == V011 || ["CreateInstance", "ListInstances"].contains(&command) {
        all.insert("GARM_POOL_ID".to_owned(), None);
    }
    if ["DeleteInstance", "GetInstance"].contains(&command) {
        all.insert("GARM_INSTANCE_ID".to_owned(), Some(name().to_string()));
    }
    if version == V011 {
        all.insert("GARM_POOL_EXTRASPECS".to_owned(), Some("bnVsbA==".to_owned()));
    }
    // What this test itself has of proxies.
    for proxy in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        if let Ok(value) = std::env::var(proxy) {
            all.insert(proxy.to_owned(), Some(value));
        }
    }
    all
}

#[tokio::test]
async fn each_command_gets_exactly_the_variables_of_its_version_no_arguments_and_no_input() {
    for version in [V010, V011] {
        let cloud = Cloud::new(version);
        let backend = cloud.backend(&mine());
        backend.probe().await.unwrap();
        backend.create(full_spec()).await.unwrap();
        backend.get(&name()).await.unwrap().unwrap();
        backend.list(&mine()).await.unwrap();
        backend.delete(&name()).await.unwrap();
        let calls = cloud.calls();
        let mut commands = vec!["GetVersion", "CreateInstance", "GetInstance", "ListInstances", "DeleteInstance"];
        if version == V011 {
            commands.insert(1, "GetSupportedInterfaceVersions");
        }
        assert_eq!(calls.iter().map(|call| call.command()).collect::<Vec<_>>(), commands);
        let mut ids = BTreeSet::new();
        for call in &calls {
            let expected = expected(version, call.command(), &cloud.config());
            let names: Vec<_> = call.env.keys().collect();
            assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{}", call.command());
            for (name, value) in expected.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
                assert_eq!(call.env[name], *value);
            }
            ids.insert((&call.env["GARM_CONTROLLER_ID"], call.env.get("GARM_POOL_ID")));
            assert_eq!(call.arguments, 0);
            assert_eq!(call.stdin.is_empty(), call.command() != "CreateInstance", "{}", call.command());
        }
        let pools: BTreeSet<_> = ids.iter().filter_map(|(_, pool)| *pool).collect();
        let controllers: BTreeSet<_> = ids.iter().map(|(controller, _)| *controller).collect();
        assert_eq!((controllers.len(), pools.len()), (1, 1), "{ids:?}");
        for id in controllers.iter().chain(&pools) {
            assert_eq!(id.len(), 36, "{id}");
        }
    }
}

#[tokio::test]
async fn create_reads_what_the_protocol_says() {
    let cloud = Cloud::new(V011);
    let specs = json!({"zone": "b", "text": "quo\"te"});
    let backend = cloud.backend_with(&mine(), |settings| settings.extra_specs = Some(specs.clone()));
    backend.create(full_spec()).await.unwrap();
    let call = &cloud.calls()[0];
    let read: Value = serde_json::from_str(&call.stdin).unwrap();
    let proxies = [("http_proxy", "HTTP_PROXY"), ("https_proxy", "HTTPS_PROXY"), ("no_proxy", "NO_PROXY")]
        .map(|(name, upper)| (name, std::env::var(name).or_else(|_| std::env::var(upper)).unwrap_or_default()));
    let expected = json!({
        "name": name(),
        "repo_url": "https://github.com/octo-org/app",
        "callback-url": "https://runners.example.org/instances/v1/callback",
        "metadata-url": "https://runners.example.org/instances/v1/metadata",
        "instance-token": TOKEN,
        "github-runner-group": "octo",
        "arch": "arm64",
        "os_type": "linux",
        "flavor": "large",
        "image": "ubuntu-24.04",
        "pool_id": call.env["GARM_POOL_ID"],
        "tools": [{
            "os": "linux",
            "architecture": "arm64",
            "download_url": "https://github.com/actions/runner/releases/download/v2/actions-runner-linux-arm64.tar.gz",
            "filename": "actions-runner-linux-arm64.tar.gz",
            "temp_download_token": "",
            "sha256_checksum": "ab".repeat(32),
        }],
        "ssh-keys": null,
        "labels": null,
        "extra_specs": specs,
        "ca-cert-bundle": null,
        "user_data_options": {"disable_updates_on_boot": false, "extra_packages": [], "enable_boot_debug": false},
        "jit_config_enabled": true,
        "proxy_config": proxies.into_iter().collect::<BTreeMap<_, _>>(),
    });
    assert_eq!(read, expected);
    let decoded = STANDARD.decode(&call.env["GARM_POOL_EXTRASPECS"]).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), specs);

    let plain = cloud.backend(&mine());
    plain.create(spec(&mine(), &runner(&mine(), 2))).await.unwrap();
    let read: Value = serde_json::from_str(&cloud.calls()[1].stdin).unwrap();
    assert!(read.get("extra_specs").is_none() && read["tools"].is_null(), "{read}");
}

#[tokio::test]
async fn of_the_managers_own_variables_only_listed_ones_are_handed_on_and_never_any_of_garm() {
    let cloud = Cloud::new(V010);
    // Cargo sets these for every test.
    let listed = ["CARGO_PKG_", "CARGO_MANIFEST_DIR", "GARM", ""].map(str::to_owned).to_vec();
    let backend = cloud.backend_with(&mine(), |settings| settings.environment_variables = listed);
    backend.get(&name()).await.unwrap();
    let env = &cloud.calls()[0].env;
    assert_eq!(env["CARGO_MANIFEST_DIR"], env!("CARGO_MANIFEST_DIR"));
    assert_eq!(env["CARGO_PKG_NAME"], "runner-manager");
    assert!(!env.contains_key("PATH") && !env.contains_key("HOME") && !env.contains_key("CARGO"), "{env:?}");
    let garm = env.keys().filter(|name| name.starts_with("GARM")).count();
    assert_eq!(garm, expected(V010, "GetInstance", &cloud.config()).keys().filter(|n| n.starts_with("GARM")).count());
}

#[tokio::test]
async fn neither_the_config_nor_the_token_is_in_any_environment_or_argument_and_the_config_is_not_handed_over() {
    let cloud = Cloud::new(V011);
    cloud.behave("if [ $GARM_COMMAND = CreateInstance ]; then echo $$ >$dir/pid; while [ ! -e $dir/go ]; do sleep 0.05; done; fi");
    let backend = cloud.backend(&mine());
    let create = tokio::spawn(async move { backend.create(full_spec()).await });
    let pid_file = cloud.dir.path().join("pid");
    let written = || fs::read_to_string(&pid_file).is_ok_and(|pid| pid.ends_with('\n'));
    eventually("the provider runs", || async { written() }).await;
    let pid = fs::read_to_string(&pid_file).unwrap();
    let shown =
        |file: &str| String::from_utf8_lossy(&fs::read(format!("/proc/{}/{file}", pid.trim())).unwrap()).into_owned();
    for file in ["cmdline", "environ"] {
        assert!(!shown(file).contains(TOKEN) && !shown(file).contains(JIT), "{file}");
    }
    let program = shown("cmdline");
    assert!(program.contains(&*executable().display().to_string()), "{program}");
    fs::write(cloud.dir.path().join("go"), "").unwrap();
    create.await.unwrap().unwrap();
    assert!(!cloud.calls()[0].stdin.contains(JIT));
}

#[tokio::test]
async fn a_create_that_hangs_is_killed_with_its_process_group_and_followed_by_delete() {
    let cloud = Cloud::new(V010);
    cloud.behave(
        "if [ $GARM_COMMAND = CreateInstance ]; then
           echo waiting for the cloud >&2
           sleep 1000 & echo $$ $! >$dir/pids; sleep 1000
         fi",
    );
    let backend = cloud.backend_with(&mine(), |settings| settings.exec_timeout = Duration::from_secs(2));
    let error = backend.create(full_spec()).await.unwrap_err();
    let BackendError::Timeout(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("did not end within 2 s and was killed: waiting for the cloud"), "{text}");
    assert!(error.outcome_unknown());
    let pids = fs::read_to_string(cloud.dir.path().join("pids")).unwrap();
    assert_eq!(pids.split_whitespace().count(), 2);
    for pid in pids.split_whitespace() {
        eventually("the group is gone", || async { !runs(pid) }).await;
    }
    let calls = cloud.calls();
    assert_eq!(cloud.commands(), ["CreateInstance", "DeleteInstance"]);
    assert_eq!(calls[1].env["GARM_INSTANCE_ID"], name().as_str());
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_is_killed_with_its_process_group() {
    let cloud = Cloud::new(V010);
    cloud.behave("sleep 1000 & echo $$ $! >$dir/pids; sleep 1000");
    let backend = cloud.backend(&mine());
    let call = tokio::spawn(async move { backend.get(&name()).await });
    let file = cloud.dir.path().join("pids");
    eventually("the provider runs", || async { fs::read_to_string(&file).is_ok_and(|pids| pids.ends_with('\n')) })
        .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    for pid in fs::read_to_string(&file).unwrap().split_whitespace() {
        eventually("the group is gone", || async { !runs(pid) }).await;
    }
}

#[tokio::test]
async fn a_provider_that_leaves_something_behind_has_answered_when_it_ends() {
    let cloud = Cloud::new(V010);
    cloud.behave("if [ $GARM_COMMAND = CreateInstance ]; then sleep 1000 & echo $! >$dir/pid; fi");
    let began = Instant::now();
    cloud.backend(&mine()).create(full_spec()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    let pid = fs::read_to_string(cloud.dir.path().join("pid")).unwrap();
    assert!(runs(pid.trim()), "it may be the instance itself");
}

#[tokio::test]
async fn what_a_failed_create_says_is_kept_bounded_and_without_secrets() {
    let cloud = Cloud::new(V010);
    cloud.behave(
        "if [ $GARM_COMMAND = CreateInstance ]; then
           for n in {1..3000}; do echo \"debug line $n\"; done >&2
           echo 'request: ' \"$(cat $call/stdin)\" >&2
           echo \"user data: $(base64 -w0 <$call/stdin)\" >&2
           echo 'jit: eyJqaXQiOiAidG9wIHNlY3JldCJ9' >&2
           printf 'the \\033[1mreason\\377\\n' >&2
           exit 1
         fi",
    );
    let error = cloud.backend(&mine()).create(full_spec()).await.unwrap_err();
    let BackendError::Unavailable(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("ended with status 1") && text.ends_with("reason\u{fffd}"), "{text}");
    assert!(text.chars().count() < 2200, "{}", text.chars().count());
    assert!(!text.chars().any(char::is_control));
    for secret in [TOKEN, JIT, &TOKEN[8..40]] {
        assert!(!text.contains(secret), "{text}");
    }
    for word in text.split([' ', '*', '…', ':']) {
        let decoded = STANDARD.decode(&word[..word.len() / 4 * 4]).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&decoded).contains(&TOKEN[8..40]), "{text}");
    }
    assert_eq!(cloud.commands(), ["CreateInstance", "DeleteInstance"]);
}

#[tokio::test]
async fn a_create_that_finds_no_capacity_is_cleaned_up_and_known_to_have_made_nothing() {
    let cloud = Cloud::new(V011);
    cloud.behave("[ $GARM_COMMAND != CreateInstance ] || { echo InsufficientInstanceCapacity: none >&2; exit 1; }");
    let error = cloud.backend(&mine()).create(full_spec()).await.unwrap_err();
    assert!(matches!(&error, BackendError::NoCapacity(text) if text.contains("none")), "{error:?}");
    assert_eq!(cloud.commands(), ["CreateInstance", "DeleteInstance"]);

    // Only when the clean-up worked.
    cloud.behave("echo InsufficientInstanceCapacity: $GARM_COMMAND >&2; exit 1");
    let error = cloud.backend(&mine()).create(full_spec()).await.unwrap_err();
    let BackendError::Unavailable(text) = error else { panic!("{error:?}") };
    assert!(text.contains(": CreateInstance") && text.contains(": DeleteInstance"), "{text}");
}

#[tokio::test]
async fn a_delete_that_fails_three_times_says_so_each_time_and_then_succeeds() {
    let cloud = Cloud::new(V010);
    let backend = cloud.backend(&mine());
    backend.create(full_spec()).await.unwrap();
    cloud.behave(
        "if [ $GARM_COMMAND = DeleteInstance ]; then
           echo x >>$dir/tries
           [ $(wc -l <$dir/tries) -gt 3 ] || { echo \"try $(wc -l <$dir/tries) failed\" >&2; exit 7; }
         fi",
    );
    for n in 1..=3 {
        let error = backend.delete(&name()).await.unwrap_err();
        let expected = format!("ended with status 7: try {n} failed");
        assert!(matches!(&error, BackendError::Unavailable(text) if text.ends_with(&expected)), "{error:?}");
        assert!(backend.get(&name()).await.unwrap().is_some());
    }
    backend.delete(&name()).await.unwrap();
    assert_eq!(backend.get(&name()).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_is_revoked_when_the_instance_is_gone_or_was_not_made() {
    let cloud = Cloud::new(V010);
    let tokens = Arc::new(Tokens::default());
    let backend = External::new(cloud.settings(), mine(), tokens.clone());
    backend.create(full_spec()).await.unwrap();
    assert!(tokens.revoked.lock().unwrap().is_empty());
    backend.delete(&name()).await.unwrap();
    cloud.behave("[ $GARM_COMMAND != CreateInstance ] || exit 1");
    backend.create(full_spec()).await.unwrap_err();
    assert_eq!(*tokens.revoked.lock().unwrap(), [name(), name()]);
}

#[tokio::test]
async fn a_duplicate_is_ours_if_name_and_pool_agree() {
    let cloud = Cloud::new(V010);
    let backend = cloud.backend(&mine());
    let first = backend.create(full_spec()).await.unwrap();
    assert_eq!(backend.create(full_spec()).await.unwrap(), first);
    assert_eq!(&cloud.commands()[..2], ["CreateInstance", "CreateInstance"]);
    let asked: BTreeSet<_> = cloud.commands()[2..].iter().cloned().collect();
    assert_eq!(asked, BTreeSet::from(["GetInstance".to_owned(), "ListInstances".to_owned()]));

    fs::write(cloud.instance(&name()).unwrap().join("pool"), "somebody else's").unwrap();
    let error = backend.create(full_spec()).await.unwrap_err();
    assert!(matches!(&error, BackendError::Invalid(text) if text.contains("is not ours")), "{error:?}");
    assert!(!cloud.commands().contains(&"DeleteInstance".to_owned()), "what is not ours is not touched");
    assert!(cloud.instance(&name()).is_some());
}

#[tokio::test]
async fn a_missing_instance_is_a_success_for_delete_none_for_get_and_an_error_for_others() {
    let cloud = Cloud::new(V010);
    cloud.behave("echo no such thing >&2; exit 30");
    let backend = cloud.backend(&mine());
    backend.delete(&name()).await.unwrap();
    assert_eq!(backend.get(&name()).await.unwrap(), None);
    for error in [backend.list(&mine()).await.unwrap_err(), backend.create(full_spec()).await.unwrap_err()] {
        assert!(matches!(&error, BackendError::Unavailable(text) if text.contains("no such thing")), "{error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_an_unknown_outcome_and_is_cleaned_up() {
    for (print, expected) in [
        ("echo this is no JSON", "makes no sense"),
        (":", "makes no sense"),
        ("printf '{\"name\":\"\\377\\376\"'", "makes no sense"),
        ("echo '[]'", "makes no sense"),
        ("echo '{\"provider_id\":\"i\",\"status\":\"running\"}'", "missing field `name`"),
        ("echo '{\"provider_id\":7,\"name\":\"n\",\"status\":\"running\"}'", "invalid type"),
        ("echo '{\"provider_id\":\"i\",\"name\":\"other\",\"status\":\"running\"}'", "made \"other\" instead of"),
        ("echo '{\"provider_id\":\"\",\"name\":\"NAME\",\"status\":\"running\"}'", "unusable provider_id"),
        ("head -c 5000000 /dev/zero", "printed more than 4 MB"),
        ("while :; do echo endless; done", "printed more than 4 MB"),
        ("kill -SEGV $$", "was ended by signal 11"),
    ] {
        let cloud = Cloud::new(V010);
        let print = print.replace("NAME", name().as_str());
        cloud.behave(&format!("if [ $GARM_COMMAND = CreateInstance ]; then {print}; exit 0; fi"));
        let error = cloud.backend(&mine()).create(full_spec()).await.unwrap_err();
        let BackendError::Unavailable(text) = &error else { panic!("{print}: {error:?}") };
        assert!(text.contains(expected) && text.len() < 3000, "{print}: {text}");
        assert_eq!(cloud.commands(), ["CreateInstance", "DeleteInstance"], "{print}");
    }
}

#[tokio::test]
async fn an_instance_that_was_made_and_failed_is_an_error_with_its_fault() {
    let cloud = Cloud::new(V010);
    let fault = STANDARD.encode("Quota exceeded for cores");
    cloud.behave(&format!(
        "if [ $GARM_COMMAND = CreateInstance ]; then
           printf '{{\"provider_id\":\"i\",\"name\":\"%s\",\"status\":\"error\",\"provider_fault\":\"{fault}\"}}' {}; exit 0
         fi",
        name()
    ));
    let error = cloud.backend(&mine()).create(full_spec()).await.unwrap_err();
    assert!(matches!(&error, BackendError::Quota(text) if text.contains("Quota exceeded for cores")), "{error:?}");
    assert_eq!(cloud.commands(), ["CreateInstance", "DeleteInstance"]);
}

#[tokio::test]
async fn a_provider_that_cannot_be_started_has_made_nothing() {
    let cloud = Cloud::new(V010);
    let missing = cloud.dir.path().join("missing");
    let backend = cloud.backend_with(&mine(), |settings| settings.provider_executable.clone_from(&missing));
    let error = backend.create(full_spec()).await.unwrap_err();
    let BackendError::Unreachable(text) = &error else { panic!("{error:?}") };
    assert!(text.contains(&*missing.display().to_string()), "{text}");
    assert!(!error.outcome_unknown());

    let broken = Tokens { broken: true, ..Tokens::default() };
    let backend = External::new(cloud.settings(), mine(), Arc::new(broken));
    let error = backend.create(full_spec()).await.unwrap_err();
    assert!(matches!(&error, BackendError::Unreachable(text) if text.contains("the disk is full")), "{error:?}");
    assert_eq!(cloud.commands(), [""; 0]);
}

#[tokio::test]
async fn a_probe_says_what_is_missing() {
    let cloud = Cloud::new(V011);
    let probe = async |change: &dyn Fn(&mut runner_manager::backend::external::Settings)| {
        cloud.backend_with(&mine(), |settings| change(settings)).probe().await.unwrap_err().to_string()
    };
    let config = cloud.config();
    let text = probe(&|settings| settings.provider_executable = "provider".into()).await;
    assert!(text.contains("provider_executable provider is not an absolute path"), "{text}");
    let text = probe(&|settings| settings.provider_executable = "/no/such".into()).await;
    assert!(text.contains("provider_executable /no/such does not exist"), "{text}");
    let text = probe(&|settings| settings.provider_executable.clone_from(&config)).await;
    assert!(text.contains("is not executable for this user"), "{text}");
    let text = probe(&|settings| settings.provider_config_file = "/no/config".into()).await;
    assert!(text.contains("provider_config_file /no/config is not a file"), "{text}");
    cloud.behave("[ $GARM_COMMAND != GetSupportedInterfaceVersions ] || { echo '[\"v0.1.0\"]'; exit 0; }");
    let text = probe(&|_| {}).await;
    assert!(text.contains("does not speak interface version v0.1.1"), "{text}");
    cloud.behave("echo bad credentials: 401 Unauthorized >&2; exit 1");
    let text = probe(&|_| {}).await;
    assert!(text.starts_with("unauthorized: GetVersion of ") && text.ends_with("401 Unauthorized"), "{text}");
}

#[tokio::test]
async fn a_listing_shows_what_has_names_of_the_group_and_nothing_else() {
    let cloud = Cloud::new(V010);
    cloud.behave(&format!(
        "printf '[{{\"provider_id\":\"i-1\",\"name\":\"{}\",\"status\":\"error\"}},\
          {{\"provider_id\":\"i-2\",\"name\":\"Some Thing\",\"status\":\"running\"}},\
          {{\"provider_id\":\"i-3\",\"name\":\"other-00000001\",\"status\":\"running\"}}]'; exit 0",
        name()
    ));
    let listed = cloud.backend(&mine()).list(&mine()).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].id.as_str(), &listed[0].runner), ("i-1", &name()));
    assert_eq!(listed[0].status, actors::port::backend::InstanceStatus::Stopped);
}
