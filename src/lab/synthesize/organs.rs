//! Organs, vessels and bowel loops enhanced each by an amount of its own, as an injection does and one tone curve for all of a slice cannot: kidneys before
//! the liver, veins before or after them. What belongs together is told by shape alone: soft tissue that hangs together when its necks are cut.

use rand::Rng;

use super::Planes;
use super::mask::{distance, neighbours, parts};

/// Soft tissue, unenhanced or not, as the mean of 3 × 3 pixels, HU.
const SOFT_HU: std::ops::Range<f32> = -10.0..230.0;
/// Where it begins, seen from fat: none and all of the enhancement, HU.
const EDGE_HU: [f32; 2] = [-40.0, 15.0];
/// Necks up to twice as wide are cut, pixels.
const NECK_PX: std::ops::Range<f32> = 1.5..6.0;
/// A part's section without its rim of [`NECK_PX`], pixels: from a vein of 6 mm to a kidney, a spleen or the heart.
const PART_PX: std::ops::Range<usize> = 4..9000;
/// Parts that change.
const PARTS: std::ops::Range<usize> = 1..7;
/// Added to a part, HU; what is bright already may also lose its enhancement.
const MORE_HU: std::ops::Range<f32> = 10.0..130.0;
const LESS_HU: std::ops::Range<f32> = -70.0..-10.0;
const BRIGHT_HU: f32 = 100.0;
/// Width of the edge towards what a part touches, pixels.
const BLEND_PX: f32 = 1.5;

/// Enhances some of the parts of the middle plane, and what continues them on the others.
pub fn enhance(planes: &mut Planes, rng: &mut impl Rng) {
    let size = planes.size;
    let neck = rng.random_range(NECK_PX);
    let smooth: Vec<Vec<f32>> = planes.hu.iter().map(|p| mean_of_nine(p, size)).collect();
    let cores: Vec<Vec<bool>> = smooth.iter().map(|s| core(s, size, neck)).collect();
    let middle = planes.hu.len() / 2;
    let mut parts: Vec<Vec<usize>> = parts(&cores[middle], size).into_iter().filter(|p| PART_PX.contains(&p.len())).collect();
    for _ in 0..rng.random_range(PARTS).min(parts.len()) {
        let part = parts.swap_remove(rng.random_range(0..parts.len()));
        let mean = part.iter().map(|i| smooth[middle][*i]).sum::<f32>() / part.len() as f32;
        let by = if mean > BRIGHT_HU && rng.random_bool(0.7) { rng.random_range(LESS_HU) } else { rng.random_range(MORE_HU) };
        let mut here = vec![false; size * size];
        part.iter().for_each(|i| here[*i] = true);
        // No further than the rim that was cut off, its blend, and the pixel that a part may drift by.
        let reach = (neck + BLEND_PX).ceil() as usize + 2;
        let window = Window::round(&part, size, reach);
        for (n, plane) in planes.hu.iter_mut().enumerate() {
            let touched = if n == middle { here.clone() } else { continued(&cores[n], &here, size) };
            let away = distance(&window.of(&touched), window.width);
            for (j, away) in away.into_iter().enumerate() {
                let i = window.at(j);
                let near = ((neck + 1.0 + BLEND_PX - away) / BLEND_PX).clamp(0.0, 1.0);
                let tissue = ((smooth[n][i] - EDGE_HU[0]) / (EDGE_HU[1] - EDGE_HU[0])).clamp(0.0, 1.0);
                let soft = if smooth[n][i] < SOFT_HU.end { tissue } else { 0.0 };
                plane[i] += by * near * soft;
            }
        }
    }
}

/// A rectangle of a square plane.
struct Window {
    size: usize,
    x1: usize,
    y1: usize,
    width: usize,
    height: usize,
}

