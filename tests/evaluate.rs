//! Promise: `lesionlab evaluate` counts by the DeepLesion protocol, as an independent implementation does, and refuses what does not fit by line and column.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/evaluate").join(name)
}

/// `evaluate` over the three tables of `folder`.
fn evaluate(folder: &Path, more: &[&str]) -> Output {
    let table = |name: &str| folder.join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_lesionlab"));
    command.arg("evaluate").arg("--candidates").arg(table("candidates.csv")).arg("--truth").arg(table("truth.csv"));
    command.arg("--images").arg(table("images.csv")).args(more).output().unwrap()
}

fn report(folder: &Path, more: &[&str]) -> (Value, String) {
    let out = tempfile::tempdir().unwrap();
    let json = out.path().join("report.json");
    let done = evaluate(folder, &[more, &["--json", json.to_str().unwrap()]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap(), String::from_utf8(done.stdout).unwrap())
}

/// The only row with these values.
fn row<'a>(report: &'a Value, wanted: &Value) -> &'a Value {
    let fits = |r: &&Value| wanted.as_object().unwrap().iter().all(|(key, value)| &r[key] == value);
    let found: Vec<&Value> = report["rows"].as_array().unwrap().iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{wanted}");
    found[0]
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn tables(candidates: &str, truth: &str, images: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("candidates.csv", candidates), ("truth.csv", truth), ("images.csv", images)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

const CANDIDATES: &str = "sop_uid,x1,y1,x2,y2,score\n";
const TRUTH: &str = "sop_uid,x1,y1,x2,y2,box_kind,lesion_id,type,long_axis_mm\n";
const IMAGES: &str = "set,case,patient,sop_uid\n";

#[test]
fn every_row_is_that_of_the_independent_implementation() {
    let golden: Value = serde_json::from_slice(&std::fs::read(data("golden.json")).unwrap()).unwrap();
    for run in golden.as_array().unwrap() {
        let pad = run["pad"].to_string();
        let sets = run["sets"].as_str().map_or(vec![], |s| vec!["--sets", s]);
        let (report, _) = report(&data(""), &[&["--pad", &pad][..], &sets].concat());
        let counts = &report["counts"];
        let stray = ["candidates_of_unlisted_images", "candidates_of_other_sets"].map(|c| counts[c].as_u64().unwrap());
        assert_eq!(Some(stray.iter().sum::<u64>()), run["stray"].as_u64());
        let rows = run["rows"].as_array().unwrap();
        let mut apart = Vec::new();
        for theirs in rows {
            let set = if theirs["set"] == "POOLED" { &json!("pooled") } else { &theirs["set"] };
            let ours = row(
                &report,
                &json!({ "set": set, "rule": theirs["rule"], "images": theirs["images"], "unit": theirs["unit"],
                         "type": theirs["type"], "size": "all", "per": "image" }),
            );
            assert_eq!((&ours["n"], &ours["n_images"], &ours["n_patients"]), (&theirs["n"], &theirs["n_images"], &theirs["patients"]));
            for (a, b) in numbers(&ours["sensitivity"]).iter().zip(numbers(&theirs["sens"])) {
                assert!((a - b * 100.0).abs() < 1e-6, "{a} is not {b}: {theirs}");
            }
            assert_eq!(ours["ci95"].is_null(), theirs["ci95"].is_null(), "{theirs}");
            let ends = |v: &Value| v.as_array().map_or(vec![], |all| all.iter().flat_map(numbers).collect::<Vec<_>>());
            for (a, b) in ends(&ours["ci95"]).iter().zip(ends(&theirs["ci95"])) {
                apart.push((a - b * 100.0).abs());
            }
        }
        // Two runs of 500 draws: over half a dozen patients an end may fall one patient further, on the whole they agree.
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        assert!(apart.len() > 800 && mean < 3.0 && apart.iter().all(|d| *d < 25.0), "{mean} of {}", apart.len());
        let theirs_too = |r: &&Value| r["rule"] != "IoU>0.5 strict" && r["per"] == "image" && r["size"] == "all";
        assert_eq!(report["rows"].as_array().unwrap().iter().filter(theirs_too).count(), rows.len());
    }
}

#[test]
fn a_strict_row_is_never_above_its_lenient_one() {
    let (report, _) = report(&data(""), &["--bootstrap", "0"]);
    let rows = report["rows"].as_array().unwrap();
    let mut below = 0;
    for strict in rows.iter().filter(|r| r["rule"] == "IoU>0.5 strict") {
        let mut wanted = json!({ "rule": "IoU>0.5" });
        for key in ["set", "images", "per", "unit", "type", "size"] {
            wanted[key] = strict[key].clone();
        }
        let lenient = row(&report, &wanted);
        for (s, l) in numbers(&strict["sensitivity"]).iter().zip(numbers(&lenient["sensitivity"])) {
            assert!(*s <= l + 1e-9, "{strict}");
            below += usize::from(*s < l - 1e-9);
        }
    }
    assert!(below > 0, "the tables hold duplicates");
}

/// Two volumes by hand. A: lesion 1 on two slices, found on the second only; lesion 2 never. B: nothing to find, one false positive on each slice.
#[test]
fn a_volume_finds_a_lesion_once_and_sizes_are_of_the_long_axis() {
    let candidates = format!("{CANDIDATES}a2,10,10,19,19,0.8\na2,11,10,19,19,0.7\nb1,0,0,9,9,0.9\nb2,0,0,9,9,0.6\n");
    let truth = format!("{TRUTH}a1,10,10,19,19,,1,liver,9.9\na2,10,10,19,19,,1,liver,9.9\na2,50,50,69,69,mask,2,lung,31\n");
    let images = format!("{IMAGES}v,A,p1,a1\nv,A,p1,a2\nv,B,p2,b1\nv,B,p2,b2\n");
    let folder = tables(&candidates, &truth, &images);
    let (report, text) = report(folder.path(), &[]);
    let at = |wanted: Value| numbers(&row(&report, &wanted)["sensitivity"]);
    let volume = json!({ "rule": "IoU>0.5", "per": "volume", "type": "all", "size": "all" });
    // Thresholds: .9 → half a false positive a volume; .8 → one of two lesions; .6 → one a volume.
    assert_eq!(at(volume.clone())[0], 50.0);
    let counts = row(&report, &volume);
    assert_eq!(
        (&counts["n"], &counts["n_images"], &counts["n_volumes"], &counts["n_patients"]),
        (&json!(2), &json!(4), &json!(2), &json!(2))
    );
    let key = |unit: &str, size: &str| at(json!({ "rule": "IoU>0.5", "images": "key", "unit": unit, "type": "all", "size": size }))[0];
    assert!((key("boxes", "all") - 100.0 / 3.0).abs() < 1e-9);
    assert_eq!((key("boxes", "<10 mm"), key("lesions", "<10 mm"), key("boxes", ">30 mm")), (50.0, 100.0, 0.0));
    assert!(report["rows"].as_array().unwrap().iter().all(|r| r["size"] != "10-30 mm" && r["ci95"].is_null()));
    // Strict: the second hit is a false positive, half of one an image by then.
    let strict = at(json!({ "rule": "IoU>0.5 strict", "images": "key", "unit": "lesions", "type": "liver", "size": "all" }));
    assert_eq!(strict[0], 100.0);
    assert!(text.contains("v: 4 images, 2 with a lesion, 2 volumes, 2 patients") && text.contains("false positives a volume"), "{text}");
}

#[test]
fn what_does_not_fit_is_refused_by_file_line_and_column() {
    let candidates = format!("{CANDIDATES}a,0,0,9,9,0.5\n");
    let truth = format!("{TRUTH}a,0,0,9,9,mask,1,lung,12\n");
    let images = format!("{IMAGES}s,A,p,a\n");
    let cases: [(&str, String, &str); 17] = [
        ("candidates.csv", format!("{candidates}a,0,0,9,9,nan\n"), "candidates.csv, line 3, column score: \"nan\" is not a finite number"),
        ("candidates.csv", format!("{candidates}a,0,inf,9,9,1\n"), "candidates.csv, line 3, column y1: \"inf\""),
        ("candidates.csv", format!("{candidates}a,10,0,9,9,1\n"), "candidates.csv, line 3, column x2: \"9\" lies before 10"),
        ("candidates.csv", format!("{candidates}a,0,0,,9,1\n"), "candidates.csv, line 3, column x2: \"\" is empty"),
        ("candidates.csv", format!("{candidates}a,0,0,9\n"), "line: 3"),
        ("candidates.csv", CANDIDATES.to_owned(), "holds no candidate"),
        ("candidates.csv", format!("{CANDIDATES}z,0,0,9,9,1\n"), "none of its 1 candidates is on an image of the image table"),
        ("candidates.csv", "sop_uid,x1,y1,x2,y2\n".to_owned(), "candidates.csv, line 1: there is no column score"),
        (
            "truth.csv",
            format!("{truth}z,0,0,9,9,mask,1,lung,\n"),
            "truth.csv, line 3, column sop_uid: \"z\" is an image that the image table does not list",
        ),
        ("truth.csv", format!("{truth}a,0,0,9,9,oval,1,lung,\n"), "truth.csv, line 3, column box_kind: \"oval\" is not known"),
        ("truth.csv", format!("{truth}a,0,0,9,9,mask,1,lung,0\n"), "truth.csv, line 3, column long_axis_mm: \"0\" is not a length"),
        ("truth.csv", format!("{truth}a,0,0,9,9,mask,,lung,1\n"), "truth.csv, line 3, column lesion_id: \"\" is empty"),
        ("truth.csv", TRUTH.to_owned(), "nothing to find"),
        ("images.csv", format!("{images}s,B,q,a\n"), "images.csv, line 3, column sop_uid: \"a\" is there twice"),
        ("images.csv", format!("{images}s,B,,b\n"), "images.csv, line 3, column patient: \"\" is empty"),
        ("images.csv", format!("{IMAGES}pooled,A,p,a\n"), "images.csv, line 2, column set: \"pooled\" is the name of the row of all sets"),
        ("images.csv", IMAGES.to_owned(), "images.csv: lists no image"),
    ];
    for (file, text, expected) in cases {
        let folder = tables(&candidates, &truth, &images);
        std::fs::write(folder.path().join(file), text).unwrap();
        let done = evaluate(folder.path(), &[]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(65) && said.contains(expected), "{file}: {expected}: {said}");
    }
    let folder = tables(&candidates, &truth, &images);
    for (more, expected) in [(["--sets", "t"], "it has s"), (["--pad", "nan"], "no number of pixels"), (["--dicom", "x"], "--html")] {
        let done = evaluate(folder.path(), &more);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(64) && said.contains(expected), "{more:?}: {said}");
    }
    std::fs::remove_file(folder.path().join("truth.csv")).unwrap();
    assert_eq!(evaluate(folder.path(), &[]).status.code(), Some(65));
}

