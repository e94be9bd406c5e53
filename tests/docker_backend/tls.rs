//! A daemon that is reached by TCP, with TLS on both sides.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use actors::port::Backend;
use actors::port::backend::{BackendError, InstanceStatus};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use runner_manager::backend::docker::Endpoint;

use super::{Host, runner, spec};
use crate::docker::Dockerd;

/// An authority `name`.pem, and certificates it signed for a server and a client, each with its key.
fn certificates(dir: &Path, name: &str) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (who, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        fs::write(dir.join(format!("{name}-{who}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(dir.join(format!("{name}-{who}.key")), key.serialize_pem()).unwrap();
    }
}

fn endpoint(daemon: &Dockerd, address: &str, authority: &str, client: Option<&str>) -> Endpoint {
    let file = |name: String| daemon.dir().join(name);
    Endpoint::Tls {
        address: address.to_owned(),
        ca_file: file(format!("{authority}.pem")),
        client_files: client.map(|name| (file(format!("{name}-client.pem")), file(format!("{name}-client.key")))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_trusted_on_both_sides_gets_through() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let listen = format!("tcp://{address}");
    let args = [
        ["-H", &*listen].as_slice(),
        &["--tlsverify", "--tlscacert=DIR/ours.pem", "--tlscert=DIR/ours-server.pem", "--tlskey=DIR/ours-server.key"],
    ]
    .concat();
    let daemon = Dockerd::with(&args, |dir| {
        certificates(dir, "ours");
        certificates(dir, "theirs");
    });
    let mut host = Host::of(daemon.into(), "tls").await;
    let name = runner(&host.owner, 1);

    host.settings.endpoint = endpoint(&host.daemon, &address, "ours", Some("ours"));
    let backend = host.backend();
    backend.probe().await.unwrap();
    let made = backend.create(spec(&host.owner, &name)).await.unwrap();
    assert_eq!(made.status, InstanceStatus::Running);
    assert_eq!(backend.list(&host.owner).await.unwrap(), [made]);
    backend.delete(&name).await.unwrap();

    for client in [None, Some("theirs")] {
        host.settings.endpoint = endpoint(&host.daemon, &address, "ours", client);
        let refused = host.backend().create(spec(&host.owner, &name)).await;
        assert!(matches!(&refused, Err(BackendError::Unauthorized(text)) if text.contains("tls_cert")), "{refused:?}");
    }
    host.settings.endpoint = endpoint(&host.daemon, &address, "theirs", Some("ours"));
    let refused = host.backend().create(spec(&host.owner, &name)).await;
    assert!(matches!(&refused, Err(BackendError::Unreachable(text)) if text.contains("certificate")), "{refused:?}");
    host.settings.endpoint = endpoint(&host.daemon, &address, "nobody", None);
    let refused = host.backend().create(spec(&host.owner, &name)).await;
    assert!(matches!(&refused, Err(BackendError::Invalid(text)) if text.contains("tls_ca ")), "{refused:?}");
    host.settings.endpoint = Endpoint::Tcp(address);
    let refused = host.backend().probe().await;
    assert!(refused.is_err(), "TLS is needed");
    assert_eq!(host.daemon.containers().await, [""; 0]);
}
