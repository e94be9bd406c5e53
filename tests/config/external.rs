//! The backend external: what is read, and what is said of mistakes.

use std::fs;
use std::time::Duration;

use runner_manager::config::{BackendSettings, StartupScript};
use runner_manager::{check, config};

use super::{group, parse};

/// A group with the backend external, with these lines instead of what is right.
fn external(top: &str, config: &str, instance: &str) -> String {
    format!(
        "{top}\n{}",
        group(&format!(
            "organization: o\nbackend:\n  name: external\n  config: {config}\n  instance_config: {instance}"
        ))
    )
}

const PROVIDER: &str = "{provider_executable: /p, provider_config_file: /c}";
const IMAGE: &str = "{image: i, flavor: f}";

#[test]
fn an_external_provider_is_read_with_its_defaults_and_all_it_can_have() {
    let url = "external_url: https://runners.example.org/base/";
    let plain = parse(&external(url, PROVIDER, IMAGE)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(plain.external_url.as_deref(), Some("https://runners.example.org/base"));
    let BackendSettings::External(settings) = &plain.groups[0].backends[0] else { panic!("{plain:?}") };
    assert_eq!(settings.interface_version, config::InterfaceVersion::V010);
    assert_eq!(settings.exec_timeout, Duration::from_secs(300));
    assert!(settings.extra_specs.is_none() && settings.environment_variables.is_empty());
    assert_eq!(plain.groups[0].settings.backend(), "external");

    let full = "{provider_executable: /p, provider_config_file: /c, interface_version: v0.1.1, environment_variables: [PATH, AWS_], exec_timeout: 90s}";
    let specs = "{image: i, flavor: f, extra_specs: {zone: b, size: 20, ratio: 1.5, spot: true, off: no, version: \"22\", none: , list: [1, a], deep: {token: xSECRETx}}}";
    let full = parse(&external(url, full, specs)).unwrap_or_else(|e| panic!("{e}"));
    let BackendSettings::External(settings) = &full.groups[0].backends[0] else { panic!("{full:?}") };
    assert_eq!(settings.interface_version, config::InterfaceVersion::V011);
    assert_eq!(settings.exec_timeout, Duration::from_secs(90));
    assert_eq!(settings.environment_variables, ["PATH", "AWS_"]);
    let expected = serde_json::json!({
        "zone": "b", "size": 20, "ratio": 1.5, "spot": true, "off": "no", "version": "22", "none": null,
        "list": [1, "a"], "deep": {"token": "xSECRETx"},
    });
    assert_eq!(settings.extra_specs, Some(expected));
    assert!(!format!("{full:?}{}", check::describe(&full)).contains("xSECRETx"));
}

#[test]
fn a_startup_script_is_read_and_checked_with_the_configuration() {
    let url = "external_url: https://runners.example.org";
    let instance = |script: &str, specs: &str| format!("{{image: i, flavor: f, startup_script: {script}{specs}}}");
    let with = |script: &str, specs: &str| parse(&external(url, PROVIDER, &instance(script, specs)));
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    fs::write(&file, "#!/bin/sh\nNAME={{RUNNER_NAME}}\npassword=xSECRETx\n").unwrap();

    let own = with(&path, ", extra_specs: {zone: b}").unwrap_or_else(|e| panic!("{e}"));
    let BackendSettings::External(settings) = &own.groups[0].backends[0] else { panic!("{own:?}") };
    let Some(StartupScript::Own { file: read, template }) = &settings.startup_script else { panic!("{own:?}") };
    assert_eq!((read.as_path(), &**template), (file.path(), "#!/bin/sh\nNAME={{RUNNER_NAME}}\npassword=xSECRETx\n"));
    assert!(!format!("{own:?}{}", check::describe(&own)).contains("xSECRETx"));
    let built_in = with("built-in", "").unwrap_or_else(|e| panic!("{e}"));
    let BackendSettings::External(settings) = &built_in.groups[0].backends[0] else { panic!("{built_in:?}") };
    assert_eq!(settings.startup_script, Some(StartupScript::BuiltIn));

    let wrong = |script: &str, specs: &str, expected: &str| {
        let error = with(script, specs).unwrap_err().to_string();
        let key = "config.yaml:11:60: runner_groups[0].backend.instance_config.startup_script: found ";
        assert!(error.contains(key) && error.contains(expected), "{expected}: {error}");
    };
    fs::write(&file, "#!/bin/sh\n\necho {{RUNNER_NAME}}\n").unwrap();
    wrong(&path, "", &format!("{path}: line 3: {{{{RUNNER_NAME}}}} has to be the whole value of an assignment"));
    fs::write(&file, "#!/bin/sh\nA={{RUNNER_NAEM}}\n").unwrap();
    wrong(&path, "", "line 2: there is no value called RUNNER_NAEM; there are RUNNER_NAME, ");
    fs::write(&file, "echo\n").unwrap();
    wrong(&path, "", "line 1: a script begins with #! and the path of its interpreter");
    fs::write(&file, b"#!/bin/sh\n\xff\n").unwrap();
    wrong(&path, "", "it holds bytes that are not UTF-8");
    fs::write(&file, format!("#!/bin/sh\n{}", "#".repeat(64 << 10))).unwrap();
    wrong(&path, "", "it has more than 65536 bytes");
    wrong("/nowhere/startup.sh", "", "/nowhere/startup.sh: cannot read it: No such file");
    wrong("/dev", "", "/dev: it is not a file");
    wrong("startup.sh", "", "the relative path startup.sh, expected an absolute path");
    wrong(
        "built-in",
        ", extra_specs: {runner_install_template: eA==}",
        "startup_script beside runner_install_template",
    );
    let windows =
        external(url, PROVIDER, &instance("built-in", "")).replace("organization: o", "organization: o\n  os: windows");
    let error = parse(&windows).unwrap_err().to_string();
    assert!(error.contains("runner_groups[0].os: found another system than linux beside a startup_script"), "{error}");
    wrong("built-in", ", extra_specs: [1]", "startup_script beside extra_specs that are no mapping");
}

#[test]
fn what_is_wrong_with_an_external_provider_is_said() {
    let url = "external_url: https://runners.example.org";
    let wrong = |text: String| parse(&text).unwrap_err().to_string();
    let relative = wrong(external(url, "{provider_executable: bin/p, provider_config_file: /c}", IMAGE));
    assert!(relative.contains("config.provider_executable: found the relative path "), "{relative}");
    let missing = wrong(external(url, "{provider_executable: /p}", "{image: i}"));
    assert!(missing.contains("provider_config_file") && missing.contains("instance_config.flavor"), "{missing}");
    let version =
        wrong(external(url, "{provider_executable: /p, provider_config_file: /c, interface_version: v9}", IMAGE));
    assert!(version.contains("expected one of v0.1.0, v0.1.1"), "{version}");
    let nowhere = wrong(external("", PROVIDER, IMAGE));
    assert!(
        nowhere.contains("external_url: found no external_url, though instances of group \"octo\" need it"),
        "{nowhere}"
    );
    let no_url = wrong(external("external_url: runners.example.org", PROVIDER, IMAGE));
    assert!(no_url.contains("external_url: found"), "{no_url}");
    let insecure = parse(&external("external_url: http://runners.example.org", PROVIDER, IMAGE)).unwrap();
    assert!(check::warnings(&insecure).iter().any(|warning| warning.starts_with("external_url is not HTTPS")));
}
