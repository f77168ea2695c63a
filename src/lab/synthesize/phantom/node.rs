//! Long nodes that are no disease: the groin's, with fat in their hilum.

use rand::Rng;

use super::blob::Blob;
use super::canvas::Clip::Free;
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::soft;

/// Adds those of the groins, in front of the femoral vessels. Muscles painted later cover them.
pub fn add(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    for _ in 0..rng.random_range(2..9) {
        let side = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
        let p = [side * rng.random_range(55.0..85.0), rng.random_range(-84.0..-60.0), rng.random_range(-10.0..40.0)];
        parts.extend(hilar(rng, phase, p));
    }
}

/// One whose rim is a node's and whose middle is fat, open to one side: how a healthy node is told, however long it is.
fn hilar(rng: &mut impl Rng, phase: &Phase, p: [f32; 3]) -> [Painter; 2] {
    let r_mm = rng.random_range(2.5..6.0);
    let angle = rng.random_range(0.0f32..std::f32::consts::PI);
    let rim = soft(phase.muscle + rng.random_range(-15.0..30.0), 3.0, 3.0);
    let semi = [r_mm * rng.random_range(1.3..2.2), r_mm, r_mm * rng.random_range(1.2..2.0)];
    let share = rng.random_range(0.35..0.8);
    let aside = r_mm * (1.0 - share) * rng.random_range(0.3..1.2) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    // Across the long axis, which lies at `angle`.
    let middle = [p[0] - aside * angle.sin(), p[1] + aside * angle.cos(), p[2]];
    let node = Blob::ellipsoid(p, semi, angle, rim, Free).uneven(rng, 0.05);
    let fat = Blob::ellipsoid(middle, semi.map(|mm| mm * share), angle, soft(phase.fat + 20.0, 12.0, 4.0), Free).uneven(rng, 0.08);
    [Painter::Blob(node), Painter::Blob(fat)]
}
