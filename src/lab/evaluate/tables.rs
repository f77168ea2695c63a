//! Candidates, truth and images of an evaluation, read and held against each other.
//!
//! Duty: what does not fit is refused by file, line and column, or counted in [`Counts`]; nothing is passed over in silence.
//! A *set* is a collection, a *case* one series of it (a volume), a *patient* what the bootstrap draws; a lesion is known by case and `lesion_id`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::Serialize;

use super::froc::Image;
use super::sheet::{InputError, Sheet};

/// Name of the row of all sets together.
pub const POOLED: &str = "pooled";

/// Kinds of truth box: a tight box of a mask, which `pad` grows, and RECIST end points grown by 5 px already (DeepLesion's).
const BOX_KINDS: [&str; 3] = ["mask", "recist5", ""];

/// A truth box, but for its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// `lesion_id`, unique in its case.
    pub lesion: String,
    /// `type`; `unknown` where empty.
    pub kind: String,
    /// RECIST long axis of the whole lesion, where known.
    pub long_axis_mm: Option<f64>,
}

/// One image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    /// Collection.
    pub set: String,
    /// Series.
    pub case: String,
    /// Patient.
    pub patient: String,
    /// (0008,0018)
    pub sop_uid: String,
    /// File, relative to the images' root.
    pub path: Option<String>,
    /// Predictions and (grown) truth boxes.
    pub boxes: Image,
    /// One a truth box.
    pub marks: Vec<Mark>,
    /// Type of each prediction, empty where unknown.
    pub kinds: Vec<String>,
}

/// How much was read, and how much of it took no part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Images that take part.
    pub images: usize,
    /// Images of sets that were not asked for.
    pub images_of_other_sets: usize,
    /// Truth boxes that take part.
    pub truths: usize,
    /// Truth boxes of sets that were not asked for.
    pub truths_of_other_sets: usize,
    /// Truth boxes whose long axis is not known: they are in no size row.
    pub truths_without_size: usize,
    /// Candidates that take part.
    pub candidates: usize,
    /// Candidates of sets that were not asked for.
    pub candidates_of_other_sets: usize,
    /// Candidates of images that the image table does not list.
    pub candidates_of_unlisted_images: usize,
}

/// Everything an evaluation is made from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Study {
    /// In the order of the image table.
    pub slices: Vec<Slice>,
    /// What took part.
    pub counts: Counts,
    index: HashMap<String, Place>,
}

/// Where an image of the table went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Index into [`Study::slices`].
    Slice(usize),
    /// Its set was not asked for.
    OtherSet,
}

