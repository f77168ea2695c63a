//! Nodes that are no disease: small ones in mesentery, retroperitoneum and groin, and the groin's long ones with fat in their hilum.

use rand::Rng;

use super::blob::Blob;
use super::canvas::Clip::{Abdomen, Free};
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::soft;

/// Adds small ones.
pub fn small(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    for _ in 0..rng.random_range(6..18) {
        let (p, clip) = if rng.random_bool(0.3) {
            (groin(rng), Free)
        } else {
            ([rng.random_range(-60.0..60.0), rng.random_range(-55.0..20.0), rng.random_range(110.0..330.0)], Abdomen)
        };
        let r = rng.random_range(1.3..2.6);
        let tissue = soft(phase.muscle + rng.random_range(-15.0..25.0), 3.0, 3.0);
        let semi = [r * rng.random_range(1.0..1.7), r, r * 1.3];
        parts.push(Painter::Blob(Blob::ellipsoid(p, semi, rng.random_range(0.0..3.0), tissue, clip)));
    }
}

/// Adds long ones of the groins: their rim is a node's and their middle is fat, open to one side, which is how a healthy node is told however long it is.
pub fn hilar(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    for _ in 0..rng.random_range(2..9) {
        let p = groin(rng);
        let r = rng.random_range(2.5..6.0);
        let angle = rng.random_range(0.0f32..std::f32::consts::PI);
        let rim = soft(phase.muscle + rng.random_range(-15.0..30.0), 3.0, 3.0);
        let semi = [r * rng.random_range(1.3..2.2), r, r * rng.random_range(1.2..2.0)];
        let share = rng.random_range(0.35..0.8);
        // Across the long axis, which lies at `angle`.
        let aside = r * (1.0 - share) * rng.random_range(0.3..1.2) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
        let middle = [p[0] - aside * angle.sin(), p[1] + aside * angle.cos(), p[2]];
        let fat = soft(phase.fat + 20.0, 12.0, 4.0);
        parts.push(Painter::Blob(Blob::ellipsoid(p, semi, angle, rim, Free).uneven(rng, 0.05)));
        parts.push(Painter::Blob(Blob::ellipsoid(middle, semi.map(|mm| mm * share), angle, fat, Free).uneven(rng, 0.08)));
    }
}

/// Somewhere in front of the femoral vessels. Muscles, painted later, cover what lies there.
fn groin(rng: &mut impl Rng) -> [f32; 3] {
    let aside = rng.random_range(55.0..85.0) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    [aside, rng.random_range(-80.0..-60.0), rng.random_range(-10.0..40.0)]
}
