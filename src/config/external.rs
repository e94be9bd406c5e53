//! Keys of the backend `external`, which runs the executable of a provider.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::read::{Field, Read, Reader, keys};
use super::tree::{Node, Value};
use super::types::{FilePath, Time};
use super::words::words;
use crate::startup::{self, TEMPLATE_MAX};

/// Instead of a path: the script that comes with this program.
const BUILT_IN: &str = "built-in";
/// The extra spec by which a provider takes another script than its own.
const INSTALL_TEMPLATE: &str = "runner_install_template";

/// How a group's external provider is called, and what its instances are like.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalSettings {
    /// The executable; an absolute path.
    pub provider_executable: PathBuf,
    /// Its configuration file; an absolute path.
    pub provider_config_file: PathBuf,
    /// Version of the interface. Default v0.1.0.
    pub interface_version: InterfaceVersion,
    /// Names, or beginnings of names, of variables that it gets. Default none.
    pub environment_variables: Vec<String>,
    /// Longest time one call may take. Default 5 min.
    pub exec_timeout: Duration,
    /// Image, as the provider calls it.
    pub image: String,
    /// Flavor, as the provider calls it.
    pub flavor: String,
    /// More settings, as the provider defines them; may hold secrets and are not shown by `Debug`. Default none.
    pub extra_specs: Option<Json>,
    /// The script that makes an instance a runner. Default: the provider's own.
    pub startup_script: Option<StartupScript>,
}

/// A script that makes an instance a runner.
#[derive(Clone, PartialEq, Eq)]
pub enum StartupScript {
    /// The one that comes with this program.
    BuiltIn,
    /// The operator's own.
    Own {
        /// Where it was read.
        file: PathBuf,
        /// The template, which is right; may hold secrets and is not shown by `Debug`.
        template: Arc<str>,
    },
}

impl fmt::Debug for StartupScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str(BUILT_IN),
            Self::Own { file, .. } => file.fmt(f),
        }
    }
}

impl fmt::Debug for ExternalSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("external")
            .field("provider_executable", &self.provider_executable)
            .field("provider_config_file", &self.provider_config_file)
            .field("interface_version", &self.interface_version)
            .field("environment_variables", &self.environment_variables)
            .field("exec_timeout", &self.exec_timeout)
            .field("image", &self.image)
            .field("flavor", &self.flavor)
            .field("startup_script", &self.startup_script)
            .finish_non_exhaustive()
    }
}

words! {
    /// Version of the interface of an external provider.
    pub enum InterfaceVersion {
        /// The first.
        V010 = "v0.1.0",
        /// The second.
        V011 = "v0.1.1",
    }
}

keys! {
    /// How to call an external provider.
    struct ExternalConfig {
        /// Absolute path of the provider's executable.
        required provider_executable: FilePath,
        /// Absolute path of the provider's configuration.
        required provider_config_file: FilePath,
        /// Version of the provider's interface: v0.1.0 or v0.1.1.
        optional interface_version: InterfaceVersion = "v0.1.0",
        /// Names or prefixes of environment variables that the provider gets, such as PATH; GARM… are never handed on.
        optional environment_variables: Vec<String> = "[]",
        /// Longest time one call may take. Duration.
        optional exec_timeout: Time<false> = "5m",
    }
}

keys! {
    /// What the instances of an external provider are like.
    struct ExternalInstance {
        /// Image, as the provider calls it.
        required image: String,
        /// Flavor, as the provider calls it.
        required flavor: String,
        /// More settings, as the provider defines them.
        optional extra_specs: AnyJson,
        /// Script that makes an instance a runner, for providers that take runner_install_template: built-in, or the
        /// absolute path of a template. Default: the provider's own.
        optional startup_script: FilePath,
    }
}

/// A value of any kind, as JSON.
#[derive(Debug)]
pub(super) struct AnyJson(Json);

