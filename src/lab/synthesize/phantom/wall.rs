//! What stands round the cavity: vertebrae, ribs, pelvis, muscles with the fat between them.

use rand::Rng;

use super::blob::{Blob, Section, section};
use super::canvas::Clip::Free;
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::{Tissue, holding, soft};
use super::tube::{Knot, Tube, knot};
use crate::lab::synthesize::places::site::Site;

/// Height of the lumbosacral joint.
const SACRUM_MM: f32 = 165.0;
/// Vertebrae above it: five lumbar ones are taller than the thoracic.
const LUMBAR: usize = 5;
const VERTEBRAE: usize = 17;

/// Middle of the column at a height: lordosis below, kyphosis above.
fn column_y(z: f32) -> f32 {
    34.0 + 10.0 * ((z - 300.0) / 130.0).tanh() + 6.0 * (-((z - 190.0) / 50.0).powi(2)).exp()
}

/// Adds them all.
pub fn add(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let strength = rng.random_range(0.65..1.15);
    let bone = |cortex_mm: f32, core: f32| Tissue::Bone { cortex_mm, cortex_hu: 900.0 * strength, core_hu: core * strength };
    axillae(rng, phase, parts);
    muscles(rng, phase, parts);
    spine(rng, parts, &bone);
    ribs(rng, parts, &bone);
    pelvis(rng, parts, &bone);
}

fn both(parts: &mut Vec<Painter>, blob: Blob) {
    parts.push(Painter::Blob(blob.clone().mirrored()));
    parts.push(Painter::Blob(blob));
}

/// Fat with vessels and small nodes between the muscles of chest and shoulder; they are painted over it.
fn axillae(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let wide = rng.random_range(0.6..1.2);
    for side in [-1.0f32, 1.0] {
        let at = |z: f32, x: f32, y: f32, rx: f32, ry: f32| section(z, side * x, y, rx * wide, ry * wide);
        let hollow = [at(530.0, 134.0, -12.0, 7.0, 24.0), at(600.0, 124.0, -6.0, 22.0, 38.0), at(680.0, 118.0, -4.0, 27.0, 38.0)];
        let fat = holding(Site::Subcutaneous, phase.fat, 10.0, 8.0);
        parts.push(Painter::Blob(Blob::new(&hollow, 14.0, fat, Free).uneven(rng, 0.12)));
        for (tissue, r) in [(soft(phase.artery, 0.0, 1.0), 3.2), (soft(phase.vein, 0.0, 1.0), 4.2)] {
            let mut w = || rng.random_range(-8.0f32..8.0);
            let line = [
                knot(side * 92.0, -22.0 + w(), 655.0, r),
                knot(side * (118.0 + w()), -10.0 + w(), 610.0, r * 0.8),
                knot(side * 132.0, w(), 545.0, 1.4),
            ];
            parts.push(Painter::Tube(Tube::through(&line, tissue, Free)));
            for _ in 0..rng.random_range(1..4) {
                let root = Knot {
                    p: [side * rng.random_range(112.0..130.0), rng.random_range(-28.0..18.0), rng.random_range(550.0..630.0)],
                    r: 1.7,
                };
                let direction = std::array::from_fn(|_| rng.random_range(-1.0f32..1.0));
                parts.push(Painter::Tube(Tube::tree(rng, root, direction, [0.7, 1.2], tissue, Free)));
            }
        }
        for _ in 0..rng.random_range(1..6) {
            let p = [side * rng.random_range(112.0..134.0), rng.random_range(-30.0..22.0), rng.random_range(550.0..640.0)];
            let (r, angle) = (rng.random_range(1.5..3.2), rng.random_range(0.0..3.0));
            let node = soft(phase.muscle + rng.random_range(-15.0..20.0), 3.0, 3.0);
            parts.push(Painter::Blob(Blob::ellipsoid(p, [r * 1.6, r, r * 1.4], angle, node, Free)));
        }
    }
}

