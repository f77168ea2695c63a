//! Promises: what was acknowledged is stored, whatever dies; every stored series reaches its outcome; every alert is delivered at least once.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::objects::{ct, data_set};
use common::{PATIENCE, Rig, Subscriber, free_port, mosquitto, run, series, store, tool, wait_for};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Moments of the kill, ms after the push began: early, and spread over the push.
const MOMENTS_MS: [u64; 8] = [15, 60, 110, 170, 240, 330, 450, 700];

/// Pushes `files` and kills the appliance after `moment` ms: how many of them were acknowledged.
fn killed_in_push(rig: &mut Rig, files: Vec<PathBuf>, moment: u64) -> usize {
    let dicom = rig.dicom;
    // -v prints one line an accepted object, after its Success.
    let sender = std::thread::spawn(move || run(tool("storescu").args(["-v", "-xt", "127.0.0.1", &dicom.to_string()]).args(&files)).1);
    // A moment of the push, not a wait for something: what it hits differs from run to run, and must not matter.
    std::thread::sleep(Duration::from_millis(moment));
    rig.kill();
    sender.join().unwrap().matches("Received Store Response (Success)").count()
}

/// What is not empty among the files that are no objects yet.
fn under_way(rig: &Rig) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(rig.state().join("spool/incoming")).unwrap().flatten();
    entries.filter_map(|e| std::fs::read(e.path()).ok()).filter(|bytes| !bytes.is_empty()).collect()
}

/// Objects written over what was written ahead in a pause.
#[test]
fn kill_9_over_filled_spares_loses_nothing_that_was_acknowledged() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let mut rig = Rig::without_page(port, "");
    let (mut sent, mut acknowledged) = (HashSet::new(), 0);
    for (i, moment) in [60, 150, 400].into_iter().enumerate() {
        let [first, second] = [(1, 8), (2, 200)].map(|(n, count)| ct(dir.path(), &format!("1.2.826.0.1.3680043.2.3.{n}.{i}"), count, 256));
        sent.extend(first.iter().chain(&second).map(|path| data_set(path)));
        assert!(store(rig.dicom, &first).0);
        acknowledged += first.len();
        wait_for("spares filled in the pause", || (under_way(&rig).len() >= 4).then_some(()));
        acknowledged += killed_in_push(&mut rig, second, moment);
        let stored: Vec<Vec<u8>> = rig.spooled().iter().map(|path| data_set(path)).collect();
        assert!(stored.len() >= acknowledged, "killed after {moment} ms: {acknowledged} acknowledged, {} stored", stored.len());
        assert!(stored.iter().all(|object| sent.contains(object)), "an object is not what was sent");
        rig.start();
        // Spares are filled again at once, by what the last series was.
        assert!(under_way(&rig).iter().flatten().all(|byte| *byte == 0), "what a crash left under way is still there");
    }
    assert!(acknowledged > 3 * 8, "every kill came before the first object");
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_acknowledged() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let mut rig = Rig::new(port, "[series]\nquiet_min_s = 0.5\nquiet_max_s = 2.0");
    let mut series_uids = HashSet::new();
    for (i, moment) in MOMENTS_MS.into_iter().enumerate() {
        let (files, uid) = series(dir.path(), &format!("kill{i}"), 2);
        let acknowledged = killed_in_push(&mut rig, files, moment);
        let of_series = |rig: &Rig| {
            let mut sops = HashSet::new();
            for path in rig.spooled() {
                let header =
                    lesionwatch::series::header::read(&path).unwrap_or_else(|e| panic!("partial object visible: {}: {e}", path.display()));
                lesionwatch::volume::pixels::decode(&path).unwrap_or_else(|e| panic!("partial object visible: {}: {e}", path.display()));
                if header.series_instance_uid == uid {
                    sops.insert(header.sop_instance_uid);
                }
            }
            sops.len()
        };
        let stored = of_series(&rig);
        assert!(stored >= acknowledged, "killed after {moment} ms: {acknowledged} acknowledged, {stored} stored");
        if stored > 0 {
            series_uids.insert(uid.clone());
        }
        rig.start();
    }
    assert!(!series_uids.is_empty(), "no kill hit a push");
    for uid in &series_uids {
        wait_for(&format!("the outcome of {uid}; log:\n{}", rig.log()), || subscriber.results(uid).pop());
    }
    // Every result with lesions has its alert.
    let alerted = |uid: &str| subscriber.of("alerts").iter().any(|e| e["series"]["series_instance_uid"] == uid);
    for uid in &series_uids {
        let last = subscriber.results(uid).pop().unwrap();
        if last["lesions"].as_array().is_some_and(|l| !l.is_empty()) {
            wait_for("the alert", || alerted(uid).then_some(()));
        }
    }
}

#[test]
fn a_broker_that_is_away_or_dies_costs_nothing() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::without_page(port, "");
    let (files, uid) = series(dir.path(), "away", 4);
    assert!(store(rig.dicom, &files).0);
    let deadline = Instant::now() + PATIENCE;
    while !rig.log().contains("outcome=analysed") {
        assert!(Instant::now() < deadline, "{}", rig.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Killed with the alert undelivered: it is still there.
    rig.kill();
    let mut broker = mosquitto(dir.path(), port);
    {
        let subscriber = Subscriber::new(port);
        rig.start();
        wait_for("the alert after a restart", || subscriber.of("alerts").into_iter().find(|e| e["series"]["series_instance_uid"] == uid));
    }
    // Not acknowledged: a broker that lost everything gets it again.
    broker.kill();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    wait_for("the alert again", || subscriber.of("alerts").into_iter().find(|e| e["series"]["series_instance_uid"] == uid));
    wait_for("a status", || subscriber.of("status").into_iter().rfind(|s| s["availability"] == "online"));
    rig.kill();
    wait_for("the will", || subscriber.of("status").into_iter().rfind(|s| s["availability"] == "offline"));
}
