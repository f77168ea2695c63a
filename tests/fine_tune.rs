//! Promise: a site's own bookmarks change the detector: studies → reports of highdicom → `mine` → `train --init` → `export` → `scan` → `evaluate`, each step
//! on what the one before wrote. Whether the FROC rises takes longer than a test may: `tests/fine-tune` and docs/fine-tuning.md.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{run, tiny_bundle};

/// Of a box, pixels: `mine` gives a thousandth of one, highdicom writes single precision.
const MOST_ERROR_PX: f64 = 0.05;
const MOST_ERROR_MM: f64 = 0.1;

fn lab(args: &[&str], paths: &[(&str, &Path)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lesionlab"));
    command.args(args);
    for (flag, path) in paths {
        if !flag.is_empty() {
            command.arg(flag);
        }
        command.arg(path);
    }
    let (done, text) = run(&mut command);
    assert!(done, "lesionlab {args:?}: {text}");
    text
}

fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_path(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).deserialize().map(Result::unwrap).collect()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap()
}

/// The packed sample is the only CT that everyone has: all patients are copies of it.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn synthesize(out: &Path, first: &str, patients: &str) {
    let kinds = "node,subcutaneous nodule,lytic lesion,sclerotic lesion";
    let args = ["synthesize", "--patients", patients, "--first", first, "--lesions-each", "2..3", "--kinds", kinds];
    lab(&args, &[("--ct", &root().join("sample")), ("--studies", out)]);
}

fn reports(studies: &Path) -> PathBuf {
    let out = studies.join("SR");
    // tests/run puts highdicom below the build folder.
    let python = Path::new(env!("CARGO_BIN_EXE_lesionlab")).ancestors().map(|p| p.join("peers-venv/bin/python")).find(|p| p.exists());
    let mut command = Command::new(python.expect("peers-venv is not there: tests/run installs the peers"));
    command.arg(root().join("tests/peers/bookmarks_to_sr.py")).arg(studies.join("bookmarks.csv")).arg(studies.join("CT")).arg(&out);
    let (done, text) = run(&mut command);
    assert!(done, "{text}");
    out
}

#[test]
fn bookmarks_become_a_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (site, others) = (at("site"), at("others"));
    synthesize(&site, "1", "4");
    synthesize(&others, "5", "1");
    lab(&["mine"], &[("", &reports(&site)), ("--images", &site.join("CT")), ("--out", &at("harvest")), ("--truth", &at("site-truth"))]);
    lab(
        &["mine"],
        &[("", &reports(&others)), ("--images", &others.join("CT")), ("--out", &at("others-harvest")), ("--truth", &at("truth"))],
    );

    // What was painted is what comes out of the reports.
    let painted = rows(&site.join("truth.csv"));
    let mined = rows(&at("site-truth").join("truth.csv"));
    assert!(painted.len() >= 8 && painted.len() == mined.len(), "{} painted, {} mined", painted.len(), mined.len());
    assert_eq!(rows(&at("harvest").join("DL_info.csv")).len(), painted.len());
    for lesion in &painted {
        let error = |m: &BTreeMap<String, String>| {
            let px = ["x1", "y1", "x2", "y2"].map(|c| (number(m, c) - number(lesion, c)).abs()).into_iter().fold(0.0, f64::max);
            (px, (number(m, "long_axis_mm") - number(lesion, "long_axis_mm")).abs(), m["type"] == lesion["type"])
        };
        let found = mined.iter().filter(|m| m["sop_uid"] == lesion["sop_uid"]).map(error).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        assert!(found.0 <= MOST_ERROR_PX && found.1 <= MOST_ERROR_MM && found.2, "{lesion:?}: {found:?}");
    }

    // Seconds of training on a tiny network: the chain, not the gain.
    let tiny = tiny_bundle(dir.path());
    lab(
        &["train", "--harvest-share", "1", "--rate", "1e-4", "--minutes", "0.1"],
        &[("--harvest", &at("harvest")), ("--init", &tiny), ("--out", &at("run"))],
    );
    std::fs::write(at("card.md"), "# Test\n").unwrap();
    let about = "name = \"site\"\nversion = \"1\"\ntraining_data = \"synthesized\"\nlicence = \"none\"\ncard = \"card.md\"\n";
    std::fs::write(at("about.toml"), about).unwrap();
    let shipped = root().join("models/lesionwatch");
    lab(
        &["export", "--validation", "LIDC-IDRI-0314"],
        &[
            ("--checkpoint", &at("run")),
            ("--prior", &shipped),
            ("--ct", &root().join("sample")),
            ("--about", &at("about.toml")),
            ("--out", &at("tuned")),
        ],
    );
    // It ranks by what the shipped one ranks by.
    let prior = |bundle: &Path| std::fs::read(bundle.join("prior.toml")).unwrap();
    assert!(prior(&shipped) == prior(&at("tuned")));
    // The weights are others, and the bundle passes the self-test that loading it makes.
    let weights = |bundle: &Path| std::fs::read(bundle.join("weights.safetensors")).unwrap();
    assert!(weights(&tiny) != weights(&at("tuned")));
    let candidates = at("candidates.csv");
    let mut scan = Command::new(env!("CARGO_BIN_EXE_lesionwatch"));
    scan.arg("scan").arg(others.join("CT")).args(["--force", "--model"]).arg(at("tuned")).arg("--candidates").arg(&candidates);
    let (done, text) = run(&mut scan);
    assert!(done, "{text}");
    let (truth, images) = (at("truth").join("truth.csv"), at("truth").join("images.csv"));
    let json = at("froc.json");
    lab(&["evaluate"], &[("--candidates", &candidates), ("--truth", &truth), ("--images", &images), ("--json", &json)]);
    let froc: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(froc["counts"]["truths"], rows(&others.join("truth.csv")).len());
}

