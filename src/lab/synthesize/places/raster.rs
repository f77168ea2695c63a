//! One slice on a coarse raster: mean and deviation of the pixels round each point, what of it is body, and where in the body a point lies.

use crate::lab::dataset::{Scan, ScanSlice};
use crate::lab::synthesize::mask::{neighbours, parts};
use crate::volume::HuImage;
use crate::volume::body::PixelBox;

/// Raster, image pixels.
pub const STEP: usize = 4;
/// Air.
const AIR_HU: f32 = -350.0;
/// Soft tissue, enhanced or not.
pub const SOFT_HU: std::ops::Range<f32> = 15.0..180.0;
/// Deviation of even tissue where a scan has next to no noise, and in scans that have, how much more than that of its soft tissue, HU.
const EVEN_HU: f32 = 30.0;
const EVEN_TIMES: f32 = 1.6;
/// Denser than enhanced organs.
pub const DENSE_HU: f32 = 230.0;
/// A spine's section is at least this large, mm², and lies at most this share of the body's width from its middle.
const SPINE_MM2: f64 = 150.0;
const SPINE_ASIDE: f64 = 0.15;
/// Where a spine lies that is not seen: share of the body's height from the front.
const SPINE_AT: f64 = 0.68;

/// A slice on its raster; points row by row.
pub struct Raster {
    /// Points down.
    pub rows: usize,
    /// Points across.
    pub cols: usize,
    /// Area of a point, mm².
    pub cell_mm2: f64,
    /// Mean of 5 × 5 pixels, HU.
    pub mean: Vec<f32>,
    /// Their standard deviation, HU.
    pub deviation: Vec<f32>,
    /// Body, lungs and bowel gas included; not the table.
    pub inside: Vec<bool>,
    /// Deviation up to which tissue is even in this scan, HU.
    pub even_hu: f32,
}

impl Raster {
    /// The raster of `slice`.
    #[must_use]
    pub fn of(scan: &Scan, slice: &ScanSlice) -> Self {
        let image = &slice.image;
        let (rows, cols) = (image.rows / STEP, image.cols / STEP);
        let cell_mm2 = scan.grid.spacing_mm[0] * scan.grid.spacing_mm[1] * (STEP * STEP) as f64;
        let (mean, deviation) = statistics(image, rows, cols);
        let air = air_outside(&mean, rows, cols);
        let b = slice.body;
        let in_box = |i: usize| (b.x1..=b.x2).contains(&(i % cols * STEP)) && (b.y1..=b.y2).contains(&(i / cols * STEP));
        let inside: Vec<bool> = (0..rows * cols).map(|i| !air[i] && in_box(i)).collect();
        let mut grain: Vec<f32> = (0..rows * cols).filter(|i| inside[*i] && SOFT_HU.contains(&mean[*i])).map(|i| deviation[i]).collect();
        let grain_hu = median(&mut grain).unwrap_or(0.0);
        Self { rows, cols, cell_mm2, mean, deviation, inside, even_hu: EVEN_HU.max(EVEN_TIMES * grain_hu) }
    }

    /// How many points it has.
    #[must_use]
    pub fn points(&self) -> usize {
        self.rows * self.cols
    }

    /// Image pixel in the middle of a point.
    #[must_use]
    pub fn pixel(&self, i: usize) -> [usize; 2] {
        [i % self.cols * STEP + STEP / 2, i / self.cols * STEP + STEP / 2]
    }

    /// Connected parts of the points of the body that `member` takes.
    pub fn parts(&self, member: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let mask: Vec<bool> = (0..self.points()).map(|i| self.inside[i] && member(i)).collect();
        parts(&mask, self.cols)
    }

    /// Area of so many points, mm².
    #[must_use]
    pub fn mm2(&self, points: usize) -> f64 {
        points as f64 * self.cell_mm2
    }

    /// Share of points of a part that `holds`.
    pub fn share(part: &[usize], holds: impl Fn(usize) -> bool) -> f64 {
        part.iter().filter(|i| holds(**i)).count() as f64 / part.len().max(1) as f64
    }

    /// Mean over a part.
    pub fn over(part: &[usize], of: impl Fn(usize) -> f64) -> f64 {
        part.iter().map(|i| of(*i)).sum::<f64>() / part.len().max(1) as f64
    }

    /// Whether tissue is even there, for this scan's noise.
    #[must_use]
    pub fn even(&self, i: usize) -> bool {
        self.deviation[i] < self.even_hu
    }

    /// Share of the upright box round a part that the part fills.
    #[must_use]
    pub fn fill(&self, part: &[usize]) -> f64 {
        let span = |of: fn(usize, usize) -> usize| {
            let at = part.iter().map(|i| of(*i, self.cols));
            at.clone().max().unwrap_or(0) - at.min().unwrap_or(0) + 1
        };
        part.len() as f64 / (span(|i, cols| i % cols) * span(|i, cols| i / cols)) as f64
    }

    /// Side of a point, mm.
    #[must_use]
    pub fn side_mm(&self) -> f32 {
        self.cell_mm2.sqrt() as f32
    }
}

