//! Promise: a peer's objects hold no more of the spool, until they are analysed, than its quota; what goes beyond is refused with 0xA700 and the reason,
//! and taken later; others are not touched by it. Settled series are analysed in the order of their peers' priorities.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, Subscriber, free_port, mosquitto, run, series, tool, wait_for};
use std::path::PathBuf;

/// storescu as `title`; its log.
fn store_as(rig: &Rig, title: &str, files: &[PathBuf]) -> String {
    run(tool("storescu").args(["-v", "-xt", "-aet", title, "127.0.0.1", &rig.dicom.to_string()]).args(files)).1
}

fn accepted(log: &str) -> usize {
    log.matches("Received Store Response (Success)").count()
}

#[test]
fn a_peer_holds_no_more_than_its_quota_until_its_series_are_analysed() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    // A slice of the sample has about 200 kB: a few fit into a mebibyte.
    let peers = "[[dicom.peer]]\ncalling_ae = \"CT1\"\nquota_mib = 1\n[[dicom.peer]]\ncalling_ae = \"CT2\"\n[series]\nquiet_min_s = 600.0\nquiet_max_s = 600.0\n";
    let mut rig = Rig::new(port, peers);
    let (files, uid) = series(dir.path(), "quota", 3);
    let bytes = |files: &[PathBuf]| files.iter().map(|f| std::fs::metadata(f).unwrap().len()).sum::<u64>();
    assert!(bytes(&files) > 2 << 20, "the series is no larger than the quota");

    // -nh goes on after a refusal: the association stays.
    let push =
        |rig: &Rig| run(tool("storescu").args(["-v", "-nh", "-xt", "-aet", "CT1", "127.0.0.1", &rig.dicom.to_string()]).args(&files)).1;
    // Two associations, so that the quiet time is waited for: what comes over one and is whole settles at once.
    assert_eq!(accepted(&store_as(&rig, "CT1", &files[..1])), 1);
    let log = push(&rig);
    let first = accepted(&log);
    assert!(first > 0 && first < files.len() && bytes(&files[..first]) <= 1 << 20, "{first} of {} accepted\n{log}", files.len());
    let refused = rig.log().lines().filter(|l| l.contains("status=0xA700") && l.contains("quota of CT1: ")).count();
    assert_eq!(refused, files.len() - first, "{}", rig.log());
    assert_eq!(rig.metric("peer_quota_refusals_total{number=\"1\",peer=\"CT1\"}"), refused as f64);
    let held = rig.metric("peer_held_bytes{number=\"1\",peer=\"CT1\"}");
    assert!(held > 0.0 && held <= rig.metric("peer_quota_bytes{number=\"1\",peer=\"CT1\"}"), "{held}");

    // Somebody else is not touched by it.
    let (others, other_uid) = series(dir.path(), "other", 3);
    assert_eq!(accepted(&store_as(&rig, "CT2", &others)), others.len());

    // What is held survives the process, and repeats hold nothing more.
    rig.kill();
    rig.configure("quiet_min_s = 600.0\nquiet_max_s = 600.0", "quiet_min_s = 1.0\nquiet_max_s = 3.0");
    rig.start();
    // Analysed, it holds nothing, and the rest finds room, part by part.
    wait_for("the result of what was taken", || subscriber.results(&uid).pop());
    let whole = wait_for(&format!("the whole series; log:\n{}", rig.log()), || {
        push(&rig);
        subscriber.results(&uid).into_iter().find(|r| r["series"]["slices"] == files.len() as u64)
    });
    assert_eq!(whole["outcome"], "analysed");
    wait_for("nothing held", || (rig.metric("peer_held_bytes{number=\"1\",peer=\"CT1\"}") == 0.0).then_some(()));
    wait_for("the other series", || subscriber.results(&other_uid).pop());
}

#[test]
fn the_reason_reaches_the_peer() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig =
        Rig::without_page(port, "[[dicom.peer]]\ncalling_ae = \"CT1\"\nquota_mib = 1\n[series]\nquiet_min_s = 60.0\nquiet_max_s = 60.0\n");
    let (files, _) = series(dir.path(), "reason", 3);
    // The debug log holds the whole response.
    let log = run(tool("storescu").args(["-d", "-xt", "-aet", "CT1", "127.0.0.1", &rig.dicom.to_string()]).args(&files)).1;
    assert!(log.contains("0xa700") && log.contains("quota of CT1: "), "{log}");
}

/// A peer with priority overtakes what others sent before it and is not analysed yet.
#[test]
fn settled_series_are_analysed_by_priority() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let peers = "[[dicom.peer]]\ncalling_ae = \"SLOW\"\npriority = \"low\"\n[[dicom.peer]]\ncalling_ae = \"PLAIN\"\n[[dicom.peer]]\ncalling_ae = \"FAST\"\npriority = \"high\"\n";
    let mut rig = Rig::without_page(port, peers);
    let sent: Vec<(&str, Vec<PathBuf>, String)> = ["SLOW", "PLAIN", "FAST"]
        .into_iter()
        .map(|title| {
            let (files, uid) = series(dir.path(), title, 4);
            (title, files, uid)
        })
        .collect();
    // Nothing is complete before all three are there: a long quiet time.
    rig.terminate();
    rig.configure("[engine]", "[series]\nquiet_min_s = 3600.0\nquiet_max_s = 3600.0\n[engine]");
    rig.start();
    for (title, files, _) in &sent {
        // One association an object: evidence of completeness is weak, so the quiet time is waited for.
        for file in files {
            assert_eq!(accepted(&store_as(&rig, title, std::slice::from_ref(file))), 1);
        }
    }
    let analysed = |rig: &Rig| -> Vec<String> {
        let log = rig.log();
        let lines = log.lines().filter(|l| l.contains(" outcome=analysed"));
        lines.filter_map(|l| l.split("series uid=").nth(1)?.split(' ').next().map(str::to_owned)).collect()
    };
    assert_eq!(analysed(&rig), [] as [String; 0]);
    // The next start finds all of them complete at once.
    rig.terminate();
    rig.configure("quiet_min_s = 3600.0\nquiet_max_s = 3600.0", "quiet_min_s = 1.0\nquiet_max_s = 2.0");
    rig.start();
    let order = wait_for(&format!("three results; log:\n{}", rig.log()), || Some(analysed(&rig)).filter(|all| all.len() == 3));
    assert_eq!(order, [&sent[2].2, &sent[1].2, &sent[0].2].map(Clone::clone));
}
