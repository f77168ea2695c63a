//! The scanner: its blur, its kernel, and noise with a grain in the plane and a correlation from slice to slice.

use rand::Rng;
use rand::rngs::StdRng;

/// One acquisition.
pub struct Grain {
    size: usize,
    /// Standard deviation of the noise, HU.
    noise_hu: f32,
    /// Weights of the blur of tissue, and of the narrow and wide blur of noise.
    blur: Vec<f32>,
    fine: Vec<f32>,
    coarse: Vec<f32>,
    /// Share of the wide blur that the noise loses: a kernel passes little of the low frequencies.
    high_pass: f32,
    /// Edges overshoot by this share.
    sharpen: f32,
    /// Correlation of neighbouring slices' noise.
    along: f32,
    last: Option<Vec<f32>>,
    /// Makes the noise's deviation 1.
    gain: f32,
}

impl Grain {
    /// For slices of `thickness` mm, `spacing` mm apart.
    pub fn random(rng: &mut StdRng, size: usize, pixel_mm: f32, spacing: f32, thickness: f32) -> Self {
        let blur_mm = rng.random_range(0.35..0.75);
        let fine_mm = rng.random_range(0.3..0.8);
        // Overlapping slices share what both contain.
        let overlap = (1.0 - spacing / thickness).max(0.0);
        let mut grain = Self {
            size,
            noise_hu: rng.random_range(4.0f32..13.0).max(rng.random_range(3.0..20.0)) * (2.5 / thickness).sqrt().clamp(0.6, 1.3),
            blur: gaussian(blur_mm / pixel_mm),
            fine: gaussian(fine_mm / pixel_mm),
            coarse: gaussian(2.2 / pixel_mm),
            high_pass: rng.random_range(0.5..0.95),
            sharpen: if rng.random_bool(0.3) { rng.random_range(0.2..0.8) } else { 0.0 },
            along: (overlap + rng.random_range(0.0..0.25)).min(0.9),
            last: None,
            gain: 1.0,
        };
        let sample = grain.white(rng);
        let power = sample.iter().map(|v| v * v).sum::<f32>() / sample.len() as f32;
        grain.gain = 1.0 / power.sqrt().max(1e-6);
        grain
    }

    fn white(&self, rng: &mut StdRng) -> Vec<f32> {
        let white: Vec<f32> = (0..self.size * self.size).map(|_| rng.random::<f32>() + rng.random::<f32>() - 1.0).collect();
        let fine = convolve(&white, self.size, &self.fine);
        let coarse = convolve(&white, self.size, &self.coarse);
        fine.iter().zip(&coarse).map(|(f, c)| self.gain * (f - self.high_pass * c)).collect()
    }

    /// The next slice, rising z, of a plane of HU.
    pub fn slice(&mut self, rng: &mut StdRng, plane: Vec<f32>) -> Vec<f32> {
        let size = self.size;
        let mut hu = convolve(&plane, size, &self.blur);
        if self.sharpen > 0.0 {
            let smooth = convolve(&hu, size, &self.coarse);
            for (v, s) in hu.iter_mut().zip(smooth) {
                *v += self.sharpen * (*v - s).clamp(-250.0, 250.0);
            }
        }
        let mut noise = self.white(rng);
        if let Some(last) = &self.last {
            let fresh = (1.0 - self.along * self.along).sqrt();
            for (n, l) in noise.iter_mut().zip(last) {
                *n = self.along * l + fresh * *n;
            }
        }
        let half = size as f32 / 2.0;
        for (i, (v, n)) in hu.iter_mut().zip(&noise).enumerate() {
            // Most rays that cross the middle have come a long way.
            let (dx, dy) = ((i % size) as f32 / half - 1.0, (i / size) as f32 / half - 1.0);
            let thick = 1.15 - 0.5 * (dx * dx + dy * dy).min(1.0);
            *v += self.noise_hu * thick * n;
        }
        self.last = Some(noise);
        hu
    }
}

/// Weights of a Gaussian, both sides.
fn gaussian(sigma: f32) -> Vec<f32> {
    let reach = (2.5 * sigma).ceil().max(1.0) as i32;
    let weights: Vec<f32> = (-reach..=reach).map(|x| (-0.5 * (x as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// Both directions one after the other; the border repeats.
fn convolve(plane: &[f32], size: usize, weights: &[f32]) -> Vec<f32> {
    let reach = weights.len() / 2;
    let mut across = vec![0.0; plane.len()];
    for (to, from) in across.chunks_exact_mut(size).zip(plane.chunks_exact(size)) {
        for (k, w) in weights.iter().enumerate() {
            for x in 0..size {
                let source = (x + k).saturating_sub(reach).min(size - 1);
                to[x] += w * from[source];
            }
        }
    }
    let mut out = vec![0.0; plane.len()];
    for (y, to) in out.chunks_exact_mut(size).enumerate() {
        for (k, w) in weights.iter().enumerate() {
            let source = (y + k).saturating_sub(reach).min(size - 1);
            for (to, from) in to.iter_mut().zip(&across[source * size..(source + 1) * size]) {
                *to += w * from;
            }
        }
    }
    out
}
