//! Where a lesion may lie: tissue classes of one slice on a coarse raster, by HU, homogeneity and place.

use super::mask::{neighbours, parts};
use crate::lab::dataset::{Scan, ScanSlice};
use crate::volume::HuImage;
use crate::volume::body::PixelBox;

/// Raster of the classes, image pixels.
const RASTER: usize = 4;
/// Above this share of the body, lung makes a slice one of the chest: homogeneous soft tissue there is heart, not liver.
const CHEST_SHARE: f64 = 0.25;
/// Smallest homogeneous region that passes for an organ, mm².
const ORGAN_MM2: f64 = 2500.0;
/// Fat, as a mean over a few pixels.
const FAT_HU: std::ops::Range<f32> = -135.0..-50.0;
/// An enhanced kidney's section, mm².
const KIDNEY_MM2: std::ops::Range<f64> = 250.0..4500.0;

/// Denser than an enhanced kidney or aorta.
const HIP_HU: f32 = 230.0;
/// A section of the iliac bone or of a hip joint is at least this large, mm², and lies at least this share of the body's width from its middle.
const HIP_MM2: f64 = 350.0;
const HIP_ASIDE: f64 = 0.12;

/// Muscle, where a slice does not tell.
pub const MUSCLE_HU: f32 = 55.0;
/// Raster points of muscle that tell.
const LEAST_MUSCLE: usize = 50;

/// A place by tissue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// Aerated lung.
    Lung,
    /// Inside a large homogeneous organ.
    Parenchyma,
    /// In or at an enhanced kidney.
    Kidney,
    /// Fat inside the body wall: mesentery, retroperitoneum, mediastinum.
    Fat,
    /// Fat under the skin.
    Subcutaneous,
    /// Muscle and other soft tissue.
    Muscle,
    /// Bone.
    Bone,
}

/// Part of the body that a slice crosses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Much aerated lung.
    Chest,
    /// Neither of the others.
    #[default]
    Abdomen,
    /// Large bones at both sides: iliac wings, hip joints.
    Pelvis,
}

/// Candidate places of one slice, image pixels.
#[derive(Debug)]
pub struct Sites {
    places: [Vec<[u16; 2]>; 7],
    /// Part of the body.
    pub part: Part,
    /// Middle HU of its muscle, [`MUSCLE_HU`] where it shows hardly any.
    pub muscle_hu: f32,
    /// Body, image pixels.
    pub body: Option<PixelBox>,
}

impl Sites {
    /// The places of one kind.
    #[must_use]
    pub fn of(&self, site: Site) -> &[[u16; 2]] {
        &self.places[site as usize]
    }