fn muscles(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let fat: f32 = rng.random_range(0.0f32..0.55).min(rng.random_range(0.0..0.55));
    let bulk = rng.random_range(0.8..1.2);
    let hu = phase.muscle;
    let mut belly = |sections: &[(f32, f32, f32, f32, f32, f32)], fat: f32| {
        let sections: Vec<Section> = sections
            .iter()
            .map(|(z, x, y, rx, ry, angle)| Section { z: *z, x: *x, y: *y, rx: rx * bulk, ry: ry * bulk, angle: *angle })
            .collect();
        let tissue = Tissue::Muscle { hu: hu + rng.random_range(-4.0..4.0), fat: fat * rng.random_range(0.6..1.3) };
        let gap = rng.random_range(0.8..2.2);
        both(parts, Blob::new(&sections, 14.0, tissue, Free).uneven(rng, 0.05).gap(gap));
    };
    // Psoas, joined by the iliacus, runs from the first lumbar vertebra to the thigh.
    belly(
        &[
            (0.0, 88.0, -18.0, 16.0, 18.0, 0.3),
            (60.0, 72.0, -38.0, 19.0, 17.0, 0.3),
            (130.0, 52.0, 0.0, 20.0, 22.0, -0.5),
            (210.0, 42.0, 30.0, 20.0, 23.0, 0.2),
            (290.0, 31.0, 40.0, 12.0, 17.0, 0.2),
            (345.0, 26.0, 44.0, 5.0, 8.0, 0.0),
        ],
        fat * 0.5,
    );
    // Quadratus lumborum.
    belly(&[(195.0, 70.0, 48.0, 20.0, 9.0, 0.35), (320.0, 55.0, 60.0, 13.0, 7.0, 0.3)], fat);
    // Erector spinae, the multifidus beside the spinous processes.
    belly(
        &[
            (80.0, 24.0, 86.0, 16.0, 9.0, 0.2),
            (180.0, 36.0, 84.0, 28.0, 17.0, 0.1),
            (300.0, 37.0, 84.0, 27.0, 18.0, 0.1),
            (430.0, 30.0, 88.0, 23.0, 12.0, 0.15),
            (680.0, 26.0, 84.0, 18.0, 11.0, 0.15),
        ],
        fat * 1.2,
    );
    belly(&[(90.0, 11.0, 83.0, 8.0, 10.0, 0.0), (220.0, 13.0, 81.0, 10.0, 13.0, 0.0), (640.0, 9.0, 85.0, 6.0, 7.0, 0.0)], fat * 1.6);
    // Rectus abdominis.
    belly(&[(10.0, 14.0, -88.0, 12.0, 6.0, -0.1), (160.0, 36.0, -86.0, 27.0, 5.5, 0.12), (380.0, 40.0, -88.0, 30.0, 5.0, 0.15)], fat * 0.6);
    // Iliacus on the inside of its bone; the flat muscles of the lower belly end on the bone's front.
    belly(&[(80.0, 66.0, -22.0, 11.0, 20.0, 0.4), (140.0, 76.0, 8.0, 11.0, 40.0, 0.6), (205.0, 92.0, 20.0, 7.0, 30.0, 0.55)], fat * 0.6);
    for (out, thin) in [(0.0f32, 5.0f32), (10.0, 4.5), (20.0, 4.0)] {
        let turn = 0.62;
        belly(
            &[
                (95.0 - out, 76.0 + out * 0.6, -66.0 - out * 0.6, 20.0, thin * 0.7, turn),
                (150.0, 84.0 + out * 0.6, -66.0 - out * 0.6, 38.0, thin, turn),
                (215.0, 94.0 + out * 0.5, -58.0 - out * 0.5, 44.0, thin, turn + 0.25),
            ],
            fat,
        );
    }
    // Gluteus maximus, medius, minimus.
    belly(
        &[
            (-50.0, 84.0, 56.0, 52.0, 24.0, -0.5),
            (60.0, 80.0, 76.0, 58.0, 27.0, -0.5),
            (150.0, 68.0, 90.0, 40.0, 13.0, -0.45),
            (190.0, 60.0, 94.0, 20.0, 7.0, -0.4),
        ],
        fat * 1.3,
    );
    belly(&[(20.0, 136.0, 4.0, 11.0, 22.0, 0.1), (100.0, 120.0, 18.0, 23.0, 48.0, 0.4), (205.0, 114.0, 34.0, 11.0, 32.0, 0.45)], fat);
    belly(&[(35.0, 124.0, -14.0, 14.0, 22.0, 0.2), (110.0, 106.0, 4.0, 14.0, 40.0, 0.5), (170.0, 108.0, 20.0, 8.0, 34.0, 0.55)], fat);
    // Tensor fasciae latae, sartorius, rectus femoris, obturators, piriformis, rotators and adductors round the hip.
    belly(&[(-50.0, 126.0, -46.0, 11.0, 20.0, -0.5), (90.0, 124.0, -48.0, 10.0, 17.0, -0.5)], fat);
    belly(&[(-50.0, 84.0, -74.0, 16.0, 7.0, 0.4), (110.0, 112.0, -64.0, 10.0, 7.0, 0.6)], fat);
    belly(&[(-50.0, 104.0, -56.0, 20.0, 16.0, 0.3), (60.0, 102.0, -56.0, 11.0, 12.0, 0.3)], fat);
    belly(&[(0.0, 56.0, 22.0, 8.0, 28.0, 0.1), (85.0, 60.0, 20.0, 7.0, 28.0, 0.2)], fat * 0.6);
    belly(&[(68.0, 62.0, 62.0, 34.0, 10.0, -0.35), (120.0, 48.0, 66.0, 28.0, 9.0, -0.3)], fat);
    belly(&[(-10.0, 96.0, 38.0, 26.0, 12.0, -0.2), (55.0, 96.0, 42.0, 26.0, 11.0, -0.4)], fat);
    belly(&[(-60.0, 66.0, 6.0, 32.0, 34.0, 0.3), (22.0, 56.0, -16.0, 30.0, 16.0, 0.4)], fat);
    belly(&[(-60.0, 122.0, -20.0, 22.0, 34.0, 0.2), (25.0, 126.0, -14.0, 12.0, 24.0, 0.2)], fat);
    // Pectorals, serratus and latissimus, trapezius, shoulder blade's muscles.
    belly(&[(480.0, 62.0, -93.0, 42.0, 6.0, 0.25), (610.0, 78.0, -80.0, 48.0, 11.0, 0.42)], fat);
    belly(&[(560.0, 88.0, -68.0, 26.0, 6.0, 0.5), (640.0, 92.0, -60.0, 24.0, 6.0, 0.5)], fat);
    belly(&[(380.0, 122.0, 48.0, 7.0, 30.0, 0.55), (610.0, 136.0, 40.0, 12.0, 32.0, 0.5)], fat);
    belly(&[(440.0, 30.0, 104.0, 26.0, 5.0, -0.1), (660.0, 52.0, 98.0, 44.0, 7.0, -0.2)], fat);
    belly(&[(540.0, 88.0, 78.0, 34.0, 10.0, -0.7), (640.0, 92.0, 74.0, 38.0, 13.0, -0.7)], fat);
    belly(&[(545.0, 98.0, 90.0, 34.0, 8.0, -0.65), (640.0, 104.0, 86.0, 38.0, 9.0, -0.65)], fat);
}

