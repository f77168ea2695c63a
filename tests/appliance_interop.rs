//! Promise: PACS and scanners as they are installed get their objects in and their commitment back: Orthanc, DCMTK with PDUs of every length it knows,
//! pynetdicom without a limit and with as many presentation contexts as there can be, dicom-rs.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::orthanc::Orthanc;
use common::{Rig, Subscriber, cargo_peer, free_port, mosquitto, peer_script, run, series, tool, wait_for};
use serde_json::{Value, json};
use std::path::PathBuf;

#[test]
fn orthanc_pushes_a_study_and_gets_its_commitment() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let dicom = free_port();
    let peer = format!(
        "[[dicom.peer]]\ncalling_ae = \"ORTHANC\"\nallow_commitment = true\ncommitment_address = \"127.0.0.1:{dicom}\"\n\
         [[dicom.peer]]\ncalling_ae = \"CT1\"\n"
    );
    let rig = Rig::new(port, &peer);
    let orthanc = Orthanc::start(dir.path(), dicom, rig.dicom);
    let (files, uid) = series(dir.path(), "orthanc-series", 4);
    let uploaded: Vec<Value> = files.iter().map(|f| orthanc.ask("POST", "/instances", &std::fs::read(f).unwrap())).collect();
    let study = uploaded[0]["ParentStudy"].clone();
    assert!(uploaded.iter().all(|u| u["ParentStudy"] == study && u["Status"] == "Success"), "{uploaded:?}");

    let push = json!({ "Resources": [study], "StorageCommitment": true, "Synchronous": true });
    let pushed = orthanc.ask("POST", "/modalities/box/store", push.to_string().as_bytes());
    assert_eq!((&pushed["InstancesCount"], &pushed["FailedInstancesCount"]), (&json!(files.len()), &json!(0)), "{pushed:#}\n{}", rig.log());
    let transaction = pushed["StorageCommitmentTransactionUID"].as_str().unwrap_or_else(|| panic!("{pushed:#}"));
    let report = wait_for(&format!("the report; log:\n{}", rig.log()), || {
        Some(orthanc.ask("GET", &format!("/storage-commitment/{transaction}"), b"")).filter(|r| r["Status"] != "Pending")
    });
    assert_eq!((&report["Status"], &report["Failures"]), (&json!("Success"), &json!([])), "{report:#}");
    assert_eq!(report["Success"].as_array().unwrap().len(), files.len());
    let result = wait_for(&format!("the result; log:\n{}", rig.log()), || subscriber.results(&uid).pop());
    assert_eq!((&result["outcome"], &result["series"]["slices"]), (&json!("analysed"), &json!(files.len())), "{result:#}");

    // Asked for without a push, for an object that never came: it is told so.
    let never =
        json!({ "DicomInstances": [["1.2.840.10008.5.1.4.1.1.2", format!("{uid}.0")], ["1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"]] });
    let asked = orthanc.ask("POST", "/modalities/box/storage-commitment", never.to_string().as_bytes());
    let path = format!("/storage-commitment/{}", asked["ID"].as_str().unwrap());
    let report = wait_for("the second report", || Some(orthanc.ask("GET", &path, b"")).filter(|r| r["Status"] != "Pending"));
    assert_eq!((&report["Status"], report["Success"].as_array().unwrap().len()), (&json!("Failure"), 1), "{report:#}");
    assert_eq!(report["Failures"][0]["SOPInstanceUID"], "1.2.3.4.5", "{report:#}");
}

/// What the peers' tool reads of an object's pixels.
fn pixels(files: &[PathBuf]) -> Vec<String> {
    let mut all: Vec<String> = files.iter().map(|f| run(tool("dcmdump").args(["-q", "+L", "+P", "7fe0,0010"]).arg(f)).1).collect();
    all.sort();
    assert!(all.iter().all(|p| p.len() > 1000), "no pixels");
    all
}

#[test]
fn pdus_of_every_length_bring_the_same_bytes() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let (files, _) = series(dir.path(), "lengths", 20);
    let went = pixels(&files);
    // A repeat is recognised by its bytes; other bytes under the same UID would be kept beside the first.
    let came = |rig: &Rig, length: &str| {
        assert_eq!(rig.spooled().len(), files.len(), "PDUs of {length} brought other bytes: {}", rig.log());
        assert_eq!(pixels(&rig.spooled()), went, "{length}");
    };
    let rig = Rig::without_page(port, "");
    for length in ["4096", "16384", "131072"] {
        let (ok, text) = run(tool("storescu")
            .args(["-xt", "-aec", "LESIONWATCH", "--max-pdu", length, "--max-send-pdu", length, "127.0.0.1", &rig.dicom.to_string()])
            .args(&files));
        assert!(ok, "{length}: {text}");
        came(&rig, length);
    }
    // DCMTK writes data sets anew, so pynetdicom's, which are sent as they stand, get an appliance of their own. 0 is no limit (PS3.8 D.1.1).
    let rig = Rig::without_page(port, "");
    for limit in ["0", "4096", "131072"] {
        let mut send = peer_script("send.py");
        let output = send.env("MAX_PDU", limit).args([&rig.dicom.to_string(), "CT1", "open"]).args(&files).arg("release").output().unwrap();
        assert!(output.status.success(), "{limit}: {}", String::from_utf8_lossy(&output.stderr));
        came(&rig, limit);
    }
}

#[test]
fn as_many_presentation_contexts_as_there_can_be() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "");
    let (files, _) = series(dir.path(), "contexts", 20);
    // 128 contexts of 12 transfer syntaxes; the object's own is the last one.
    let output =
        peer_script("send.py").env("CONTEXTS", "128").args([&rig.dicom.to_string(), "CT1", "open"]).args(&files).arg("release").output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let opened: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&opened["proposed"], &opened["accepted"]), (&json!(128), &json!(128)), "{opened}");
    assert_eq!(rig.spooled().len(), files.len());
}

#[test]
fn dicom_rs_pushes_a_series() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::new(port, "");
    let (files, uid) = series(dir.path(), "dicom-rs", 4);
    // The sample is JPEG-LS; it goes as it is.
    let address = format!("LESIONWATCH@127.0.0.1:{}", rig.dicom);
    let (ok, text) = run(cargo_peer("dicom-storescu").args(["--fail-first", "--calling-ae-title", "CT1", &address]).args(&files));
    assert!(ok, "{text}\n{}", rig.log());
    assert_eq!(pixels(&rig.spooled()), pixels(&files));
    let result = wait_for(&format!("the result; log:\n{}", rig.log()), || subscriber.results(&uid).pop());
    assert_eq!((&result["outcome"], &result["series"]["slices"]), (&json!("analysed"), &json!(files.len())), "{result:#}");
}
