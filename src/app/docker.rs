//! The backend `docker`, as the configuration describes it.

use std::sync::Arc;

use actors::port::Backend;
use actors::port::backend::Owner;

use crate::backend::docker::{Docker, Endpoint, Pull, Settings};
use crate::config::{self, DockerEndpoint, DockerSettings};

/// The backend of `owner`.
pub(super) fn backend(settings: &DockerSettings, owner: Owner) -> Arc<dyn Backend> {
    let settings = Settings {
        endpoint: match settings.endpoint.clone() {
            DockerEndpoint::Unix(path) => Endpoint::Unix(path),
            DockerEndpoint::Tcp(address) => Endpoint::Tcp(address),
            DockerEndpoint::Tls { address, ca_file, client_certificate } => Endpoint::Tls {
                address,
                ca_file,
                client_files: client_certificate.map(|files| (files.cert_file, files.key_file)),
            },
        },
        image: settings.image.clone(),
        command: settings.command.clone(),
        labels: settings.labels.clone(),
        env: settings.env.clone(),
        pull: match settings.pull {
            config::Pull::Missing => Pull::Missing,
            config::Pull::Always => Pull::Always,
            config::Pull::Never => Pull::Never,
        },
        network: settings.network.clone(),
        volumes: settings.volumes.clone(),
        nano_cpus: settings.nano_cpus,
        memory: settings.memory,
        privileged: settings.privileged,
        remove: settings.remove,
    };
    Arc::new(Docker::new(settings, owner))
}