    /// Finds them; regions of real disease hold none.
    #[must_use]
    pub fn find(scan: &Scan, slice: &ScanSlice) -> Self {
        let image = &slice.image;
        let (rows, cols) = (image.rows / RASTER, image.cols / RASTER);
        let cell_mm2 = scan.grid.spacing_mm[0] * scan.grid.spacing_mm[1] * (RASTER * RASTER) as f64;
        let (mean, deviation) = statistics(image, rows, cols);
        let outside = flood_from_border(&mean, rows, cols);
        let inside = |i: usize| !outside[i];
        let count = |f: &dyn Fn(usize) -> bool| (0..rows * cols).filter(|i| f(*i)).count() as f64;
        let is_lung = |i: usize| inside(i) && (-960.0..-600.0).contains(&mean[i]);
        let lung_share = count(&is_lung) / count(&inside).max(1.0);
        let soft = |i: usize| inside(i) && (15.0..180.0).contains(&mean[i]) && deviation[i] < 35.0;
        let organs = components(rows, cols, &|i| soft(i) && smooth_neighbourhood(i, cols, &mean));
        let bright = components(rows, cols, &|i| inside(i) && (110.0..280.0).contains(&mean[i]) && deviation[i] < 60.0);
        let middle = (slice.body.x1 + slice.body.x2) as f64 / 2.0;
        let width = (slice.body.x2 - slice.body.x1).max(1) as f64;
        let back = (slice.body.y1 + slice.body.y2) as f64 / 2.0;
        // The body wall parts the two: what fat and skin connect with the outside lies under the skin.
        let superficial = flood(&outside, rows, cols, |i| FAT_HU.contains(&mean[i]) || !interior(i, cols, rows, &outside));
        let chest = lung_share > CHEST_SHARE;
        let bones = components(rows, cols, &|i| inside(i) && mean[i] > HIP_HU);
        let hip = |side: f64| {
            let aside = |i: usize| ((i % cols * RASTER) as f64 - middle) * side > HIP_ASIDE * width;
            let large = |i: usize| bones.label[i] != 0 && bones.area[bones.label[i]] as f64 * cell_mm2 > HIP_MM2;
            count(&|i| large(i) && aside(i)) * cell_mm2 > HIP_MM2
        };
        let part = match (chest, lung_share < 0.01 && hip(-1.0) && hip(1.0)) {
            (true, _) => Part::Chest,
            (false, true) => Part::Pelvis,
            (false, false) => Part::Abdomen,
        };
        let mut found = Self { part, muscle_hu: MUSCLE_HU, body: Some(slice.body), places: Default::default() };
        let mut muscle: Vec<f32> = Vec::new();
        for i in 0..rows * cols {
            let (x, y) = (i % cols * RASTER + RASTER / 2, i / cols * RASTER + RASTER / 2);
            let holds = |r: &PixelBox| (r.x1..=r.x2).contains(&x) && (r.y1..=r.y2).contains(&y);
            let sick = slice.disease.iter().any(|d| !d.whole_organ && holds(&d.region));
            if !inside(i) || sick {
                continue;
            }
            let mut put = |site: Site| found.places[site as usize].push([x as u16, y as u16]);
            let organ = organs.area[organs.label[i]] as f64 * cell_mm2;
            let blob = bright.area[bright.label[i]] as f64 * cell_mm2;
            let aside = (x as f64 - middle).abs() > 0.12 * width;
            if is_lung(i) {
                put(Site::Lung);
            } else if mean[i] > 180.0 && !KIDNEY_MM2.contains(&blob) {
                put(Site::Bone);
            } else if FAT_HU.contains(&mean[i]) && interior(i, cols, rows, &outside) {
                put(if superficial[i] { Site::Subcutaneous } else { Site::Fat });
            } else if bright.label[i] != 0 && KIDNEY_MM2.contains(&blob) && aside && (y as f64) > back - 0.1 * width && !chest {
                put(Site::Kidney);
            } else if organs.label[i] != 0 && organ > ORGAN_MM2 && mean[i] > 35.0 {
                if !chest {
                    put(Site::Parenchyma);
                }
            } else if soft(i) && mean[i] < 90.0 {
                put(Site::Muscle);
                muscle.push(mean[i]);
            }
        }
        if muscle.len() >= LEAST_MUSCLE {
            let middle = muscle.len() / 2;
            found.muscle_hu = *muscle.select_nth_unstable_by(middle, f32::total_cmp).1;
        }
        found
    }
}

/// Mean and standard deviation of 5 × 5 pixels round every raster point.
fn statistics(image: &HuImage, rows: usize, cols: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut mean, mut deviation) = (Vec::with_capacity(rows * cols), Vec::with_capacity(rows * cols));
    for i in 0..rows * cols {
        let (cx, cy) = (i % cols * RASTER + RASTER / 2, i / cols * RASTER + RASTER / 2);
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
fn flood_from_border(mean: &[f32], rows: usize, cols: usize) -> Vec<bool> {
    let air = |i: usize| mean[i] < -350.0;
    let border = |i: usize| [0, rows - 1].contains(&(i / cols)) || [0, cols - 1].contains(&(i % cols));
    let seeds: Vec<bool> = (0..rows * cols).map(|i| border(i) && air(i)).collect();
    flood(&seeds, rows, cols, air)
}

/// `seeds` and all that `passes` and is connected with them.
fn flood(seeds: &[bool], rows: usize, cols: usize, passes: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut reached = seeds.to_vec();
    let mut stack: Vec<usize> = (0..rows * cols).filter(|i| seeds[*i]).collect();
    while let Some(i) = stack.pop() {
        for j in neighbours(i, cols, rows * cols) {
            if !reached[j] && passes(j) {
                reached[j] = true;
                stack.push(j);
            }
        }
    }
    reached
}

/// Two raster steps from skin and air.
fn interior(i: usize, cols: usize, rows: usize, outside: &[bool]) -> bool {
    let (y, x) = (i / cols, i % cols);
    y >= 3 && x >= 3 && y + 3 < rows && x + 3 < cols && [i - 3, i + 3, i - 3 * cols, i + 3 * cols].iter().all(|j| !outside[*j])
}

fn smooth_neighbourhood(i: usize, cols: usize, mean: &[f32]) -> bool {
    [i.wrapping_sub(1), i + 1, i.wrapping_sub(cols), i + cols].iter().all(|j| mean.get(*j).is_some_and(|m| (m - mean[i]).abs() < 25.0))
}

/// Label 0 is "none".
struct Components {
    label: Vec<usize>,
    area: Vec<usize>,
}

fn components(rows: usize, cols: usize, member: &dyn Fn(usize) -> bool) -> Components {
    let mask: Vec<bool> = (0..rows * cols).map(member).collect();
    let mut c = Components { label: vec![0; mask.len()], area: vec![0] };
    for part in parts(&mask, cols) {
        let label = c.area.len();
        c.area.push(part.len());
        part.into_iter().for_each(|i| c.label[i] = label);
    }
    c
}
