//! Solid and hollow organs of abdomen and pelvis but for the bowel.

use rand::Rng;

use super::blob::{Blob, Section, section};
use super::canvas::Clip::Abdomen;
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::{Content, Tissue, holding, soft};
use super::tube::{Knot, Tube, knot};
use crate::lab::synthesize::places::site::Site;

/// Adds them all.
pub fn add(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    pelvis(rng, phase, parts);
    kidneys(rng, phase, parts);
    pancreas(rng, phase, parts);
    duodenum(rng, phase, parts);
    spleen(rng, phase, parts);
    stomach(rng, phase, parts);
    liver(rng, phase, parts);
}

fn liver(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let tissue = holding(Site::Parenchyma, phase.liver, 2.5, 14.0);
    let low = rng.random_range(265.0..320.0);
    let reach = rng.random_range(0.85..1.15);
    let right = [
        section(low, -82.0, 0.0, 30.0, 50.0),
        section(340.0, -66.0, -4.0, 60.0, 72.0),
        section(400.0, -52.0, -2.0, 84.0, 84.0),
        section(470.0, -48.0, -6.0, 90.0, 90.0),
    ];
    parts.push(Painter::Blob(Blob::new(&right, 12.0, tissue, Abdomen).uneven(rng, 0.04)));
    let left = [
        section(325.0, -10.0, -58.0, 26.0 * reach, 14.0),
        section(385.0, 8.0, -46.0, 66.0 * reach, 34.0),
        section(450.0, 10.0, -40.0, 70.0 * reach, 40.0),
    ];
    parts.push(Painter::Blob(Blob::new(&left, 16.0, tissue, Abdomen).uneven(rng, 0.08)));
    // The fissure of the round ligament and the groove of the cava are fat.
    let fissure = [section(330.0, -12.0, -50.0, 2.0, 16.0), section(385.0, -8.0, -44.0, 1.5, 14.0)];
    parts.push(Painter::Blob(Blob::new(&fissure, 12.0, soft(phase.fat, 10.0, 6.0), Abdomen).uneven(rng, 0.2)));
    let hilum = Blob::ellipsoid([-24.0, -14.0, 352.0], [24.0, 11.0, 16.0], -0.4, holding(Site::Fat, phase.fat, 20.0, 7.0), Abdomen);
    parts.push(Painter::Blob(hilum.uneven(rng, 0.15)));
    let (portal, hepatic) = (soft(phase.portal, 0.0, 1.0), soft(phase.hepatic, 0.0, 1.0));
    for _ in 0..rng.random_range(6..11) {
        let root = Knot { p: [-34.0, -12.0, rng.random_range(345.0..400.0)], r: rng.random_range(3.0..6.0) };
        let direction = [rng.random_range(-1.0..0.5), rng.random_range(-0.7f32..0.7), rng.random_range(-0.5f32..0.9)];
        parts.push(Painter::Tube(Tube::tree(rng, root, direction, [0.9, 1.2], portal, Abdomen)));
    }
    for _ in 0..5 {
        let root = Knot { p: [-24.0, 2.0, rng.random_range(410.0..432.0)], r: rng.random_range(4.0..6.0) };
        let direction = [rng.random_range(-1.0..0.6), rng.random_range(-1.0f32..0.6), rng.random_range(-0.8f32..0.0)];
        parts.push(Painter::Tube(Tube::tree(rng, root, direction, [1.0, 1.2], hepatic, Abdomen)));
    }
    if rng.random_bool(0.8) {
        let bile = rng.random_range(2.0..20.0);
        let wall = Tissue::Hollow { wall_mm: 1.3, wall_hu: phase.bowel_wall, content: Content::Fluid { hu: bile, gas: -3.0 } };
        let semi = [rng.random_range(8.0..18.0), rng.random_range(9.0..20.0), rng.random_range(18.0..34.0)];
        let at = [-46.0 + rng.random_range(-10.0..10.0), -42.0 + rng.random_range(-8.0..12.0), 328.0];
        parts.push(Painter::Blob(Blob::ellipsoid(at, semi, 0.4, wall, Abdomen).uneven(rng, 0.06).gap(0.8)));
    }
}

