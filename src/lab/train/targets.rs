//! Which cells of which level answer for which lesion.

use crate::detect::heads::cell_centre;
use crate::detect::network::STRIDES;
use crate::lab::synthesize::{CROP, Sample, Truth};

/// Box sizes (square root of the area, slot pixels) each level answers for; neighbours overlap.
const SIZES: [[f32; 2]; 3] = [[0.0, 34.0], [24.0, 76.0], [56.0, f32::MAX]];
/// Cells within this many strides of a box's centre answer for it (centre sampling, Tian et al. 2019, FCOS).
const CENTRE_RADIUS: f32 = 1.5;

/// One answering cell: index in its level's batch, lesion.
pub struct Positive<'a> {
    /// `(sample · h + y) · w + x`.
    pub cell: u32,
    /// Centre of the cell, slot pixels.
    pub centre: [f32; 2],
    /// What it answers for.
    pub truth: &'a Truth,
}

/// Targets of one level over a batch.
pub struct LevelTargets<'a> {
    /// Stride of the level.
    pub stride: usize,
    /// Answering cells.
    pub positives: Vec<Positive<'a>>,
    /// Per cell: 1 where the objectness loss counts.
    pub counts: Vec<f32>,
    /// Per cell: 1 where a lesion is to be found.
    pub objectness: Vec<f32>,
}

/// Assigns the lesions of a batch to cells. A cell in two lesions answers for the smaller.
#[must_use]
pub fn assign(samples: &[Sample]) -> Vec<LevelTargets<'_>> {
    STRIDES
        .iter()
        .zip(SIZES)
        .map(|(&stride, sizes)| {
            let side = CROP / stride;
            let mut level = LevelTargets {
                stride,
                positives: Vec::new(),
                counts: vec![1.0; samples.len() * side * side],
                objectness: vec![0.0; samples.len() * side * side],
            };
            for (n, sample) in samples.iter().enumerate() {
                for i in 0..side * side {
                    let centre = [cell_centre(i % side, stride), cell_centre(i / side, stride)];
                    let cell = n * side * side + i;
                    let answers =
                        sample.truths.iter().filter(|t| answers_for(t, centre, stride, sizes)).min_by(|a, b| size(a).total_cmp(&size(b)));
                    if let Some(truth) = answers {
                        level.objectness[cell] = 1.0;
                        level.positives.push(Positive { cell: cell as u32, centre, truth });
                    } else if sample.ignore.iter().any(|b| inside(b, centre)) || sample.truths.iter().any(|t| in_core(t, centre)) {
                        // Unmarked disease, and the middle of a lesion that another level answers for, count neither way.
                        level.counts[cell] = 0.0;
                    }
                }
            }
            level
        })
        .collect()
}

fn size(t: &Truth) -> f32 {
    ((t.box_px[2] - t.box_px[0]).max(1.0) * (t.box_px[3] - t.box_px[1]).max(1.0)).sqrt()
}

fn inside(b: &[f32; 4], [x, y]: [f32; 2]) -> bool {
    x >= b[0] && x <= b[2] && y >= b[1] && y <= b[3]
}

fn middle(b: &[f32; 4]) -> [f32; 2] {
    [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0]
}

fn answers_for(t: &Truth, centre: [f32; 2], stride: usize, sizes: [f32; 2]) -> bool {
    let m = middle(&t.box_px);
    let near = (centre[0] - m[0]).abs().max((centre[1] - m[1]).abs()) <= CENTRE_RADIUS * stride as f32;
    near && inside(&t.box_px, centre) && (sizes[0]..sizes[1]).contains(&size(t))
}

fn in_core(t: &Truth, centre: [f32; 2]) -> bool {
    let (m, w, h) = (middle(&t.box_px), t.box_px[2] - t.box_px[0], t.box_px[3] - t.box_px[1]);
    (centre[0] - m[0]).abs() < w / 4.0 && (centre[1] - m[1]).abs() < h / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(box_px: [f32; 4]) -> Sample {
        let truth = Truth { box_px, lesion_type: 0, axes_px: None, angle_rad: 0.0 };
        Sample { slots: 1, data: Vec::new(), truths: vec![truth], ignore: vec![[0.0, 0.0, 20.0, 20.0]] }
    }

    #[test]
    fn each_size_has_cells_and_they_lie_in_its_middle() {
        for side in [14.0f32, 30.0, 50.0, 70.0, 120.0] {
            let samples = [sample([100.0, 100.0, 100.0 + side, 100.0 + side])];
            let levels = assign(&samples);
            let all: Vec<_> = levels.iter().flat_map(|l| l.positives.iter().map(move |p| (l.stride, p))).collect();
            assert!(all.len() >= 4, "{side}: {}", all.len());
            for (stride, p) in all {
                let m = 100.0 + side / 2.0;
                assert!((p.centre[0] - m).abs() <= CENTRE_RADIUS * stride as f32);
            }
        }
    }

    #[test]
    fn ignored_regions_count_neither_way() {
        let samples = [sample([100.0, 100.0, 130.0, 130.0])];
        let levels = assign(&samples);
        assert_eq!(levels[0].counts[0], 0.0);
        assert_eq!(levels[0].counts[CROP / 4 - 1], 1.0);
    }
}
