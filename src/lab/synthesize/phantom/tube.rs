//! Structures along a line: vessels and their trees, bowel, ribs.

use rand::Rng;

use super::canvas::{Canvas, Clip};
use super::tissue::{Spot, Tissue};

/// A point of a line with its radius, mm.
#[derive(Debug, Clone, Copy)]
pub struct Knot {
    /// Where.
    pub p: [f32; 3],
    /// Radius.
    pub r: f32,
}

/// A knot.
#[must_use]
pub const fn knot(x: f32, y: f32, z: f32, r: f32) -> Knot {
    Knot { p: [x, y, z], r }
}

/// Pieces of a line or of a tree, one tissue.
#[derive(Debug, Clone)]
pub struct Tube {
    pieces: Vec<(Knot, Knot, f32)>,
    tissue: Tissue,
    clip: Clip,
}

/// What `paint` knows of a pixel: depth, position along, height over the axis in radii.
type Nearest = (f32, f32, f32);

fn sub(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// Length of a vector.
#[must_use]
pub fn length(a: [f32; 3]) -> f32 {
    (a[0] * a[0] + a[1] * a[1] + a[2] * a[2]).sqrt()
}

/// A vector of length 1.
#[must_use]
pub fn unit(a: [f32; 3]) -> [f32; 3] {
    let l = length(a).max(1e-6);
    a.map(|v| v / l)
}

impl Tube {
    /// A smooth line through `knots`.
    pub fn through(knots: &[Knot], tissue: Tissue, clip: Clip) -> Self {
        Self::polyline(&smooth(knots), tissue, clip)
    }

    /// Straight pieces between `knots`.
    pub fn polyline(knots: &[Knot], tissue: Tissue, clip: Clip) -> Self {
        let mut along = 0.0;
        let pieces = knots
            .windows(2)
            .map(|w| {
                let from = along;
                along += length(sub(w[1].p, w[0].p));
                (w[0], w[1], from)
            })
            .collect();
        Self { pieces, tissue, clip }
    }

    /// A tree that grows from `root` in `direction` and splits until it is thinner than `reach[0]` mm; a step is `reach[1]` times its usual length.
    pub fn tree(rng: &mut impl Rng, root: Knot, direction: [f32; 3], reach: [f32; 2], tissue: Tissue, clip: Clip) -> Self {
        let mut pieces = Vec::new();
        grow(rng, root, unit(direction), reach, &mut pieces);
        Self { pieces, tissue, clip }
    }

    /// Paints it.
    pub fn paint(&self, canvas: &mut Canvas<'_>) {
        let z = canvas.z;
        let near = |(a, b, _): &&(Knot, Knot, f32)| {
            let r = a.r.max(b.r) + 1.0;
            z > a.p[2].min(b.p[2]) - r && z < a.p[2].max(b.p[2]) + r
        };
        // A plain tissue is the same in every piece: no need to know the nearest one first.
        if matches!(self.tissue, Tissue::Soft { .. }) {
            for piece in self.pieces.iter().filter(near) {
                self.piece(canvas, piece, |canvas, i, (depth, along, height)| {
                    let spot = Spot { p: canvas.point(i), depth, along, height };
                    canvas.put(i, spot, &self.tissue, self.clip);
                });
            }
            return;
        }
        let mut hit: Vec<(usize, Nearest)> = Vec::new();
        for piece in self.pieces.iter().filter(near) {
            self.piece(canvas, piece, |_, i, n| hit.push((i, n)));
        }
        hit.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.0.total_cmp(&a.1.0)));
        hit.dedup_by_key(|h| h.0);
        for (i, (depth, along, height)) in hit {
            let spot = Spot { p: canvas.point(i), depth, along, height };
            canvas.put(i, spot, &self.tissue, self.clip);
        }
    }

    fn piece<'c>(
        &self,
        canvas: &mut Canvas<'c>,
        (a, b, along): &(Knot, Knot, f32),
        mut found: impl FnMut(&mut Canvas<'c>, usize, Nearest),
    ) {
        let r = a.r.max(b.r) + 0.6;
        let low = |axis: usize| a.p[axis].min(b.p[axis]) - r;
        let high = |axis: usize| a.p[axis].max(b.p[axis]) + r;
        let [x1, y1, x2, y2] = canvas.window([low(0), low(1), high(0), high(1)]);
        let d = sub(b.p, a.p);
        let squared = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).max(1e-6);
        let dz = canvas.z - a.p[2];
        for y in y1..y2 {
            for x in x1..x2 {
                let i = y * canvas.size + x;
                let [px, py] = canvas.at[i];
                let (dx, dy) = (px - a.p[0], py - a.p[1]);
                let t = ((dx * d[0] + dy * d[1] + dz * d[2]) / squared).clamp(0.0, 1.0);
                let q = [dx - d[0] * t, dy - d[1] * t, dz - d[2] * t];
                let radius = a.r + (b.r - a.r) * t;
                let depth = radius - length(q);
                if depth > -0.5 {
                    found(canvas, i, (depth, along + squared.sqrt() * t, q[1] / radius.max(0.5)));
                }
            }
        }
    }
}

/// Catmull-Rom through the knots, pieces of about 5 mm.
fn smooth(knots: &[Knot]) -> Vec<Knot> {
    const PIECE_MM: f32 = 5.0;
    let Some(last) = knots.len().checked_sub(1) else { return Vec::new() };
    let mut out = Vec::new();
    for i in 0..last {
        let k = [knots[i.saturating_sub(1)], knots[i], knots[i + 1], knots[(i + 2).min(last)]];
        let count = (length(sub(k[2].p, k[1].p)) / PIECE_MM).ceil().max(1.0);
        for n in 0..count as usize {
            let t = n as f32 / count;
            let curve = |v: [f32; 4]| {
                0.5 * (2.0 * v[1]
                    + (v[2] - v[0]) * t
                    + (2.0 * v[0] - 5.0 * v[1] + 4.0 * v[2] - v[3]) * t * t
                    + (3.0 * v[1] - v[0] - 3.0 * v[2] + v[3]) * t * t * t)
            };
            let p = std::array::from_fn(|axis| curve(std::array::from_fn(|j| k[j].p[axis])));
            out.push(Knot { p, r: k[1].r + (k[2].r - k[1].r) * t });
        }
    }
    out.extend(knots.last().copied());
    out
}

fn grow(rng: &mut impl Rng, mut at: Knot, mut direction: [f32; 3], reach: [f32; 2], pieces: &mut Vec<(Knot, Knot, f32)>) {
    /// More than any tree needs.
    const MOST: usize = 4000;
    let steps = rng.random_range(2..5);
    for _ in 0..steps {
        let step = (2.5 + at.r * 1.6) * reach[1];
        direction = unit(direction.map(|v| v + rng.random_range(-0.28f32..0.28)));
        let next = Knot { p: std::array::from_fn(|axis| at.p[axis] + step * direction[axis]), r: at.r * 0.97 };
        pieces.push((at, next, 0.0));
        at = next;
    }
    for _ in 0..2 {
        let r = at.r * rng.random_range(0.6..0.9);
        if r < reach[0] || pieces.len() > MOST {
            continue;
        }
        let turned = direction.map(|v| v + rng.random_range(-0.75f32..0.75));
        grow(rng, Knot { p: at.p, r }, unit(turned), reach, pieces);
    }
}
