//! Promise: whatever way DCMTK sends a series, the reading room gets one and the same stated outcome, in documents that fit the schemas.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, Subscriber, check_schema, free_port, mosquitto, publish, run, series, store, tool, wait_for};
use serde_json::{Value, json};
use std::path::Path;

/// What must not depend on the way of sending: boxes, scores, axes.
fn findings(document: &Value) -> Value {
    let lesions = document["lesions"].as_array().unwrap();
    lesions.iter().map(|l| json!([l["box_px"], l["score"], l["long_axis_mm"], l["type"], l["slices"]])).collect()
}

#[test]
fn a_series_becomes_an_alert_and_the_outbox_drains_on_acknowledgement() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let mut rig = Rig::without_page(port, "");
    let (files, uid) = series(dir.path(), "one", 2);
    assert!(store(rig.dicom, &files).0);
    let result = wait_for("the result", || subscriber.results(&uid).pop());
    let event = wait_for("the alert", || subscriber.of("alerts").pop());
    check_schema("result", &result);
    check_schema("event", &event);
    assert_eq!((result["outcome"].as_str(), event["type"].as_str()), (Some("analysed"), Some("opened")));
    assert_eq!(result["series"]["slices"], files.len());
    assert_eq!(findings(&result), findings(&event));
    assert!(event["seq"].as_i64() > result["seq"].as_i64());
    let t = &event["timing_ms"];
    assert!(
        t["last_slice"].as_i64() <= t["settled"].as_i64()
            && t["settled"].as_i64() <= t["analysed"].as_i64()
            && t["analysed"].as_i64() <= t["offered"].as_i64(),
        "{t}"
    );

    let open = wait_for("the open list", || subscriber.of("alerts/open").into_iter().rfind(|l| l["open"] != json!([])));
    check_schema("open", &open);
    let status = wait_for("a status that says one waits", || subscriber.of("status").into_iter().rfind(|s| s["outbox_depth"] == 1));
    check_schema("status", &status);
    let ack = |action: &str| {
        let ack = json!({ "alert_id": event["alert_id"], "version": event["version"], "action": action, "by": "test", "role": "radiologist", "at": "" });
        check_schema("ack", &ack);
        publish(port, "lesionwatch/site/ct1/ack", &ack.to_string());
    };
    publish(port, "lesionwatch/site/ct1/ack", "{ this is no acknowledgement");
    ack("received");
    wait_for("an empty outbox", || subscriber.of("status").last().filter(|s| s["outbox_depth"] == 0).map(|_| ()));
    ack("seen");
    let closed = wait_for("acknowledged", || subscriber.of("alerts").into_iter().find(|e| e["type"] == "acknowledged"));
    check_schema("event", &closed);
    assert_eq!(closed["acknowledgement"]["by"], "test");
    wait_for("an empty open list", || subscriber.of("alerts/open").last().filter(|l| l["open"] == json!([])).map(|_| ()));

    publish(port, "lesionwatch/site/ct1/cmd/resend", &json!({ "since_seq": 0, "transaction": "t1" }).to_string());
    let answer = wait_for("the answer", || subscriber.of("cmd/resend/response").pop());
    assert_eq!((answer["ok"].as_bool(), answer["transaction"].as_str()), (Some(true), Some("t1")));
    wait_for("the result again", || (subscriber.results(&uid).len() > 1).then_some(()));

    assert!(rig.terminate().success());
    wait_for("stopped", || subscriber.of("status").last().filter(|s| s["availability"] == "stopped").map(|_| ()));
}

