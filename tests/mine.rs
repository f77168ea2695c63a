//! Promise: what hospitals' tools write as a bidimensional measurement comes back from `lesionlab mine` to a tenth of a millimetre; everything else is
//! left out with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lesionwatch::series::header;
use lesionwatch::volume::pixels;
use serde_json::{Value, json};

/// The nodule of the sample on instance 112: axes of reader 1's outline, whose indices run over columns 175 to 192 and rows 233 to 255.
const POINTS: [[f64; 2]; 4] = [[187.0, 255.0], [178.0, 233.0], [189.0, 238.0], [175.0, 243.0]];
const OUTLINE: [f64; 4] = [175.0, 233.0, 192.0, 255.0];
const MOST_ERROR_MM: f64 = 0.1;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/LIDC-IDRI-0314")
}

fn key_image() -> PathBuf {
    sample().join("0112.dcm")
}

fn spacing_mm() -> [f64; 2] {
    header::read(&key_image()).unwrap().pixel_spacing_mm.unwrap()
}

/// Where tests/run put a peer, below the build folder.
fn peer(name: &str) -> PathBuf {
    let below = Path::new(env!("CARGO_BIN_EXE_lesionlab")).ancestors().map(|p| p.join(name)).find(|p| p.is_dir());
    below.unwrap_or_else(|| panic!("{name} is not there: tests/run installs the peers"))
}

/// Objects of highdicom and pydicom, one folder each.
fn highdicom() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/bookmarks.py");
    let mut command = Command::new(peer("peers-venv").join("bin/python"));
    let points = serde_json::to_string(&POINTS).unwrap();
    let output = command.arg(script).arg(key_image()).arg(folder.path()).arg(points).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// Objects of @cornerstonejs/adapters and dcmjs, one folder each.
fn cornerstone() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let header = header::read(&key_image()).unwrap();
    let (position, [sy, sx]) = (header.position_mm.unwrap(), header.pixel_spacing_mm.unwrap());
    let object = lesionwatch::series::part10::open(&key_image(), Some(dicom_dictionary_std::tags::PIXEL_DATA)).unwrap();
    let frame = object.element(dicom_dictionary_std::tags::FRAME_OF_REFERENCE_UID).unwrap().to_str().unwrap().trim_matches('\0').to_owned();
    let image = json!({
        "sop_instance_uid": header.sop_instance_uid, "study": header.study_instance_uid, "series": header.series_instance_uid, "frame": frame,
        "position": position, "spacing": [sy, sx], "world": POINTS.map(|[x, y]| [position[0] + x * sx, position[1] + y * sy, position[2]]),
    });
    let file = folder.path().join("image.json");
    std::fs::write(&file, image.to_string()).unwrap();
    // Packages are looked for from the working folder when the program comes over standard input.
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-"]).arg(&file).arg(folder.path()).current_dir(peer("peers-npm"));
    let mut node = node.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    node.stdin.take().unwrap().write_all(include_bytes!("peers/bookmarks.mjs")).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// One of highdicom's reports as DCMTK writes it.
fn dcmtk(highdicom: &tempfile::TempDir) -> PathBuf {
    let [xml, object] = ["report.xml", "dcmtk.dcm"].map(|n| highdicom.path().join(n));
    for (tool, from, to) in [("dsr2xml", &highdicom.path().join("scoord-comprehensive/object.dcm"), &xml), ("xml2dsr", &xml, &object)] {
        let output = Command::new(tool).arg(from).arg(to).output().unwrap_or_else(|e| panic!("{tool}: {e}: tests/run installs the peers"));
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    }
    object
}

/// What a run left behind.
struct Mined {
    folder: tempfile::TempDir,
    code: i32,
    text: String,
}

impl Mined {
    fn out(&self) -> PathBuf {
        self.folder.path().join("set")
    }

    fn csv(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let path = self.folder.path().join(name);
        let mut reader = csv::Reader::from_path(&path).unwrap_or_else(|e| panic!("{}: {e}\n{}", path.display(), self.text));
        reader.deserialize().map(Result::unwrap).collect()
    }

    fn rows(&self) -> Vec<BTreeMap<String, String>> {
        self.csv("set/DL_info.csv")
    }

    /// Fate and reason of every line.
    fn reasons(&self) -> Vec<String> {
        self.csv("set-review.csv").iter().map(|l| format!("{} {}", l["fate"], l["reason"])).collect()
    }

    fn counts(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("counts.json")).unwrap()).unwrap()
    }
}

/// `lesionlab mine` of `objects` with the images of `images`.
fn mine(objects: &[PathBuf], images: &[PathBuf]) -> Mined {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lesionlab"));
    command.arg("mine").args(objects).arg("--images").args(images);
    command.arg("--out").arg(folder.path().join("set")).arg("--json").arg(folder.path().join("counts.json"));
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Mined { folder, code: output.status.code().unwrap(), text }
}

