//! What baseline JPEG loses (ITU-T T.81): 8 × 8 blocks, a cosine transform, coefficients rounded to multiples of a table. No entropy coding, which loses nothing.

use rand::Rng;

/// Side of a block.
const BLOCK: usize = 8;
/// Quality on the scale of the Independent JPEG Group, of exports as one meets them.
const QUALITY: std::ops::RangeInclusive<u32> = 55..=97;
/// T.81 table K.1, of luminance, row by row; IJG's quality 50.
const LUMINANCE: [u16; BLOCK * BLOCK] = [
    16, 11, 10, 16, 24, 40, 51, 61, //
    12, 12, 14, 19, 26, 58, 60, 55, //
    14, 13, 16, 24, 40, 57, 69, 56, //
    14, 17, 22, 29, 51, 87, 80, 62, //
    18, 22, 37, 56, 68, 109, 103, 77, //
    24, 35, 55, 64, 81, 104, 113, 92, //
    49, 64, 78, 87, 103, 121, 120, 101, //
    72, 92, 95, 98, 112, 100, 103, 99,
];

type Block = [f32; BLOCK * BLOCK];

/// One encoder's table, and where blocks lie in the crop.
pub struct Jpeg {
    table: Block,
    /// Row k: basis function k of the transform, orthonormal (T.81 A.3.3).
    basis: Block,
    /// Pixels before the first whole block.
    phase: [usize; 2],
}

impl Jpeg {
    /// Any quality, blocks anywhere.
    pub fn random(rng: &mut impl Rng) -> Self {
        Self::new(rng.random_range(QUALITY), [rng.random_range(0..BLOCK), rng.random_range(0..BLOCK)])
    }

    /// IJG's quality, 1 to 100; `phase`: pixels before the first whole block, across and down.
    #[must_use]
    pub fn new(quality: u32, phase: [usize; 2]) -> Self {
        let scale = if quality < 50 { 5000 / quality.max(1) } else { 200 - 2 * quality.min(100) };
        let table = LUMINANCE.map(|v| ((u32::from(v) * scale + 50) / 100).clamp(1, 255) as f32);
        let basis = std::array::from_fn(|i| {
            let (k, n) = ((i / BLOCK) as f32, (i % BLOCK) as f32);
            let norm = if k == 0.0 { 1.0 / BLOCK as f32 } else { 2.0 / BLOCK as f32 };
            norm.sqrt() * ((2.0 * n + 1.0) * k * std::f32::consts::PI / (2.0 * BLOCK as f32)).cos()
        });
        Self { table, basis, phase }
    }

    /// `grey`: 0..255, `width` pixels a row. A block that the border cuts goes on with the border's pixels.
    pub fn apply(&self, grey: &mut [f32], width: usize) {
        let last = [width as isize - 1, (grey.len() / width) as isize - 1];
        let starts = |axis: usize| (-(self.phase[axis] as isize)..=last[axis]).step_by(BLOCK);
        for top in starts(1) {
            for left in starts(0) {
                let at = |i: usize| [left + (i % BLOCK) as isize, top + (i / BLOCK) as isize];
                let index = |[x, y]: [isize; 2]| y.clamp(0, last[1]) as usize * width + x.clamp(0, last[0]) as usize;
                let mut block: Block = std::array::from_fn(|i| grey[index(at(i))] - 128.0);
                self.lose(&mut block);
                for (i, v) in block.into_iter().enumerate() {
                    let p = at(i);
                    if p.iter().zip(last).all(|(v, last)| (0..=last).contains(v)) {
                        grey[index(p)] = (v + 128.0).round().clamp(0.0, 255.0);
                    }
                }
            }
        }
    }

    fn lose(&self, block: &mut Block) {
        let turned = transposed(&self.basis);
        let mut coefficients = product(&product(&self.basis, block), &turned);
        for (c, q) in coefficients.iter_mut().zip(&self.table) {
            *c = (*c / q).round() * q;
        }
        *block = product(&product(&turned, &coefficients), &self.basis);
    }
}

fn product(a: &Block, b: &Block) -> Block {
    let mut out = [0.0; BLOCK * BLOCK];
    for (row, a) in out.chunks_exact_mut(BLOCK).zip(a.chunks_exact(BLOCK)) {
        for (k, b) in a.iter().zip(b.chunks_exact(BLOCK)) {
            row.iter_mut().zip(b).for_each(|(o, b)| *o += k * b);
        }
    }
    out
}

fn transposed(a: &Block) -> Block {
    std::array::from_fn(|i| a[i % BLOCK * BLOCK + i / BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const SIZE: usize = 37;

    fn noise() -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(5);
        (0..SIZE * SIZE).map(|_| rng.random_range(0..=255) as f32).collect()
    }

    fn error(quality: u32, phase: [usize; 2]) -> f32 {
        let (before, mut after) = (noise(), noise());
        Jpeg::new(quality, phase).apply(&mut after, SIZE);
        (before.iter().zip(&after).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / before.len() as f32).sqrt()
    }

    #[test]
    fn the_transform_undoes_itself_and_the_best_quality_loses_a_grey_level() {
        let jpeg = Jpeg::new(100, [0, 0]);
        let unit = product(&jpeg.basis, &transposed(&jpeg.basis));
        assert!(unit.iter().enumerate().all(|(i, v)| (v - f32::from(u8::from(i % 9 == 0))).abs() < 1e-5));
        for phase in [[0, 0], [3, 5]] {
            assert!(error(100, phase) < 0.6, "{}", error(100, phase));
        }
    }

    #[test]
    fn lower_quality_loses_more() {
        let errors = [95, 85, 75, 55].map(|q| error(q, [2, 6]));
        assert!(errors.windows(2).all(|p| p[0] < p[1]), "{errors:?}");
    }

    #[test]
    fn a_flat_plane_stays_flat_and_an_edge_rings() {
        let mut flat = vec![90.0; SIZE * SIZE];
        Jpeg::new(55, [1, 1]).apply(&mut flat, SIZE);
        assert!(flat.iter().all(|v| *v == flat[0] && (v - 90.0).abs() < 2.0));
        let mut edge: Vec<f32> = (0..SIZE * SIZE).map(|i| if i % SIZE < 20 { 0.0 } else { 100.0 }).collect();
        Jpeg::new(75, [0, 0]).apply(&mut edge, SIZE);
        let dark = |x: usize| (0..32).map(|y| edge[y * SIZE + x]).fold(0.0f32, f32::max);
        assert_eq!(dark(12), 0.0);
        assert!((16..20).map(dark).fold(0.0, f32::max) > 1.0);
    }
}