fn spine(rng: &mut impl Rng, parts: &mut Vec<Painter>, bone: &dyn Fn(f32, f32) -> Tissue) {
    let core = rng.random_range(110.0..260.0);
    let old = rng.random_range(0.0f32..1.0);
    let mut low = SACRUM_MM;
    for n in 0..VERTEBRAE {
        let lumbar = n < LUMBAR;
        let tall = if lumbar { 35.0 } else { 28.0 - 0.55 * (n - LUMBAR) as f32 };
        let (z0, z1) = (low, low + tall);
        low = z1;
        let disc = if lumbar { 9.0 } else { 4.5 };
        let (middle, y) = ((z0 + z1) / 2.0, column_y((z0 + z1) / 2.0));
        let (rx, ry) = if lumbar { (24.0, 17.5) } else { (15.5 + 0.5 * (VERTEBRAE - n) as f32, 14.5) };
        let canal = y + ry + 8.0;
        let blob = |z0: f32, z1: f32, x: f32, y: f32, rx: f32, ry: f32, tissue: Tissue| {
            Painter::Blob(Blob::new(&[section(z0, x, y, rx, ry), section(z1, x, y, rx, ry)], 2.5, tissue, Free))
        };
        parts.push(blob(z0 - 1.0, z0 + disc + 1.0, 0.0, y, rx + 1.0, ry + 0.8, soft(rng.random_range(65.0..105.0), 8.0, 6.0)));
        let rough = rng.random_range(0.01..0.05);
        let waist = Section { z: middle, x: 0.0, y, rx: rx * 0.9, ry: ry * 0.93, angle: 0.0 };
        let body = [section(z0 + disc, 0.0, y, rx, ry), waist, section(z1, 0.0, y, rx, ry)];
        parts.push(Painter::Blob(Blob::new(&body, 2.5, bone(1.3, core), Free).uneven(rng, rough)));
        let rod = |parts: &mut Vec<Painter>, from: [f32; 3], to: [f32; 3], r0: f32, r1: f32, cortex: f32| {
            parts.push(Painter::Tube(Tube::polyline(&[Knot { p: from, r: r0 }, Knot { p: to, r: r1 }], bone(cortex, core), Free)));
        };
        for side in [-1.0, 1.0] {
            rod(parts, [side * 13.0, y + ry * 0.6, middle + 5.0], [side * 15.0, canal + 3.0, middle + 3.0], 5.0, 5.5, 1.4);
            rod(parts, [side * 15.0, canal + 3.0, middle], [side * 3.0, canal + 14.0, middle - 5.0], 5.0, 4.0, 1.6);
            let reach = if lumbar { 42.0 } else { 30.0 };
            rod(
                parts,
                [side * 16.0, canal, middle + 3.0],
                [side * reach, canal + if lumbar { 2.0 } else { 10.0 }, middle + 4.0],
                4.5,
                3.0,
                1.3,
            );
            // Facet joints: two processes with a line of cartilage between them.
            let x = side * if lumbar { 18.0 } else { 15.0 };
            rod(parts, [x, canal + 6.0, z0 - 6.0], [x, canal + 5.0, z0 + 12.0], 6.5 + 2.0 * old, 6.0, 2.4);
            parts.push(Painter::Tube(Tube::polyline(
                &[knot(x - 5.0, canal + 5.0 - side * 4.0, z0 - 5.0, 0.9), knot(x + 5.0, canal + 5.0 + side * 4.0, z0 + 9.0, 0.9)],
                soft(60.0, 0.0, 1.0),
                Free,
            )));
        }
        parts.push(Painter::Tube(Tube::polyline(
            &[knot(0.0, canal + 13.0, middle - 4.0, 3.8), knot(0.0, canal + 34.0, middle - if lumbar { 12.0 } else { 26.0 }, 4.5)],
            bone(1.5, core),
            Free,
        )));
        // Osteophytes on the rims.
        for _ in 0..(old * rng.random_range(0.0..5.0)) as usize {
            let angle = rng.random_range(2.6f32..6.8);
            let (x, dy) = (rx * angle.cos() * 1.05, ry * angle.sin() * 1.05);
            let r = rng.random_range(2.0..5.5);
            let spur = Blob::ellipsoid([x, y + dy, z0 + disc], [r * 1.3, r, r], angle, bone(2.0, core * 2.0), Free);
            parts.push(Painter::Blob(spur));
        }
    }
    // Canal: cord or roots in fluid, a rim of fat.
    let at = |z: f32, r: f32| section(z, 0.0, column_y(z) + 26.0 - if z > 360.0 { 2.0 } else { 0.0 }, r * 1.15, r);
    let zs = [100.0, 190.0, 300.0, 420.0, 560.0, 720.0];
    let line = |r: f32| zs.map(|z| at(z, r));
    parts.push(Painter::Blob(Blob::new(&line(9.5), 5.0, soft(-70.0, 10.0, 8.0), Free)));
    parts.push(Painter::Blob(Blob::new(&line(8.0), 5.0, soft(22.0, 4.0, 6.0), Free)));
    parts.push(Painter::Blob(Blob::new(&zs.map(|z| at(z, if z > 320.0 { 4.5 } else { 3.0 })), 5.0, soft(42.0, 3.0, 4.0), Free)));
}

