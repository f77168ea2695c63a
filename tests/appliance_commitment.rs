//! Promise: storage commitment says of every object whether it is durably here, on the association that asked or on a new one, whatever dies meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::pki::{authority, issued, text};
use common::{Rig, free_port, mosquitto, peer_script, run, series, tool, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const MR: &str = "1.2.840.10008.5.1.4.1.1.4";

fn store_as(rig: &Rig, title: &str, files: &[PathBuf]) {
    let (ok, text) = run(tool("storescu").args(["-xt", "-aet", title, "127.0.0.1", &rig.dicom.to_string()]).args(files));
    assert!(ok, "{text}");
}

/// What pynetdicom's user of the service says, a value a line.
fn ask(rig: &Rig, title: &str, way: &str, more: &[String], files: &[PathBuf]) -> Vec<Value> {
    let output =
        peer_script("commitment.py").arg("ask").args(more).args([&rig.dicom.to_string(), title, way]).args(files).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// pynetdicom waiting for reports; ends when its standard input does.
struct Waiting {
    _process: common::Process,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Waiting {
    fn start(port: u16, tls: &[&str]) -> Self {
        let mut command = peer_script("commitment.py");
        command.args(["listen", &port.to_string()]).args(tls).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let waiting = Self { _process: common::Process(child), lines };
        wait_for("the listening peer", || waiting.lines.lock().unwrap().iter().any(|l: &Value| l["listening"] == port).then_some(()));
        waiting
    }

    fn reports(&self) -> Vec<Value> {
        self.lines.lock().unwrap().iter().filter(|l| l.get("report").is_some()).cloned().collect()
    }
}

#[test]
fn a_request_is_answered_on_its_own_association_object_by_object() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::new(port, "[[dicom.peer]]\ncalling_ae = \"CT1\"\nallow_commitment = true\n[[dicom.peer]]\ncalling_ae = \"OTHER\"\n");
    let (files, uid) = series(dir.path(), "own", 10);
    store_as(&rig, "CT1", &files);
    let said = ask(&rig, "CT1", "same", &[], &files);
    assert_eq!((&said[0], &said[1]["status"]), (&json!({ "established": true, "as_scu": true }), &json!(0)));
    let report = said.iter().find(|l| l.get("report").is_some()).unwrap_or_else(|| panic!("{said:?}\n{}", rig.log()));
    let all: Vec<String> = (0..files.len()).map(|i| format!("{uid}.{i}")).collect();
    assert_eq!((&report["report"], &report["committed"], &report["failed"]), (&json!(1), &json!(all), &json!({})));
    assert_eq!(report["transaction"], said[1]["transaction"]);

    // One that never came, one of another class.
    let more = ["--extra".to_owned(), format!("{CT}=1.2.3.4.5"), "--extra".to_owned(), format!("{MR}={uid}.0")];
    let said = ask(&rig, "CT1", "same", &more, &files[1..]);
    let report = said.iter().find(|l| l.get("report").is_some()).unwrap_or_else(|| panic!("{said:?}\n{}", rig.log()));
    assert_eq!((&report["report"], &report["committed"]), (&json!(2), &json!(all[1..])));
    assert_eq!(report["failed"], json!({ "1.2.3.4.5": 0x0112, all[0].as_str(): 0x0119 }));
    wait_for("nothing that waits", || (rig.metric("commitments_pending") == 0.0).then_some(()));
    assert_eq!((rig.metric("commitments_requested_total"), rig.metric("commitments_reported_total")), (2.0, 2.0));

    // What cannot be done is refused with its status; who may not ask is not even heard.
    let status = |more: &[&str], files: &[PathBuf]| {
        let more: Vec<String> = more.iter().map(|m| (*m).to_owned()).collect();
        ask(&rig, "CT1", "same", &more, files)[1]["status"].as_u64().unwrap()
    };
    assert_eq!(status(&["--action", "2"], &files), 0x0123);
    assert_eq!(status(&["--instance", "1.2.3"], &files), 0x0112);
    assert_eq!(status(&[], &[]), 0x0115);
    assert_eq!(ask(&rig, "OTHER", "same", &[], &files), [json!({ "established": false })]);
}

#[test]
fn a_report_reaches_its_peer_on_a_new_association_after_a_crash() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let peer = free_port();
    let mut rig = Rig::new(
        port,
        &format!("[[dicom.peer]]\ncalling_ae = \"CT1\"\nallow_commitment = true\ncommitment_address = \"127.0.0.1:{peer}\"\n"),
    );
    let (files, _) = series(dir.path(), "crash", 10);
    store_as(&rig, "CT1", &files);
    let said = ask(&rig, "CT1", "release", &[], &files);
    assert_eq!(said[1]["status"], 0);
    // Nobody is there to be told.
    wait_for("a failed report", || rig.log().contains("commitment not reported").then_some(()));
    assert_eq!(rig.metric("commitments_pending"), 1.0);
    rig.kill();
    let waiting = Waiting::start(peer, &[]);
    rig.start();
    let report = wait_for(&format!("the report; log:\n{}", rig.log()), || waiting.reports().pop());
    assert_eq!((&report["report"], &report["transaction"]), (&json!(1), &said[1]["transaction"]));
    assert_eq!((report["committed"].as_array().unwrap().len(), &report["calling"]), (files.len(), &json!("LESIONWATCH")));
    wait_for("nothing that waits", || (rig.metric("commitments_pending") == 0.0).then_some(()));
    // The next one finds its peer at once.
    ask(&rig, "CT1", "release", &[], &files);
    wait_for("the second report", || (waiting.reports().len() == 2).then_some(()));
}

#[test]
fn a_report_goes_over_tls_where_the_peer_wants_it() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let ca = authority(dir.path(), "ca");
    let (ours, theirs) = (issued(dir.path(), &ca, "ours"), issued(dir.path(), &ca, "theirs"));
    let (peer, secure) = (free_port(), free_port());
    let waiting = Waiting::start(peer, &[text(&theirs.0), text(&theirs.1), text(&ca)]);
    let rig = Rig::without_page(
        port,
        &format!(
            "[[dicom.peer]]\ncalling_ae = \"CT1\"\nallow_commitment = true\ncommitment_address = \"localhost:{peer}\"\ncommitment_tls = true\n\
             [dicom.tls]\nlisten = \"127.0.0.1:{secure}\"\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n",
            text(&ours.0),
            text(&ours.1),
            text(&ca)
        ),
    );
    let (files, _) = series(dir.path(), "secure", 30);
    store_as(&rig, "CT1", &files);
    ask(&rig, "CT1", "release", &[], &files);
    let report = wait_for(&format!("the report; log:\n{}", rig.log()), || waiting.reports().pop());
    assert_eq!(report["report"], 1);
}
