//! Stomach's sequel: small bowel as lines that wander through the cavity and avoid each other, colon on its usual way.

use rand::Rng;

use super::canvas::Clip::Abdomen;
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::{Content, Tissue};
use super::tube::{Knot, Tube, knot, unit};

/// Distance of two points of a small bowel's line.
const STEP_MM: f32 = 7.0;
/// Directions tried a step; the freest is taken.
const TRIES: usize = 10;

/// Adds colon and small bowel.
pub fn add(rng: &mut impl Rng, phase: &Phase, parts: &mut Vec<Painter>) {
    let oral = rng.random_bool(0.5).then(|| rng.random_range(90.0..420.0));
    let mut taken = colon(rng, phase, oral, parts);
    small(rng, phase, oral, &mut taken, parts);
}

fn colon(rng: &mut impl Rng, phase: &Phase, oral: Option<f32>, parts: &mut Vec<Painter>) -> Vec<Knot> {
    let r = rng.random_range(13.0..24.0);
    let sag = rng.random_range(0.0..90.0);
    let mut w = || rng.random_range(-9.0f32..9.0);
    let courses: [Vec<[f32; 3]>; 5] = [
        vec![[-78.0 + w(), 2.0, 178.0], [-92.0, 8.0 + w(), 215.0], [-96.0, 14.0, 265.0 + w()], [-86.0, 0.0, 306.0]],
        vec![
            [-86.0, 0.0, 306.0],
            [-64.0 + w(), -42.0, 310.0],
            [0.0, -66.0 + w(), 312.0 - sag],
            [52.0, -56.0, 330.0 + w()],
            [92.0, 4.0, 374.0],
        ],
        vec![[92.0, 4.0, 374.0], [102.0, 24.0 + w(), 330.0], [100.0, 20.0, 265.0], [94.0 + w(), 10.0, 200.0]],
        vec![[94.0, 10.0, 200.0], [80.0, -14.0 + w(), 150.0], [40.0 + w(), -30.0, 128.0], [-14.0, -6.0 + w(), 140.0], [4.0, 28.0, 112.0]],
        vec![[4.0, 28.0, 112.0], [0.0, 46.0 + w() * 0.4, 76.0], [0.0, 36.0, 30.0], [0.0, 40.0, -20.0]],
    ];
    let mut taken = Vec::new();
    for (n, course) in courses.iter().enumerate() {
        let content = match (oral, rng.random_range(0..10)) {
            (Some(hu), 0..4) => Content::Stool { hu: hu * 0.7, gas: rng.random_range(0.0..0.5) },
            (_, 0..4) => Content::Stool { hu: rng.random_range(10.0..90.0), gas: rng.random_range(0.2..0.75) },
            (_, 4..7) => Content::Fluid { hu: rng.random_range(10.0..60.0), gas: rng.random_range(0.3..1.0) },
            (_, 7..9) => Content::Fluid { hu: rng.random_range(10.0..45.0), gas: rng.random_range(-0.6..0.5) },
            _ => Content::Folded { hu: rng.random_range(0.0..30.0) },
        };
        let tissue = Tissue::Hollow { wall_mm: rng.random_range(1.3..3.0), wall_hu: phase.bowel_wall, content };
        let narrow = if n >= 2 { 0.75 } else { 1.0 } * rng.random_range(0.75..1.15);
        let mut knots = Vec::new();
        // Haustra: every 30 mm a little narrower.
        for pair in course.windows(2) {
            for k in 0..4 {
                let t = k as f32 / 4.0;
                let p = std::array::from_fn(|a| pair[0][a] + (pair[1][a] - pair[0][a]) * t + rng.random_range(-3.0f32..3.0));
                knots.push(Knot { p, r: r * narrow * rng.random_range(0.75..1.12) });
            }
        }
        knots.extend(course.last().map(|p| Knot { p: *p, r: r * narrow }));
        taken.extend(knots.iter().copied());
        parts.push(Painter::Tube(Tube::through(&knots, tissue, Abdomen)));
    }
    let wall = Tissue::Hollow { wall_mm: 1.6, wall_hu: phase.bowel_wall, content: Content::Folded { hu: 10.0 } };
    let appendix = [knot(-72.0, 4.0, 172.0, 3.2), knot(-58.0, 10.0, 152.0, 3.0), knot(-50.0, -4.0, 140.0, 3.0)];
    parts.push(Painter::Tube(Tube::through(&appendix, wall, Abdomen)));
    taken
}

