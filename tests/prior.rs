//! Promise: `lesionlab prior` measures where and as what a network finds something in CT without marked disease, holds a table of marks against it, and puts
//! both into the bundle; `lesionwatch scan` then ranks by looks, type and place. A bundle whose table is another than it says is refused; so is a table of
//! marks that does not say where in the body they are.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lesionwatch::detect::bundle::{self, Bundle};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const COLUMNS: &str = "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test";

fn lesionlab(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lesionlab")).args(args).output().unwrap()
}

/// Slices of the sample, which has every second number, as a series of its own.
fn series(ct: &Path, name: &str, numbers: std::ops::RangeInclusive<u32>) -> PathBuf {
    let folder = ct.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for n in numbers.step_by(2) {
        let file = format!("{n:04}.dcm");
        std::fs::copy(Path::new(ROOT).join("sample/LIDC-IDRI-0314").join(&file), folder.join(&file)).unwrap();
    }
    folder
}

/// Rows of DL_info.csv: marks in lungs (5) in the body's front, and a few in bone (1), at one level.
fn marks(path: &Path, located_by_mine: bool) {
    let mut text = format!("{COLUMNS}\n");
    for i in 0..600 {
        let (x, code) = if i % 6 == 5 { (0.5, 1) } else { (0.1 + 0.8 * f64::from(i % 20) / 20.0, 5) };
        // Box 246..266: its middle is half of the image.
        let place = if located_by_mine {
            "0.500000, 0.500000, 0.500000".into()
        } else {
            format!("{x:.6}, {:.6}, 0.450000", 0.1 + 0.3 * f64::from(i % 7) / 7.0)
        };
        let points = "251, 256, 261, 256, 256, 251, 256, 261";
        writeln!(
            text,
            "{i:06}_01_01_010.png,{i},1,1,10,\"{points}\",\"246, 246, 266, 266\",\"10, 10\",\"{place}\",{code},0,\"4, 16\",\"0.8, 0.8, 5\",\"512, 512\",\"-175, 275\",F,60,3"
        )
        .unwrap();
    }
    std::fs::write(path, text).unwrap();
}

/// Score of every candidate of a scan by image and box.
fn candidates(folder: &Path, model: &Path, out: &Path) -> HashMap<String, (f32, f32, String)> {
    let mut scan = Command::new(env!("CARGO_BIN_EXE_lesionwatch"));
    let done = scan.arg("scan").arg(folder).arg("--model").arg(model).arg("--candidates").arg(out).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut found = HashMap::new();
    for row in csv::Reader::from_path(out).unwrap().records() {
        let row = row.unwrap();
        let number = |i: usize| row[i].parse::<f32>().unwrap();
        found.insert(
            row.iter().skip(1).take(7).collect::<Vec<_>>().join(","),
            (number(8), f32::midpoint(number(5), number(7)), row[9].to_owned()),
        );
    }
    found
}

#[test]
fn a_bundle_ranks_by_place_and_type_once_it_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let scanned = series(&at("ct"), "healthy", 60..=130);
    series(&at("ct"), "kept", 132..=180);
    marks(&at("DL_info.csv"), false);
    std::fs::write(at("levels.csv"), "series,number,level\nhealthy,60,0.35\nhealthy,130,0.55\n").unwrap();
    let copy = |name: &str| {
        std::fs::create_dir_all(at(name)).unwrap();
        for file in std::fs::read_dir(Path::new(ROOT).join("models/lesionwatch")).unwrap().flatten() {
            std::fs::copy(file.path(), at(name).join(file.file_name())).unwrap();
        }
    };
    copy("before");
    copy("after");
    // By looks alone, whatever is shipped.
    let description = std::fs::read_to_string(at("before/bundle.toml")).unwrap();
    let plain: Vec<&str> = description.lines().filter(|l| !l.contains(bundle::PRIOR)).collect();
    std::fs::write(at("before/bundle.toml"), plain.join("\n")).unwrap();

    let asked = |marks: &str| {
        lesionlab(&[
            "prior",
            "--bundle",
            &text(&at("after")),
            "--marks",
            &text(&at(marks)),
            "--ct",
            &text(&at("ct")),
            "--validation",
            "kept",
            "--levels",
            &text(&at("levels.csv")),
        ])
    };
    let untouched = Bundle::open(&at("after")).unwrap();
    marks(&at("mined.csv"), true);
    let refused = asked("mined.csv");
    assert_eq!(refused.status.code(), Some(65), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no row says both a type and a place in the body"));
    assert_eq!(Bundle::open(&at("after")).unwrap(), untouched);

    let done = asked("DL_info.csv");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains("600 marks") && said.contains("before: score") && said.contains("now: score"), "{said}");
    let bundle = Bundle::open(&at("after")).unwrap();
    let prior = bundle.prior.clone().unwrap();
    let of = |name: &str| prior.types.iter().find(|t| t.name == name).unwrap();
    assert!(prior.weight > 0.0 && prior.weight <= 1.0, "{}", prior.weight);
    assert!(of("lung").odds > 0.0 && of("liver").places.is_empty(), "{prior:?}");
    assert!(of("lung").places[5][5] > 0.5 && of("lung").places[14][5] < -0.5, "{:?}", of("lung"));
    assert_ne!(bundle.description.calibration, untouched.description.calibration);
    assert_eq!(bundle.weights, untouched.weights);

    // The same boxes; in lungs those in front gained, those behind lost.
    let (before, after) = (candidates(&scanned, &at("before"), &at("b.csv")), candidates(&scanned, &at("after"), &at("a.csv")));
    let logit = |p: f32| (p / (1.0 - p)).ln();
    let mean = |range: std::ops::Range<u32>| {
        let lungs = after.iter().filter(|(_, (_, y, kind))| kind == "lung" && range.contains(&(*y as u32)));
        let changes: Vec<f32> = lungs.map(|(key, (score, ..))| logit(*score) - logit(before[key].0)).collect();
        assert!(changes.len() > 50, "{}", changes.len());
        changes.iter().sum::<f32>() / changes.len() as f32
    };
    assert_eq!(after.len(), before.len());
    let (front, behind) = (mean(0..235), mean(275..512));
    assert!(front > 0.2 * prior.weight && behind < -prior.weight, "{front} and {behind}, weight {}", prior.weight);

    let table = std::fs::read_to_string(at("after").join(bundle::PRIOR)).unwrap();
    std::fs::write(at("after").join(bundle::PRIOR), table.replace("weight = 0.", "weight = 0.9")).unwrap();
    let error = Bundle::open(&at("after")).unwrap_err().to_string();
    assert!(error.contains("prior.toml: SHA-256"), "{error}");
}