#[test]
fn the_same_numbers_are_the_same_patients_and_nobody_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|n| dir.path().join(n));
    synthesize(&a, "2", "2");
    synthesize(&b, "3", "1");
    let of = |folder: &Path| rows(&folder.join("bookmarks.csv")).into_iter().filter(|r| r["patient"] == "SYN-0003").collect::<Vec<_>>();
    assert!(!of(&b).is_empty() && of(&a) == of(&b));
    let file = |folder: &Path| std::fs::read(folder.join("CT/SYN-0003/0001.dcm")).unwrap();
    assert!(file(&a) == file(&b));
    // Neither the patient's pseudonym nor an identifier of the series that it was made of.
    let bytes = file(&a);
    for name in ["LIDC", "0314", "1.3.6.1.4.1.14519"] {
        assert!(!bytes.windows(name.len()).any(|w| w == name.as_bytes()), "{name}");
    }
    let (header, truth) = (lesionwatch::series::header::read(&a.join("CT/SYN-0003/0001.dcm")).unwrap(), rows(&a.join("truth.csv")));
    assert!(header.study_instance_uid.starts_with("2.25.") && header.modality == "CT");
    // No key slice shows a second lesion without a box of its own: every image has its own boxes, at least one.
    let images = rows(&a.join("images.csv"));
    assert!(images.iter().all(|i| truth.iter().any(|t| t["sop_uid"] == i["sop_uid"])));
}

#[test]
fn what_cannot_be_synthesized_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lesionlab"));
        command.arg("synthesize").arg("--ct").arg(root().join("sample")).arg("--studies").arg(dir.path().join("x")).args(more);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = refused(&["--kinds", "nodule"]);
    assert!(code == 64 && text.contains("no kind 'nodule'") && text.contains("solid nodule"), "{text}");
    let (code, text) = refused(&["--lesions-each", "3..2"]);
    assert!(code == 64 && text.contains("--lesions-each 3..2"), "{text}");
    // The sample shows the chest: no kidney.
    let (code, text) = refused(&["--kinds", "cyst", "--patients", "1"]);
    assert!(code == 65 && text.contains("no place for 2 lesions of the kinds cyst"), "{text}");
    std::fs::create_dir_all(dir.path().join("x")).unwrap();
    std::fs::write(dir.path().join("x/bookmarks.csv"), "").unwrap();
    let (code, text) = refused(&[]);
    assert!(code == 64 && text.contains("holds studies already"), "{text}");
}