impl Window {
    /// Round these pixels, with `reach` to each side.
    fn round(pixels: &[usize], size: usize, reach: usize) -> Self {
        let span = |of: fn(usize, usize) -> usize| {
            let low = pixels.iter().map(|i| of(*i, size)).min().unwrap_or(0).saturating_sub(reach);
            let end = (pixels.iter().map(|i| of(*i, size)).max().unwrap_or(0) + reach + 1).min(size);
            (low, end - low)
        };
        let ((x1, width), (y1, height)) = (span(|i, size| i % size), span(|i, size| i / size));
        Self { size, x1, y1, width, height }
    }

    /// Pixel of the plane that the window's `j`-th is.
    fn at(&self, j: usize) -> usize {
        (self.y1 + j / self.width) * self.size + self.x1 + j % self.width
    }

    /// What lies in it.
    fn of(&self, mask: &[bool]) -> Vec<bool> {
        (0..self.width * self.height).map(|j| mask[self.at(j)]).collect()
    }
}

/// Soft tissue further than `neck` from all that is none.
fn core(smooth: &[f32], size: usize, neck: f32) -> Vec<bool> {
    let other: Vec<bool> = smooth.iter().map(|v| !SOFT_HU.contains(v)).collect();
    distance(&other, size).into_iter().map(|d| d > neck).collect()
}

/// What of `cores` lies over a part of the plane beside, and a pixel further, for structures drift from plane to plane: a part that merges with others further
/// on does not take them along.
fn continued(cores: &[bool], here: &[bool], size: usize) -> Vec<bool> {
    let over = |i: usize| cores[i] && here[i];
    (0..cores.len()).map(|i| cores[i] && (here[i] || neighbours(i, size, cores.len()).any(over))).collect()
}

fn mean_of_nine(plane: &[f32], size: usize) -> Vec<f32> {
    let across: Vec<f32> = (0..plane.len())
        .map(|i| {
            let x = i % size;
            (plane[if x > 0 { i - 1 } else { i }] + plane[i] + plane[if x + 1 < size { i + 1 } else { i }]) / 3.0
        })
        .collect();
    (0..plane.len())
        .map(|i| {
            let y = i / size;
            (across[if y > 0 { i - size } else { i }] + across[i] + across[if y + 1 < size { i + size } else { i }]) / 3.0
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const SIZE: usize = 96;

    /// Two round organs of 40 HU in fat, joined by a neck of three pixels, and a bone.
    fn body(planes: usize) -> Planes {
        let plane: Vec<f32> = (0..SIZE * SIZE)
            .map(|i| {
                let (x, y) = ((i % SIZE) as f32, (i / SIZE) as f32);
                let round = |cx: f32, cy: f32, r: f32| (x - cx).hypot(y - cy) < r;
                if round(48.0, 80.0, 9.0) {
                    600.0
                } else if round(26.0, 40.0, 14.0) || round(70.0, 40.0, 14.0) || ((26.0..70.0).contains(&x) && (y - 40.0).abs() < 2.0) {
                    40.0
                } else {
                    -100.0
                }
            })
            .collect();
        Planes { size: SIZE, pixel_mm: 0.8, hu: vec![plane; planes], offsets_mm: (0..planes).map(|i| i as f32 * 2.0).collect() }
    }

    #[test]
    fn an_organ_changes_by_itself_and_on_all_planes_and_fat_and_bone_do_not() {
        let at = |x: usize, y: usize| y * SIZE + x;
        let (left, right, fat, bone) = (at(26, 40), at(70, 40), at(48, 10), at(48, 80));
        let mut apart = 0;
        for seed in 0..20 {
            let (before, mut planes) = (body(3), body(3));
            enhance(&mut planes, &mut StdRng::seed_from_u64(seed));
            let by = |i: usize| planes.hu[1][i] - before.hu[1][i];
            assert_eq!((by(fat), by(bone)), (0.0, 0.0));
            assert!(planes.hu.iter().all(|p| (p[left] - planes.hu[1][left]).abs() < 1.0));
            for organ in [left, right] {
                assert!(by(organ) == 0.0 || MORE_HU.contains(&by(organ)), "{}", by(organ));
            }
            apart += usize::from((by(left) - by(right)).abs() > 5.0);
        }
        // Necks below their width are not cut, and then both change as one.
        assert!(apart >= 10, "{apart} of 20");
    }
}
