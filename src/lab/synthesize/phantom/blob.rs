//! Upright structures: ellipses whose middle, axes and turn change with z, with an uneven outline. Organs, muscle bellies, the body itself.

use rand::Rng;

use super::canvas::{Canvas, Clip, coverage};
use super::tissue::{Spot, Tissue};

/// Waves on the outline: two to five round it.
const WAVES: usize = 4;
/// Fat between a muscle and its neighbour.
const GAP_HU: f32 = -95.0;

/// A section of a blob at one height; between two the shape changes smoothly.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Height, mm.
    pub z: f32,
    /// Middle.
    pub x: f32,
    /// Middle.
    pub y: f32,
    /// Semi-axes.
    pub rx: f32,
    /// Semi-axes.
    pub ry: f32,
    /// Turn, radians.
    pub angle: f32,
}

/// A section without a turn.
#[must_use]
pub const fn section(z: f32, x: f32, y: f32, rx: f32, ry: f32) -> Section {
    Section { z, x, y, rx, ry, angle: 0.0 }
}

/// The structure.
#[derive(Debug, Clone)]
pub struct Blob {
    sections: Vec<Section>,
    /// Over this length at both ends it closes like an ellipsoid.
    round_mm: f32,
    /// 0 an ellipse, 1 nearly a rectangle.
    square: f32,
    /// Amplitude, phase and drift with z of each wave.
    waves: [[f32; 3]; WAVES],
    /// Fat round it.
    gap_mm: f32,
    tissue: Tissue,
    clip: Clip,
}

/// A section of a blob on one plane.
pub struct Slice {
    section: Section,
    sin: f32,
    cos: f32,
    square: f32,
    waves: [[f32; 2]; WAVES],
}

impl Blob {
    /// A smooth one through `sections` (rising z).
    pub fn new(sections: &[Section], round_mm: f32, tissue: Tissue, clip: Clip) -> Self {
        Self { sections: sections.to_vec(), round_mm, square: 0.0, waves: [[0.0; 3]; WAVES], gap_mm: 0.0, tissue, clip }
    }

    /// An ellipsoid.
    pub fn ellipsoid(centre: [f32; 3], semi: [f32; 3], angle: f32, tissue: Tissue, clip: Clip) -> Self {
        let at = |z: f32| Section { z, x: centre[0], y: centre[1], rx: semi[0], ry: semi[1], angle };
        Self::new(&[at(centre[2] - semi[2]), at(centre[2] + semi[2])], semi[2], tissue, clip)
    }

    /// With an uneven outline of relative amplitude `rough`.
    pub fn uneven(mut self, rng: &mut impl Rng, rough: f32) -> Self {
        for wave in &mut self.waves {
            *wave = [rough * rng.random_range(-1.0..1.0), rng.random_range(0.0..std::f32::consts::TAU), rng.random_range(-0.03..0.03)];
        }
        self
    }

    /// With corners.
    pub fn square(mut self, square: f32) -> Self {
        self.square = square;
        self
    }

    /// With `gap_mm` of fat round it.
    pub fn gap(mut self, gap_mm: f32) -> Self {
        self.gap_mm = gap_mm;
        self
    }

    /// Mirrored left to right.
    pub fn mirrored(mut self) -> Self {
        for s in &mut self.sections {
            (s.x, s.angle) = (-s.x, -s.angle);
        }
        self
    }

    /// Its section at `z`, if it reaches there.
    #[must_use]
    pub fn slice(&self, z: f32) -> Option<Slice> {
        let (first, last) = (self.sections.first()?, self.sections.last()?);
        if z <= first.z || z >= last.z {
            return None;
        }
        let i = self.sections.windows(2).position(|w| z <= w[1].z)?;
        let (a, b) = (self.sections[i], self.sections[i + 1]);
        let t = (z - a.z) / (b.z - a.z).max(1e-3);
        let t = t * t * (3.0 - 2.0 * t);
        let lerp = |a: f32, b: f32| a + (b - a) * t;
        let end = (z - first.z).min(last.z - z);
        let close = if end < self.round_mm { (1.0 - (1.0 - end / self.round_mm).powi(2)).max(0.0).sqrt() } else { 1.0 };
        if close < 0.05 {
            return None;
        }
        let (rx, ry) = (lerp(a.rx, b.rx) * close, lerp(a.ry, b.ry) * close);
        let section = Section { z, x: lerp(a.x, b.x), y: lerp(a.y, b.y), rx, ry, angle: lerp(a.angle, b.angle) };
        let (sin, cos) = section.angle.sin_cos();
        let waves = std::array::from_fn(|k| {
            let [amplitude, phase, drift] = self.waves[k];
            let (s, c) = (phase + drift * z).sin_cos();
            [amplitude * c, amplitude * s]
        });
        Some(Slice { section, sin, cos, square: self.square, waves })
    }

    /// Paints it.
    pub fn paint(&self, canvas: &mut Canvas<'_>) {
        let Some(slice) = self.slice(canvas.z) else { return };
        let s = slice.section;
        let reach = s.rx.max(s.ry) * (1.0 + self.waves.iter().map(|w| w[0].abs()).sum::<f32>()) + self.gap_mm + 1.0;
        let [x1, y1, x2, y2] = canvas.window([s.x - reach, s.y - reach, s.x + reach, s.y + reach]);
        for y in y1..y2 {
            for x in x1..x2 {
                let i = y * canvas.size + x;
                let depth = slice.depth(canvas.at[i]);
                if depth < -0.5 - self.gap_mm {
                    continue;
                }
                if self.gap_mm > 0.0 {
                    let share = coverage(depth + self.gap_mm) * canvas.open(i, self.clip);
                    canvas.mix(i, share, GAP_HU, None);
                }
                let spot = Spot { p: canvas.point(i), depth, along: canvas.z, height: (canvas.at[i][1] - s.y) / s.ry.max(1.0) };
                canvas.put(i, spot, &self.tissue, self.clip);
            }
        }
    }
}

impl Slice {
    /// Semi-axes, mm.
    #[must_use]
    pub fn semi_mm(&self) -> [f32; 2] {
        [self.section.rx, self.section.ry]
    }

    /// Depth of a point below the outline, mm: exact at the outline, good near it.
    #[must_use]
    pub fn depth(&self, [x, y]: [f32; 2]) -> f32 {
        let s = &self.section;
        let (dx, dy) = (x - s.x, y - s.y);
        let (u, v) = ((dx * self.cos + dy * self.sin) / s.rx, (dy * self.cos - dx * self.sin) / s.ry);
        let round = (u * u + v * v).sqrt().max(1e-3);
        let rho = if self.square > 0.0 {
            let corner = (u * u * u * u + v * v * v * v).sqrt().sqrt();
            round + (corner - round) * self.square
        } else {
            round
        };
        if rho > 2.5 {
            return -(rho - 1.0) * s.rx.min(s.ry);
        }
        let (c, n) = (u / round, v / round);
        let (mut ck, mut sk) = (c, n);
        let mut radius = 1.0;
        for w in &self.waves {
            (ck, sk) = (ck * c - sk * n, sk * c + ck * n);
            radius += w[0] * ck + w[1] * sk;
        }
        let gradient = ((u / s.rx).powi(2) + (v / s.ry).powi(2)).sqrt() / round;
        ((radius - rho) / gradient.max(1e-4)).min(s.rx.max(s.ry))
    }
}
