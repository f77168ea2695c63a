//! Smooth noise on a lattice, the one source of everything in a phantom that is irregular.

use rand::Rng;

/// Side of the lattice; it repeats beyond.
const SIDE: usize = 32;

/// Random values on a cubic lattice, interpolated smoothly between its points.
pub struct Lattice(Vec<f32>);

impl Lattice {
    /// Values of −1..1.
    pub fn random(rng: &mut impl Rng) -> Self {
        Self((0..SIDE * SIDE * SIDE).map(|_| rng.random_range(-1.0..1.0)).collect())
    }

    /// The value at `p` (mm) where lattice points lie `scale_mm` apart, −1..1.
    #[must_use]
    pub fn at(&self, p: [f32; 3], scale_mm: f32) -> f32 {
        let mut cell = [0usize; 3];
        let mut next = [0usize; 3];
        let mut t = [0.0f32; 3];
        for axis in 0..3 {
            let v = p[axis] / scale_mm;
            let floor = v.floor();
            let f = v - floor;
            t[axis] = f * f * (3.0 - 2.0 * f);
            cell[axis] = (floor as i32).cast_unsigned() as usize % SIDE;
            next[axis] = (cell[axis] + 1) % SIDE;
        }
        let row = |z: usize, y: usize| {
            let line = (z * SIDE + y) * SIDE;
            let (a, b) = (self.0[line + cell[0]], self.0[line + next[0]]);
            a + (b - a) * t[0]
        };
        let plane = |z: usize| {
            let (a, b) = (row(z, cell[1]), row(z, next[1]));
            a + (b - a) * t[1]
        };
        let (a, b) = (plane(cell[2]), plane(next[2]));
        a + (b - a) * t[2]
    }

    /// Two octaves: coarse and half as strong at half the scale.
    #[must_use]
    pub fn rough(&self, p: [f32; 3], scale_mm: f32) -> f32 {
        self.at(p, scale_mm) + 0.5 * self.at([p[1] + 7.3, p[2] + 3.1, p[0] + 11.7], scale_mm * 0.47)
    }
}