/// Whether the small bowel may lie there.
fn room([x, y, z]: [f32; 3]) -> bool {
    let (low, high) = (58.0, 330.0);
    let wide = 92.0 - 0.35 * (130.0 - z).max(0.0);
    (low..high).contains(&z) && (x / wide).powi(2) + ((y + 28.0) / 50.0).powi(2) < 1.0
}

fn small(rng: &mut impl Rng, phase: &Phase, oral: Option<f32>, taken: &mut Vec<Knot>, parts: &mut Vec<Painter>) {
    let wide = rng.random_range(0.8..1.25);
    for _ in 0..rng.random_range(25..55) {
        let r = wide * rng.random_range(6.5..12.5);
        let content = match (oral, rng.random_range(0..10)) {
            (Some(hu), 0..7) => Content::Fluid { hu: hu * rng.random_range(0.5..1.2), gas: rng.random_range(-2.0..0.0) },
            (_, 0..5) => Content::Folded { hu: rng.random_range(5.0..30.0) },
            (_, 5..8) => Content::Fluid { hu: rng.random_range(0.0..28.0), gas: rng.random_range(-2.5..-0.4) },
            _ => Content::Fluid { hu: rng.random_range(5.0..40.0), gas: rng.random_range(-0.5..0.6) },
        };
        let wall_hu = phase.bowel_wall + rng.random_range(-12.0..15.0);
        let tissue = Tissue::Hollow { wall_mm: rng.random_range(1.2..2.8), wall_hu, content };
        let steps = rng.random_range(25..70);
        let knots = wander(rng, r, steps, taken);
        if knots.len() > 4 {
            taken.extend(knots.iter().copied());
            parts.push(Painter::Tube(Tube::polyline(&knots, tissue, Abdomen)));
        }
    }
}

fn wander(rng: &mut impl Rng, r: f32, steps: usize, taken: &[Knot]) -> Vec<Knot> {
    let free = |p: [f32; 3], own: &[Knot]| -> f32 {
        if !room(p) {
            return -50.0;
        }
        let older = own.len().saturating_sub(3);
        let gap = |k: &Knot| {
            let d = [k.p[0] - p[0], k.p[1] - p[1], k.p[2] - p[2]];
            (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt() - k.r - r
        };
        taken.iter().chain(&own[..older]).map(gap).fold(4.0, f32::min)
    };
    let mut knots: Vec<Knot> = Vec::new();
    let start = (0..60)
        .map(|_| [rng.random_range(-85.0..85.0), rng.random_range(-74.0..14.0), rng.random_range(72.0..322.0)])
        .max_by(|a, b| free(*a, &knots).total_cmp(&free(*b, &knots)));
    let Some(mut p) = start.filter(|p| free(*p, &knots) > -2.0) else { return knots };
    let mut direction = unit(std::array::from_fn(|_| rng.random_range(-1.0f32..1.0)));
    for n in 0..steps {
        knots.push(Knot { p, r: r * (1.0 + 0.18 * (n as f32 * 0.9).sin() * rng.random_range(0.0f32..1.0)) });
        let mut best = (f32::MIN, p, direction);
        for _ in 0..TRIES {
            let turned = unit(direction.map(|v| v + rng.random_range(-0.75f32..0.75)));
            let next = std::array::from_fn(|a| p[a] + STEP_MM * turned[a]);
            let score = free(next, &knots);
            if score > best.0 {
                best = (score, next, turned);
            }
        }
        // Walled in: a loop that bends back or ends.
        if best.0 < -3.0 {
            break;
        }
        (p, direction) = (best.1, best.2);
    }
    knots
}