impl Study {
    /// Reads candidates (`sop_uid,x1,y1,x2,y2,score` and, where known, `type`), truth
    /// (`sop_uid,x1,y1,x2,y2,box_kind,lesion_id,type`, `long_axis_mm`) and images (`set,case,patient,sop_uid`, `path`). Truth boxes of kind `mask` are
    /// grown by `pad_px` on each side. `sets` empty means every set.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn read(candidates: &Path, truth: &Path, images: &Path, pad_px: f64, sets: &[String]) -> Result<Self, InputError> {
        let mut study = Self::default();
        study.read_images(images, sets)?;
        study.read_truth(truth, pad_px)?;
        study.read_candidates(candidates)?;
        Ok(study)
    }

    /// As [`Study::read`], but for candidates: what there is to be found.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn marked(truth: &Path, images: &Path, pad_px: f64) -> Result<Self, InputError> {
        let mut study = Self::default();
        study.read_images(images, &[])?;
        study.read_truth(truth, pad_px)?;
        Ok(study)
    }

    /// Where the image with this UID went, `None` where the table does not list it.
    #[must_use]
    pub fn place(&self, sop_uid: &str) -> Option<Place> {
        self.index.get(sop_uid).copied()
    }

    /// Names of the sets that take part, sorted.
    #[must_use]
    pub fn sets(&self) -> Vec<String> {
        self.slices.iter().map(|s| s.set.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn read_images(&mut self, path: &Path, sets: &[String]) -> Result<(), InputError> {
        let sheet = Sheet::read(path, &["set", "case", "patient", "sop_uid"])?;
        let mut known = BTreeSet::new();
        for line in sheet.lines() {
            let text = |column| line.text(column).map(str::to_owned);
            let (set, sop_uid) = (text("set")?, text("sop_uid")?);
            if set == POOLED {
                return Err(line.complain("set", "is the name of the row of all sets together; call it something else"));
            }
            known.insert(set.clone());
            let wanted = sets.is_empty() || sets.contains(&set);
            let place = if wanted { Place::Slice(self.slices.len()) } else { Place::OtherSet };
            if self.index.insert(sop_uid.clone(), place).is_some() {
                return Err(line.complain("sop_uid", "is there twice: one line an image"));
            }
            if wanted {
                let path = line.get("path").map(str::to_owned);
                self.slices.push(Slice { set, case: text("case")?, patient: text("patient")?, sop_uid, path, ..Slice::default() });
            } else {
                self.counts.images_of_other_sets += 1;
            }
        }
        self.counts.images = self.slices.len();
        let file = sheet.file().to_owned();
        if let Some(set) = sets.iter().find(|s| !known.contains(*s)) {
            return Err(InputError::Set { file, set: set.clone(), known: known.into_iter().collect::<Vec<_>>().join(", ") });
        }
        if self.slices.is_empty() {
            return Err(InputError::Whole { file, complaint: "lists no image".into() });
        }
        Ok(())
    }

    fn read_truth(&mut self, path: &Path, pad_px: f64) -> Result<(), InputError> {
        let sheet = Sheet::read(path, &["sop_uid", "x1", "y1", "x2", "y2", "box_kind", "lesion_id", "type"])?;
        for line in sheet.lines() {
            let box_kind = line.get("box_kind").unwrap_or_default();
            if !BOX_KINDS.contains(&box_kind) {
                return Err(line.complain("box_kind", "is not known: `mask`, `recist5` or nothing"));
            }
            let [x1, y1, x2, y2] = line.box_px()?;
            let long_axis_mm = line.number_if_any("long_axis_mm")?;
            if long_axis_mm.is_some_and(|mm| mm <= 0.0) {
                return Err(line.complain("long_axis_mm", "is not a length; leave it empty where it is not known"));
            }
            let mark =
                Mark { lesion: line.text("lesion_id")?.to_owned(), kind: line.get("type").unwrap_or("unknown").to_owned(), long_axis_mm };
            match self.place(line.text("sop_uid")?) {
                None => return Err(line.complain("sop_uid", "is an image that the image table does not list")),
                Some(Place::OtherSet) => self.counts.truths_of_other_sets += 1,
                Some(Place::Slice(i)) => {
                    let slice = &mut self.slices[i];
                    for (column, of_image) in [("set", &slice.set), ("case", &slice.case), ("patient", &slice.patient)] {
                        if line.get(column).is_some_and(|v| v != of_image) {
                            return Err(line.complain(column, format!("is {of_image:?} in the image table")));
                        }
                    }
                    let grow = if box_kind == "mask" { pad_px } else { 0.0 };
                    slice.boxes.truths.push([x1 - grow, y1 - grow, x2 + grow, y2 + grow]);
                    self.counts.truths += 1;
                    self.counts.truths_without_size += usize::from(mark.long_axis_mm.is_none());
                    slice.marks.push(mark);
                }
            }
        }
        if self.counts.truths == 0 {
            let complaint = "holds no box of the images that take part: there is nothing to find".into();
            return Err(InputError::Whole { file: sheet.file().to_owned(), complaint });
        }
        Ok(())
    }

    fn read_candidates(&mut self, path: &Path) -> Result<(), InputError> {
        let sheet = Sheet::read(path, &["sop_uid", "x1", "y1", "x2", "y2", "score"])?;
        let counts = &mut self.counts;
        for line in sheet.lines() {
            let (box_px, score) = (line.box_px()?, line.finite("score")?);
            match self.index.get(line.text("sop_uid")?) {
                None => counts.candidates_of_unlisted_images += 1,
                Some(Place::OtherSet) => counts.candidates_of_other_sets += 1,
                Some(Place::Slice(i)) => {
                    counts.candidates += 1;
                    self.slices[*i].boxes.predictions.push((box_px, score));
                    self.slices[*i].kinds.push(line.get("type").unwrap_or_default().to_owned());
                }
            }
        }
        // A table of zeros would look like a bad detector where it is a wrong file.
        let complaint = match (counts.candidates + counts.candidates_of_other_sets, counts.candidates_of_unlisted_images) {
            (0, 0) => "holds no candidate: was the scan run on these images (`lesionwatch scan --force --candidates`)?".to_owned(),
            (0, n) => format!("none of its {n} candidates is on an image of the image table, column sop_uid: another collection's file?"),
            _ => return Ok(()),
        };
        Err(InputError::Whole { file: sheet.file().to_owned(), complaint })
    }
}