#[test]
fn what_takes_no_part_is_counted() {
    let candidates = format!("{CANDIDATES}a,0,0,9,9,0.5\nb,0,0,9,9,0.5\nz,0,0,9,9,0.5\nz,0,0,9,9,0.4\n");
    let truth = format!("{TRUTH}a,0,0,9,9,mask,1,lung,\nb,0,0,9,9,mask,1,lung,12\n");
    let folder = tables(&candidates, &truth, &format!("{IMAGES}s,A,p,a\nt,B,q,b\n"));
    let (report, text) = report(folder.path(), &["--sets", "s", "--pad", "0"]);
    assert_eq!(
        report["counts"],
        json!({ "images": 1, "images_of_other_sets": 1, "truths": 1, "truths_of_other_sets": 1, "truths_without_size": 1,
                "candidates": 1, "candidates_of_other_sets": 1, "candidates_of_unlisted_images": 2 })
    );
    assert!(text.contains("left out: 2 candidates are on images that the image table does not list"), "{text}");
    assert_eq!((&report["pad_px"], &report["bootstrap"]), (&json!(0.0), &json!(500)));
}

#[test]
fn long_axes_and_calibration_come_from_reported_lesions() {
    let truth = format!("{TRUTH}a,0,0,9,9,,1,lung,10\na,50,50,69,69,,2,lung,20\na,90,90,99,99,,3,lung,\n");
    let folder = tables(&format!("{CANDIDATES}a,0,0,9,9,0.5\n"), &truth, &format!("{IMAGES}s,A,p,a\n"));
    let lesion = |uid: &str, box_px: [f64; 4], score: f64, mm: f64| json!({ "score": score, "box_px": box_px, "long_axis_mm": mm, "key_image": { "sop_instance_uid": uid, "instance_number": 1 } });
    let results = json!([{ "lesions": [
        lesion("a", [0.0, 0.0, 9.0, 9.0], 0.95, 13.0),
        lesion("a", [50.0, 50.0, 69.0, 69.0], 0.35, 19.0),
        lesion("a", [51.0, 50.0, 69.0, 69.0], 0.32, 99.0), // the second on it: true, not measured
        lesion("a", [90.0, 90.0, 99.0, 99.0], 0.9, 50.0), // no known axis
        lesion("a", [200.0, 200.0, 209.0, 209.0], 1.0, 5.0),
        lesion("elsewhere", [0.0, 0.0, 9.0, 9.0], 0.9, 5.0),
    ]}]);
    let path = folder.path().join("results.json");
    std::fs::write(&path, results.to_string()).unwrap();
    let (report, text) = report(folder.path(), &["--results", path.to_str().unwrap()]);
    let m = &report["measured"];
    assert_eq!((&m["lesions"], &m["lesions_true"], &m["lesions_of_unlisted_images"]), (&json!(5), &json!(4), &json!(1)));
    assert_eq!(m["long_axis"], json!([{ "set": "s", "n": 2, "mean_absolute_mm": 2.0, "median_absolute_mm": 2.0, "bias_mm": 1.0 }]));
    let bin = |i: usize| (&m["calibration"][i]["n"], m["calibration"][i]["share_true"].as_f64());
    assert_eq!((bin(3), bin(9), bin(5)), ((&json!(2), Some(1.0)), (&json!(3), Some(2.0 / 3.0)), (&json!(0), None)));
    assert!(text.contains("mean error 2.0 mm"), "{text}");

    std::fs::write(&path, json!([{ "lesions": [lesion("a", [0.0; 4], 1.5, 1.0)] }]).to_string()).unwrap();
    let done = evaluate(folder.path(), &["--results", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(65) && said.contains("document 1, lesion 1: score 1.5"), "{said}");
}

#[test]
fn the_page_stands_alone_and_shows_hits_misses_and_false_alarms() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/syntaxes");
    let candidates = format!("{CANDIDATES}a,200,200,239,239,0.9\na,10,10,40,40,0.8\nb,100,100,139,139,0.7\n");
    let truth = format!("{TRUTH}a,200,200,239,239,recist5,1,lung,20\nb,300,300,339,339,recist5,1,<i>odd</i>,20\n");
    let images = "set,case,patient,sop_uid,path\ns,A,p,a,CT_1.2.840.10008.1.2.1.dcm\ns,B,q,b,missing.dcm\n";
    let folder = tables(&candidates, &truth, images);
    let page = folder.path().join("page.html");
    let done = evaluate(folder.path(), &["--html", page.to_str().unwrap(), "--dicom", root.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let html = std::fs::read_to_string(&page).unwrap();
    for outside in ["http", "<script", "<link", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    for part in ["prefers-color-scheme: dark", "Hits: 1 of 1", "Misses: 1 of 1", "False alarms: 2 of 2", "&lt;i&gt;odd", "missing.dcm"] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("data:image/png;base64,").count(), 2, "the hit and the false alarm of the image that is there");
    assert_eq!(html.matches("class=\"scale\"").count(), 2);
    assert_eq!((html.matches("class=\"truth\"").count(), html.matches("class=\"predicted\"").count()), (1, 2));
}
