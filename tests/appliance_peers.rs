//! Promise: only configured peers are answered, within their limits; a refusal says why, to the peer, in the log and in the metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, associate_request, free_port, mosquitto, run, series, store, tool, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

const VERIFICATION: &str = "1.2.840.10008.1.1";

/// Asks for an association; the connection and the PDU that came back (an A-ASSOCIATE-RJ whole, else its first bytes).
fn ask(rig: &Rig, request: &[u8]) -> (TcpStream, [u8; 10]) {
    let mut stream = TcpStream::connect(("127.0.0.1", rig.dicom)).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    (stream, answer)
}

fn rejection(codes: [u8; 3]) -> [u8; 10] {
    [3, 0, 0, 0, 0, 4, 0, codes[0], codes[1], codes[2]]
}

#[test]
fn only_configured_peers_are_answered_and_others_are_told_why() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let peers = "[[dicom.peer]]\ncalling_ae = \"CT1\"\naddresses = [\"127.0.0.0/8\"]\nmax_associations = 1\n\
                 [[dicom.peer]]\ncalling_ae = \"MR1\"\nsop_classes = [\"1.2.840.10008.5.1.4.1.1.4\"]\n\
                 [[dicom.peer]]\ncalling_ae = \"FAR\"\naddresses = [\"10.0.0.0/8\", \"fd00::/8\"]\n";
    let mut rig = Rig::new(port, peers);
    rig.terminate();
    rig.configure("[dicom]\n", "[dicom]\ncalled_ae = \"own\"\n");
    rig.start();
    let request = |calling, called| associate_request(calling, called, VERIFICATION);

    for (calling, called, codes) in [("STRANGER", "LESIONWATCH", [1, 1, 3]), ("FAR", "LESIONWATCH", [1, 1, 3]), ("CT1", "PACS", [1, 1, 7])]
    {
        let (mut stream, answer) = ask(&rig, &request(calling, called));
        assert_eq!(answer, rejection(codes), "{calling} {called}");
        // The connection is closed in order, not reset.
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    let mut other_context = request("CT1", "LESIONWATCH");
    let name = b"1.2.840.10008.3.1.1.1";
    let at = other_context.windows(name.len()).position(|w| w == name).unwrap();
    other_context[at + name.len() - 1] = b'9';
    assert_eq!(ask(&rig, &other_context).1, rejection([1, 1, 2]));
    let mut other_version = request("CT1", "LESIONWATCH");
    other_version[7] = 2;
    assert_eq!(ask(&rig, &other_version).1, rejection([1, 2, 2]));

    let echo = |calling: &str| {
        run(tool("echoscu").args(["-to", "10", "-aet", calling, "-aec", "LESIONWATCH", "127.0.0.1", &rig.dicom.to_string()]))
    };
    assert!(echo("CT1").0 && echo("MR1").0);
    let (_, text) = echo("STRANGER");
    assert!(text.contains("Calling AE Title Not Recognized"), "{text}");

    // One association of CT1 at once; MR1 is not kept out by it, and the place is given back.
    wait_for("the end of the echo", || rig.log().contains("calling=\"CT1\" objects=0 refused=0 mib=0.0").then_some(()));
    let (held, answer) = ask(&rig, &request("CT1", "LESIONWATCH"));
    assert_eq!(answer[0], 2, "A-ASSOCIATE-AC");
    assert_eq!(ask(&rig, &request("CT1", "LESIONWATCH")).1, rejection([2, 3, 2]));
    assert!(echo("MR1").0);
    drop(held);
    wait_for("an echo again", || echo("CT1").0.then_some(()));

    for (reason, least) in
        [("calling_ae", 3.0), ("called_ae", 1.0), ("application_context", 1.0), ("protocol_version", 1.0), ("local_limit", 1.0)]
    {
        assert!(rig.metric(&format!("associations_rejected_total{{reason=\"{reason}\"}}")) >= least, "{}", rig.metrics());
        let lines = rig.log().lines().filter(|l| l.contains(&format!("association rejected reason={reason} "))).count();
        assert!(lines as f64 >= least, "{reason}: {}", rig.log());
    }
}