impl Read for AnyJson {
    const PLAIN: bool = false;

    fn read(node: &Node, _: &mut Reader) -> Option<Self> {
        Some(Self(to_json(node)))
    }

    fn expected() -> String {
        "a value".to_owned()
    }

    fn schema() -> Json {
        json!({})
    }
}

/// Plain `true`, `false` and numbers as JSON writes them are such; everything else is text.
fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar { text, quoted: true } => json!(text),
        Value::Scalar { text, quoted: false } => match serde_json::from_str(text) {
            Ok(value @ (Json::Bool(_) | Json::Number(_))) => value,
            _ => json!(text),
        },
        Value::List(items) => items.iter().map(|item| to_json(item)).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), to_json(&entry.node))).collect())
        }
    }
}

/// The settings, if everything about them is right.
pub(super) fn settings(
    config: Option<ExternalConfig>,
    instance: Option<ExternalInstance>,
    reader: &mut Reader,
) -> Option<ExternalSettings> {
    let config = config?;
    let executable = absolute(config.provider_executable, reader);
    let config_file = absolute(config.provider_config_file, reader);
    let instance = instance?;
    let names = config.environment_variables.value?;
    if let Some(name) = names.iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        let spot = &config.environment_variables.spot;
        reader.wrong_at(spot, format!("{name:?}"), "names or prefixes of environment variables");
        return None;
    }
    let extra_specs = instance.extra_specs.value.map(|value| value.0).filter(|value| !value.is_null());
    let startup_script = match instance.startup_script.given {
        true => Some(startup_script(instance.startup_script, extra_specs.as_ref(), reader)?),
        false => None,
    };
    Some(ExternalSettings {
        provider_executable: executable?,
        provider_config_file: config_file?,
        interface_version: config.interface_version.value?,
        environment_variables: names,
        exec_timeout: config.exec_timeout.value?.0,
        image: instance.image.value?,
        flavor: instance.flavor.value?,
        extra_specs,
        startup_script,
    })
}

/// The startup script, if the provider can be given one.
fn startup_script(key: Field<FilePath>, extra_specs: Option<&Json>, reader: &mut Reader) -> Option<StartupScript> {
    if let Some(specs) = extra_specs {
        let beside = match specs.as_object() {
            None => Some(("extra_specs that are no mapping", "extra_specs with keys: the script becomes one of them")),
            Some(specs) => specs
                .contains_key(INSTALL_TEMPLATE)
                .then_some(("runner_install_template in extra_specs", "one of both: it would replace this script")),
        };
        if let Some((found, expected)) = beside {
            reader.wrong_at(&key.spot, format!("startup_script beside {found}"), expected);
            return None;
        }
    }
    if key.value.as_ref().is_some_and(|path| path.0 == Path::new(BUILT_IN)) {
        return Some(StartupScript::BuiltIn);
    }
    let spot = key.spot.clone();
    let file = absolute(key, reader)?;
    match template(&file) {
        Ok(template) => Some(StartupScript::Own { file, template: template.into() }),
        Err(why) => {
            reader.wrong_at(&spot, format!("{}: {why}", file.display()), "a template of a startup script, or built-in");
            None
        }
    }
}

/// A template that is right, or what is wrong with the file.
fn template(path: &Path) -> Result<String, String> {
    if !path.metadata().map_err(|error| format!("cannot read it: {error}"))?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(TEMPLATE_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read it: {error}"))?;
    if bytes.len() > TEMPLATE_MAX {
        return Err(format!("it has more than {TEMPLATE_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it holds bytes that are not UTF-8".to_owned())?;
    startup::check(&text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn absolute(path: Field<FilePath>, reader: &mut Reader) -> Option<PathBuf> {
    let file = path.value?.0;
    if !file.is_absolute() {
        reader.wrong_at(&path.spot, format!("the relative path {}", file.display()), "an absolute path");
        return None;
    }
    Some(file)
}
