//! Vessels of abdomen and pelvis: aorta, cava, portal system, mesenteric trees, iliac vessels.

use rand::Rng;

use super::blob::{Blob, Section};
use super::canvas::Clip::{Abdomen, Free};
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::{Tissue, soft};
use super::tube::{Knot, Tube, knot};

/// Adds them all but for aorta, cava and crura, which it returns: no organ covers them. The iliac vessels leave the cavity at the groin.
pub fn add(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) -> Vec<Painter> {
    let (artery, vein, portal) = (soft(phase.artery, 2.0, 9.0), soft(phase.vein, 3.0, 9.0), soft(phase.portal, 0.0, 1.0));
    let mut r = |low: f32, high: f32| rng.random_range(low..high);
    let (aorta, cava) = (r(7.0, 11.5), r(8.0, 12.5));
    let bend = r(-5.0, 5.0);
    let cava_blood = soft(phase.vein, phase.streaks, r(5.0, 9.0));
    let fork = r(205.0, 225.0);
    let mut great = crura(rng, phase);
    let mut r = |low: f32, high: f32| rng.random_range(low..high);
    let mut line = |knots: &[Knot], tissue: Tissue| great.push(Painter::Tube(Tube::through(knots, tissue, Free)));
    line(&[knot(4.0, 18.0, 440.0, aorta * 1.1), knot(6.0 + bend, 10.0, 330.0, aorta), knot(4.0, 6.0, fork, aorta * 0.85)], artery);
    line(
        &[
            knot(-22.0, 0.0, 450.0, cava),
            knot(-22.0, 6.0, 370.0, cava),
            knot(-20.0, 12.0, 300.0, cava * 0.9),
            knot(-12.0, 13.0, fork - 14.0, cava * 0.9),
        ],
        cava_blood,
    );
    let mut line = |knots: &[Knot], tissue: Tissue| parts.push(Painter::Tube(Tube::through(knots, tissue, Free)));
    for side in [-1.0f32, 1.0] {
        let w = r(-5.0, 5.0);
        let outer = |dx: f32, dy: f32, wide: f32| {
            [
                knot(side * 4.0 + dx.abs() * -0.5, 8.0 + dy * 0.5, fork, wide * 1.2),
                knot(side * 30.0, 14.0 + dy, 170.0, wide * 1.1),
                knot(side * (52.0 + w) + dx, 4.0 + dy, 115.0, wide),
                knot(side * 62.0 + dx, -34.0 + dy, 62.0, wide),
                knot(side * 66.0 + dx, -62.0 + dy, 16.0, wide),
                knot(side * 72.0 + dx, -64.0 + dy, -50.0, wide),
            ]
        };
        line(&outer(0.0, -3.0, r(4.0, 6.0)), artery);
        line(&outer(-side * 9.0, 7.0, r(5.0, 7.5)), vein);
        let inner = |dy: f32, wide: f32| {
            [
                knot(side * 36.0, 16.0 + dy, 155.0, wide),
                knot(side * 50.0, 40.0 + dy, 110.0, wide * 0.8),
                knot(side * 50.0, 44.0, 70.0, wide * 0.5),
            ]
        };
        line(&inner(0.0, 3.6), artery);
        line(&inner(6.0, 4.2), vein);
        // Gonadal and epigastric vessels.
        line(&[knot(side * 18.0, 10.0, 290.0, 1.5), knot(side * 42.0, 8.0, 190.0, 1.6), knot(side * 50.0, -20.0, 110.0, 1.5)], vein);
        line(&[knot(side * 60.0, -56.0, 60.0, 1.7), knot(side * 36.0, -82.0, 120.0, 1.7), knot(side * 38.0, -85.0, 260.0, 1.2)], artery);
    }
    line(
        &[
            knot(-34.0, -14.0, 362.0, 6.5),
            knot(-22.0, -14.0, 345.0, 7.0),
            knot(-6.0, -18.0, 336.0, 6.5),
            knot(30.0, -2.0, 346.0, 4.5),
            knot(70.0, 22.0, 370.0, 4.0),
        ],
        portal,
    );
    line(&[knot(-8.0, -18.0, 336.0, 6.0), knot(-8.0, -26.0, 290.0, 5.5), knot(-16.0, -30.0, 250.0, 4.0)], portal);
    line(&[knot(4.0, 2.0, 342.0, 4.0), knot(3.0, -14.0, 325.0, 3.8), knot(0.0, -24.0, 280.0, 3.4), knot(-8.0, -28.0, 240.0, 2.6)], artery);
    line(&[knot(4.0, 2.0, 358.0, 4.0), knot(0.0, -10.0, 358.0, 3.2), knot(-26.0, -14.0, 350.0, 2.4)], artery);
    line(&[knot(0.0, -10.0, 358.0, 2.8), knot(30.0, 6.0, 352.0, 2.4), knot(62.0, 22.0, 372.0, 2.2)], artery);
    line(&[knot(5.0, 2.0, 255.0, 2.2), knot(22.0, -4.0, 200.0, 2.0), knot(26.0, 20.0, 130.0, 1.8)], artery);
    trees(rng, artery, portal, parts);
    great
}

/// The diaphragm's crura: bands in front of the spine that look like nodes beside the aorta.
fn crura(rng: &mut impl Rng, phase: &Phase) -> Vec<Painter> {
    let mut crus = |side: f32| {
        let (wide, low) = (rng.random_range(2.5..5.5), rng.random_range(225.0..265.0));
        let at = |z: f32, x: f32, y: f32, long: f32| Section { z, x: 2.0 + side * x, y, rx: wide, ry: long, angle: side * 0.25 };
        let sections = [at(low, 9.0, 17.0, 4.0), at(300.0, 13.0, 15.0, 9.0), at(350.0, 17.0, 10.0, 15.0), at(405.0, 24.0, 2.0, 22.0)];
        let muscle = soft(phase.muscle, 4.0, 6.0);
        Painter::Blob(Blob::new(&sections, 12.0, muscle, Abdomen).uneven(rng, 0.08).gap(0.8))
    };
    vec![crus(-1.0), crus(1.0)]
}

fn trees(rng: &mut impl Rng, artery: Tissue, portal: Tissue, parts: &mut Vec<Painter>) {
    for _ in 0..rng.random_range(12..24) {
        let root = [rng.random_range(-14.0..10.0), -26.0, rng.random_range(190.0..310.0)];
        let direction = [rng.random_range(-1.0f32..1.0), rng.random_range(-0.8f32..0.5), rng.random_range(-1.0f32..0.6)];
        for (tissue, r, shift) in [(portal, rng.random_range(2.0..3.6), 0.0), (artery, rng.random_range(1.2..2.2), 5.0)] {
            let root = Knot { p: [root[0] + shift, root[1], root[2]], r };
            parts.push(Painter::Tube(Tube::tree(rng, root, direction, [0.7, 1.2], tissue, Abdomen)));
        }
    }
    for _ in 0..rng.random_range(3..8) {
        let root = Knot {
            p: [rng.random_range(-50.0..50.0), rng.random_range(10.0..50.0), rng.random_range(10.0..130.0)],
            r: rng.random_range(1.2..2.4),
        };
        let direction = std::array::from_fn(|_| rng.random_range(-1.0f32..1.0));
        parts.push(Painter::Tube(Tube::tree(rng, root, direction, [0.7, 1.2], portal, Abdomen)));
    }
}