fn spleen(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let size = rng.random_range(0.75..1.2);
    let at = |z: f32, x: f32, y: f32, rx: f32, ry: f32, angle: f32| Section { z, x, y, rx: rx * size, ry: ry * size, angle };
    let sections =
        [at(338.0, 98.0, 20.0, 14.0, 26.0, 0.3), at(385.0, 92.0, 34.0, 25.0, 50.0, 0.45), at(445.0, 76.0, 40.0, 28.0, 40.0, 0.6)];
    let tissue = holding(Site::Parenchyma, phase.spleen, phase.spleen_texture, 9.0);
    parts.push(Painter::Blob(Blob::new(&sections, 22.0, tissue, Abdomen).uneven(rng, 0.08).gap(1.0)));
    for _ in 0..2 {
        let root = Knot { p: [58.0, 24.0, 378.0], r: 3.0 };
        parts.push(Painter::Tube(Tube::tree(rng, root, [0.9, 0.3, 0.2], [1.2, 1.2], soft(phase.portal, 0.0, 1.0), Abdomen)));
    }
    if rng.random_bool(0.2) {
        let r = rng.random_range(4.0..9.0);
        parts.push(Painter::Blob(Blob::ellipsoid([66.0, 12.0, 362.0], [r, r, r], 0.0, tissue, Abdomen)));
    }
}

fn kidneys(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    for side in [-1.0f32, 1.0] {
        let z = if side < 0.0 { 308.0 } else { 322.0 } + rng.random_range(-12.0..12.0);
        let size = rng.random_range(0.88..1.12);
        let (x, y) = (side * rng.random_range(58.0..70.0), rng.random_range(30.0..42.0));
        let angle = side * rng.random_range(0.4..0.9);
        let tissue = Tissue::Kidney { cortex_mm: rng.random_range(5.0..8.0), cortex_hu: phase.cortex, medulla_hu: phase.medulla };
        let at = |dz: f32, dx: f32, dy: f32, r: f32| Section {
            z: z + dz * size,
            x: x + side * dx,
            y: y + dy,
            rx: 25.0 * r * size,
            ry: 31.0 * r * size,
            angle,
        };
        // Leaning on psoas: the upper pole lies nearer to the spine.
        let sections = [at(-56.0, 5.0, -6.0, 0.9), at(0.0, 0.0, 0.0, 1.0), at(56.0, -9.0, 6.0, 0.9)];
        // Renal fascia, a line in the fat.
        let fascia = sections.map(|s| Section { rx: s.rx + 13.0, ry: s.ry + 11.0, ..s });
        parts.push(Painter::Blob(Blob::new(&fascia, 30.0, soft(-40.0, 20.0, 7.0), Abdomen).uneven(rng, 0.05)));
        let fascia = fascia.map(|s| Section { rx: s.rx - 1.4, ry: s.ry - 1.4, ..s });
        parts.push(Painter::Blob(Blob::new(&fascia, 30.0, soft(phase.fat - 3.0, 6.0, 9.0), Abdomen).uneven(rng, 0.03)));
        parts.push(Painter::Blob(Blob::new(&sections, 24.0, tissue, Abdomen).uneven(rng, 0.05)));
        let (sx, sy) = (x - side * 11.0, y - 8.0);
        let sinus = [
            Section { z: z - 26.0, x: sx, y: sy, rx: 12.0, ry: 8.0, angle },
            Section { z: z + 26.0, x: sx, y: sy, rx: 12.0, ry: 8.0, angle },
        ];
        parts.push(Painter::Blob(Blob::new(&sinus, 16.0, soft(phase.fat + 15.0, 25.0, 5.0), Abdomen).uneven(rng, 0.22)));
        let (urine, wide) = (soft(phase.urine, 0.0, 1.0), rng.random_range(0.6..1.5));
        for n in 0..7 {
            let to = [x + side * rng.random_range(-2.0..8.0), y + rng.random_range(-12.0..12.0), z - 33.0 + 11.0 * n as f32];
            let line = [Knot { p: [sx - side * 3.0, sy - 2.0, z], r: 3.0 * wide }, Knot { p: to, r: 2.6 * wide }];
            parts.push(Painter::Tube(Tube::polyline(&line, urine, Abdomen)));
        }
        let stem = |z1: f32, r: f32| [knot(side * 16.0, 8.0, z + 4.0, r), knot(side * 34.0, 16.0, z1, r), knot(sx, sy, z, r * 0.8)];
        parts.push(Painter::Tube(Tube::through(&stem(z + 6.0, 5.0), soft(phase.vein, 0.0, 1.0), Abdomen)));
        parts.push(Painter::Tube(Tube::through(&stem(z, 2.8), soft(phase.artery, 0.0, 1.0), Abdomen)));
        let ureter = [
            knot(sx - side * 4.0, sy - 2.0, z, 5.0 * wide),
            knot(side * 36.0, 14.0, z - 40.0, 2.2),
            knot(side * 34.0, 8.0, 200.0, 1.9),
            knot(side * 44.0, 28.0, 120.0, 1.9),
            knot(side * 28.0, 18.0, 62.0, 2.0),
            knot(side * 12.0, -2.0, 46.0, 1.8),
        ];
        parts.push(Painter::Tube(Tube::through(&ureter, urine, Abdomen)));
        adrenal(rng, phase, side, z + 54.0, parts);
    }
}

