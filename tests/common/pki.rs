//! Certificates for a test, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

fn openssl(args: &[&str]) {
    let (ok, text) = run(Command::new("openssl").args(args));
    assert!(ok, "openssl {args:?}: {text}");
}

/// A certificate authority: `<name>.pem` and `<name>.key` in `dir`.
pub fn authority(dir: &Path, name: &str) -> PathBuf {
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    let subject = format!("/CN={name}");
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "30",
        "-subj",
        &subject,
        "-keyout",
        text(&key),
        "-out",
        text(&certificate),
    ]);
    certificate
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A certificate for localhost by the authority at `ca`: certificate and key.
pub fn issued(dir: &Path, ca: &Path, name: &str) -> (PathBuf, PathBuf) {
    let [certificate, key, request, extensions] = ["pem", "key", "csr", "ext"].map(|e| dir.join(format!("{name}.{e}")));
    std::fs::write(&extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    let subject = format!("/CN={name}");
    openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", text(&key), "-out", text(&request)]);
    let (ca_key, authority) = (ca.with_extension("key"), text(ca));
    #[rustfmt::skip]
    openssl(&["x509", "-req", "-in", text(&request), "-CA", authority, "-CAkey", text(&ca_key), "-CAcreateserial", "-days", "30", "-extfile", text(&extensions), "-out", text(&certificate)]);
    (certificate, key)
}