/// The body's own directions on a slice.
pub struct Axes {
    cols: usize,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    dorsal: f64,
    /// A spine was seen: without one, what lies before and behind it is a guess.
    pub sure: bool,
}

impl Axes {
    /// Told from the spine: the largest uneven dense part near the middle of `body`.
    #[must_use]
    pub fn of(raster: &Raster, body: PixelBox) -> Self {
        let at = |low: usize, high: usize, share: f64| (low as f64 + (high - low) as f64 * share) / STEP as f64;
        let (width, height) = ((body.x2 - body.x1).max(STEP) as f64 / STEP as f64, (body.y2 - body.y1).max(STEP) as f64 / STEP as f64);
        let (cols, middle) = (raster.cols, at(body.x1, body.x2, 0.5));
        let spine = raster
            .parts(|i| raster.mean[i] > DENSE_HU)
            .into_iter()
            .filter(|p| raster.mm2(p.len()) > SPINE_MM2 && Raster::share(p, |i| raster.even(i)) < MOST_EVEN_BONE)
            .map(|p| (p.len(), Raster::over(&p, |i| (i % cols) as f64), Raster::over(&p, |i| (i / cols) as f64)))
            .filter(|(_, x, _)| (x - middle).abs() < SPINE_ASIDE * width)
            .max_by_key(|(points, ..)| *points);
        let (x, y) = spine.map_or((middle, at(body.y1, body.y2, SPINE_AT)), |(_, x, y)| (x, y));
        let dorsal = if y >= at(body.y1, body.y2, 0.5) { 1.0 } else { -1.0 };
        Self { cols, x, y, width, height, dorsal, sure: spine.is_some() }
    }

    /// To the right of the image from the spine, in widths of the body.
    #[must_use]
    pub fn across(&self, i: usize) -> f64 {
        ((i % self.cols) as f64 - self.x) / self.width
    }

    /// Behind the spine, in heights of the body; before it negative.
    #[must_use]
    pub fn behind(&self, i: usize) -> f64 {
        ((i / self.cols) as f64 - self.y) * self.dorsal / self.height
    }

    /// On the back: then the image's left is the patient's right.
    #[must_use]
    pub fn supine(&self) -> bool {
        self.dorsal > 0.0
    }

    /// Width of the body, mm.
    #[must_use]
    pub fn width_mm(&self, raster: &Raster) -> f64 {
        self.width * f64::from(raster.side_mm())
    }

    /// Height of the body, mm.
    #[must_use]
    pub fn height_mm(&self, raster: &Raster) -> f64 {
        self.height * f64::from(raster.side_mm())
    }

    /// Width over height: shoulders are broad.
    #[must_use]
    pub fn breadth(&self) -> f64 {
        self.width / self.height
    }
}

/// Bone is uneven but for the middle of a vertebra in a smooth kernel; vessels and bowel full of contrast are even.
pub const MOST_EVEN_BONE: f64 = 0.4;

/// Mean and standard deviation of 5 × 5 pixels round every raster point.
fn statistics(image: &HuImage, rows: usize, cols: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut mean, mut deviation) = (Vec::with_capacity(rows * cols), Vec::with_capacity(rows * cols));
    for i in 0..rows * cols {
        let (cx, cy) = (i % cols * STEP + STEP / 2, i / cols * STEP + STEP / 2);
        let (mut sum, mut squares, mut n) = (0.0f32, 0.0f32, 0.0f32);
        for y in cy.saturating_sub(2)..(cy + 3).min(image.rows) {
            for v in &image.hu[y * image.cols + cx.saturating_sub(2)..y * image.cols + (cx + 3).min(image.cols)] {
                let v = f32::from(*v);
                sum += v;
                squares += v * v;
                n += 1.0;
            }
        }
        mean.push(sum / n);
        deviation.push((squares / n - (sum / n).powi(2)).max(0.0).sqrt());
    }
    (mean, deviation)
}

/// Air that touches the border of the image.
fn air_outside(mean: &[f32], rows: usize, cols: usize) -> Vec<bool> {
    let air = |i: usize| mean[i] < AIR_HU;
    let border = |i: usize| [0, rows - 1].contains(&(i / cols)) || [0, cols - 1].contains(&(i % cols));
    let seeds: Vec<bool> = (0..rows * cols).map(|i| border(i) && air(i)).collect();
    flood(&seeds, cols, air)
}

/// `seeds` and all that `passes` and is connected with them.
pub fn flood(seeds: &[bool], cols: usize, passes: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut reached = seeds.to_vec();
    let mut stack: Vec<usize> = (0..seeds.len()).filter(|i| seeds[*i]).collect();
    while let Some(i) = stack.pop() {
        for j in neighbours(i, cols, seeds.len()) {
            if !reached[j] && passes(j) {
                reached[j] = true;
                stack.push(j);
            }
        }
    }
    reached
}

/// The middle one of these values, if there are any; they are reordered.
pub fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f32::total_cmp).1)
}
