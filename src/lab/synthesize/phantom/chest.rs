//! What lies above the diaphragm: the vessels of the lungs, heart, great vessels, airways.

use rand::Rng;

use super::blob::{Blob, section};
use super::canvas::Clip::Chest;
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::{Content, Tissue, holding, soft};
use super::tube::{Knot, Tube, knot, unit};
use crate::lab::synthesize::places::site::Site;

/// Adds them all, in the order in which they cover each other.
pub fn add(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let lung_vessel = soft(phase.artery.max(phase.vein).min(220.0) * 0.9, 0.0, 1.0);
    for side in [-1.0f32, 1.0] {
        for _ in 0..rng.random_range(9..15) {
            let root = Knot {
                p: [side * rng.random_range(26.0..40.0), rng.random_range(-8.0..22.0), rng.random_range(490.0..560.0)],
                r: rng.random_range(2.5..5.5),
            };
            let direction = [side * rng.random_range(0.3..1.0), rng.random_range(-1.0f32..1.0), rng.random_range(-1.3f32..1.0)];
            let reach = [rng.random_range(0.4..0.6), rng.random_range(1.2..1.7)];
            parts.push(Painter::Tube(Tube::tree(rng, root, direction, reach, lung_vessel, Chest)));
        }
        // Twigs whose stems the trees above leave out.
        for _ in 0..rng.random_range(60..140) {
            let (p, r) = (
                [side * rng.random_range(30.0..105.0), rng.random_range(-72.0..78.0), rng.random_range(380.0..650.0)],
                rng.random_range(0.7..1.7),
            );
            let direction = [side * rng.random_range(0.0..1.0), p[1] * 0.02, rng.random_range(-1.0f32..1.0)];
            parts.push(Painter::Tube(Tube::tree(rng, Knot { p, r }, direction, [0.45, 1.6], lung_vessel, Chest)));
        }
    }
    mediastinum(rng, phase, parts);
    heart(rng, phase, parts);
    vessels(rng, phase, parts);
    airways(rng, parts);
}

fn mediastinum(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let hu = if rng.random_bool(0.3) { rng.random_range(-40.0..25.0) } else { phase.fat + 8.0 };
    let wide = rng.random_range(0.85..1.2);
    let sections = [
        section(360.0, 0.0, 0.0, 30.0 * wide, 78.0),
        section(470.0, 4.0, -4.0, 34.0 * wide, 82.0),
        section(540.0, 0.0, -6.0, 30.0 * wide, 80.0),
        section(600.0, 0.0, -6.0, 34.0 * wide, 74.0),
        section(700.0, 0.0, -6.0, 46.0 * wide, 60.0),
    ];
    parts.push(Painter::Blob(Blob::new(&sections, 1.0, holding(Site::Fat, hu, 12.0, 9.0), Chest).uneven(rng, 0.06)));
    // The hila.
    for side in [-1.0f32, 1.0] {
        let hilum = Blob::ellipsoid([side * 32.0, 8.0, 525.0], [14.0, 17.0, 28.0], 0.0, holding(Site::Fat, hu * 0.5, 14.0, 8.0), Chest);
        parts.push(Painter::Blob(hilum.uneven(rng, 0.1)));
    }
}

fn heart(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let size = rng.random_range(0.85..1.2);
    let turn = rng.random_range(0.5..0.9);
    let mut chamber = |x: f32, y: f32, z: f32, semi: [f32; 3], tissue: Tissue| {
        let semi = semi.map(|s| s * size);
        parts.push(Painter::Blob(Blob::ellipsoid([x, y, z], semi, turn, tissue, Chest).uneven(rng, 0.04)));
    };
    // Fat under the pericardium, then muscle, then the four chambers.
    chamber(16.0, -26.0, 455.0, [66.0, 49.0, 62.0], soft(phase.fat + 10.0, 10.0, 9.0));
    chamber(24.0, -22.0, 452.0, [54.0, 39.0, 54.0], soft(phase.myocardium, 3.0, 8.0));
    let right = (phase.vein + phase.artery) / 2.0;
    chamber(38.0, -14.0, 448.0, [30.0, 17.0, 38.0], soft(phase.artery, 4.0, 12.0));
    chamber(14.0, -42.0, 448.0, [36.0, 15.0, 38.0], soft(right, 8.0, 14.0));
    chamber(-22.0, -24.0, 462.0, [22.0, 24.0, 32.0], soft(right, 10.0, 14.0));
    chamber(2.0, 8.0, 482.0, [34.0, 19.0, 24.0], soft(phase.artery, 4.0, 12.0));
}

