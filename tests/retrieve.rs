//! Promise: `lesionlab retrieve` brings from a PACS what `mine` needs and no more, and goes on where it stopped.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::orthanc::Orthanc;
use common::{free_port, peer_script, run, sample_folder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sample's nodule on instance 112, as `tests/mine.rs` draws it.
const POINTS: &str = "[[187.0,255.0],[178.0,233.0],[189.0,238.0],[175.0,243.0]]";
/// What the help promises, mm.
const CONTEXT_MM: f64 = 36.0;

/// A PACS with the sample, a report and a presentation state that mark its nodule.
struct Archive {
    dir: tempfile::TempDir,
    orthanc: Orthanc,
    dicom: u16,
}

impl Archive {
    fn new() -> Self {
        let (dir, dicom) = (tempfile::tempdir().unwrap(), free_port());
        let output = peer_script("bookmarks.py").arg(sample_folder().join("0112.dcm")).arg(dir.path()).arg(POINTS).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let orthanc = Orthanc::start(dir.path(), dicom, free_port());
        let archive = Self { dir, orthanc, dicom };
        archive.objects().iter().chain(&files(&sample_folder())).for_each(|f| archive.upload(f));
        archive
    }

    fn objects(&self) -> [PathBuf; 2] {
        ["scoord-comprehensive", "gsps"].map(|n| self.dir.path().join(n).join("object.dcm"))
    }

    fn upload(&self, file: &Path) {
        let said = self.orthanc.ask("POST", "/instances", &std::fs::read(file).unwrap());
        assert_eq!(said["Status"], "Success", "{}: {said}", file.display());
    }

    /// `lesionlab retrieve` into `out`: exit code and what it said.
    fn retrieve(&self, out: &Path, more: &[&str]) -> (i32, String) {
        let output = lesionlab().arg("retrieve").arg(format!("ORTHANC@127.0.0.1:{}", self.dicom)).arg("--out").arg(out).args(more).output();
        said(output.unwrap())
    }
}

fn lesionlab() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lesionlab"))
}

fn said(output: std::process::Output) -> (i32, String) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() { all.extend(files(&entry.path())) } else { all.push(entry.path()) }
    }
    all.sort();
    all
}

/// Table and counts of a harvest.
fn mined(objects: &[PathBuf], images: &Path, out: &Path) -> (String, Value) {
    let json = out.with_extension("json");
    let (ok, text) = run(lesionlab().arg("mine").args(objects).arg("--images").arg(images).arg("--out").arg(out).arg("--json").arg(&json));
    assert!(ok, "{text}");
    (std::fs::read_to_string(out.join("DL_info.csv")).unwrap(), serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap())
}

/// What of a table does not count slices.
fn drawn(table: &str) -> Vec<[String; 5]> {
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let names = ["Measurement_coordinates", "Bounding_boxes", "Lesion_diameters_Pixel_", "Coarse_lesion_type", "Spacing_mm_px_"];
    let places = names.map(|n| reader.headers().unwrap().iter().position(|h| h == n).unwrap());
    reader.records().map(|row| places.map(|p| row.as_ref().unwrap()[p].to_owned())).collect()
}

#[test]
fn what_is_mined_of_a_pacs_is_what_is_mined_of_its_files() {
    let archive = Archive::new();
    let out = archive.dir.path().join("retrieved");
    let (code, text) = archive.retrieve(&out, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("2 objects retrieved, 0 were there"), "{text}");
    assert_eq!(files(&out.join("objects")).len(), 2);

    // The marked slice and its neighbours, and none beyond.
    let height = |f: &PathBuf| lesionwatch::series::header::read(f).unwrap().position_mm.unwrap()[2];
    let marked = height(&sample_folder().join("0112.dcm"));
    let images = files(&out.join("images"));
    let within = |mm: f64| files(&sample_folder()).iter().filter(|f| (height(f) - marked).abs() <= mm).count();
    assert_eq!(images.len(), within(CONTEXT_MM), "{text}");
    assert!(images.iter().all(|f| (height(f) - marked).abs() <= CONTEXT_MM) && images.len() > 1);

    let (of_pacs, counts) = mined(&files(&out.join("objects")), &out.join("images"), &archive.dir.path().join("of-pacs"));
    let (of_files, _) = mined(&archive.objects(), &sample_folder(), &archive.dir.path().join("of-files"));
    assert_eq!(drawn(&of_pacs), drawn(&of_files));
    assert_ne!(counts["lesions"], json!(0), "{counts}");

    // Once more: nothing is asked for again. One file less: that one.
    let (code, text) = archive.retrieve(&out, &[]);
    assert!(code == 0 && text.contains("0 objects retrieved, 2 were there\n0 images retrieved"), "{text}");
    std::fs::remove_file(&images[0]).unwrap();
    let (code, text) = archive.retrieve(&out, &[]);
    assert!(code == 0 && text.contains("\n1 images retrieved"), "{text}");
    assert_eq!(files(&out.join("images")), images);

    // With all slices it is the same to the letter.
    let (code, text) = archive.retrieve(&out, &["--whole-series"]);
    assert!(code == 0 && files(&out.join("images")).len() == files(&sample_folder()).len(), "{text}");
    let (of_pacs, _) = mined(&files(&out.join("objects")), &out.join("images"), &archive.dir.path().join("of-all"));
    assert_eq!(of_pacs, of_files);
}

#[test]
fn days_and_modalities_are_asked_for() {
    let archive = Archive::new();
    let out = archive.dir.path().join("retrieved");
    let (code, text) = archive.retrieve(&out, &["--until", "19700101"]);
    assert!(code != 0 && text.contains("0 studies") && text.contains("lists no objects of SR, PR"), "{code} {text}");
    assert_eq!(files(&out), [] as [PathBuf; 0]);
    let (code, text) = archive.retrieve(&out, &["--modality", "PR"]);
    assert!(code == 0 && text.contains("1 objects retrieved"), "{code} {text}");
}

#[test]
fn what_cannot_be_is_said() {
    let out = tempfile::tempdir().unwrap();
    let retrieve =
        |peer: &str, more: &[&str]| said(lesionlab().args(["retrieve", peer, "--out"]).arg(out.path()).args(more).output().unwrap());
    for (peer, more, expected) in [
        ("127.0.0.1:104", &[][..], "no AE@HOST:PORT"),
        (&format!("PACS@127.0.0.1:{}", free_port()), &[], "association with PACS@127.0.0.1"),
        ("PACS@127.0.0.1:104", &["--since", "yesterday"], "no day: YYYYMMDD"),
    ] {
        let (code, text) = retrieve(peer, more);
        assert!(code != 0 && text.contains(expected), "{peer}: {code} {text}");
    }
    // A disk that cannot be written ends the run, with the path.
    let archive = Archive::new();
    let file = out.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let (code, text) = archive.retrieve(&file, &[]);
    assert!(code != 0 && text.contains("file/objects"), "{code} {text}");
}
