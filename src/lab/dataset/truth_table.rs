//! DICOM folders with the evaluator's tables beside them: `images.csv` (`set,case,patient,sop_uid,path`) and `truth.csv`
//! (`sop_uid,x1,y1,x2,y2,box_kind,lesion_id,type`).
//!
//! The images of a case are the context of its key slices, in the order of their positions; a header is read when its case is first asked for. Boxes of
//! kind `mask` are grown by DeepLesion's 5 px. There is no split in the tables: patients fall into 70/15/15 by the hash that `mine` uses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::key_slice::{KeySlice, Mark, Split, Stack};
use super::picture::Unreadable;
use crate::detect::TYPE_NAMES;
use crate::error::{Class, Failure};
use crate::lab::evaluate::tables::{Slice, Study};
use crate::lab::mine::rules::{MARGIN_PX, patient_hash, split};
use crate::series::header;
use crate::volume::frame::ImageGrid;

/// Slice interval of a case of one image, mm: nothing depends on it.
const SINGLE_INTERVAL_MM: f64 = 5.0;

/// Where the image of a key slice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    case: u32,
    image: u32,
}

/// Positions of a case's images, rising, mm.
type Positions = Vec<(f64, u32)>;

/// The images of a table, by case.
pub struct Images {
    root: PathBuf,
    /// Below the root.
    files: Vec<Box<str>>,
    /// Images of each case, and their order once it was asked for.
    cases: Vec<(Vec<u32>, OnceLock<Positions>)>,
}

/// Part of the dataset that a patient is in.
#[must_use]
pub fn split_of(patient: &str) -> Split {
    Split::of_code(split(&patient_hash(patient)))
}

/// Index of a type by name.
#[must_use]
pub fn type_of(name: &str) -> Option<u8> {
    TYPE_NAMES.iter().position(|n| n.eq_ignore_ascii_case(name)).and_then(|i| u8::try_from(i).ok())
}

/// Reads both tables.
///
/// # Errors
/// [`crate::lab::evaluate::sheet::InputError`].
pub fn study(folder: &Path) -> Result<Study, Failure> {
    Ok(Study::marked(&folder.join("truth.csv"), &folder.join("images.csv"), MARGIN_PX)?)
}

/// Reads the tables of `folder`; no image.
///
/// # Errors
/// Tables that do not fit, an image with marks but without a path.
pub fn open(folder: &Path) -> Result<(Images, Vec<KeySlice<Place>>), Failure> {
    let study = study(folder)?;
    let mut images = Images { root: folder.to_owned(), files: Vec::new(), cases: Vec::new() };
    let mut cases: HashMap<(&str, &str), u32> = HashMap::new();
    let mut keys = Vec::new();
    let id = |n: usize| u32::try_from(n).map_err(|_| Failure::new(Class::Data, format!("{}: too many images", folder.display())));
    for slice in &study.slices {
        let Some(path) = &slice.path else {
            let text = format!("{}: image {} has no path: column path is needed", folder.join("images.csv").display(), slice.sop_uid);
            return Err(Failure::new(Class::Data, text));
        };
        let image = id(images.files.len())?;
        images.files.push(path.as_str().into());
        let fresh = id(images.cases.len())?;
        let case = *cases.entry((&slice.set, &slice.case)).or_insert(fresh);
        if case == fresh {
            images.cases.push((Vec::new(), OnceLock::new()));
        }
        images.cases[case as usize].0.push(image);
        if !slice.marks.is_empty() {
            keys.push(KeySlice { split: split_of(&slice.patient), marks: marks(slice), place: Place { case, image } });
        }
    }
    Ok((images, keys))
}

fn marks(slice: &Slice) -> Box<[Mark]> {
    let of = |(b, mark): (&[f64; 4], &crate::lab::evaluate::tables::Mark)| Mark {
        box_px: b.map(|v| v as f32),
        points: None,
        lesion_type: type_of(&mark.kind),
        noisy: false,
    };
    slice.boxes.truths.iter().zip(&slice.marks).map(of).collect()
}

impl Images {
    fn path(&self, image: u32) -> PathBuf {
        self.root.join(&*self.files[image as usize])
    }

    /// Images whose header cannot be read are no context: they are missing.
    fn positions(&self, case: u32) -> &Positions {
        let (images, order) = &self.cases[case as usize];
        order.get_or_init(|| {
            let z = |image: u32| header::read(&self.path(image)).ok()?.position_mm.map(|p| (p[2], image));
            let mut positions: Positions = images.iter().filter_map(|i| z(*i)).collect();
            positions.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            positions
        })
    }

    /// The slices of the key slice's case.
    ///
    /// # Errors
    /// The key image has no header, size, spacing or position.
    pub fn stack(&self, place: &Place) -> Result<Stack, Unreadable> {
        let path = self.path(place.image);
        let bad = |e: &dyn std::fmt::Display| Unreadable::new(&path, e);
        let header = header::read(&path).map_err(|e| bad(&e))?;
        let spacing_mm = header.pixel_spacing_mm.ok_or_else(|| bad(&"no Pixel Spacing"))?;
        let key_mm = header.position_mm.ok_or_else(|| bad(&"no Image Position (Patient)"))?[2];
        let (Some(rows), Some(cols)) = (header.rows, header.cols) else { return Err(bad(&"no Rows and Columns")) };
        let mut slices: Vec<(f64, PathBuf)> = Vec::new();
        for (z, image) in self.positions(place.case) {
            let z = z - key_mm;
            let is_key = *image == place.image;
            match slices.last_mut() {
                // Of two images at one position the key image counts, else the first.
                Some(last) if last.0 == z => {
                    if is_key {
                        last.1.clone_from(&path);
                    }
                }
                _ => slices.push((z, self.path(*image))),
            }
        }
        let mut gaps: Vec<f64> = slices.windows(2).map(|w| w[1].0 - w[0].0).collect();
        gaps.sort_by(f64::total_cmp);
        let interval_mm = gaps.get(gaps.len() / 2).copied().unwrap_or(SINGLE_INTERVAL_MM);
        Ok(Stack { grid: ImageGrid { rows: rows.into(), cols: cols.into(), spacing_mm }, interval_mm, slices })
    }
}
