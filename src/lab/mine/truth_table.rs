//! The harvest as the evaluator's tables: `truth.csv` and `images.csv` of the key slices, so that a detector can be measured on the site's own DICOM.
//!
//! They name files and images, so they stay outside the dataset, as the review list does. Key slices with a suspicious mark are left out, as DeepLesion's
//! protocol leaves them out: what is there to find on them is not sure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::numbers::Numbers;
use super::rules::{Points, bounding_box, lengths};
use crate::detect::TYPE_NAMES;
use crate::error::{Class, Failure};

/// The evaluator's sets: the parts that patients fall into, so that `evaluate --sets test` measures on nobody who was trained on.
const SETS: [&str; 3] = ["train", "validation", "test"];

/// A lesion of the harvest on its own image.
#[derive(Debug, Clone, PartialEq)]
pub struct Marked {
    /// Which series of the harvest.
    pub numbers: Numbers,
    /// (0008,0018) of the key image.
    pub sop_instance_uid: String,
    /// Its file.
    pub path: PathBuf,
    /// End points, pixels.
    pub points: Points,
    /// Row and column spacing, mm.
    pub spacing_mm: [f64; 2],
    /// DeepLesion's coarse type, -1 where unknown.
    pub lesion_type: i8,
    /// Part that its patient falls into: 1 train, 2 validation, 3 test.
    pub split: u8,
    /// Suspicious.
    pub noisy: bool,
}

/// Writes both tables below `folder`; returns how many boxes and images.
///
/// # Errors
/// [`Class::Io`].
pub fn write(folder: &Path, marked: &[Marked]) -> Result<[usize; 2], Failure> {
    let failed = |path: &Path, e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    std::fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    let doubtful: BTreeSet<&str> = marked.iter().filter(|m| m.noisy).map(|m| &*m.sop_instance_uid).collect();
    let mut sure: Vec<&Marked> = marked.iter().filter(|m| !doubtful.contains(&*m.sop_instance_uid)).collect();
    sure.sort_by(|a, b| {
        (a.numbers, &a.path)
            .cmp(&(b.numbers, &b.path))
            .then(a.points.as_flattened().partial_cmp(b.points.as_flattened()).unwrap_or(std::cmp::Ordering::Equal))
    });
    let table = |name: &str, head: &[&str], rows: Vec<Vec<String>>| {
        let path = folder.join(name);
        let mut writer = csv::Writer::from_path(&path).map_err(|e| failed(&path, &e))?;
        writer.write_record(head).map_err(|e| failed(&path, &e))?;
        for row in rows {
            writer.write_record(row).map_err(|e| failed(&path, &e))?;
        }
        writer.flush().map_err(|e| failed(&path, &e))
    };
    let names = |m: &Marked| {
        vec![
            SETS[usize::from(m.split.clamp(1, 3)) - 1].to_owned(),
            m.numbers.folder(),
            m.numbers.patient.to_string(),
            m.sop_instance_uid.clone(),
        ]
    };
    let mut seen = BTreeSet::new();
    let images: Vec<Vec<String>> = sure
        .iter()
        .filter(|m| seen.insert(&*m.sop_instance_uid))
        .map(|m| names(m).into_iter().chain([m.path.display().to_string()]).collect())
        .collect();
    let counts = [sure.len(), images.len()];
    table("images.csv", &["set", "case", "patient", "sop_uid", "path"], images)?;
    let truth = sure.iter().enumerate().map(|(i, m)| {
        let kind = usize::try_from(m.lesion_type - 1).ok().and_then(|t| TYPE_NAMES.get(t)).copied().unwrap_or_default();
        let [long, short] = lengths(&m.points, m.spacing_mm);
        let corners = bounding_box(&m.points).map(|v| format!("{v:.3}"));
        names(m)
            .into_iter()
            .chain(corners)
            .chain(["recist5".to_owned(), (i + 1).to_string(), kind.to_owned(), format!("{:.2}", long.max(short))])
            .collect()
    });
    let head = ["set", "case", "patient", "sop_uid", "x1", "y1", "x2", "y2", "box_kind", "lesion_id", "type", "long_axis_mm"];
    table("truth.csv", &head, truth.collect())?;
    Ok(counts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::lab::evaluate::tables::Study;

    #[test]
    fn the_evaluator_reads_them_and_doubtful_images_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let mark = |uid: &str, x: f64, noisy: bool| Marked {
            numbers: Numbers { patient: 3, study: 1, series: 2 },
            sop_instance_uid: uid.into(),
            path: format!("/pacs/{uid}, a.dcm").into(),
            points: [[x, 20.0], [x + 20.0, 20.0], [x + 10.0, 14.0], [x + 10.0, 26.0]],
            spacing_mm: [0.5, 0.5],
            lesion_type: if noisy { -1 } else { 4 },
            split: 3,
            noisy,
        };
        let marked = [mark("2.25.1", 10.0, false), mark("2.25.1", 60.0, false), mark("2.25.2", 10.0, false), mark("2.25.2", 90.0, true)];
        assert_eq!(write(folder.path(), &marked).unwrap(), [2, 1]);
        let candidates = folder.path().join("candidates.csv");
        std::fs::write(&candidates, "sop_uid,x1,y1,x2,y2,score\n2.25.1,5,9,35,31,0.5\n").unwrap();
        let [truth, images] = ["truth.csv", "images.csv"].map(|n| folder.path().join(n));
        let study = Study::read(&candidates, &truth, &images, 5.0, &[]).unwrap();
        let slice = &study.slices[0];
        assert_eq!((study.slices.len(), slice.path.as_deref(), slice.patient.as_str()), (1, Some("/pacs/2.25.1, a.dcm"), "3"));
        assert_eq!(slice.boxes.truths, [[5.0, 9.0, 35.0, 31.0], [55.0, 9.0, 85.0, 31.0]]);
        assert_eq!(study.sets(), ["test"]);
        assert_eq!((slice.marks[0].kind.as_str(), slice.marks[0].long_axis_mm), ("liver", Some(10.0)));
    }
}
