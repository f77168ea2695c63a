//! Promise: `lesionlab quantize` puts ranges into a bundle that f32 and Q8_0 engines then pass its self-test with, says what each layer loses, and refuses what
//! it cannot use; `lesionlab bench engines` measures what can start and names what cannot, `bench exports` the same images through 8 bits and JPEG.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;
use std::process::{Command, Output};

use lesionwatch::detect::bundle::{self, Bundle};
use lesionwatch::detect::network::NetworkSpec;
use lesionwatch::detect::{select, tiny};
use serde_json::Value;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314");

fn lesionlab(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lesionlab")).args(args).output().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_bundle_gets_its_ranges_and_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let (at, table) = (folder.path().join("bundle"), folder.path().join("table.json"));
    tiny::write(&at).unwrap();
    let before = Bundle::open(&at).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let asked = ["quantize", "--bundle", &text(&at), "--ct", SAMPLE, "--windows", "2", "--json", &text(&table)];
    let dry = lesionlab(&[&asked[..], &["--dry-run"]].concat());
    assert!(dry.status.success(), "{}", String::from_utf8_lossy(&dry.stderr));
    assert_eq!(Bundle::open(&at).unwrap(), before);
    let done = lesionlab(&[&asked[..], &["--files"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let after = Bundle::open(&at).unwrap();
    let ranges = after.description.quantization.clone().unwrap();
    assert!(ranges.calibrated_on.contains("LIDC-IDRI-0314 (2)") && ranges.method == "headroom", "{ranges:?}");
    assert_ne!(Some(&ranges), before.description.quantization.as_ref());
    // A mean of windows, something between nothing and all, and as much room again; the windows themselves end at 1.
    assert!(ranges.ranges["stem"] > 0.6 && ranges.ranges["stem"] <= 2.0 && ranges.ranges["slot"] == 1.0, "{:?}", ranges.ranges);
    for name in [bundle::GGUF, bundle::ENCODER_INT8, bundle::HEADS_INT8] {
        assert_eq!(after.description.files[name], bundle::sha256(&std::fs::read(at.join(name)).unwrap()));
    }
    // The self-test's slot is noise, ranges come from a scan: int8 may clip it too much, and is then held off by name.
    for trial in select::choose(&after, "auto").unwrap().trials {
        let held_off = trial.engine == "tract-int8" && trial.outcome.as_ref().is_err_and(|e| e.contains("self-test"));
        assert!(trial.outcome.is_ok() || held_off, "{trial:?}");
    }
    let table = json(&table);
    let layers = table["layers"].as_array().unwrap();
    let stem = &layers[0];
    assert_eq!((stem["layer"].as_str(), stem["q8_0"].as_str()), (Some("stem"), Some("f32")));
    assert!(stem["alone_percent"].as_f64().unwrap() > 0.0 && stem["alone_percent"].as_f64().unwrap() < 5.0, "{stem}");
    assert!(layers.iter().any(|l| l["int8"] == "f32: logits"));
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains("range out") && said.lines().filter(|l| l.contains("logits")).count() == 3, "{said}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("bundle");
    tiny::write(&at).unwrap();
    let (at, empty) = (at.to_str().unwrap().to_owned(), folder.path().to_str().unwrap());
    for (args, code, expected) in [
        (vec!["quantize", "--bundle", empty, "--ct", SAMPLE], 65, "bundle.toml: missing"),
        (vec!["quantize", "--bundle", &at, "--ct", empty], 65, empty),
        (vec!["quantize", "--bundle", &at, "--ct", "/nowhere"], 74, "/nowhere"),
        (vec!["quantize", "--bundle", &at, "--ct", SAMPLE, "--validation", "/"], 64, "--validation"),
    ] {
        let output = lesionlab(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(expected), "{args:?}: {:?} {said}", output.status);
    }
}

#[test]
fn engines_are_measured_and_what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (at, out) = (folder.path().join("bundle"), folder.path().join("bench.json"));
    tiny::write(&at).unwrap();
    Bundle::quantize(&at, &tiny::ranges(&NetworkSpec::tiny()), false).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    // Sensors of a folder that is not there yet: a machine without a rail, whatever this one has.
    let (table, sysfs) = (text(&out), text(&folder.path().join("sys")));
    let asked = ["bench", "engines", "--series", SAMPLE, "--model", &text(&at), "--rounds", "1", "--slots", "9"];
    let asked = [&asked[..], &["--json", &table, "--sysfs", &sysfs]].concat();
    let done = lesionlab(&asked);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let rows = json(&out)["engines"].as_array().unwrap().clone();
    let row = |name: &str| rows.iter().find(|r| r["engine"] == name).unwrap_or_else(|| panic!("{name}: {rows:?}")).clone();
    for name in ["tract f32", "tract int8", "candle-cpu f32", "candle-cpu q8_0"] {
        let row = row(name);
        assert!(row["absent"].is_null() && row["batch_ms"].as_array().unwrap().iter().all(|ms| ms.as_f64().unwrap() > 0.0), "{row}");
        assert!(row["slots_a_second"].as_f64().unwrap() > 0.0 && row["peak_mib"].as_f64().unwrap() > 1.0, "{row}");
    }
    assert!(row("candle-cpu f32")["joules"].is_null(), "no board, no joules");
    assert!(row("onnxruntime f32")["absent"].as_str().unwrap().contains("--python"));
    assert!(row("candle-cuda")["absent"].as_str().unwrap().contains("CUDA"));
    let absent = lesionlab(&[&asked[..10], &["--python", "/nowhere/python", "--engines", "tract"]].concat());
    let said = String::from_utf8(absent.stdout).unwrap();
    assert!(said.contains("| onnxruntime f32 | absent: No such file"), "{said}");
    assert!(!said.contains("| candle-cpu"), "{said}");
    // The sensors of a board that takes 5 V · 1.5 A, whatever it does.
    let monitor = folder.path().join("sys/class/hwmon/hwmon0");
    std::fs::create_dir_all(&monitor).unwrap();
    for (file, text) in [("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "1500")] {
        std::fs::write(monitor.join(file), text).unwrap();
    }
    let done = lesionlab(&[&asked[..], &["--engines", "tract"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let row = json(&out)["engines"].as_array().unwrap().iter().find(|r| r["engine"] == "tract f32").unwrap().clone();
    let (joules, seconds) = (row["joules"].as_f64().unwrap(), 1.0 / row["slots_a_second"].as_f64().unwrap());
    assert!(joules >= 7.5 * seconds, "{joules} J, {seconds} s");
    assert!(joules <= 7.5 * (seconds + 2.0 / 9.0), "the meter goes on for no longer than it takes to ask: {joules} J, {seconds} s");
}

#[test]
fn exports_are_measured_on_the_same_images() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("exports.json");
    let samples = Path::new(SAMPLE).parent().unwrap().to_str().unwrap();
    let done = lesionlab(&["bench", "exports", "--ct", samples, "--every", "60", "--json", out.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let table = json(&out);
    let rows = table["rows"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|r| r["export"] == name).unwrap_or_else(|| panic!("{name}: {rows:?}"));
    let candidates = |name: &str| row(name)["candidates"][0].as_f64().unwrap();
    assert!(table["images"].as_u64().unwrap() >= 2 && candidates("as it is") > 0.0, "{table}");
    assert_eq!(row("as it is")["kept"].as_f64(), Some(1.0));
    let full = "full range, steps of 16 HU";
    assert_ne!(candidates(full), candidates(&format!("{full}, JPEG 75")), "JPEG changes something: {rows:?}");
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.lines().filter(|l| l.contains("JPEG 90")).count() == 4, "{said}");
    let empty = lesionlab(&["bench", "exports", "--ct", folder.path().to_str().unwrap()]);
    assert_eq!(empty.status.code(), Some(65), "{}", String::from_utf8_lossy(&empty.stderr));
}
