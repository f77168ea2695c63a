//! How good the averaged weights are by now: FROC on the validation split of marked key slices, or on synthetic lesions in series kept out of training.
//!
//! Marked slices go the way of the product: whole images on the detector's frame, the slots round the key slice, heads, suppression, boxes in image pixels.
//! A look at a part of the split, evenly spread and always the same, so that training goes on after seconds; the evaluator judges, this only steers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoint::Progress;
use crate::detect::candle_engine::CandleEngine;
use crate::detect::{Engine, EngineError, Features, heads, nms};
use crate::error::{Class, Failure};
use crate::lab::dataset::marked::{Loaded, Mark, MarkedSlices};
use crate::lab::evaluate::froc::{AT, Image, Rule, matches};
use crate::lab::evaluate::synthetic;
use crate::lab::synthesize::Sampler;
use crate::volume::frame::{Frame, interpolate, resample};
use crate::volume::window::slot_input;

/// Marked images of one look.
const MOST_IMAGES: usize = 64;
/// Synthetic crops of one look.
const CROPS: usize = 160;
/// A look ends after this, with what it has got.
const MOST_TIME: Duration = Duration::from_secs(20);
/// Seed of the synthetic crops: every look sees the same.
const SEED: u64 = 21;
/// Which of [`AT`] are reported: 1, 2, 4, 5 and 8 false positives an image.
const REPORTED: std::ops::Range<usize> = 1..6;
/// File in the output folder.
pub const FILE: &str = "validation.csv";

/// What to validate on.
pub enum Validation {
    /// Key slices.
    Marked(MarkedSlices),
    /// Crops with painted lesions.
    Synthetic(Sampler),
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Images (or crops).
    pub images: usize,
    /// Boxes to be found.
    pub boxes: usize,
    /// At 1, 2, 4, 5, 8 false positives an image.
    pub sensitivities: [f64; 5],
    /// How long it took.
    pub seconds: f64,
}

impl Validation {
    /// One look with `engine`.
    ///
    /// # Errors
    /// The engine's; no image that can be read.
    pub fn look(&self, engine: &mut CandleEngine) -> Result<Scores, Failure> {
        let start = Instant::now();
        let failed = |e: EngineError| Failure::new(Class::Internal, format!("validation: {e}"));
        let images = match self {
            Self::Synthetic(sampler) => synthetic::run(sampler, engine, CROPS, 1, SEED).map_err(failed)?.images,
            Self::Marked(slices) => {
                let (all, wanted) = (slices.keys().len(), slices.keys().len().min(MOST_IMAGES));
                let mut images = Vec::new();
                for n in 0..wanted {
                    if start.elapsed() > MOST_TIME {
                        break;
                    }
                    let key = n * all / wanted;
                    // Named and counted where it cannot be read.
                    if let Ok(loaded) = slices.load(key, engine.context()) {
                        images.push(image(&loaded, &slices.keys()[key].marks, engine).map_err(failed)?);
                    }
                }
                if images.is_empty() {
                    let text = format!("{}: none of the images to validate on can be read", slices.root().display());
                    return Err(Failure::new(Class::Data, text));
                }
                images
            }
        };
        let all = matches(&images, Rule::Iou).sensitivities();
        let mut sensitivities = [0.0; 5];
        sensitivities.copy_from_slice(&all[REPORTED]);
        let boxes = images.iter().map(|i| i.truths.len()).sum();
        Ok(Scores { images: images.len(), boxes, sensitivities, seconds: start.elapsed().as_secs_f64() })
    }
}

/// Predictions and truth of one key slice, image pixels. What lies in a noisy mark counts neither way.
fn image(loaded: &Loaded, marks: &[Mark], engine: &mut CandleEngine) -> Result<Image, EngineError> {
    let grid = loaded.scan.grid;
    let frame = Frame::choose(grid, Some(loaded.key().body));
    let window = loaded.grid.window(loaded.slot, engine.context());
    let mut features: Vec<(usize, Features)> = Vec::new();
    for slot in &window {
        if features.iter().any(|(s, _)| s == slot) {
            continue;
        }
        let at = loaded.grid.slots[*slot];
        let lower = resample(&loaded.scan.slices[at.lower].image, &frame);
        let plane =
            if at.weight == 0.0 { lower } else { interpolate(&lower, &resample(&loaded.scan.slices[at.upper].image, &frame), at.weight) };
        features.push((*slot, engine.encode(&slot_input(&plane))?));
    }
    let of_window: Vec<&Features> = window.iter().filter_map(|w| features.iter().find(|(s, _)| s == w).map(|(_, f)| f)).collect();
    let kept = nms::finds(heads::decode(&engine.heads(&of_window)?));
    let wide = |b: [f32; 4]| b.map(f64::from);
    let predictions = kept.iter().map(|c| (frame.box_to_image(c.box_px, grid), c.score)).filter(|(b, _)| {
        let [x, y] = [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0];
        !marks.iter().any(|m| m.noisy && x >= m.box_px[0] && x <= m.box_px[2] && y >= m.box_px[1] && y <= m.box_px[3])
    });
    Ok(Image {
        predictions: predictions.map(|(b, score)| (wide(b), f64::from(score))).collect(),
        truths: marks.iter().filter(|m| !m.noisy).map(|m| wide(m.box_px)).collect(),
    })
}

impl Scores {
    /// One line for the terminal.
    #[must_use]
    pub fn line(&self, progress: Progress) -> String {
        let at: Vec<String> = AT[REPORTED].iter().zip(self.sensitivities).map(|(fp, s)| format!("{:.1} % at {fp}", s * 100.0)).collect();
        format!(
            "validation at step {}: {} FP an image ({} boxes, {} images, {:.1} s)",
            progress.steps,
            at.join(", "),
            self.boxes,
            self.images,
            self.seconds
        )
    }

    /// Appends to `validation.csv` in `folder`; the header is written first.
    ///
    /// # Errors
    /// [`Class::Io`].
    pub fn append(&self, folder: &Path, progress: Progress) -> Result<(), Failure> {
        let path: PathBuf = folder.join(FILE);
        let io = |e: std::io::Error| Failure::new(Class::Io, format!("{}: {e}", path.display()));
        std::fs::create_dir_all(folder).map_err(io)?;
        let fresh = !path.exists();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        let mut text = String::new();
        if fresh {
            let at: Vec<String> = AT[REPORTED].iter().map(|fp| format!("sensitivity_at_{fp}")).collect();
            text = format!("step,samples,minutes,images,boxes,{}\n", at.join(","));
        }
        let values: Vec<String> = self.sensitivities.iter().map(|s| format!("{s:.4}")).collect();
        let (steps, samples, minutes) = (progress.steps, progress.samples, progress.minutes);
        text += &format!("{steps},{samples},{minutes:.2},{},{},{}\n", self.images, self.boxes, values.join(","));
        file.write_all(text.as_bytes()).map_err(io)
    }
}