#[test]
fn the_way_of_sending_changes_nothing() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::new(port, "[series]\nquiet_min_s = 1.0");
    let last = |uid: &str, slices: usize| {
        wait_for(&format!("result of {uid} with {slices} slices; log:\n{}", rig.log()), || {
            subscriber.results(uid).into_iter().rfind(|d| d["series"]["slices"] == slices && d["outcome"] == "analysed")
        })
    };
    let (files, clean) = series(dir.path(), "clean", 4);
    assert!(store(rig.dicom, &files).0);
    let clean = last(&clean, files.len());
    assert_ne!(clean["lesions"], json!([]));

    // Four associations at once, one of them by dcmsend.
    let four: Vec<_> = ["four-a", "four-b", "four-c", "four-d"].into_iter().map(|n| series(dir.path(), n, 4)).collect();
    std::thread::scope(|scope| {
        for (i, (files, _)) in four.iter().enumerate() {
            let dicom = rig.dicom;
            scope.spawn(move || {
                let (ok, text) = if i == 0 {
                    run(tool("dcmsend").args(["-aec", "LESIONWATCH", "-dn", "127.0.0.1", &dicom.to_string()]).args(files))
                } else {
                    store(dicom, files)
                };
                assert!(ok, "{text}");
            });
        }
    });
    for (files, uid) in &four {
        assert_eq!(findings(&last(uid, files.len())), findings(&clean));
    }

    // One association an image, backwards, with a repeat in between.
    let (mut files, uid) = series(dir.path(), "single", 4);
    files.reverse();
    for (i, file) in files.iter().enumerate() {
        assert!(store(rig.dicom, std::slice::from_ref(file)).0);
        if i == 5 {
            assert!(store(rig.dicom, std::slice::from_ref(file)).0);
        }
    }
    assert_eq!(findings(&last(&uid, files.len())), findings(&clean));

    // A late slice reopens the series, and the new version replaces the old one.
    let (files, thin) = series(dir.path(), "thin", 2);
    assert!(store(rig.dicom, &files).0);
    let thin = last(&thin, files.len());
    let (mut files, uid) = series(dir.path(), "late", 2);
    let held_back = files.remove(7);
    assert!(store(rig.dicom, &files).0);
    let first = last(&uid, files.len());
    assert!(store(rig.dicom, &[held_back]).0);
    let second = last(&uid, files.len() + 1);
    assert!(second["version"].as_i64() > first["version"].as_i64());
    assert_eq!(second["alert_id"], first["alert_id"]);
    assert_eq!(findings(&second), findings(&thin));
    wait_for("the update", || subscriber.of("alerts").into_iter().find(|e| e["type"] == "updated" && e["alert_id"] == second["alert_id"]));
}

#[test]
fn every_syntax_is_received_and_every_refusal_has_its_reason() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::new(port, "");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let echo = run(tool("echoscu").args(["127.0.0.1", &rig.dicom.to_string()]));
    assert!(echo.0, "{}", echo.1);

    let option = [
        ("1.2.840.10008.1.2", "-xi"),
        ("1.2.840.10008.1.2.1", "-xe"),
        ("1.2.840.10008.1.2.2", "-xb"),
        ("1.2.840.10008.1.2.1.99", "-xd"),
        ("1.2.840.10008.1.2.4.50", "-xy"),
        ("1.2.840.10008.1.2.4.51", "-xx"),
        ("1.2.840.10008.1.2.4.70", "-xs"),
        ("1.2.840.10008.1.2.4.80", "-xt"),
        ("1.2.840.10008.1.2.4.81", "-xu"),
        ("1.2.840.10008.1.2.4.90", "-xv"),
        ("1.2.840.10008.1.2.4.91", "-xw"),
        ("1.2.840.10008.1.2.5", "-xr"),
    ];
    for (uid, option) in option {
        let file = data.join(format!("syntaxes/CT_{uid}.dcm"));
        let (ok, text) = run(tool("storescu").args([option, "127.0.0.1", &rig.dicom.to_string()]).arg(&file));
        assert!(ok, "{uid}: {text}");
    }
    // What storescu has no option for, dcmsend proposes by itself.
    let (ok, text) =
        run(tool("dcmsend").args(["-dn", "127.0.0.1", &rig.dicom.to_string()]).arg(data.join("syntaxes/CT_1.2.840.10008.1.2.4.57.dcm")));
    assert!(ok, "{text}");
    let before = rig.spooled().len();
    for uid in ["1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"] {
        run(tool("dcmsend").args(["-dn", "127.0.0.1", &rig.dicom.to_string()]).arg(data.join(format!("syntaxes/CT_{uid}.dcm"))));
        assert!(rig.log().contains(&format!("offered={uid}")) || rig.log().contains(uid), "{}", rig.log());
    }
    assert_eq!(rig.spooled().len(), before);

    for (folder, code) in [
        ("ge-head-tilt-uneven", "gantry_tilt"),
        ("philips-phantom-tilt16.5", "gantry_tilt"),
        ("philips-phantom-localizer-1", "localizer"),
        ("philips-phantom-localizer-2", "localizer"),
        ("philips-phantom-exam-summary-1", "not_an_acquisition"),
        ("philips-phantom-exam-summary-2", "not_an_acquisition"),
    ] {
        let folder = data.join("geometry").join(folder);
        let (ok, text) = run(tool("dcmsend").args(["-dn", "+sd", "+r", "127.0.0.1", &rig.dicom.to_string()]).arg(&folder));
        assert!(ok, "{text}");
        let first = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let uid = lesionwatch::series::header::read(&first).unwrap().series_instance_uid;
        let result = wait_for(&format!("the outcome of {}", folder.display()), || subscriber.results(&uid).pop());
        check_schema("result", &result);
        assert_eq!((result["outcome"].as_str(), result["reason"]["code"].as_str()), (Some("not_analysed"), Some(code)), "{result:#}");
    }
    assert!(!rig.log().contains("MISTER"), "a patient's name is in the log");
}
