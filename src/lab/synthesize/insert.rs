//! Painting a lesion into the planes of a crop. What was there keeps its noise: only the smooth part of the tissue is replaced.

use rand::Rng;

use super::shape::Shape;
use super::{Planes, SLOT_MM};

/// Radius of the blur that separates tissue from noise, pixels.
const BLUR_PX: usize = 3;
/// Noise beyond this is structure (an edge, a vessel), HU.
const NOISE_CAP_HU: f32 = 45.0;

/// How a lesion looks.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Mean HU, or difference to the tissue where `delta`.
    pub hu: f32,
    /// `hu` is relative.
    pub delta: bool,
    /// Amplitude of its texture.
    pub texture_hu: f32,
    /// HU added to the outer part (a rim) and taken from the core.
    pub rim_hu: f32,
    /// HU taken from the parts of the core that get no blood.
    pub necrosis_hu: f32,
}

/// Paints `shape` with its centre at `centre` (slot pixels; z in mm from the middle plane). Returns the mask on the middle plane.
pub fn paint(planes: &mut Planes, shape: &Shape, centre: [f32; 3], look: Look, thickness_mm: f32, rng: &mut impl Rng) -> Vec<bool> {
    let size = planes.size;
    let reach = (shape.reach_mm() / SLOT_MM).ceil();
    let span = |c: f32| ((c - reach).max(0.0) as usize, ((c + reach).max(0.0) as usize + 1).min(size));
    let ((x1, x2), (y1, y2)) = (span(centre[0]), span(centre[1]));
    let mut mask = vec![false; size * size];
    if x1 >= x2 || y1 >= y2 {
        return mask;
    }
    // In lung the noise under a lesion is vessels and air: borrow the amplitude from soft tissue, white in z as thin slices are.
    let grain = rng.random_range(4.0f32..18.0);
    let samples: &[f32] = if thickness_mm > 2.5 { &[-0.35, 0.0, 0.35] } else { &[0.0] };
    let middle = planes.hu.len() / 2;
    for (plane, offset) in planes.hu.iter_mut().zip(&planes.offsets_mm) {
        let smooth = blur(plane, size, (x1, y1, x2, y2));
        for y in y1..y2 {
            for x in x1..x2 {
                let (mut alpha, mut depth) = (0.0, 0.0);
                let p = [(x as f32 - centre[0]) * SLOT_MM, (y as f32 - centre[1]) * SLOT_MM, offset - centre[2]];
                for s in samples {
                    let (a, d) = shape.at([p[0], p[1], p[2] + s * thickness_mm]);
                    alpha += a / samples.len() as f32;
                    depth += d / samples.len() as f32;
                }
                if alpha <= 0.0 {
                    continue;
                }
                let i = y * size + x;
                let tissue = smooth[(y - y1) * (x2 - x1) + x - x1];
                let residual = plane[i] - tissue;
                let noise =
                    if tissue > -300.0 { residual.clamp(-NOISE_CAP_HU, NOISE_CAP_HU) } else { (rng.random::<f32>() - 0.5) * 2.0 * grain };
                let rim = if depth < 0.35 { look.rim_hu } else { -look.rim_hu };
                let base = if look.delta { tissue.clamp(-150.0, 250.0) } else { 0.0 };
                let dead = look.necrosis_hu * shape.necrosis(p, depth);
                let target = base + look.hu + look.texture_hu * shape.texture(p) + rim - dead + noise;
                plane[i] += alpha * (target - plane[i]);
            }
        }
    }
    for y in y1..y2 {
        for x in x1..x2 {
            let p = [(x as f32 - centre[0]) * SLOT_MM, (y as f32 - centre[1]) * SLOT_MM, planes.offsets_mm[middle] - centre[2]];
            mask[y * size + x] = shape.at(p).0 > 0.5;
        }
    }
    mask
}

/// Mean over a square of [`BLUR_PX`], of a window of the plane.
fn blur(plane: &[f32], size: usize, (x1, y1, x2, y2): (usize, usize, usize, usize)) -> Vec<f32> {
    let (w, h) = (x2 - x1, y2 - y1);
    let mut across = vec![0.0; w * h];
    for y in 0..h {
        let row = &plane[(y + y1) * size..(y + y1 + 1) * size];
        for x in 0..w {
            let (a, b) = ((x + x1).saturating_sub(BLUR_PX), (x + x1 + BLUR_PX + 1).min(size));
            across[y * w + x] = row[a..b].iter().sum::<f32>() / (b - a) as f32;
        }
    }
    let mut out = vec![0.0; w * h];
    for y in 0..h {
        let (a, b) = (y.saturating_sub(BLUR_PX), (y + BLUR_PX + 1).min(h));
        for x in 0..w {
            out[y * w + x] = (a..b).map(|r| across[r * w + x]).sum::<f32>() / (b - a) as f32;
        }
    }
    out
}
