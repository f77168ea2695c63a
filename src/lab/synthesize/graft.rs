//! Healthy tissue from elsewhere, let into a crop with the same soft edge as a lesion: an edge of its own makes no lesion, and bowel, vessels and
//! muscles are met in more arrangements than the scans have.

use rand::Rng;

use super::Planes;

/// Half sides of a graft, pixels (6 to 25 mm).
pub const HALF_PX: std::ops::Range<usize> = 8..32;
/// Width of its edge, pixels.
const EDGE_PX: std::ops::Range<f32> = 1.0..6.0;

/// Lets `patch` (planes of `2 · half` pixels a side) into `planes` round `at`, within an ellipse. Planes are matched by their order.
pub fn graft(planes: &mut Planes, patch: &Planes, at: [f32; 2], rng: &mut impl Rng) {
    let half = patch.size as f32 / 2.0;
    let edge = rng.random_range(EDGE_PX);
    let semi = [half, half * rng.random_range(0.5f32..1.0)];
    let (sin, cos) = rng.random_range(0.0..std::f32::consts::PI).sin_cos();
    let (left, top) = (at[0].round() as i64 - patch.size as i64 / 2, at[1].round() as i64 - patch.size as i64 / 2);
    for (plane, patch_plane) in planes.hu.iter_mut().zip(&patch.hu) {
        for y in 0..patch.size {
            for x in 0..patch.size {
                let (px, py) = (left + x as i64, top + y as i64);
                if px < 0 || py < 0 || px >= planes.size as i64 || py >= planes.size as i64 {
                    continue;
                }
                let (dx, dy) = (x as f32 + 0.5 - half, y as f32 + 0.5 - half);
                let q = [(dx * cos + dy * sin) / semi[0], (dy * cos - dx * sin) / semi[1]];
                let beyond = (1.0 - q[0].hypot(q[1])) * semi[1];
                let t = (beyond / edge).clamp(0.0, 1.0);
                let own = &mut plane[py as usize * planes.size + px as usize];
                *own += t * t * (3.0 - 2.0 * t) * (patch_plane[y * patch.size + x] - *own);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn the_middle_is_the_patch_and_the_rest_is_untouched() {
        let flat = |size: usize, hu: f32| Planes { size, pixel_mm: 0.8, hu: vec![vec![hu; size * size]; 2], offsets_mm: vec![0.0, 2.0] };
        let (mut planes, patch) = (flat(64, -100.0), flat(24, 50.0));
        graft(&mut planes, &patch, [30.0, 20.0], &mut StdRng::seed_from_u64(1));
        for plane in &planes.hu {
            assert_eq!(plane[20 * 64 + 30], 50.0);
            assert_eq!(plane[40 * 64 + 30], -100.0);
            assert!(plane.iter().all(|v| (-100.0..=50.0).contains(v)));
        }
    }
}
