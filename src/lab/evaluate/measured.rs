//! Reported lesions (`lesionwatch scan --json`) against truth: is the long axis right, and does a score of 0.7 mean seven in ten?
//!
//! A reported lesion is true where its box on its key image overlaps a truth box there by IoU > 0.5. Unmarked lesions count as false, so the share of
//! true ones is a lower bound.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::froc::iou;
use super::sheet::InputError;
use super::tables::{Place, Study};

/// Bins of the calibration curve, each a tenth of the score.
const BINS: usize = 10;

/// What is read of a result document; the rest of it says nothing about truth.
#[derive(Debug, Deserialize)]
struct Document {
    lesions: Vec<Lesion>,
}

#[derive(Debug, Deserialize)]
struct Lesion {
    score: f64,
    long_axis_mm: f64,
    box_px: [f64; 4],
    key_image: KeyImage,
}

#[derive(Debug, Deserialize)]
struct KeyImage {
    sop_instance_uid: String,
}

/// Error of the long axis, reported minus truth, mm, over the lesions that were found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AxisError {
    /// Set name, or `pooled`.
    pub set: String,
    /// Truth boxes with a known axis that a reported lesion matched; of several on one box the best-scored.
    pub n: usize,
    /// Mean absolute error, mm.
    pub mean_absolute_mm: f64,
    /// Median absolute error, mm.
    pub median_absolute_mm: f64,
    /// Mean signed error, mm: above 0 is reported too long.
    pub bias_mm: f64,
}

/// One bin of the calibration curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    /// From this score on.
    pub low: f64,
    /// Up to, the last bin inclusive.
    pub high: f64,
    /// Reported lesions in it.
    pub n: usize,
    /// Their mean score; `null` in an empty bin.
    pub mean_score: Option<f64>,
    /// Share of true ones among them; `null` in an empty bin.
    pub share_true: Option<f64>,
}

/// What reported lesions are worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Reported lesions whose key image takes part.
    pub lesions: usize,
    /// Reported lesions whose key image is of a set that was not asked for.
    pub lesions_of_other_sets: usize,
    /// Reported lesions whose key image the image table does not list.
    pub lesions_of_unlisted_images: usize,
    /// Of those that take part, true ones.
    pub lesions_true: usize,
    /// A row a set in which one was found, then pooled.
    pub long_axis: Vec<AxisError>,
    /// Score against truth.
    pub calibration: Vec<Bin>,
    /// Mean distance of score and share over the bins, weighted by their lesions.
    pub calibration_error: Option<f64>,
}

impl Measured {
    /// Reads `path`, an array of result documents, and holds it against `study`.
    ///
    /// # Errors
    /// No such file, not such documents, a number that is none.
    pub fn read(path: &Path, study: &Study) -> Result<Self, InputError> {
        let file = path.display().to_string();
        let unreadable = |reason: String| InputError::Unreadable { file: file.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        let documents: Vec<Document> = serde_json::from_str(&text)
            .map_err(|e| unreadable(format!("{e}; an array of result documents is needed, as `lesionwatch scan --json` writes it")))?;
        let mut lesions = Vec::new();
        for (d, document) in documents.into_iter().enumerate() {
            for (l, lesion) in document.lesions.into_iter().enumerate() {
                if !(0.0..=1.0).contains(&lesion.score) {
                    return Err(unreadable(format!("document {}, lesion {}: score {} is not within 0..1", d + 1, l + 1, lesion.score)));
                }
                lesions.push(lesion);
            }
        }
        // Best first: of several on one truth box the first one is measured.
        lesions.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(Self::of(&lesions, study))
    }

    fn of(lesions: &[Lesion], study: &Study) -> Self {
        let (mut other, mut unlisted) = (0, 0);
        let mut scored: Vec<(f64, bool)> = Vec::new();
        let mut taken: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        for lesion in lesions {
            let slice = match study.place(&lesion.key_image.sop_instance_uid) {
                None => {
                    unlisted += 1;
                    continue;
                }
                Some(Place::OtherSet) => {
                    other += 1;
                    continue;
                }
                Some(Place::Slice(i)) => i,
            };
            let overlaps = study.slices[slice].boxes.truths.iter().map(|t| iou(lesion.box_px, *t)).enumerate();
            let best = overlaps.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, overlap)| *overlap > 0.5);
            scored.push((lesion.score, best.is_some()));
            if let Some((truth, _)) = best
                && let Some(of_truth) = study.slices[slice].marks[truth].long_axis_mm
            {
                taken.entry((slice, truth)).or_insert(lesion.long_axis_mm - of_truth);
            }
        }
        let errors: Vec<(&str, f64)> = taken.iter().map(|((slice, _), e)| (study.slices[*slice].set.as_str(), *e)).collect();
        let mut long_axis: Vec<AxisError> = study
            .sets()
            .iter()
            .filter_map(|set| axis_error(set, errors.iter().filter(|(s, _)| s == set).map(|(_, e)| *e).collect()))
            .collect();
        if long_axis.len() > 1 {
            long_axis.extend(axis_error(super::tables::POOLED, errors.iter().map(|(_, e)| *e).collect()));
        }
        let calibration = bins(&scored);
        let distance = |b: &Bin| Some(b.n as f64 * (b.mean_score? - b.share_true?).abs());
        let calibration_error = (!scored.is_empty()).then(|| calibration.iter().filter_map(distance).sum::<f64>() / scored.len() as f64);
        Self {
            lesions: scored.len(),
            lesions_of_other_sets: other,
            lesions_of_unlisted_images: unlisted,
            lesions_true: scored.iter().filter(|(_, is_true)| *is_true).count(),
            long_axis,
            calibration,
            calibration_error,
        }
    }
}

fn axis_error(set: &str, errors: Vec<f64>) -> Option<AxisError> {
    let n = errors.len();
    let mut absolute: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
    absolute.sort_by(f64::total_cmp);
    (n > 0).then(|| AxisError {
        set: set.to_owned(),
        n,
        mean_absolute_mm: absolute.iter().sum::<f64>() / n as f64,
        median_absolute_mm: (absolute[(n - 1) / 2] + absolute[n / 2]) / 2.0,
        bias_mm: errors.iter().sum::<f64>() / n as f64,
    })
}

fn bins(scored: &[(f64, bool)]) -> Vec<Bin> {
    let bin_of = |score: f64| ((score * BINS as f64) as usize).min(BINS - 1);
    (0..BINS)
        .map(|i| {
            let inside: Vec<&(f64, bool)> = scored.iter().filter(|(score, _)| bin_of(*score) == i).collect();
            let n = inside.len();
            let mean = |sum: f64| (n > 0).then(|| sum / n as f64);
            Bin {
                low: i as f64 / BINS as f64,
                high: (i + 1) as f64 / BINS as f64,
                n,
                mean_score: mean(inside.iter().map(|(score, _)| score).sum()),
                share_true: mean(inside.iter().filter(|(_, is_true)| *is_true).count() as f64),
            }
        })
        .collect()
}
