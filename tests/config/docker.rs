//! What `check` warns of in the settings of docker.

use runner_manager::check;

use super::{HEAD, parse};

#[test]
fn check_warns_of_who_could_become_root_by_docker() {
    let warnings = |docker: &str, public: bool| {
        let text = format!(
            "{HEAD}runner_groups:\n- {{name: a, organization: o, labels: [], allows_public_repositories: {public}, backend: {{name: docker, {docker}}}}}\n"
        );
        check::warnings(&parse(&text).unwrap()).join("\n")
    };
    assert!(warnings("config: {base_url: tcp://build}", true).contains("build:2375 has no TLS"));
    for safe in ["tcp://127.0.0.1", "tcp://[::1]:9", "unix:///x"] {
        assert!(!warnings(&format!("config: {{base_url: '{safe}'}}"), true).contains("has no TLS"), "{safe}");
    }
    assert!(!warnings("config: {base_url: tcp://build, tls_ca: ca.pem}", true).contains("has no TLS"));
    assert!(warnings("instance_config: {privileged: true}", true).contains("privileged containers"));
    assert!(!warnings("instance_config: {privileged: true}", false).contains("privileged containers"));
    assert!(!warnings("instance_config: {}", true).contains("privileged containers"));
}
