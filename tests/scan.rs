//! Promise: `scan` says what became of every series, to people and to programs, and hides nothing in an exit code of 0.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{check_schema, run, series, tiny_bundle, tool};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// `lesionwatch scan` with the tiny bundle.
fn scan(bundle: &Path, what: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lesionwatch"));
    command.args(["scan", "--engine", "candle-cpu", "--model"]).arg(bundle).args(what).env("RUST_LOG", "error").output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn stdout_is_json_where_json_goes_there() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = tiny_bundle(dir.path());
    let (_, uid) = series(dir.path(), "good", 4);
    let (damaged, damaged_uid) = series(dir.path(), "damaged", 4);
    let (localizer, _) = series(dir.path(), "localizer", 30);
    for file in &localizer {
        assert!(run(tool("dcmodify").args(["-nb", "-m", "ImageType=ORIGINAL\\PRIMARY\\LOCALIZER"]).arg(file)).0);
    }
    let good = dir.path().join("good");
    let (good, others) = (good.to_str().unwrap(), dir.path().join("localizer"));

    // Not analysed is an answer, not a failure.
    let output = scan(&bundle, &["--json", "-", good, others.to_str().unwrap()]);
    let documents: Vec<Value> = serde_json::from_slice(&output.stdout).expect("stdout is JSON and nothing else");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("operating point") || stderr(&output).contains("lesions"), "{}", stderr(&output));
    documents.iter().for_each(|d| check_schema("result", d));
    let outcomes: BTreeSet<_> = documents.iter().map(|d| d["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, BTreeSet::from(["analysed", "not_analysed"]));

    // Without it the table is on stdout.
    let output = scan(&bundle, &[good]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("analysed in"));

    // One series that cannot be decoded: its outcome and the other's are written, and the exit code says it.
    assert!(run(tool("dcmodify").args(["-nb", "-m", "Rows=60000"]).args(&damaged)).0);
    let (json, csv) = (dir.path().join("r.json"), dir.path().join("c.csv"));
    let output = scan(
        &bundle,
        &["--json", json.to_str().unwrap(), "--candidates", csv.to_str().unwrap(), good, dir.path().join("damaged").to_str().unwrap()],
    );
    assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
    assert!(stderr(&output).contains("1 of 2 series failed"), "{}", stderr(&output));
    let documents: Vec<Value> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let of = |uid: &str| documents.iter().find(|d| d["series"]["series_instance_uid"] == uid).unwrap()["outcome"].clone();
    assert_eq!((of(&uid), of(&damaged_uid)), ("analysed".into(), "failed".into()));
    assert!(std::fs::read_to_string(csv).unwrap().contains(&uid));
}

#[test]
fn every_lesion_has_a_picture_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = tiny_bundle(dir.path());
    // Slices without a place are a stack each; two series whose UIDs end alike.
    let mut folders = Vec::new();
    for (name, uid) in [("a", "1.2.826.0.1.3680043.9.1.123456789012"), ("b", "1.2.826.0.1.3680043.9.2.123456789012")] {
        let (files, _) = series(dir.path(), name, 20);
        for (i, file) in files.iter().enumerate() {
            let (ok, text) = run(tool("dcmodify")
                .args([
                    "-nb",
                    "-e",
                    "ImagePositionPatient",
                    "-m",
                    &format!("SeriesInstanceUID={uid}"),
                    "-m",
                    &format!("SOPInstanceUID={uid}.{i}"),
                ])
                .arg(file));
            assert!(ok, "{text}");
        }
        folders.push(dir.path().join(name));
    }
    let pictures = dir.path().join("png");
    let mut what = vec!["--force", "--min-score", "0.3", "--json", "-", "--png", pictures.to_str().unwrap()];
    what.extend(folders.iter().map(|f| f.to_str().unwrap()));
    let output = scan(&bundle, &what);
    assert!(output.status.success(), "{}", stderr(&output));
    let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let lesions: Vec<usize> = documents.iter().map(|d| d["lesions"].as_array().unwrap().len()).collect();
    assert!(lesions.iter().filter(|n| **n > 0).count() > 2, "{lesions:?}");
    assert_eq!(std::fs::read_dir(&pictures).unwrap().count(), lesions.iter().sum::<usize>(), "{lesions:?}");
}

#[test]
fn what_is_not_a_file_is_named_and_passed_by() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = tiny_bundle(dir.path());
    series(dir.path(), "good", 4);
    let folder = dir.path().join("good");
    let (ok, text) = run(Command::new("mkfifo").arg(folder.join("pipe")));
    assert!(ok, "{text}");
    let pipe = folder.join("pipe");
    let output = scan(&bundle, &[folder.to_str().unwrap(), pipe.to_str().unwrap()]);
    assert!(output.status.success() && stderr(&output).matches("pipe: not a file").count() == 2, "{}", stderr(&output));
    let output = scan(&bundle, &[pipe.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
}

#[test]
fn wrong_arguments_are_usage() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = tiny_bundle(dir.path());
    let sample = common::sample_folder();
    let sample = sample.to_str().unwrap();
    for score in ["NaN", "1.5", "inf", "x"] {
        let output = scan(&bundle, &["--min-score", score, sample]);
        assert!(output.status.code() == Some(64) && stderr(&output).contains("--min-score"), "{score}: {}", stderr(&output));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_lesionwatch")).args(["scan", "--engine", "candle-cuda", sample]).output().unwrap();
    let text = stderr(&output);
    assert!(output.status.code() == Some(69) && text.contains("engine candle-cuda") && !text.contains("engine auto"), "{text}");
}
