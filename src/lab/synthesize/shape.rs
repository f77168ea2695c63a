//! A lesion's body in 3-D: an ellipsoid with a rough, star-convex surface, a soft edge and a texture of its own. Lengths in mm.

use rand::Rng;

/// Waves on the surface and in the texture.
const WAVES: usize = 7;
/// Points on the outline of a section that its length is taken from.
const OUTLINE: usize = 64;

/// One random wave.
#[derive(Debug, Clone, Copy)]
struct Wave {
    direction: [f32; 3],
    amplitude: f32,
    phase: f32,
}

/// A lesion's geometry round its own centre.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Semi-axes.
    pub semi_mm: [f32; 3],
    /// In-plane direction of the first axis, radians.
    angle: f32,
    /// In-plane drift of the centre with z: a lesion's axis is rarely upright.
    tilt: [f32; 2],
    /// Width of the edge.
    edge_mm: f32,
    surface: [Wave; WAVES],
    texture: [Wave; WAVES],
    necrosis: [Wave; WAVES],
}

fn waves(rng: &mut impl Rng, low: f32, high: f32) -> [Wave; WAVES] {
    std::array::from_fn(|_| {
        let frequency = rng.random_range(low..high);
        let (azimuth, height) = (rng.random_range(0.0..std::f32::consts::TAU), rng.random_range(-1.0f32..1.0));
        let radius = (1.0 - height * height).max(0.0).sqrt();
        let direction = [frequency * radius * azimuth.cos(), frequency * radius * azimuth.sin(), frequency * height];
        Wave {
            direction,
            amplitude: rng.random_range(0.3..1.0) / (WAVES as f32).sqrt(),
            phase: rng.random_range(0.0..std::f32::consts::TAU),
        }
    })
}

fn sum(waves: &[Wave; WAVES], p: [f32; 3]) -> f32 {
    waves.iter().map(|w| w.amplitude * (w.direction[0] * p[0] + w.direction[1] * p[1] + w.direction[2] * p[2] + w.phase).cos()).sum()
}

/// Half of the longest line across the middle section of a lesion with semi-axes 1 and `ratio`.
fn longest(surface: &[Wave; WAVES], ratio: f32) -> f32 {
    let outline: Vec<[f32; 2]> = (0..OUTLINE)
        .map(|i| (i as f32 * std::f32::consts::TAU / OUTLINE as f32).sin_cos())
        .map(|(sin, cos)| {
            let radius = 1.0 + sum(surface, [cos, sin, 0.0]);
            [radius * cos, radius * sin * ratio]
        })
        .collect();
    let across = |a: &[f32; 2]| outline.iter().map(|b| (a[0] - b[0]).hypot(a[1] - b[1])).fold(0.0, f32::max);
    outline.iter().map(across).fold(0.0, f32::max) / 2.0
}

impl Shape {
    /// A lesion whose section through its centre is `long_mm` long; `rough` is the relative amplitude of its surface.
    pub fn random(rng: &mut impl Rng, long_mm: f32, edge_mm: f32, rough: f32) -> Self {
        let ratio = rng.random_range(0.5f32..1.0).max(rng.random_range(0.45..1.0));
        let depth = rng.random_range(0.55..1.1);
        let mut surface = waves(rng, 1.5, 5.0);
        for wave in &mut surface {
            wave.amplitude *= rough;
        }
        // A wave that stands out makes the lesion longer than the ellipsoid under it.
        let semi = long_mm / (longest(&surface, ratio) * 2.0);
        Self {
            semi_mm: [semi, semi * ratio, semi * depth],
            angle: rng.random_range(0.0..std::f32::consts::PI),
            tilt: [rng.random_range(-0.4..0.4), rng.random_range(-0.4..0.4)],
            edge_mm: edge_mm.min(long_mm / 3.0),
            surface,
            texture: waves(rng, 0.3, 1.4),
            // One to three patches across the lesion, whatever its size.
            necrosis: waves(rng, 4.0 / long_mm, 12.0 / long_mm),
        }
    }

    /// A long tube (vessel, bowel) instead: no lesion.
    pub fn tube(rng: &mut impl Rng, radius_mm: f32, edge_mm: f32) -> Self {
        let mut tube = Self::random(rng, radius_mm * 2.0, edge_mm, 0.08);
        let upright = rng.random_bool(0.5);
        tube.semi_mm = if upright { [radius_mm, radius_mm * 0.9, 60.0] } else { [rng.random_range(25.0..60.0), radius_mm, radius_mm] };
        tube.tilt = [rng.random_range(-1.2..1.2), rng.random_range(-1.2..1.2)];
        tube
    }

    /// Furthest reach in the plane.
    #[must_use]
    pub fn reach_mm(&self) -> f32 {
        self.semi_mm[0].max(self.semi_mm[1]) * 1.45 + self.edge_mm
    }

    /// Furthest reach along z.
    #[must_use]
    pub fn height_mm(&self) -> f32 {
        self.semi_mm[2] * 1.45 + self.edge_mm
    }

    /// Share of lesion at `p` (mm from its centre), 0..1, and depth: 0 at the surface, 1 in the middle.
    #[must_use]
    pub fn at(&self, p: [f32; 3]) -> (f32, f32) {
        let (x, y) = (p[0] - self.tilt[0] * p[2], p[1] - self.tilt[1] * p[2]);
        let (sin, cos) = self.angle.sin_cos();
        let q = [(x * cos + y * sin) / self.semi_mm[0], (y * cos - x * sin) / self.semi_mm[1], p[2] / self.semi_mm[2]];
        let r = (q[0] * q[0] + q[1] * q[1] + q[2] * q[2]).sqrt();
        if r > 1.6 {
            return (0.0, 0.0);
        }
        let unit = if r > 1e-4 { [q[0] / r, q[1] / r, q[2] / r] } else { [0.0; 3] };
        let radius = 1.0 + sum(&self.surface, unit);
        // Distance to the surface along the ray, mm: the relative distance times the ray's length to it.
        let length = (x * x + y * y + p[2] * p[2]).sqrt() / r.max(1e-4);
        let inside_mm = (radius - r) * length;
        let t = (0.5 + inside_mm / self.edge_mm.max(0.2)).clamp(0.0, 1.0);
        (t * t * (3.0 - 2.0 * t), (1.0 - r / radius).clamp(0.0, 1.0))
    }

    /// How much of the tissue at `p` is dead, 0..1: patches in the depth of the lesion.
    #[must_use]
    pub fn necrosis(&self, p: [f32; 3], depth: f32) -> f32 {
        let t = ((sum(&self.necrosis, p) + 1.6 * depth - 0.6) * 2.0).clamp(0.0, 1.0);
        t * t * (3.0 - 2.0 * t)
    }

    /// Texture at `p`, about −1..1; wavelengths of 4 to 20 mm.
    #[must_use]
    pub fn texture(&self, p: [f32; 3]) -> f32 {
        sum(&self.texture, p)
    }
}
