//! Promise: documents and help texts are what integrators and operators built on: golden files pin them, schemas describe them. After a wanted change,
//! `GOLDEN=write cargo test --release --test documents` writes them anew; the difference is then part of the review.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::check_schema;
use jiff::Timestamp;
use lesionwatch::alert::document::{Ack, Action, SCHEMA, Status};
use lesionwatch::alert::journal::Journal;
use lesionwatch::alert::{ModelFacts, ReportedLesion, SeriesFacts, SeriesResult, Timing};
use lesionwatch::lesion::Lesion;
use lesionwatch::series::{Outcome, Reason};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn pinned(name: &str, text: &str) {
    let path = golden(name);
    if std::env::var_os("GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, expected, "{name} differs from its golden file");
}

/// What differs from run to run, by name.
fn still(mut document: Value) -> Value {
    for key in ["event_id", "boot_id", "alert_id"] {
        if document.get(key).is_some_and(Value::is_string) {
            document[key] = format!("<{key}>").into();
        }
    }
    for alert in document.get_mut("open").and_then(Value::as_array_mut).into_iter().flatten() {
        alert["alert_id"] = "<alert_id>".into();
    }
    document
}

fn result(outcome: Outcome, lesions: Vec<ReportedLesion>, set_key: &str) -> SeriesResult {
    SeriesResult {
        series: SeriesFacts {
            study_instance_uid: "1.2.3".into(),
            series_instance_uid: "1.2.3.4".into(),
            modality: "CT".into(),
            body_part: Some("CHEST".into()),
            series_number: Some(3),
            calling_ae: "CT1".into(),
            slices: 138,
            slice_spacing_mm: Some(2.0),
        },
        set_key: set_key.into(),
        outcome,
        lesions,
        model: ModelFacts {
            name: "model".into(),
            version: "1.0.0".into(),
            sha256: "ab".repeat(32),
            engine: "tract".into(),
            quantization: "f32".into(),
        },
        timing: Timing { last_slice: 11_840, settled: 11_910, analysed: 12_130 },
    }
}

fn lesion() -> ReportedLesion {
    let lesion = Lesion {
        number: 1,
        score: 0.8314,
        types: [0.01, 0.02, 0.02, 0.01, 0.91, 0.01, 0.01, 0.01],
        key_slice: 57,
        slices: [53, 61],
        box_px: [311.04, 204.46, 334.0, 228.0],
        center_lps_mm: [-62.14, 18.36, -143.0],
        long_axis_mm: 14.21,
        short_axis_mm: 10.79,
        recist_px: [[313.0, 206.0], [331.0, 226.0], [318.0, 221.0], [327.0, 210.0]],
        segmented: true,
        volume_mm3: 910.4,
    };
    ReportedLesion {
        lesion,
        key_sop_instance_uid: "1.2.3.4.58".into(),
        key_instance_number: Some(58),
        key_frame_number: None,
        key_image_png: None,
    }
}

#[test]
fn documents_are_their_golden_files_and_fit_their_schemas() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    let first: Timestamp = "2026-11-23T07:00:00Z".parse().unwrap();
    let now: Timestamp = "2026-11-23T07:00:12.123Z".parse().unwrap();
    journal.record(&result(Outcome::Analysed, vec![lesion()], "a"), first, now).unwrap();
    let open = serde_json::to_value(journal.open_alerts(now).unwrap()).unwrap();
    let reason = Reason { code: "gantry_tilt".into(), text: "The gantry is tilted by 16.5 degrees.".into() };
    let mut other = result(Outcome::NotAnalysed(reason), Vec::new(), "b");
    other.series.series_instance_uid = "1.2.3.5".into();
    journal.record(&other, first, now).unwrap();
    let messages: Vec<(String, Value)> = journal
        .waiting(0, 10)
        .unwrap()
        .into_iter()
        .map(|m| (m.topic.clone(), serde_json::from_slice(&journal.offered(&m, now).unwrap()).unwrap()))
        .collect();
    assert_eq!(messages.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>(), ["results", "alerts", "results"]);
    let status = Status {
        schema: SCHEMA.into(),
        availability: "online".into(),
        boot_id: "b".into(),
        version: "1.0.0".into(),
        engine: "tract f32".into(),
        model: "model 1.0.0".into(),
        health: "degraded".into(),
        reasons: vec!["disk nearly full: 600 MiB free".into()],
        outbox_depth: 1,
        time: "2026-11-23T07:00:12.123Z".into(),
    };
    let ack = Ack {
        alert_id: "a".into(),
        version: 1,
        action: Action::Seen,
        by: "Dr. A".into(),
        role: "radiologist".into(),
        at: "2026-11-23T07:01:00Z".into(),
    };
    for (name, schema, document) in [
        ("result-analysed", "result", messages[0].1.clone()),
        ("event-opened", "event", messages[1].1.clone()),
        ("result-not-analysed", "result", messages[2].1.clone()),
        ("open", "open", open),
        ("status", "status", serde_json::to_value(status).unwrap()),
        ("ack", "ack", serde_json::to_value(ack).unwrap()),
    ] {
        check_schema(schema, &document);
        let text = serde_json::to_string_pretty(&still(document)).unwrap() + "\n";
        pinned(&format!("documents/{name}.json"), &text);
    }
}

#[test]
fn conformance_statements_are_their_golden_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    for (name, text) in [
        ("defaults", ""),
        (
            "hospital",
            "[dicom]\nlisten = \"0.0.0.0:104\"\ncalled_ae = \"own\"\n\
             [[dicom.peer]]\ncalling_ae = \"CT1\"\naddresses = [\"10.1.0.0/16\"]\nallow_commitment = true\n\
             commitment_address = \"ct1.example:104\"\ncommitment_tls = true\n\
             [[dicom.peer]]\ncalling_ae = \"*\"\nmax_associations = 2\nsop_classes = [\"1.2.840.10008.5.1.4.1.1.2\"]\n\
             quota_mib = 512\npriority = \"low\"\n\
             [dicom.tls]\nlisten = \"0.0.0.0:2762\"\ncertificate = \"c.pem\"\nkey = \"k.pem\"\nca = \"ca.pem\"\n",
        ),
    ] {
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lesionwatch"));
        let output = command.args(["conformance", "--config"]).arg(&config).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        pinned(&format!("conformance/{name}.md"), &String::from_utf8(output.stdout).unwrap());
    }
}

#[test]
fn help_texts_are_their_golden_files() {
    let (watch, lab) = (env!("CARGO_BIN_EXE_lesionwatch"), env!("CARGO_BIN_EXE_lesionlab"));
    for (binary, program, verbs) in [
        (watch, "lesionwatch", &["run", "demo", "scan", "dashboard", "check", "conformance"][..]),
        (
            lab,
            "lesionlab",
            &[
                "mine",
                "dataset",
                "synthesize",
                "train",
                "evaluate",
                "export",
                "prior",
                "quantize",
                "bench",
                "bench receive",
                "bench engines",
                "bench exports",
                "bench conv",
                "bench train",
            ][..],
        ),
    ] {
        for verb in [None].into_iter().chain(verbs.iter().map(Some)) {
            let output =
                Command::new(binary).args(verb.iter().flat_map(|v| v.split(' '))).arg("--help").env("COLUMNS", "110").output().unwrap();
            assert!(output.status.success());
            let name = verb.map_or_else(|| program.to_owned(), |v| format!("{program}-{}", v.replace(' ', "-")));
            pinned(&format!("help/{name}.txt"), &String::from_utf8(output.stdout).unwrap());
        }
    }
}
