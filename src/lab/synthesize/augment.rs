//! What another scanner, dose, contrast phase or export would have made of the same planes.

use rand::Rng;

use super::Planes;

/// Changes all planes of a crop alike, as one acquisition would.
pub fn augment(planes: &mut Planes, rng: &mut impl Rng) {
    let offset = rng.random_range(-8.0f32..8.0);
    // Contrast phase: soft tissue further from or nearer to 40 HU.
    let phase = rng.random_range(0.75f32..1.3);
    let blur = rng.random_bool(0.25);
    let sharpen = !blur && rng.random_bool(0.15);
    let noise = if rng.random_bool(0.35) { rng.random_range(3.0f32..22.0) } else { 0.0 };
    let export = rng.random_range(0..100);
    for plane in &mut planes.hu {
        for v in plane.iter_mut() {
            if (-150.0..300.0).contains(v) {
                *v = 40.0 + (*v - 40.0) * phase;
            }
            *v += offset;
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
        export_8bit(plane, export);
    }
}

/// Archives and data sets that went through 8 bits: the full range in steps of 16 HU, a window, or a soft-tissue range with a coarse rest.
fn export_8bit(plane: &mut [f32], kind: i32) {
    for v in plane.iter_mut() {
        match kind {
            0..14 => *v = ((*v + 1024.0) / 16.0).floor() * 16.0 - 1016.0,
            14..23 => {
                *v = if *v > 0.0 {
                    v.min(255.0).round()
                } else if *v > -300.0 {
                    -50.0
                } else {
                    -1000.0
                };
            }
            23..32 => {
                *v = if *v > -100.0 {
                    v.clamp(-45.0, 160.0).round()
                } else if *v > -300.0 {
                    -100.0
                } else {
                    -900.0
                }
            }
            32..36 => *v = ((v.clamp(-175.0, 275.0) + 175.0) / 450.0 * 255.0).round() / 255.0 * 450.0 - 175.0,
            _ => {}
        }
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
