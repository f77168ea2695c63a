//! Promise: no patient identity leaves by default. A made-up person stands all over the objects that are sent (names, numbers, birth date, physicians,
//! institution; private attributes, items of sequences, places where numbers and codes belong, the identity of the association's user); afterwards
//! none of it is in the log at its finest level, in the metrics, in any topic or payload, in what the page and its interface serve, nor in the state folder
//! outside the objects themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Process, Rig, Subscriber, free_port, mosquitto, peer_script, run, series, store, tool, wait_for};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// `mosquitto_sub` on every topic there is: what came, byte by byte.
struct Everything {
    _process: Process,
    bytes: Arc<Mutex<Vec<(String, Vec<u8>)>>>,
}

impl Everything {
    fn new(port: u16) -> Self {
        let mut command = tool("mosquitto_sub");
        // %x is the payload in hexadecimal: pictures are among them.
        command.args(["-V", "5", "-h", "127.0.0.1", "-q", "1", "-p", &port.to_string(), "-F", "%t %x", "-t", "#"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let (topic, hex) = line.split_once(' ').unwrap_or((&line, ""));
                let payload = (0..hex.len() / 2).filter_map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect();
                sink.lock().unwrap().push((topic.to_owned(), payload));
            }
        });
        let all = Self { _process: Process(child), bytes };
        wait_for("the subscriber of everything", || {
            common::publish(port, "ready", "{}");
            (!all.bytes.lock().unwrap().is_empty()).then_some(())
        });
        all
    }
}

/// What the page's service says; a stream is read for a while.
fn get(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        all.extend_from_slice(&buffer[..n]);
        if path == "/events" && all.len() > 64 * 1024 {
            break;
        }
    }
    assert!(all.starts_with(b"HTTP/1.1 "), "{path}");
    all
}

/// Every file below `dir` with its path, but for the contents of objects.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut all, mut stack) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                all.push((path.display().to_string(), Vec::new()));
                stack.push(path);
            } else {
                let is_object = path.extension().is_some_and(|e| e == "dcm");
                all.push((path.display().to_string(), if is_object { Vec::new() } else { std::fs::read(&path).unwrap() }));
            }
        }
    }
    all
}

/// Which of `planted` stand in `bytes`, in whatever case; as UTF-8, as UTF-16 and with the letters of a JSON or log escape between them.
fn found<'a>(bytes: &[u8], planted: &'a [String]) -> Vec<&'a str> {
    let plain: Vec<u8> = bytes.iter().filter(|b| **b != 0).map(u8::to_ascii_lowercase).collect();
    let has = |text: &str| plain.windows(text.len()).any(|w| w == text.to_lowercase().as_bytes());
    planted.iter().map(String::as_str).filter(|p| has(p)).collect()
}

#[test]
fn a_planted_identity_stays_in_the_objects() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let (subscriber, everything) = (Subscriber::new(port), Everything::new(port));
    let mut rig = Rig::new(port, "[series]\nquiet_min_s = 0.5\n");
    rig.terminate();
    rig.log_level = "warn,lesionwatch=trace".into();
    rig.start();

    let (sources, uid) = series(dir.path(), "planted", 4);
    let output = peer_script("plant.py").arg(dir.path().join("objects")).args(&sources).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let corpus: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |name: &str| corpus[name].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<String>>();
    let paths = |name: &str| list(name).into_iter().map(PathBuf::from).collect::<Vec<_>>();
    let planted = list("planted");
    for file in paths("files").iter().chain(&paths("odd")) {
        assert!(!found(&std::fs::read(file).unwrap(), &planted).is_empty(), "{} holds nothing", file.display());
    }

    let (ok, text) = store(rig.dicom, &paths("files"));
    assert!(ok, "{text}");
    let result = wait_for(&format!("the result; log:\n{}", rig.log()), || subscriber.results(&uid).pop());
    assert_eq!(result["outcome"], "analysed");
    assert_ne!(result["lesions"], serde_json::json!([]), "no lesion, no picture");
    for file in paths("odd") {
        // Refused or not: both are answers.
        store(rig.dicom, &[file]);
    }
    // The same identifiers with other bytes: a conflict, which has a line of its own.
    let (ok, text) = run(tool("dcmodify").args(["-nb", "-m", "PatientID=PID7731904421X"]).arg(&paths("files")[0]));
    assert!(ok, "{text}");
    store(rig.dicom, &paths("files")[..1]);
    // A damaged one: cut in the middle of the person.
    let whole = std::fs::read(&paths("odd")[4]).unwrap();
    let at = whole.windows(11).position(|w| w == b"Plantfamily").unwrap();
    std::fs::write(dir.path().join("cut.dcm"), &whole[..at + 6]).unwrap();
    store(rig.dicom, &[dir.path().join("cut.dcm")]);
    let out =
        peer_script("impostor.py").args([&rig.dicom.to_string(), "Plantfamily^Plantgiven", sources[0].to_str().unwrap()]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    wait_for("refusals in the log", || (rig.log().matches("object refused").count() >= 3).then_some(()));
    for number in 1..=4 {
        let uid = format!("1.2.826.0.1.3680043.2.6.{number}");
        wait_for(&format!("the outcome of {uid}; log:\n{}", rig.log()), || subscriber.results(&uid).pop());
    }
    wait_for("pictures", || everything.bytes.lock().unwrap().iter().any(|(t, _)| t.contains("/images/")).then_some(()));

    let mut places: Vec<(String, Vec<u8>)> =
        ["/", "/events", "/api/alerts", "/healthz", "/metrics"].map(|p| (p.to_owned(), get(rig.page, p))).into();
    assert!(rig.terminate().success());
    let log = rig.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is not at its finest level");
    places.push(("log".into(), log.into_bytes()));
    let messages = everything.bytes.lock().unwrap();
    assert!(messages.len() > 10);
    places.extend(messages.iter().map(|(topic, payload)| (topic.clone(), [topic.as_bytes(), b" ", payload].concat())));
    places.extend(
        files(&rig.dir.path().join("state")).into_iter().map(|(path, bytes)| (path.clone(), [path.as_bytes(), b" ", &bytes].concat())),
    );
    assert!(places.iter().any(|(p, _)| p.ends_with("state.db")) && places.iter().any(|(p, _)| p.ends_with(".dcm")));
    let leaks: Vec<String> = places
        .iter()
        .filter_map(|(place, bytes)| Some(format!("{place}: {:?}", Some(found(bytes, &planted)).filter(|f| !f.is_empty())?)))
        .collect();
    assert!(leaks.is_empty(), "{} places:\n{}", leaks.len(), leaks.join("\n"));
    println!("{} places, {} planted texts, none found", places.len(), planted.len());
    // It did come in.
    let object = &rig.spooled()[0];
    assert!(found(&std::fs::read(object).unwrap(), &planted).len() > 20, "{}", object.display());
}