fn numbers(text: &str) -> Vec<f64> {
    text.split(", ").map(|v| v.parse().unwrap()).collect()
}

fn points(row: &BTreeMap<String, String>) -> Vec<[f64; 2]> {
    numbers(&row["Measurement_coordinates"]).chunks(2).map(|p| [p[0], p[1]]).collect()
}

/// Largest distance of an end point from where it was drawn, mm; an axis may be named from either end.
fn error_mm(found: &[[f64; 2]], drawn: &[[f64; 2]]) -> f64 {
    let [sy, sx] = spacing_mm();
    let apart = |a: [f64; 2], b: [f64; 2]| ((a[0] - b[0]) * sx).hypot((a[1] - b[1]) * sy);
    let axis = |i: usize| {
        let (a, b, c, d) = (found[i], found[i + 1], drawn[i], drawn[i + 1]);
        apart(a, c).max(apart(b, d)).min(apart(a, d).max(apart(b, c)))
    };
    axis(0).max(axis(2))
}

fn moved(dx: f64, dy: f64) -> [[f64; 2]; 4] {
    POINTS.map(|[x, y]| [x + dx, y + dy])
}

#[test]
fn what_each_tool_writes_comes_back_to_a_tenth_of_a_millimetre() {
    let (highdicom, cornerstone) = (highdicom(), cornerstone());
    let python = ["scoord", "scoord-comprehensive", "scoord-srt-cm", "scoord3d", "region", "region3d", "gsps"];
    let all = python.map(|n| highdicom.path().join(n)).into_iter().chain(["ohif", "dcmjs-3d"].map(|n| cornerstone.path().join(n)));
    for object in all.chain([dcmtk(&highdicom)]) {
        let mined = mine(std::slice::from_ref(&object), &[sample()]);
        assert_eq!(mined.code, 0, "{}: {}", object.display(), mined.text);
        let rows = mined.rows();
        assert_eq!((rows.len(), mined.reasons().len()), (1, 0), "{}", object.display());
        let error = error_mm(&points(&rows[0]), &POINTS);
        assert!(error <= MOST_ERROR_MM, "{}: {error} mm", object.display());
    }
}

#[test]
fn the_harvest_is_laid_out_as_deeplesion_and_names_nobody() {
    let objects = highdicom();
    let mined = mine(&[objects.path().join("scoord")], &[sample()]);
    let header = std::fs::read_to_string(mined.out().join("DL_info.csv")).unwrap();
    let official = "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test";
    assert_eq!(header.lines().next(), Some(official));
    let row = &mined.rows()[0];
    let value = |name: &str| row[name].as_str();
    // Instances 60, 62 … lie from head to feet: 112 is the 27th.
    assert_eq!((value("File_name"), value("Key_slice_index")), ("000001_01_01_027.png", "27"));
    assert_eq!(
        (value("Image_size"), value("Patient_gender"), value("Possibly_noisy"), value("Coarse_lesion_type")),
        ("512, 512", "F", "0", "5")
    );
    // 2 mm apart: 15 slices on each side.
    assert_eq!(value("Slice_range"), "12, 42");
    assert_eq!(numbers(value("Spacing_mm_px_")), [0.78125, 0.78125, 2.0]);
    assert!(["1", "2", "3"].contains(&value("Train_Val_Test")));
    let bounds = numbers(value("Bounding_boxes"));
    let expected = [OUTLINE[0] - 5.0, OUTLINE[1] - 5.0, 189.0 + 5.0, OUTLINE[3] + 5.0];
    assert!(bounds.iter().zip(expected).all(|(b, e)| (b - e).abs() < 0.15), "{bounds:?}");
    let diameters = numbers(value("Lesion_diameters_Pixel_"));
    assert!((diameters[0] - 23.7697).abs() < 0.1 && (diameters[1] - 14.8661).abs() < 0.1, "{diameters:?}");

    let folder = mined.out().join("Images_png/000001_01_01");
    let mut written: Vec<String> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    written.sort();
    assert_eq!(written, (12..=42).map(|n| format!("{n:03}.png")).collect::<Vec<_>>());
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(folder.join("027.png")).unwrap())).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((frame.bit_depth, frame.color_type), (png::BitDepth::Sixteen, png::ColorType::Grayscale));
    let hu: Vec<i16> = bytes.chunks_exact(2).map(|b| (i32::from(u16::from_be_bytes([b[0], b[1]])) - 32768) as i16).collect();
    assert!(hu == pixels::decode(&key_image()).unwrap().hu, "the key image's HU");

    for (path, bytes) in tree(&mined.out()) {
        let text = format!("{path} {}", String::from_utf8_lossy(&bytes));
        for name in ["LIDC", "0314", "1.3.6.1.4.1", "Reader", "2000"] {
            assert!(path.ends_with(".png") || !text.contains(name), "{name} in {path}");
        }
    }
}