fn ribs(rng: &mut impl Rng, parts: &mut Vec<Painter>, bone: &dyn Fn(f32, f32) -> Tissue) {
    let core = rng.random_range(150.0..300.0);
    let calcified = rng.random_range(60.0..200.0);
    for n in 0..12 {
        // Head beside the n-th thoracic vertebra from below; each rib falls towards the front.
        let head = 338.0 + 27.0 * n as f32;
        let (rx, ry) = if n < 9 {
            (131.0 - 0.4 * (n as f32 - 5.0).powi(2), 95.0)
        } else {
            (118.0 - 9.0 * (n as f32 - 8.0), 84.0 - 8.0 * (n as f32 - 8.0))
        };
        let fall = rng.random_range(70.0..100.0) * if n > 9 { 0.5 } else { 1.0 };
        let last = if n < 2 { 12 } else { 24 };
        for side in [-1.0, 1.0] {
            let point = |k: usize, r: f32| {
                // From 20° off the back's middle to 20° off the front's.
                let angle = 0.33 + k as f32 / 24.0 * 2.5;
                knot(
                    side * rx * angle.sin(),
                    -6.0 + ry * angle.cos() * if angle < 1.5 { 1.05 } else { 1.0 },
                    head - fall * (k as f32 / 24.0).powf(0.8),
                    r,
                )
            };
            let bony = last.min(18);
            let mut line = vec![knot(side * 22.0, column_y(head) + 14.0, head, 4.5)];
            line.extend((0..=bony).map(|k| point(k, 4.6)));
            parts.push(Painter::Tube(Tube::through(&line, bone(1.6, core), Free)));
            if last > bony {
                let cartilage: Vec<Knot> = (bony..=last).map(|k| point(k, 5.0)).collect();
                parts.push(Painter::Tube(Tube::through(&cartilage, soft(calcified, 30.0, 4.0), Free)));
            }
        }
    }
    let sternum = Blob::new(&[section(440.0, 0.0, -90.0, 13.0, 5.0), section(600.0, 0.0, -84.0, 20.0, 6.0)], 8.0, bone(1.3, core), Free);
    parts.push(Painter::Blob(sternum));
    let plate = [(545.0, 104.0, 88.0, 4.0, 2.5), (600.0, 98.0, 84.0, 34.0, 2.6), (650.0, 104.0, 74.0, 40.0, 4.0)];
    let sections: Vec<Section> =
        plate.iter().map(|(z, x, y, rx, ry)| Section { z: *z, x: *x, y: *y, rx: *rx, ry: *ry, angle: -0.68 }).collect();
    both(parts, Blob::new(&sections, 8.0, bone(1.2, core), Free));
    for side in [-1.0, 1.0] {
        let collar = [knot(side * 18.0, -72.0, 622.0, 7.0), knot(side * 70.0, -70.0, 640.0, 5.5), knot(side * 130.0, -20.0, 665.0, 6.0)];
        parts.push(Painter::Tube(Tube::through(&collar, bone(2.0, core), Free)));
    }
}

