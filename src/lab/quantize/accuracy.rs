//! What a quantized engine costs: sensitivity on synthetic lesions of the series kept for validation, and boxes at the operating point that it keeps.

use serde::Serialize;

use crate::detect::bundle::Bundle;
use crate::detect::{Engine, EngineError, Features, heads, nms};
use crate::error::Failure;
use crate::lab::evaluate::froc::{AT, iou};
use crate::lab::evaluate::synthetic::{self, Validation};
use crate::lab::slots::SeriesSlots;
use crate::lab::synthesize::Sampler;
use crate::lesion::score::calibrate;

/// The false positives an image at which the loss counts, by its place in [`AT`].
const AT_FIVE: usize = 4;
/// Sensitivity that int8 may lose there, in points.
pub const MOST_LOSS: f64 = 0.5;
/// Share of the boxes that f32 reports at the default operating point which int8 has to report too, %: the operating point was measured with f32's scores.
pub const LEAST_FLAGGED_PERCENT: f64 = 90.0;
/// Boxes that overlap so much are the same box.
pub const SAME_BOX: f64 = 0.9;
/// Seeds of the crops, those of `export`: one slot, full context.
const SEEDS: [u64; 2] = [11, 12];

/// One engine against f32.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Engine and format.
    pub engine: String,
    /// Crops of each kind.
    pub crops: usize,
    /// Lesions in them.
    pub lesions: usize,
    /// Sensitivity in % at 5 false positives a crop: one slot, full context.
    pub sensitivity_at_5: [f64; 2],
    /// Points lost against f32, one slot, full context; negative where it found more.
    pub points_lost: [f64; 2],
    /// Boxes of f32 at or above the default operating point, in crops and series.
    pub boxes: usize,
    /// % of them that the engine has at IoU ≥ 0.9, at any score.
    pub same_box_percent: f64,
    /// % of them that the engine has at IoU ≥ 0.9 and at or above the operating point.
    pub flagged_too_percent: f64,
}

impl Cost {
    /// Whether an engine that costs this may stand in for f32.
    #[must_use]
    pub fn is_bearable(&self) -> bool {
        self.lost() <= MOST_LOSS && self.flagged_too_percent >= LEAST_FLAGGED_PERCENT
    }

    /// The mean loss over both kinds of crops, points.
    #[must_use]
    pub fn lost(&self) -> f64 {
        (self.points_lost[0] + self.points_lost[1]) / 2.0
    }
}

/// Boxes with scores, one image after the other.
type Boxes = Vec<Vec<([f64; 4], f64)>>;

/// What one engine says of crops and series.
pub struct Said {
    sensitivity: [f64; 2],
    lesions: usize,
    boxes: Boxes,
}

/// Runs `engine` over `crops` crops of each kind and every slot of `series`.
///
/// # Errors
/// The engine's; a slice that does not decode.
pub fn listen(engine: &mut dyn Engine, sampler: &Sampler, crops: usize, series: Option<&SeriesSlots>) -> Result<Said, Failure> {
    let context = engine.context();
    let mut said = Said { sensitivity: [0.0; 2], lesions: 0, boxes: Vec::new() };
    for (n, (slots, seed)) in [1, context].into_iter().zip(SEEDS).enumerate() {
        let Validation { images, .. } = synthetic::run(sampler, engine, crops, slots, seed).map_err(super::internal)?;
        said.sensitivity[n] =
            crate::lab::evaluate::froc::matches(&images, crate::lab::evaluate::froc::Rule::Iou).sensitivities()[AT_FIVE] * 100.0;
        said.lesions += images.iter().map(|i| i.truths.len()).sum::<usize>();
        said.boxes.extend(images.into_iter().map(|i| i.predictions));
    }
    if let Some(series) = series {
        said.boxes.extend(of_series(engine, series)?);
    }
    Ok(said)
}

