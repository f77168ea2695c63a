//! Promise: over TLS only peers with a certificate of the configured authority are answered, by the same code; certificates are exchanged without a stop.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::pki::{authority, issued, text};
use common::{Rig, Subscriber, free_port, mosquitto, run, series, tool, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// DCMTK's storescu over TLS with a certificate of its own.
fn store_secure(port: u16, (certificate, key): &(PathBuf, PathBuf), ca: &Path, files: &[PathBuf]) -> (bool, String) {
    let mut command = tool("storescu");
    command.args(["-v", "-xt", "-aec", "LESIONWATCH", "+tls"]).arg(key).arg(certificate).arg("+cf").arg(ca);
    run(command.args(["127.0.0.1", &port.to_string()]).args(files))
}

#[test]
fn only_certificates_of_our_authority_are_answered_and_they_are_exchanged_without_a_stop() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let [ours, foreign] = ["ours", "foreign"].map(|name| authority(dir.path(), name));
    let server = issued(dir.path(), &ours, "server");
    let (scanner, stranger) = (issued(dir.path(), &ours, "scanner"), issued(dir.path(), &foreign, "stranger"));
    let secure = free_port();
    let rig = Rig::new(
        port,
        &format!(
            "[dicom.tls]\nlisten = \"127.0.0.1:{secure}\"\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n",
            server.0.display(),
            server.1.display(),
            ours.display()
        ),
    );
    let (files, uid) = series(dir.path(), "secure", 4);
    let (ok, output) = store_secure(secure, &scanner, &ours, &files);
    assert!(ok, "{output}\n{}", rig.log());
    assert_eq!(rig.spooled().len(), files.len());
    let result = wait_for("the result", || subscriber.results(&uid).pop());
    assert_eq!(result["outcome"], "analysed");
    assert!(rig.log().contains(" over=tls1.") && rig.log().contains("end=\"released\""), "{}", rig.log());

    // Of another authority; none at all; not TLS; nothing but silence.
    let (more, _) = series(dir.path(), "refused", 30);
    assert!(!store_secure(secure, &stranger, &ours, &more).0);
    let (ok, output) = run(tool("storescu").args(["-xt", "+tla", "+cf"]).arg(&ours).args(["127.0.0.1", &secure.to_string()]).args(&more));
    assert!(!ok, "{output}");
    assert!(!run(tool("storescu").args(["-xt", "127.0.0.1", &secure.to_string()]).args(&more)).0);
    let begin = std::time::Instant::now();
    let mut silent = TcpStream::connect(("127.0.0.1", secure)).unwrap();
    silent.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let _ = silent.read(&mut [0; 16]);
    assert!((5..30).contains(&begin.elapsed().as_secs()), "a silent handshake lasted {:?}", begin.elapsed());
    assert_eq!(rig.spooled().len(), files.len());
    wait_for("four failed handshakes", || (rig.metric("tls_handshakes_failed_total") >= 4.0).then_some(()));
    assert!(rig.log().matches("connection refused reason=handshake").count() >= 4, "{}", rig.log());

    // An association that is open stays open while its certificate is exchanged for one of the other authority.
    #[rustfmt::skip]
    let mut held = Command::new("openssl")
        .args(["s_client", "-quiet", "-no_ign_eof", "-cert", text(&scanner.0), "-key", text(&scanner.1), "-CAfile", text(&ours), "-connect", &format!("127.0.0.1:{secure}")])
        .stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null())
        .spawn().unwrap();
    let (mut to, mut from) = (held.stdin.take().unwrap(), held.stdout.take().unwrap());
    to.write_all(&common::associate_request("CT1", "LESIONWATCH", "1.2.840.10008.1.1")).unwrap();
    let mut answer = [0; 6];
    from.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 2, "A-ASSOCIATE-AC");
    let replacement = issued(dir.path(), &foreign, "replacement");
    // Half of an exchange: what was there stays in force.
    std::fs::copy(&replacement.0, &server.0).unwrap();
    rig.signal("HUP");
    wait_for("a complaint", || rig.log().contains("tls certificates not read again").then_some(()));
    assert!(store_secure(secure, &scanner, &ours, &more).0, "{}", rig.log());
    std::fs::copy(&replacement.1, &server.1).unwrap();
    rig.signal("HUP");
    wait_for("the new certificate", || rig.log().contains("tls certificates read again").then_some(()));
    assert!(!store_secure(secure, &scanner, &ours, &more).0, "the old certificate is still shown");
    assert!(store_secure(secure, &scanner, &foreign, &more).0, "{}", rig.log());
    // A-RELEASE-RQ on the association of before.
    to.write_all(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([answer[4], answer[5]]))];
    from.read_exact(&mut rest).unwrap();
    let mut released = [0; 10];
    from.read_exact(&mut released).unwrap();
    assert_eq!(released[0], 6, "A-RELEASE-RP");
    drop(to);
    held.wait().unwrap();
}

#[test]
fn what_tls_lacks_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path(), "ca");
    let (certificate, _) = issued(dir.path(), &ca, "server");
    let config = dir.path().join("config.toml");
    // The authority's key is not that of the certificate.
    let text = format!(
        "[state]\ndir = \"{}\"\n[dicom.tls]\nlisten = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n",
        dir.path().join("state").display(),
        certificate.display(),
        ca.with_extension("key").display(),
        ca.display()
    );
    std::fs::write(&config, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lesionwatch")).args(["run", "--config"]).arg(&config).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(78) && text.contains("do they belong together?"), "{text}");
}
