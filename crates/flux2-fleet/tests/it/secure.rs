//! Encrypted connections, and who may connect.

use std::path::Path;
use std::process::Command;

use flux2_fleet::{FleetError, Operator, QueueOptions, Server};

use crate::site::Site;

/// A certificate of 127.0.0.1 that signs itself, and its private key.
fn certificate(folder: &Path) {
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=fleet", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .expect("the test needs openssl: apt-get install openssl");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn a_server_is_known_by_its_certificate_and_knows_its_clients() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let file = |name: &str| folder.path().join(name);
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let flags = [
        "--tls",
        "--tlscert",
        cert.to_str().unwrap(),
        "--tlskey",
        key.to_str().unwrap(),
        "--user",
        "me",
        "--pass",
        "secret",
    ];
    let site = Site::with_flags(QueueOptions::default(), flags.map(str::to_owned).to_vec());
    let address = |password: &str| format!("tls://me:{password}@127.0.0.1:{}", site.port);
    let known = Server { addresses: address("secret"), authority: Some(cert.clone()), ..Server::default() };
    assert!(Operator::connect(&known).unwrap().overview().unwrap().workers.is_empty());
    let refused = [
        Server { authority: None, ..known.clone() },
        Server { addresses: address("guess"), ..known.clone() },
        Server { authority: Some(file("missing.pem")), ..known.clone() },
        Server { credentials: Some(file("missing.creds")), ..known },
    ];
    let errors = refused.map(|server| Operator::connect(&server).err().expect("it is refused"));
    assert!(errors[..2].iter().all(|error| matches!(error, FleetError::Connect { .. })), "{errors:?}");
    assert!(errors[2..].iter().all(|error| matches!(error, FleetError::File { .. })), "{errors:?}");
    let text = errors.map(|error| error.to_string()).join("\n");
    assert!(text.contains("missing.creds") && text.contains("127.0.0.1"), "{text}");
    assert!(!text.contains("secret") && !text.contains("guess"), "{text}");
}