/// Two sheets that meet in front, from the top of the kidney upwards; the right one lies behind the cava.
fn adrenal(rng: &mut impl Rng, phase: &Phase, side: f32, z: f32, parts: &mut Vec<Painter>) {
    let tissue = holding(Site::Gland, phase.gland, 0.0, 1.0);
    let (thick, front) = (rng.random_range(1.4..2.6), rng.random_range(8.0..14.0));
    let ends = [[-9.0, 34.0], [11.0, 34.0]].map(|[x, y]: [f32; 2]| [x + rng.random_range(-3.0..3.0), y + rng.random_range(-6.0..2.0)]);
    for level in 0..rng.random_range(4..8) {
        let z = z + 4.0 * level as f32;
        for [x, y] in ends {
            let limb = [knot(side * 34.0, front, z, thick * 1.2), knot(side * 34.0 + x, y, z - 4.0, thick)];
            parts.push(Painter::Tube(Tube::polyline(&limb, tissue, Abdomen)));
        }
    }
}

fn pancreas(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let r = rng.random_range(8.0..12.5);
    let fat = rng.random_range(6.0..40.0);
    let line = [
        knot(-26.0, -14.0, 308.0, r * 1.1),
        knot(-20.0, -18.0, 328.0, r * 1.25),
        knot(8.0, -26.0, 338.0, r * 0.85),
        knot(44.0, -4.0, 350.0, r),
        knot(74.0, 18.0, 362.0, r * 0.9),
    ];
    parts.push(Painter::Tube(Tube::through(&line, holding(Site::Gland, phase.gland, fat, 4.5), Abdomen)));
}

/// Round the head of the pancreas, then between aorta and mesenteric vessels to the left.
fn duodenum(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let r = rng.random_range(6.0..12.0);
    let content = match rng.random_range(0..6) {
        0..3 => Content::Folded { hu: rng.random_range(5.0..35.0) },
        3 => Content::Fluid { hu: rng.random_range(120.0..350.0), gas: rng.random_range(-1.5..0.2) },
        _ => Content::Fluid { hu: rng.random_range(5.0..30.0), gas: rng.random_range(-1.5..0.5) },
    };
    let tissue = Tissue::Hollow { wall_mm: rng.random_range(1.5..3.0), wall_hu: phase.bowel_wall, content };
    let low = rng.random_range(-14.0..10.0);
    let mut at = |x: f32, y: f32, z: f32, wide: f32| knot(x + rng.random_range(-4.0..4.0), y, z, r * wide * rng.random_range(0.85..1.15));
    let line = [
        at(-24.0, -38.0, 338.0, 1.0),
        at(-42.0, -22.0, 330.0, 1.1),
        at(-45.0, -8.0, 300.0, 1.0),
        at(-36.0, -6.0, 266.0 + low, 1.0),
        at(-8.0, -10.0, 256.0 + low, 0.75),
        at(18.0, -12.0, 264.0 + low, 0.9),
        at(34.0, -18.0, 300.0, 1.0),
    ];
    parts.push(Painter::Tube(Tube::through(&line, tissue, Abdomen)));
}