#[test]
fn a_peer_stores_the_classes_it_may_and_no_others() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let peers = "[[dicom.peer]]\ncalling_ae = \"MR1\"\nsop_classes = [\"1.2.840.10008.5.1.4.1.1.4\"]\n[[dicom.peer]]\ncalling_ae = \"*\"\n";
    let rig = Rig::without_page(port, peers);
    let (files, _) = series(dir.path(), "ct", 30);
    let as_mr = run(tool("storescu").args(["-xt", "-aet", "MR1", "127.0.0.1", &rig.dicom.to_string()]).args(&files));
    assert!(!as_mr.0 && rig.spooled().is_empty(), "{}", as_mr.1);
    assert!(rig.log().contains("presentation contexts refused more="), "{}", rig.log());
    assert!(store(rig.dicom, &files).0);
    assert_eq!(rig.spooled().len(), files.len());
}

#[test]
fn an_address_that_is_nobodys_is_turned_away_before_it_says_anything() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "[[dicom.peer]]\ncalling_ae = \"*\"\naddresses = [\"10.0.0.0/8\"]\n");
    for _ in 0..40 {
        assert_eq!(ask(&rig, &associate_request("CT1", "LESIONWATCH", VERIFICATION)).1, rejection([1, 1, 3]));
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", rig.pid())).unwrap().count();
    let names = |n: &str| rig.log().matches(n).count();
    assert!(names("association rejected reason=calling_ae") >= 40 && threads < 40, "{threads} threads\n{}", rig.log());
}

/// Connections to the appliance from another loopback address.
fn connect_from(source: &str, rig: &Rig) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let [from, to] = [(source, 0), ("127.0.0.1", rig.dicom)].map(|(ip, port)| std::net::SocketAddrV4::new(ip.parse().unwrap(), port));
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &from)?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

#[test]
fn a_flood_of_associations_leaves_a_permitted_peer_its_echo() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    // One that floods as a peer, from its own address, and one that is nobody.
    let peers = "[[dicom.peer]]\ncalling_ae = \"CT1\"\naddresses = [\"127.0.0.1\"]\n\
                 [[dicom.peer]]\ncalling_ae = \"CT2\"\naddresses = [\"127.0.0.2\"]\n";
    let rig = Rig::new(port, peers);
    let (stop, held) = (std::sync::atomic::AtomicBool::new(false), std::sync::Mutex::new(Vec::new()));
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for source in ["127.0.0.2", "127.0.0.2", "127.0.0.3"] {
            let (rig, held) = (&rig, &held);
            scope.spawn(move || {
                while !stopped() {
                    let Ok(mut stream) = connect_from(source, rig) else { continue };
                    // Over the limit: it may be closed already.
                    let _ = stream.write_all(&associate_request("CT2", "LESIONWATCH", VERIFICATION));
                    let mut held = held.lock().unwrap();
                    held.push(stream);
                    if held.len() > 400 {
                        held.drain(..100);
                    }
                }
            });
        }
        let refused = |reason: &str| rig.metric(&format!("associations_rejected_total{{reason=\"{reason}\"}}"));
        wait_for("the flood", || (refused("local_limit") > 100.0 && refused("calling_ae") > 10.0).then_some(()));
        let echoes: Vec<(bool, String)> = (0..10)
            .map(|_| run(tool("echoscu").args(["-to", "10", "-aet", "CT1", "-aec", "LESIONWATCH", "127.0.0.1", &rig.dicom.to_string()])))
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(echoes.iter().all(|(ok, _)| *ok), "{echoes:?}");
    });
    let threads = std::fs::read_dir(format!("/proc/{}/task", rig.pid())).unwrap().count();
    assert!(threads < 60, "{threads} threads");
}

#[test]
fn check_says_who_will_be_answered() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    let bundle = common::tiny_bundle(dir.path());
    let base = format!(
        "[dicom]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nembedded_listen = \"127.0.0.1:0\"\n[dashboard]\nlisten = \"\"\n[state]\ndir = \"{}\"\n[model]\nbundle = \"{}\"\n",
        dir.path().join("state").display(),
        bundle.display()
    );
    for (more, words) in [
        ("", "none configured: anyone who reaches the port, calling any title"),
        ("[[dicom.peer]]\ncalling_ae = \"CT1\"\naddresses = [\"10.0.0.0/8\"]\n", "CT1 from 10.0.0.0/8, calling any title"),
    ] {
        std::fs::write(&config, format!("{base}{more}")).unwrap();
        let (_, text) = run(Command::new(env!("CARGO_BIN_EXE_lesionwatch")).args(["check", "--config"]).arg(&config));
        assert!(text.lines().any(|l| l.starts_with("DICOM peers") && l.contains(words)), "{text}");
    }
}
