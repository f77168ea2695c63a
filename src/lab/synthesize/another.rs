//! Another patient out of the CT of one: mirrored, of another build, lying elsewhere, with another scanner's offset and noise.
//!
//! No pixel is interpolated: build is the size of a pixel and place a whole number of them, so the grain of the scan stays what it was.

use rand::Rng;

use crate::lab::dataset::{Disease, Scan, ScanSlice};
use crate::volume::HuImage;
use crate::volume::body::{PixelBox, body_box};
use crate::volume::frame::ImageGrid;
use crate::volume::pixels::{AIR_HU, MOST_HU};

/// Change of the size of a pixel, as a share: people differ more, but an organ of the wrong size is no organ.
const BUILD: f64 = 0.06;
/// Furthest that the body is moved on the image, mm.
const MOST_SHIFT_MM: f64 = 12.0;
/// Calibration of scanners differs by as much, HU.
const MOST_OFFSET_HU: f32 = 8.0;
/// Added noise, standard deviation, HU.
const NOISE_HU: std::ops::Range<f32> = 2.0..12.0;

/// How the new patient differs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Another {
    /// Left and right are exchanged.
    pub mirrored: bool,
    /// Columns and rows that the body is moved by; less where it would leave the image.
    pub shift_px: [i32; 2],
    /// Factor of the size of a pixel.
    pub build: f64,
    /// Added everywhere but to padding.
    pub offset_hu: f32,
    /// Standard deviation of the added noise.
    pub noise_hu: f32,
    /// The grain of the noise is that of a soft kernel.
    pub soft: bool,
}

impl Another {
    /// Draws one for images of `spacing_mm` pixels.
    pub fn random(rng: &mut impl Rng, spacing_mm: f64) -> Self {
        let most = (MOST_SHIFT_MM / spacing_mm) as i32;
        Self {
            mirrored: rng.random_bool(0.5),
            shift_px: [rng.random_range(-most..=most), rng.random_range(-most..=most)],
            build: 1.0 + rng.random_range(-BUILD..BUILD),
            offset_hu: rng.random_range(-MOST_OFFSET_HU..MOST_OFFSET_HU),
            noise_hu: rng.random_range(NOISE_HU),
            soft: rng.random_bool(0.5),
        }
    }

    /// The slices `which` of `scan` as this patient's. Noise is new in every slice.
    pub fn of(&self, scan: &Scan, which: std::ops::Range<usize>, rng: &mut impl Rng) -> Scan {
        let slices = &scan.slices[which];
        let body = slices.iter().map(|s| s.body).reduce(PixelBox::union);
        let (rows, cols) = (scan.grid.rows, scan.grid.cols);
        let shift = body.map_or([0, 0], |b| {
            let room = |by: i32, low: usize, high: usize, n: usize| by.clamp(-(low as i32), (n as i32 - 1 - high as i32).max(0));
            let (low, high) = if self.mirrored { (cols - 1 - b.x2, cols - 1 - b.x1) } else { (b.x1, b.x2) };
            [room(self.shift_px[0], low, high, cols), room(self.shift_px[1], b.y1, b.y2, rows)]
        });
        let slices = slices
            .iter()
            .map(|s| {
                let image = self.image(&s.image, shift, rng);
                let disease = s.disease.iter().map(|d| Disease { region: self.region(d.region, shift, rows, cols), ..*d }).collect();
                ScanSlice { body: body_box(&image), image, z_mm: s.z_mm, disease, sop_uid: String::new(), number: s.number, sites: None }
            })
            .collect();
        let spacing_mm = scan.grid.spacing_mm.map(|s| s * self.build);
        Scan { name: scan.name.clone(), grid: ImageGrid { rows, cols, spacing_mm }, spacing_mm: scan.spacing_mm, slices }
    }

    fn image(&self, image: &HuImage, [dx, dy]: [i32; 2], rng: &mut impl Rng) -> HuImage {
        let (rows, cols) = (image.rows as i32, image.cols as i32);
        let grain = self.grain(image.rows, image.cols, rng);
        let mut hu = vec![AIR_HU; image.hu.len()];
        for (i, out) in hu.iter_mut().enumerate() {
            let (x, y) = (i as i32 % cols - dx, i as i32 / cols - dy);
            if !(0..cols).contains(&x) || !(0..rows).contains(&y) {
                continue;
            }
            let from = image.hu[(y * cols + if self.mirrored { cols - 1 - x } else { x }) as usize];
            if from > AIR_HU {
                *out = (f32::from(from) + self.offset_hu + grain[i]).round().clamp(AIR_HU.into(), MOST_HU.into()) as i16;
            }
        }
        HuImage { rows: image.rows, cols: image.cols, hu }
    }