fn pelvis(rng: &mut impl Rng, parts: &mut Vec<Painter>, bone: &dyn Fn(f32, f32) -> Tissue) {
    let core = rng.random_range(120.0..260.0);
    let wide = rng.random_range(0.94..1.06);
    let plate = |sections: &[(f32, f32, f32, f32, f32, f32)]| -> Vec<Section> {
        sections.iter().map(|(z, x, y, rx, ry, angle)| Section { z: *z, x: x * wide, y: *y, rx: *rx, ry: *ry, angle: *angle }).collect()
    };
    // Sacrum, tapering and bending backwards.
    let sacrum = plate(&[(50.0, 0.0, 78.0, 14.0, 7.0, 0.0), (100.0, 0.0, 74.0, 40.0, 13.0, 0.0), (168.0, 0.0, 52.0, 52.0, 17.0, 0.0)]);
    parts.push(Painter::Blob(Blob::new(&sacrum, 5.0, bone(1.2, core * 0.8), Free).uneven(rng, 0.05)));
    // Iliac wing: thick behind, thin in its middle, leaning outwards with height.
    let wing = plate(&[
        (62.0, 84.0, 4.0, 12.0, 30.0, 0.25),
        (100.0, 82.0, 24.0, 8.0, 46.0, 0.55),
        (150.0, 92.0, 26.0, 6.0, 54.0, 0.62),
        (208.0, 108.0, 30.0, 5.5, 34.0, 0.5),
    ]);
    both(parts, Blob::new(&wing, 6.0, bone(1.9, core), Free).uneven(rng, 0.06).square(0.3));
    // Hip joint: socket, cartilage, head, neck and trochanter.
    for side in [-1.0, 1.0] {
        let x = side * 88.0 * wide;
        parts.push(Painter::Blob(
            Blob::ellipsoid([x - side * 6.0, -4.0, 48.0], [32.0, 34.0, 32.0], 0.0, bone(2.2, core), Free).uneven(rng, 0.05),
        ));
        parts.push(Painter::Blob(Blob::ellipsoid([x + side * 5.0, -2.0, 44.0], [28.5, 27.0, 28.0], 0.0, soft(80.0, 10.0, 6.0), Free)));
        let head = [knot(x + side * 5.0, -2.0, 44.0, 24.0), knot(x + side * 6.0, -2.0, 43.5, 24.0)];
        parts.push(Painter::Tube(Tube::polyline(&head, bone(1.3, core * 1.7), Free)));
        let neck = [knot(x + side * 10.0, 0.0, 40.0, 17.0), knot(x + side * 48.0, 16.0, 18.0, 18.0)];
        parts.push(Painter::Tube(Tube::polyline(&neck, bone(1.6, core * 0.9), Free)));
        let shaft = [knot(x + side * 46.0, 12.0, 14.0, 17.0), knot(x + side * 38.0, 6.0, -60.0, 15.0)];
        parts.push(Painter::Tube(Tube::polyline(&shaft, bone(4.0, 40.0), Free)));
        let pubis = [knot(side * 60.0 * wide, -22.0, 34.0, 10.0), knot(side * 32.0, -48.0, 22.0, 8.0), knot(side * 8.0, -56.0, 10.0, 11.0)];
        parts.push(Painter::Tube(Tube::through(&pubis, bone(1.5, core), Free)));
        let ischium =
            [knot(side * 72.0 * wide, 28.0, 34.0, 15.0), knot(side * 62.0 * wide, 42.0, -8.0, 15.0), knot(side * 24.0, -28.0, -30.0, 8.0)];
        parts.push(Painter::Tube(Tube::through(&ischium, bone(1.8, core), Free)));
    }
}
