//! Promises: a state folder has one master; a full disk costs nothing that was promised; an alert that was delivered can be asked for again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, Subscriber, free_port, mosquitto, publish, run, series, store, tool, wait_for};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// Exit code and output of a verb on the rig's configuration.
fn verb(rig: &Rig, name: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lesionwatch")).arg(name).arg("--config").arg(rig.config()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

fn acknowledge(port: u16, event: &serde_json::Value, version: &serde_json::Value, action: &str) {
    let ack = json!({ "alert_id": event["alert_id"], "version": version, "action": action, "by": "test", "role": "radiologist", "at": "" });
    publish(port, "lesionwatch/site/ct1/ack", &ack.to_string());
}

#[test]
fn a_second_process_and_a_check_leave_a_running_one_alone() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "");
    let under_way = rig.state().join("spool/incoming/77.part");
    std::fs::write(&under_way, b"half an object").unwrap();
    let pid = rig.pid().to_string();
    let (code, text) = verb(&rig, "run");
    assert!(code == 69 && text.contains(&format!("process {pid}")), "{code} {text}");
    let (code, text) = verb(&rig, "check");
    assert!(code == 69 && text.contains(&format!("process {pid}")), "{code} {text}");
    assert!(under_way.exists(), "an object under way was removed");
}

#[test]
fn a_hang_up_is_survived_and_a_clean_stop_is_told_from_a_lost_one() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let mut rig = Rig::new(port, "");
    wait_for("online", || subscriber.of("status").last().filter(|s| s["availability"] == "online").map(|_| ()));
    rig.signal("HUP");
    wait_for("what a hang-up does", || rig.log().contains("SIGHUP").then_some(()));
    let (ok, text) = run(tool("echoscu").args(["127.0.0.1", &rig.dicom.to_string()]));
    assert!(ok, "{text}");
    assert!(rig.terminate().success());
    wait_for("stopped", || subscriber.of("status").last().filter(|s| s["availability"] == "stopped").map(|_| ()));
    assert_eq!(subscriber.of("status").last().unwrap()["availability"], "stopped");
}

#[test]
fn a_late_slice_finds_its_series_after_many_others() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::without_page(port, "[series]\nquiet_min_s = 0.5");
    let (mut files, uid) = series(dir.path(), "old", 4);
    let held_back = files.remove(3);
    assert!(store(rig.dicom, &files).0);
    wait_for("the first result", || subscriber.results(&uid).pop());
    // More series than are kept in memory, of one object each.
    let folder = dir.path().join("others");
    std::fs::create_dir(&folder).unwrap();
    let others: Vec<_> = (0..70)
        .map(|i| {
            let file = folder.join(format!("{i}.dcm"));
            std::fs::copy(&files[0], &file).unwrap();
            let changes = ["-nb", "-m", "Modality=MR"].map(str::to_owned).into_iter();
            let uids = [format!("SeriesInstanceUID=1.2.3.{i}"), format!("SOPInstanceUID=1.2.3.{i}.1")];
            let (ok, text) = run(tool("dcmodify").args(changes.chain(uids.into_iter().flat_map(|u| ["-m".into(), u]))).arg(&file));
            assert!(ok, "{text}");
            file
        })
        .collect();
    assert!(store(rig.dicom, &others).0);
    wait_for("the others", || (0..70).all(|i| !subscriber.results(&format!("1.2.3.{i}")).is_empty()).then_some(()));
    assert!(store(rig.dicom, &[held_back]).0);
    let second = wait_for("the new version", || subscriber.results(&uid).into_iter().find(|d| d["version"] == 2));
    assert_eq!(
        (second["outcome"].as_str(), second["series"]["slices"].as_u64()),
        (Some("analysed"), Some(files.len() as u64 + 1)),
        "{second:#}"
    );
}

#[test]
fn a_delivered_alert_is_said_again_on_request_and_only_real_versions_are_acknowledged() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::without_page(port, "");
    let (files, _) = series(dir.path(), "again", 4);
    assert!(store(rig.dicom, &files).0);
    let event = wait_for("the alert", || subscriber.of("alerts").pop());
    acknowledge(port, &event, &json!(999), "dismissed");
    acknowledge(port, &event, &json!(0), "dismissed");
    wait_for("both refused", || (rig.log().matches("acknowledgement ignored reason=version").count() == 2).then_some(()));
    acknowledge(port, &event, &event["version"], "received");
    wait_for("an empty outbox", || subscriber.of("status").last().filter(|s| s["outbox_depth"] == 0).map(|_| ()));
    assert!(subscriber.of("alerts").iter().all(|e| e["type"] == "opened"), "a version that does not exist was acknowledged");
    let before = subscriber.of("alerts").len();
    publish(port, "lesionwatch/site/ct1/cmd/resend", &json!({ "since_seq": 0, "transaction": "x" }).to_string());
    let again = wait_for("the alert again", || subscriber.of("alerts").get(before).cloned());
    assert_eq!(again["event_id"], event["event_id"]);
    assert_eq!(subscriber.of("status").last().unwrap()["outbox_depth"], 0, "said again is not delivered again");
}

fn fill(state: &Path) -> std::path::PathBuf {
    let path = state.join("filler");
    // Ends when the disk is full, which is what is wanted.
    let (ok, _) = run(Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", path.display())));
    assert!(!ok);
    path
}

#[test]
fn a_full_disk_refuses_keeps_the_association_and_recovers() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::on_small_disk(port, "[series]\nquiet_min_s = 4.0", 40);
    let (files, uid) = series(dir.path(), "full", 4);
    // One association an image: the series waits for its quiet time, and the disk is full when it ends.
    for file in &files {
        assert!(store(rig.dicom, std::slice::from_ref(file)).0);
    }
    let filler = fill(&rig.state());
    wait_for(&format!("a result that cannot be written; log:\n{}", rig.log()), || rig.log().contains("result not written").then_some(()));
    wait_for("failing", || subscriber.of("status").last().filter(|s| s["health"] == "failing").map(|_| ()));
    let (_, text) =
        run(tool("storescu").args(["-v", "-xt", "-nh", "127.0.0.1", &rig.dicom.to_string()]).args(&series(dir.path(), "more", 20).0));
    assert!(text.contains("Refused: OutOfResources") && text.contains("Releasing Association"), "{text}");
    std::fs::remove_file(filler).unwrap();
    let result = wait_for("the result after all", || subscriber.results(&uid).pop());
    assert_eq!((result["outcome"].as_str(), result["series"]["slices"].as_u64()), (Some("analysed"), Some(files.len() as u64)));
    wait_for("ok again", || subscriber.of("status").last().filter(|s| s["health"] != "failing").map(|_| ()));
    let (more, uid) = series(dir.path(), "after", 4);
    assert!(store(rig.dicom, &more).0);
    wait_for("what was sent after that", || subscriber.results(&uid).pop());
}