/// Every file below a folder, by its path there.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut all, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.insert(path.strip_prefix(root).unwrap().display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[test]
fn what_cannot_be_used_has_its_reason() {
    let objects = highdicom();
    let at = |name: &str| objects.path().join(name);
    let whole = std::fs::read(at("scoord").join("object.dcm")).unwrap();
    // A content tree that never ends would overflow a parser's stack, and end the whole run.
    let content = whole.windows(4).position(|w| w == [0x40, 0, 0x30, 0xa7]).unwrap();
    let level = [&[0x40, 0, 0x30, 0xa7][..], b"SQ\0\0", &[0xff; 4], &[0xfe, 0xff, 0, 0xe0], &[0xff; 4]].concat();
    let endless = [&whole[..content], &level.repeat(50_000)].concat();
    let bad = [
        ("corrupt.dcm", &whole[..whole.len() / 2]),
        ("garbage.bin", &[0x42; 4000][..]),
        ("empty.dcm", &[][..]),
        ("endless.dcm", &endless[..]),
    ];
    for (name, bytes) in bad {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join(name), bytes).unwrap();
    }
    std::fs::create_dir(at("image")).unwrap();
    std::fs::copy(key_image(), at("image").join("0112.dcm")).unwrap();
    let expected = [
        ("pixels", "wrong_unit"),
        ("only-long", "not_bidimensional"),
        ("disagrees", "lengths_disagree"),
        ("outside", "outside_image"),
        ("missing", "missing_image"),
        ("missing3d", "missing_image"),
        ("off-slice", "off_slice"),
        ("coronal", "not_axial"),
        ("corrupt.dcm", "unreadable"),
        ("garbage.bin", "unreadable"),
        ("empty.dcm", "unreadable"),
        ("endless.dcm", "unreadable"),
    ];
    for (name, reason) in expected {
        let mined = mine(&[at(name)], &[sample(), at("coronal-image")]);
        assert_eq!(mined.code, 65, "{name}: {}", mined.text);
        assert_eq!(mined.reasons(), [format!("left_out {reason}")], "{name}");
        assert!(!mined.out().join("DL_info.csv").exists() && mined.text.contains("no mark can be used"), "{}", mined.text);
        assert_eq!(mined.counts()["reasons"], json!({ reason: 1 }));
    }
    // Images among the objects are no news.
    let mined = mine(&[at("image")], &[sample()]);
    assert_eq!((mined.code, mined.reasons().len(), &mined.counts()["objects"]), (65, 0, &json!({ "image": 1 })));
    let mined = mine(&[at("gsps-parallel")], &[sample()]);
    assert_eq!((mined.code, mined.reasons()), (65, vec!["left_out not_bidimensional".to_owned(); 2]));
    // One bad object among good ones costs itself.
    let mined = mine(&[at("corrupt.dcm"), at("scoord")], &[sample()]);
    assert_eq!((mined.code, mined.rows().len(), mined.reasons()), (0, 1, vec!["left_out unreadable".to_owned()]));
}

#[test]
fn the_last_word_counts_and_readers_are_averaged() {
    let objects = highdicom();
    let at = |names: &[&str]| names.iter().map(|n| objects.path().join(n)).collect::<Vec<_>>();
    for (names, to) in [(["revision-1", "revision-2"], moved(2.0, 0.0)), (["again-2", "again-1"], moved(0.0, 2.0))] {
        let mined = mine(&at(&names), &[sample()]);
        assert_eq!((mined.rows().len(), mined.reasons()), (1, vec!["left_out superseded".to_owned()]), "{}", mined.text);
        assert!(error_mm(&points(&mined.rows()[0]), &to) <= MOST_ERROR_MM);
    }
    let mined = mine(&at(&["readers"]), &[sample()]);
    let rows = mined.rows();
    assert_eq!((rows.len(), mined.reasons()), (2, vec!["merged merged".to_owned()]));
    let mut errors: Vec<f64> = [moved(1.0, 0.0), moved(60.0, 0.0)]
        .iter()
        .map(|to| rows.iter().map(|r| error_mm(&points(r), to)).fold(f64::INFINITY, f64::min))
        .collect();
    errors.sort_by(f64::total_cmp);
    assert!(errors[1] <= MOST_ERROR_MM, "{errors:?}");

    let mined = mine(&at(&["air"]), &[sample()]);
    assert_eq!(mined.rows()[0]["Possibly_noisy"], "1");
    let mut reasons = mined.reasons();
    reasons.sort();
    assert_eq!(reasons, ["suspicious air", "suspicious elongated", "suspicious outside_body"]);
}