/// Boxes of every slot of a series.
///
/// # Errors
/// As [`listen`].
pub fn of_series(engine: &mut dyn Engine, series: &SeriesSlots) -> Result<Boxes, Failure> {
    let failed = |e: EngineError| super::internal(e);
    let mut features: Vec<Features> = Vec::with_capacity(series.count());
    for i in 0..series.count() {
        features.push(engine.encode(&series.slot(i)?).map_err(failed)?);
    }
    let mut boxes = Vec::with_capacity(features.len());
    for i in 0..features.len() {
        let window: Vec<&Features> = series.window(i, engine.context()).iter().map(|w| &features[*w]).collect();
        let kept = nms::finds(heads::decode(&engine.heads(&window).map_err(failed)?));
        boxes.push(kept.iter().map(|c| (c.box_px.map(f64::from), f64::from(c.score))).collect());
    }
    Ok(boxes)
}

/// Boxes of `reference` at or above `score`, how many of them `other` has at IoU ≥ 0.9, and how many of those at or above `score` too.
#[must_use]
pub fn agreement(reference: &Boxes, other: &Boxes, score: f64) -> [usize; 3] {
    let mut counts = [0; 3];
    for (reference, other) in reference.iter().zip(other) {
        for (b, _) in reference.iter().filter(|(_, s)| *s >= score) {
            let same = other.iter().filter(|(o, _)| iou(*b, *o) >= SAME_BOX).map(|(_, s)| *s).reduce(f64::max);
            counts[0] += 1;
            counts[1] += usize::from(same.is_some());
            counts[2] += usize::from(same.is_some_and(|s| s >= score));
        }
    }
    counts
}

/// The raw score from which on the default operating point reports; bisected, since calibration only rises.
#[must_use]
pub fn raw_operating_point(bundle: &Bundle) -> f64 {
    let wanted = bundle.operating_point().map_or(1.0, |p| p.score);
    let (mut low, mut high) = (0.0f32, 1.0f32);
    for _ in 0..32 {
        let middle = f32::midpoint(low, high);
        if calibrate(middle, &bundle.description.calibration) >= wanted { high = middle } else { low = middle }
    }
    f64::from(high)
}

/// Compares what an engine said with what f32 said.
#[must_use]
pub fn cost(name: String, crops: usize, reference: &Said, other: &Said, score: f64) -> Cost {
    let [boxes, same, flagged] = agreement(&reference.boxes, &other.boxes, score);
    let percent = |n: usize| n as f64 * 100.0 / boxes.max(1) as f64;
    Cost {
        engine: name,
        crops,
        lesions: reference.lesions,
        sensitivity_at_5: other.sensitivity,
        points_lost: std::array::from_fn(|i| reference.sensitivity[i] - other.sensitivity[i]),
        boxes,
        same_box_percent: percent(same),
        flagged_too_percent: percent(flagged),
    }
}

/// The table for a terminal.
#[must_use]
pub fn text(costs: &[Cost]) -> String {
    let at = AT[AT_FIVE];
    let mut out = format!(
        "{:<18} {:>14} {:>14} {:>12} {:>7} {:>12} {:>12}\n",
        "engine",
        format!("one slot @{at}"),
        format!("context @{at}"),
        "points lost",
        "boxes",
        "IoU>=0.9 %",
        "flagged %"
    );
    for c in costs {
        out += &format!(
            "{:<18} {:>14.1} {:>14.1} {:>12} {:>7} {:>12.1} {:>12.1}\n",
            c.engine,
            c.sensitivity_at_5[0],
            c.sensitivity_at_5[1],
            format!("{:+.1} {:+.1}", c.points_lost[0], c.points_lost[1]),
            c.boxes,
            c.same_box_percent,
            c.flagged_too_percent
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_counted_once_by_place_and_once_by_score() {
        let at = |x: f64, score: f64| ([x, 0.0, x + 19.0, 19.0], score);
        let reference = vec![vec![at(0.0, 0.9), at(50.0, 0.9), at(100.0, 0.9), at(150.0, 0.2)]];
        // The first is the same, the second half a pixel off and weaker, the third four pixels off; the fourth was not flagged.
        let other = vec![vec![at(0.0, 0.8), at(50.5, 0.4), at(104.0, 0.9)]];
        assert_eq!(agreement(&reference, &other, 0.5), [3, 2, 1]);
    }
}
