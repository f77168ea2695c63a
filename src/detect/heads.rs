//! Raw head maps → candidates. Pure.
//!
//! The channels of a cell: 0 objectness logit, 1 quality (predicted IoU) logit, 2–5 log distance to the left, top, right and bottom side in strides,
//! 6–13 type logits, 14–15 log length of the long and short axis in strides, 16–17 sin 2θ and cos 2θ of the long axis.

use super::network::{HEAD_CHANNELS, STRIDES};
use super::{Candidate, Map, TYPES};

/// Candidates under this score are not kept.
pub const LEAST_SCORE: f32 = 0.01;
/// Candidates a slot before suppression: bounds the work on a map full of noise.
const MOST_BEFORE_NMS: usize = 1000;
/// e⁶ strides: no side of a box is further than any image is wide.
const MOST_LOG: f32 = 6.0;

/// Channel offsets, shared with training.
pub mod channel {
    /// Objectness logit.
    pub const OBJECTNESS: usize = 0;
    /// Quality logit.
    pub const QUALITY: usize = 1;
    /// Four log distances.
    pub const BOX: usize = 2;
    /// Eight type logits.
    pub const TYPES: usize = 6;
    /// Two log lengths.
    pub const AXES: usize = 14;
    /// sin 2θ, cos 2θ.
    pub const ANGLE: usize = 16;
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Score of a cell before calibration: the geometric mean of objectness and quality.
#[must_use]
pub fn score(cell: &[f32]) -> f32 {
    (sigmoid(cell[channel::OBJECTNESS]) * sigmoid(cell[channel::QUALITY])).sqrt()
}

/// Centre of cell `index` of a level, in slot pixels (pixel centres at whole numbers).
#[must_use]
pub fn cell_centre(index: usize, stride: usize) -> f32 {
    (index as f32 + 0.5) * stride as f32 - 0.5
}

/// Candidates of one slot, best first, before suppression. Boxes are clipped to the slot; cells with values that are not finite are passed over.
#[must_use]
pub fn decode(levels: &[Map]) -> Vec<Candidate> {
    let mut cells = Vec::new();
    for (level, map) in levels.iter().take(STRIDES.len()).enumerate() {
        for (index, cell) in map.data.chunks_exact(HEAD_CHANNELS).enumerate() {
            let score = score(cell);
            if score >= LEAST_SCORE && cell.iter().all(|v| v.is_finite()) {
                cells.push((score, level, index));
            }
        }
    }
    if cells.len() > MOST_BEFORE_NMS {
        cells.select_nth_unstable_by(MOST_BEFORE_NMS, |a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        cells.truncate(MOST_BEFORE_NMS);
    }
    let mut candidates: Vec<Candidate> = cells
        .into_iter()
        .map(|(score, level, index)| {
            let (map, stride) = (&levels[level], STRIDES[level]);
            let cell = &map.data[index * HEAD_CHANNELS..(index + 1) * HEAD_CHANNELS];
            candidate(cell, score, index % map.width, index / map.width, stride, map)
        })
        .collect();
    candidates.sort_by(super::nms::by_rank);
    candidates
}

fn candidate(cell: &[f32], score: f32, column: usize, row: usize, stride: usize, map: &Map) -> Candidate {
    let length = |log: f32| log.clamp(-MOST_LOG, MOST_LOG).exp() * stride as f32;
    let (x, y) = (cell_centre(column, stride), cell_centre(row, stride));
    let [l, t, r, b] = std::array::from_fn(|i| length(cell[channel::BOX + i]));
    let (right, bottom) = ((map.width * stride) as f32 - 1.0, (map.height * stride) as f32 - 1.0);
    let logits = &cell[channel::TYPES..channel::TYPES + TYPES];
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let powers: [f32; TYPES] = std::array::from_fn(|i| (logits[i] - most).exp());
    let sum: f32 = powers.iter().sum();
    Candidate {
        box_px: [(x - l).max(0.0), (y - t).max(0.0), (x + r).min(right), (y + b).min(bottom)],
        score,
        types: powers.map(|p| p / sum),
        axes_px: [length(cell[channel::AXES]), length(cell[channel::AXES + 1])],
        angle_rad: (0.5 * cell[channel::ANGLE].atan2(cell[channel::ANGLE + 1])).rem_euclid(std::f32::consts::PI),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(stride: usize) -> Map {
        let (height, width) = (64 / stride, 96 / stride);
        let mut data = vec![0.0; height * width * HEAD_CHANNELS];
        for cell in data.chunks_exact_mut(HEAD_CHANNELS) {
            cell[0] = -20.0;
        }
        Map { height, width, channels: HEAD_CHANNELS, data }
    }

    #[test]
    fn a_cell_becomes_the_box_it_describes() {
        let mut levels = vec![empty(4), empty(8), empty(16)];
        let cell = &mut levels[1].data[(3 * 12 + 5) * HEAD_CHANNELS..][..HEAD_CHANNELS];
        (cell[0], cell[1]) = (20.0, 20.0);
        cell[channel::BOX] = 2.0f32.ln();
        cell[channel::TYPES + 4] = 9.0;
        cell[channel::ANGLE] = 1.0; // θ = 45°
        let found = decode(&levels);
        assert_eq!(found.len(), 1);
        let (x, y) = (5.5 * 8.0 - 0.5, 3.5 * 8.0 - 0.5);
        for (got, expected) in found[0].box_px.iter().zip([x - 16.0, y - 8.0, x + 8.0, y + 8.0]) {
            assert!((got - expected).abs() < 1e-3);
        }
        assert!(found[0].score > 0.99 && found[0].types[4] > 0.99);
        assert!((found[0].angle_rad - std::f32::consts::FRAC_PI_4).abs() < 1e-5);
    }

    /// Of a map full of finds the best are decoded, whichever level they are on.
    #[test]
    fn no_more_than_the_most_are_decoded_and_these_are_the_best() {
        let mut levels = vec![empty(1), empty(8), empty(16)];
        for (i, cell) in levels[0].data.chunks_exact_mut(HEAD_CHANNELS).enumerate() {
            (cell[0], cell[1]) = ((i as f32 * 0.37).sin(), 20.0);
        }
        (levels[1].data[0], levels[1].data[1]) = (5.0, 20.0);
        let mut scores: Vec<f32> = levels.iter().flat_map(|l| l.data.chunks_exact(HEAD_CHANNELS)).map(score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let found = decode(&levels);
        assert!(scores.len() > 2 * MOST_BEFORE_NMS);
        assert_eq!(found.iter().map(|c| c.score).collect::<Vec<_>>(), scores[..MOST_BEFORE_NMS]);
        assert_eq!(found[0].score, sigmoid(5.0).sqrt());
    }

    #[test]
    fn what_is_not_finite_is_passed_over_and_boxes_stay_inside() {
        let mut levels = vec![empty(4), empty(8), empty(16)];
        levels[0].data[..2].copy_from_slice(&[f32::NAN, 5.0]);
        levels[0].data[HEAD_CHANNELS..HEAD_CHANNELS + 2].copy_from_slice(&[f32::INFINITY, 5.0]);
        let cell = &mut levels[2].data[..HEAD_CHANNELS];
        cell[..6].copy_from_slice(&[9.0, 9.0, 50.0, 50.0, 50.0, 50.0]);
        let found = decode(&levels);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].box_px, [0.0, 0.0, 95.0, 63.0]);
    }
}