    /// Noise of one slice.
    fn grain(&self, rows: usize, cols: usize, rng: &mut impl Rng) -> Vec<f32> {
        // The sum of two uniform values has a standard deviation of 1/√6; the mean of nine takes a third of it.
        let factor = self.noise_hu * 6f32.sqrt() * if self.soft { 3.0 } else { 1.0 };
        let white: Vec<f32> = (0..rows * cols).map(|_| (rng.random::<f32>() + rng.random::<f32>() - 1.0) * factor).collect();
        if !self.soft {
            return white;
        }
        let mut soft = vec![0.0; rows * cols];
        for y in 1..rows.saturating_sub(1) {
            for x in 1..cols.saturating_sub(1) {
                let row = |i: usize| white[i - 1] + white[i] + white[i + 1];
                let i = y * cols + x;
                soft[i] = (row(i - cols) + row(i) + row(i + cols)) / 9.0;
            }
        }
        soft
    }

    fn region(&self, r: PixelBox, [dx, dy]: [i32; 2], rows: usize, cols: usize) -> PixelBox {
        let (x1, x2) =
            if self.mirrored { (cols as i32 - 1 - r.x2 as i32, cols as i32 - 1 - r.x1 as i32) } else { (r.x1 as i32, r.x2 as i32) };
        let on = |v: i32, n: usize| v.clamp(0, n as i32 - 1) as usize;
        PixelBox { x1: on(x1 + dx, cols), y1: on(r.y1 as i32 + dy, rows), x2: on(x2 + dx, cols), y2: on(r.y2 as i32 + dy, rows) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// A body with a bright spot, marked as disease; the rest of the image is air, its corners padding.
    fn scan() -> Scan {
        let (rows, cols) = (96, 128);
        let hu = (0..rows * cols)
            .map(|i| match (i % cols, i / cols) {
                (0..4, 0..4) => AIR_HU,
                (30..34, 40..44) => 400,
                (20..90, 20..80) => 40,
                _ => -1000,
            })
            .collect();
        let image = HuImage { rows, cols, hu };
        let region = PixelBox { x1: 30, y1: 40, x2: 33, y2: 43 };
        let slice = ScanSlice {
            body: body_box(&image),
            image,
            z_mm: 7.0,
            disease: vec![Disease { region, whole_organ: false }],
            sop_uid: String::new(),
            number: 1,
            sites: None,
        };
        Scan { name: "a".into(), grid: ImageGrid { rows, cols, spacing_mm: [0.8, 0.8] }, spacing_mm: 5.0, slices: vec![slice] }
    }

    #[test]
    fn disease_goes_where_its_pixels_go_and_noise_is_as_asked() {
        let mut rng = StdRng::seed_from_u64(3);
        for (mirrored, soft) in [(false, false), (true, true)] {
            let another = Another { mirrored, shift_px: [9, -7], build: 1.05, offset_hu: -5.0, noise_hu: 8.0, soft };
            let new = another.of(&scan(), 0..1, &mut rng);
            let (slice, r) = (&new.slices[0], new.slices[0].disease[0].region);
            let bright: Vec<usize> = (0..96 * 128).filter(|i| slice.image.hu[*i] > 250).collect();
            assert_eq!(bright.len(), 16);
            assert!(bright.iter().all(|i| (r.x1..=r.x2).contains(&(i % 128)) && (r.y1..=r.y2).contains(&(i / 128))), "{r:?}");
            assert_eq!(r.y1, 33);
            let body: Vec<f32> = (0..96 * 128).map(|i| f32::from(slice.image.hu[i])).filter(|v| (-40.0..120.0).contains(v)).collect();
            let mean = body.iter().sum::<f32>() / body.len() as f32;
            let deviation = (body.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / body.len() as f32).sqrt();
            // The soft grain has a ninth of as many values of its own.
            assert!((mean - 35.0).abs() < 1.5 && (deviation - 8.0).abs() < 0.6, "{mean} {deviation}");
            assert!((new.grid.spacing_mm[0] - 0.84).abs() < 1e-9);
        }
    }

    #[test]
    fn the_body_stays_on_the_image() {
        let mut rng = StdRng::seed_from_u64(3);
        let far = Another { mirrored: false, shift_px: [-60, 60], build: 1.0, offset_hu: 0.0, noise_hu: 0.0, soft: false };
        let new = far.of(&scan(), 0..1, &mut rng);
        let body = |s: &Scan| s.slices[0].image.hu.iter().filter(|v| **v > -500).count();
        assert_eq!(body(&new), body(&scan()));
    }
}
