//! What another scanner, dose, contrast phase or export would have made of the same planes.

use rand::Rng;

use super::Planes;
use super::exports::Export;
use super::recipe::{Ingredient, Recipe};

/// Changes all planes of a crop alike, as one acquisition would.
pub fn augment(planes: &mut Planes, recipe: &Recipe, rng: &mut impl Rng) {
    let offset = rng.random_range(-8.0f32..8.0);
    // Contrast phase: every range of HU further from or nearer to its neighbours.
    let phase = recipe.has(Ingredient::ContrastPhases).then(|| ToneCurve::random(rng));
    let blur = rng.random_bool(0.25);
    let sharpen = !blur && rng.random_bool(0.15);
    let noise = if rng.random_bool(0.35) { rng.random_range(3.0f32..22.0) } else { 0.0 };
    let export = recipe.has(Ingredient::Exports).then(|| Export::random(rng, recipe.has(Ingredient::Jpeg))).flatten();
    for plane in &mut planes.hu {
        for v in plane.iter_mut() {
            *v = phase.as_ref().map_or(*v, |p| p.at(*v)) + offset;
        }
        if blur || sharpen {
            let smooth = mean3(plane, planes.size);
            let amount = if blur { 0.7 } else { -0.5 };
            for (v, s) in plane.iter_mut().zip(smooth) {
                *v += amount * (s - *v);
            }
        }
        if noise > 0.0 {
            // White noise through a 3 × 3 mean has the grain of a soft kernel at this pixel.
            let mut grain: Vec<f32> = (0..plane.len()).map(|_| rng.random::<f32>() + rng.random::<f32>() - 1.0).collect();
            if blur {
                grain = mean3(&grain, planes.size);
            }
            for (v, g) in plane.iter_mut().zip(grain) {
                *v += g * noise * 2.4;
            }
        }
        if let Some(export) = &export {
            export.apply(plane, planes.size);
        }
    }
}

/// HU between fat and enhanced vessels, where the tone curve bends.
const KNOTS_HU: [f32; 8] = [-150.0, -60.0, 0.0, 40.0, 75.0, 120.0, 200.0, 320.0];
/// The knot that stays: muscle before contrast.
const ANCHOR: usize = 3;
/// Largest change of a step between knots, as a logarithm.
const MOST_BEND: f32 = 0.45;

/// A rising curve HU → HU: what the injection, its phase and the beam's energy do to tissues, each range by its own factor.
struct ToneCurve([f32; KNOTS_HU.len()]);

impl ToneCurve {
    fn random(rng: &mut impl Rng) -> Self {
        let all = rng.random_range(-0.2f32..0.25);
        let mut steps: [f32; KNOTS_HU.len()] = [0.0; KNOTS_HU.len()];
        for (i, pair) in KNOTS_HU.windows(2).enumerate() {
            steps[i + 1] = (pair[1] - pair[0]) * (all + rng.random_range(-MOST_BEND..MOST_BEND)).exp();
        }
        let mut values = [0.0; KNOTS_HU.len()];
        for i in 1..values.len() {
            values[i] = values[i - 1] + steps[i];
        }
        let shift = KNOTS_HU[ANCHOR] - values[ANCHOR];
        Self(values.map(|v| v + shift))
    }

    /// Outside the knots the curve goes on at slope 1 and runs back to the identity over 500 HU below and 600 above.
    fn at(&self, hu: f32) -> f32 {
        let (first, last) = (KNOTS_HU[0], KNOTS_HU[KNOTS_HU.len() - 1]);
        if hu < first {
            return hu + (self.0[0] - first) * (1.0 - (first - hu) / 500.0).max(0.0);
        }
        if hu >= last {
            return hu + (self.0[KNOTS_HU.len() - 1] - last) * (1.0 - (hu - last) / 600.0).max(0.0);
        }
        let i = KNOTS_HU.partition_point(|k| *k <= hu).clamp(1, KNOTS_HU.len() - 1);
        let share = (hu - KNOTS_HU[i - 1]) / (KNOTS_HU[i] - KNOTS_HU[i - 1]);
        self.0[i - 1] + (self.0[i] - self.0[i - 1]) * share
    }
}

fn mean3(plane: &[f32], size: usize) -> Vec<f32> {
    let mut out = plane.to_vec();
    for y in 1..size.saturating_sub(1) {
        for x in 1..size - 1 {
            let i = y * size + x;
            let row = |j: usize| plane[j - 1] + plane[j] + plane[j + 1];
            out[i] = (row(i - size) + row(i) + row(i + size)) / 9.0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_tone_curve_rises_keeps_muscle_and_leaves_air_and_bone() {
        for seed in 0..200 {
            let curve = ToneCurve::random(&mut StdRng::seed_from_u64(seed));
            assert!((curve.at(40.0) - 40.0).abs() < 1e-3);
            for hu in [-1000.0, -850.0, 1000.0, 2000.0] {
                assert!((curve.at(hu) - hu).abs() < 1.0, "{seed}: {hu} became {}", curve.at(hu));
            }
            let values: Vec<f32> = (-1000..1500).map(|hu| curve.at(hu as f32)).collect();
            assert!(values.windows(2).all(|p| p[1] > p[0]), "{seed}");
        }
    }
}