fn stomach(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let r = rng.random_range(16.0..34.0);
    let content = match rng.random_range(0..5) {
        0 => Content::Folded { hu: rng.random_range(5.0..25.0) },
        1 => Content::Stool { hu: rng.random_range(10.0..60.0), gas: rng.random_range(0.1..0.4) },
        2 => Content::Fluid { hu: rng.random_range(120.0..350.0), gas: rng.random_range(-0.6..0.3) },
        _ => Content::Fluid { hu: rng.random_range(0.0..25.0), gas: rng.random_range(-0.8..0.5) },
    };
    let tissue = Tissue::Hollow { wall_mm: rng.random_range(3.0..6.0), wall_hu: phase.bowel_wall, content };
    let line = [
        knot(52.0, 16.0, 428.0, r * 1.1),
        knot(66.0, -14.0, 396.0, r * 1.15),
        knot(54.0, -44.0, 358.0, r),
        knot(16.0, -56.0, 336.0, r * 0.75),
        knot(-22.0, -40.0, 338.0, r * 0.5),
    ];
    parts.push(Painter::Tube(Tube::through(&line, tissue, Abdomen)));
}

fn pelvis(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let fill = rng.random_range(0.45..1.15);
    // Late contrast is heavier than urine and lies behind it; before that the bladder is even.
    let urine = if phase.urine > 100.0 { phase.urine * rng.random_range(0.1..0.8) } else { phase.urine };
    let bladder =
        Tissue::Hollow { wall_mm: rng.random_range(2.0..5.0), wall_hu: phase.muscle, content: Content::Fluid { hu: urine, gas: -3.0 } };
    let semi = [44.0 * fill, 34.0 * fill, 40.0 * fill];
    parts.push(Painter::Blob(Blob::ellipsoid([0.0, -26.0, 44.0], semi, 0.0, bladder, Abdomen).uneven(rng, 0.07).square(0.3)));
    if rng.random_bool(0.5) {
        let (size, x) = (rng.random_range(0.8..1.4), rng.random_range(-12.0..12.0));
        let wall = soft(phase.gland, 6.0, 9.0);
        parts.push(Painter::Blob(
            Blob::ellipsoid([x, 12.0, 72.0], [26.0 * size, 21.0 * size, 30.0 * size], 0.2, wall, Abdomen).uneven(rng, 0.09).gap(0.8),
        ));
        let cavity = soft(phase.gland - 25.0, 4.0, 6.0);
        parts.push(Painter::Blob(Blob::ellipsoid([x, 12.0, 74.0], [12.0 * size, 4.0, 18.0], 0.2, cavity, Abdomen)));
        for side in [-1.0f32, 1.0] {
            let r = rng.random_range(8.0..15.0);
            let ovary = soft(rng.random_range(20.0..60.0), 12.0, 6.0);
            let at = [side * rng.random_range(36.0..50.0), 14.0, rng.random_range(75.0..105.0)];
            parts.push(Painter::Blob(Blob::ellipsoid(at, [r, r * 0.75, r], side * 0.5, ovary, Abdomen).uneven(rng, 0.08)));
        }
    } else {
        let r = rng.random_range(18.0..28.0);
        parts.push(Painter::Blob(Blob::ellipsoid(
            [0.0, -4.0, 6.0],
            [r, r * 0.8, r * 0.9],
            0.0,
            soft(phase.gland - 10.0, 8.0, 6.0),
            Abdomen,
        )));
        for side in [-1.0f32, 1.0] {
            let line = [knot(side * 5.0, 16.0, 24.0, 5.0), knot(side * 34.0, 18.0, 34.0, 6.0)];
            parts.push(Painter::Tube(Tube::polyline(&line, soft(25.0, 12.0, 4.0), Abdomen)));
        }
    }
}