fn vessels(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let width = rng.random_range(0.85..1.25);
    let artery = soft(phase.artery, 3.0, 10.0);
    let vein = soft(phase.vein, 6.0, 10.0);
    let pulmonary = soft((phase.artery + phase.vein) / 2.0 * rng.random_range(0.9..1.15), 4.0, 10.0);
    let r = 13.0 * width;
    let mut line = |knots: &[Knot], tissue: Tissue| parts.push(Painter::Tube(Tube::through(knots, tissue, Chest)));
    line(&[knot(6.0, -18.0, 505.0, r), knot(6.0, -30.0, 525.0, r * 1.1)], pulmonary);
    line(&[knot(6.0, -28.0, 525.0, r), knot(-10.0, -6.0, 528.0, r * 0.85), knot(-36.0, 6.0, 526.0, 8.0)], pulmonary);
    line(&[knot(8.0, -28.0, 527.0, r), knot(26.0, -4.0, 536.0, r * 0.8), knot(38.0, 14.0, 536.0, 8.0)], pulmonary);
    for side in [-1.0f32, 1.0] {
        for z in [485.0, 500.0] {
            line(&[knot(side * 10.0, 8.0, z, 8.0), knot(side * 38.0, 6.0 + rng.random_range(-8.0..8.0), z + 6.0, 6.0)], artery);
        }
    }
    line(
        &[
            knot(-2.0, -16.0, 490.0, r * 1.15),
            knot(-10.0, -28.0, 530.0, r * 1.1),
            knot(-6.0, -24.0, 562.0, r),
            knot(8.0, -4.0, 575.0, r),
            knot(18.0, 20.0, 562.0, r * 0.95),
            knot(20.0, 30.0, 530.0, r * 0.9),
            knot(17.0, 28.0, 450.0, r * 0.85),
            knot(8.0, 18.0, 350.0, r * 0.8),
        ],
        artery,
    );
    line(
        &[knot(-26.0, -14.0, 480.0, 10.0), knot(-24.0, -18.0, 560.0, 9.5), knot(-26.0, -28.0, 605.0, 8.0), knot(-40.0, -30.0, 650.0, 8.0)],
        vein,
    );
    line(&[knot(-24.0, -26.0, 590.0, 7.0), knot(10.0, -38.0, 600.0, 7.0), knot(38.0, -32.0, 640.0, 7.5)], vein);
    line(&[knot(-6.0, -22.0, 568.0, 6.5), knot(-20.0, -12.0, 610.0, 6.0), knot(-30.0, -4.0, 670.0, 5.0)], artery);
    line(&[knot(6.0, -14.0, 575.0, 4.5), knot(16.0, -10.0, 640.0, 4.0)], artery);
    line(&[knot(14.0, 2.0, 575.0, 5.0), knot(30.0, 6.0, 620.0, 5.0), knot(50.0, -10.0, 660.0, 5.0)], artery);
    line(&[knot(-14.0, 30.0, 380.0, 3.0), knot(-8.0, 30.0, 545.0, 3.5), knot(-22.0, 4.0, 552.0, 3.5)], vein);
    line(&[knot(-20.0, 6.0, 360.0, 12.0), knot(-22.0, -8.0, 440.0, 12.0)], vein);
    // Internal mammary vessels; small nodes in the fat that are no disease.
    for side in [-1.0f32, 1.0] {
        line(&[knot(side * 26.0, -78.0, 430.0, 1.6), knot(side * 24.0, -72.0, 630.0, 1.6)], artery);
    }
    for _ in 0..rng.random_range(2..7) {
        let p = [rng.random_range(-24.0..24.0), rng.random_range(-30.0..24.0), rng.random_range(500.0..620.0)];
        let r = rng.random_range(1.5..2.6);
        parts.push(Painter::Blob(Blob::ellipsoid(p, [r * 1.5, r, r * 1.4], rng.random_range(0.0..3.0), soft(40.0, 3.0, 3.0), Chest)));
    }
}

fn airways(rng: &mut impl Rng, parts: &mut Vec<Painter>) {
    let airway = Tissue::Hollow { wall_mm: 1.3, wall_hu: 20.0, content: Content::Fluid { hu: -985.0, gas: 1.0 } };
    let mut line = |knots: &[Knot]| parts.push(Painter::Tube(Tube::through(knots, airway, Chest)));
    line(&[knot(0.0, -6.0, 700.0, 10.0), knot(-2.0, 4.0, 545.0, 10.0)]);
    for side in [-1.0f32, 1.0] {
        line(&[knot(0.0, 4.0, 548.0, 9.0), knot(side * 16.0, 8.0, 532.0, 8.0), knot(side * 34.0, 10.0, 520.0, 6.5)]);
        for _ in 0..5 {
            let d = unit([side * rng.random_range(0.2..1.0), rng.random_range(-0.8f32..0.8), rng.random_range(-1.2f32..0.9)]);
            let from = [side * 33.0, 10.0, 521.0];
            let to = |mm: f32| std::array::from_fn(|a| from[a] + d[a] * mm);
            line(&[Knot { p: from, r: 4.5 }, Knot { p: to(22.0), r: 3.2 }, Knot { p: to(48.0), r: 2.0 }]);
        }
    }
    let gas = if rng.random_bool(0.4) { 1.0 } else { -0.5 };
    let oesophagus = Tissue::Hollow { wall_mm: 3.0, wall_hu: 45.0, content: Content::Fluid { hu: 30.0, gas } };
    let line = [knot(2.0, 16.0, 700.0, 6.5), knot(4.0, 22.0, 560.0, 7.0), knot(4.0, 20.0, 470.0, 7.5), knot(16.0, 4.0, 400.0, 8.0)];
    parts.push(Painter::Tube(Tube::through(&line, oesophagus, Chest)));
}