#[test]
fn the_order_of_files_changes_nothing_and_copies_count_once() {
    let objects = highdicom();
    let names = ["scoord", "readers", "air", "again-2", "gsps", "revision-2", "revision-1", "again-1", "pixels"];
    let paths: Vec<PathBuf> = names.iter().map(|n| objects.path().join(n)).collect();
    let first = mine(&paths, &[sample()]);
    // Again in another order, under other names, with a copy; the images in two folders.
    let other = tempfile::tempdir().unwrap();
    for (i, path) in paths.iter().enumerate() {
        std::fs::copy(path.join("object.dcm"), other.path().join(format!("{}.dcm", 90 - i * 7))).unwrap();
    }
    std::fs::copy(paths[0].join("object.dcm"), other.path().join("copy.dcm")).unwrap();
    let halves = tempfile::tempdir().unwrap();
    for (i, entry) in std::fs::read_dir(sample()).unwrap().enumerate() {
        let folder = halves.path().join(if i % 2 == 0 { "b" } else { "a" });
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(entry.unwrap().path(), folder.join(format!("{i}.dcm"))).unwrap();
    }
    let second = mine(&[other.path().to_owned()], &[halves.path().to_owned()]);
    assert!(tree(&first.out()) == tree(&second.out()), "{}\n{}", first.text, second.text);
    let (mut before, mut after) = (first.counts(), second.counts());
    // Nothing is lost: every mark is a lesion, part of one, or replaced.
    let count = |what: &Value| what.as_u64().unwrap();
    assert_eq!((count(&before["marks"]), count(&before["lesions"])), (10, 3));
    assert_eq!((count(&before["reasons"]["merged"]), count(&before["reasons"]["superseded"])), (5, 2));
    assert_eq!((&before["reasons"]["duplicate"], &after["reasons"]["duplicate"]), (&Value::Null, &json!(1)));
    for counts in [&mut before, &mut after] {
        for changed in ["reasons", "objects", "marks"] {
            counts.as_object_mut().unwrap().remove(changed);
        }
    }
    assert_eq!(before, after);
    // A dataset is not written over.
    let again = Command::new(env!("CARGO_BIN_EXE_lesionlab"))
        .args(["mine", "."])
        .arg("--images")
        .arg(sample())
        .arg("--out")
        .arg(first.out())
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(64));
}

#[test]
fn aim_and_a_vendors_export_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let uid = header::read(&key_image()).unwrap().sop_instance_uid;
    let line = |ends: &[[f64; 2]]| {
        let point = |i: usize| {
            format!(
                r#"<TwoDimensionSpatialCoordinate><coordinateIndex value="{i}"/><x value="{}"/><y value="{}"/></TwoDimensionSpatialCoordinate>"#,
                ends[i][0] + 0.5,
                ends[i][1] + 0.5
            )
        };
        format!(
            r#"<MarkupEntity xsi:type="TwoDimensionPolyline"><imageReferenceUid root="{uid}"/><twoDimensionSpatialCoordinateCollection>{}{}</twoDimensionSpatialCoordinateCollection></MarkupEntity>"#,
            point(0),
            point(1)
        )
    };
    let aim = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?><ImageAnnotationCollection xmlns="gme://caCORE.caCORE/4.4/edu.northwestern.radiology.AIM" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" aimVersion="AIMv4_0"><uniqueIdentifier root="2.25.7"/><imageAnnotations><ImageAnnotation><markupEntityCollection>{}{}</markupEntityCollection></ImageAnnotation></imageAnnotations></ImageAnnotationCollection>"#,
        line(&POINTS[..2]),
        line(&POINTS[2..])
    );
    let names = ["long_x1", "long_y1", "long_x2", "long_y2", "short_x1", "short_y1", "short_x2", "short_y2"];
    let cells: Vec<String> = POINTS.as_flattened().iter().map(f64::to_string).collect();
    let csv = format!("sop_instance_uid,{},long_mm,short_mm\n{uid},{},18.6,11.6\n", names.join(","), cells.join(","));
    let mut row: serde_json::Map<String, Value> =
        names.iter().map(|n| (*n).to_owned()).zip(POINTS.as_flattened().iter().map(|v| json!(v))).collect();
    row.insert("sop_instance_uid".into(), json!(uid));
    for (name, text) in [("mark.xml", aim), ("marks.csv", csv), ("marks.json", json!([row]).to_string())] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mined = mine(&[path], &[sample()]);
        assert_eq!((mined.code, mined.reasons().len()), (0, 0), "{name}: {}", mined.text);
        assert!(error_mm(&points(&mined.rows()[0]), &POINTS) < 0.001, "{name}");
    }
}
