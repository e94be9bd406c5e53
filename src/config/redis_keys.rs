//! The keys about Redis together: they make sense with `redis_url` only.

use std::path::PathBuf;
use std::time::Duration;

use super::keys::RawConfig;
use super::read::{Field, Reader, Spot};
use super::redis_url::RedisUrl;

/// The Redis that keeps the state, and how it is used.
#[derive(Debug)]
pub struct RedisConfig {
    /// Which one.
    pub url: RedisUrl,
    /// Connections that reads share, 1 to 1000; up to four more are for writes and other replicas. Default 8.
    pub connections: u32,
    /// Longest time until a connection is made; more than 0. Default 1 s.
    pub connect_timeout: Duration,
    /// Longest time until a command is answered; more than 0. Default 1.5 s.
    pub timeout: Duration,
    /// Replicas of Redis that must have a write before it counts as done, 0 to 10. Default 0.
    pub wait_replicas: u32,
    /// PEM file of the authorities that may sign the server's certificate; absent: those of this host.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown to servers that ask for one.
    pub client_certificate: Option<ClientCertificate>,
}

/// Files of a certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, with those between it and the authority.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// What the keys say, taken out of all of them; `None`: no Redis, or an error was reported.
pub(super) fn redis(raw: &mut RawConfig, reader: &mut Reader) -> Option<RedisConfig> {
    let files = [&raw.redis_ca_file, &raw.redis_cert_file, &raw.redis_key_file];
    let files = files.map(|file| file.given.then(|| file.spot.clone()));
    let others = [
        given(&raw.redis_connections),
        given(&raw.redis_connect_timeout),
        given(&raw.redis_timeout),
        given(&raw.redis_wait_replicas),
    ];
    let (any_url, url) = (raw.redis_url.given || raw.redis_om_url.given, url(raw, reader));
    if !any_url {
        // Without an effect they would leave a wrong idea of where the state is.
        for spot in others.iter().chain(&files).flatten() {
            reader.wrong_at(spot, "a key about Redis without redis_url", "redis_url beside it, or neither");
        }
    }
    let url = url?;
    if !url.tls {
        for spot in files.iter().flatten() {
            let expected = "a redis_url of a form with TLS (rediss://, rediss+sentinel://, rediss+cluster://)";
            reader.wrong_at(spot, "a file for TLS beside a redis_url without TLS", expected);
        }
    }
    let path = |file: &mut Field<super::types::FilePath>| file.value.take().map(|path| path.0);
    let (cert, key) = (path(&mut raw.redis_cert_file), path(&mut raw.redis_key_file));
    let client_certificate = match (cert, key) {
        (Some(cert_file), Some(key_file)) => Some(ClientCertificate { cert_file, key_file }),
        (Some(_), None) if !raw.redis_key_file.given => {
            reader.wrong_at(&raw.redis_cert_file.spot, "redis_cert_file alone", "redis_key_file beside it");
            None
        }
        (None, Some(_)) if !raw.redis_cert_file.given => {
            reader.wrong_at(&raw.redis_key_file.spot, "redis_key_file alone", "redis_cert_file beside it");
            None
        }
        _ => None,
    };
    Some(RedisConfig {
        url,
        connections: raw.redis_connections.value?.get(),
        connect_timeout: raw.redis_connect_timeout.value?.0,
        timeout: raw.redis_timeout.value?.0,
        wait_replicas: raw.redis_wait_replicas.value?.get(),
        ca_file: path(&mut raw.redis_ca_file),
        client_certificate,
    })
}

fn given<T>(field: &Field<T>) -> Option<Spot> {
    field.given.then(|| field.spot.clone())
}

/// The URL under either of its names.
fn url(raw: &mut RawConfig, reader: &mut Reader) -> Option<RedisUrl> {
    let (one, two) = (raw.redis_url.value.take(), raw.redis_om_url.value.take());
    if let (Some(one), Some(two)) = (&one, &two)
        && one != two
    {
        let expected = "one of the two: they mean the same";
        reader.wrong_at(&raw.redis_om_url.spot, "another URL than that of redis_url", expected);
    }
    one.or(two)
}
