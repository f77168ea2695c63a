//! Where a lesion may lie: tissue classes of one slice on a coarse raster, by HU, homogeneity and place in the body.
//!
//! What is not sure is no place at all: a nodule in bowel gas, a kidney mass in a loop full of contrast or a node under the skin that was meant for the mesentery
//! teach a network to look for them there.

use super::raster::{Axes, DENSE_HU, MOST_EVEN_BONE, Raster, SOFT_HU, STEP, flood, median};
use crate::lab::dataset::{Scan, ScanSlice};
use crate::lab::synthesize::mask::distance;
use crate::volume::body::PixelBox;

/// Lung: a part of air and lung of at least this area, mm², of which more than this share is lung and not gas, stool or the rim of either.
const LUNG_HU: std::ops::Range<f32> = -955.0..-600.0;
const AERATED_HU: f32 = -500.0;
const LUNG_MM2: f64 = 1200.0;
const LUNG_SHARE: f64 = 0.55;
/// Vessels and noise apart, lung deviates less from its mean than the rim of gas, HU.
const LUNG_DEVIATION: f32 = 150.0;
/// Above this share of the body, lung makes a slice one of the chest.
const CHEST_SHARE: f64 = 0.12;
/// Above this share there are no kidneys.
const KIDNEY_LUNG_SHARE: f64 = 0.03;
/// Broader bodies than this are shoulders or held with their arms: nothing of the pelvis.
const SHOULDERS: f64 = 1.85;
/// A section of the iliac bone or of a hip joint is at least this large, mm², and its middle lies within these shares of the body's width from the spine.
const HIP_MM2: f64 = 350.0;
const HIP_ASIDE: std::ops::Range<f64> = 0.12..0.38;

/// Organs: more even than bowel (a neighbour's mean within so many HU), denser than fluid, at least this large, mm².
const ORGAN_STEP_HU: f32 = 25.0;
const ORGAN_HU: f64 = 35.0;
/// Brighter than a spleen in the arterial phase: a stomach full of contrast. No organ, but kidneys are told from it as from one.
const CONTRAST_HU: f32 = 155.0;
const ORGAN_MM2: f64 = 2500.0;
/// Smaller sections of an organ lie further aside and are compact.
const SMALL_ORGAN_MM2: f64 = 1000.0;
const SMALL_ORGAN_ASIDE: f64 = 0.15;
const SMALL_ORGAN_FILL: f64 = 0.45;
/// Their middles lie at least so far from the spine, and not behind it: muscles of the back do.
const ORGAN_ASIDE: f64 = 0.1;
const ORGAN_BEHIND: f64 = 0.06;
/// Less than this share of them lies in the body's wall: the muscles of thick flanks are as large and as even.
const ORGAN_IN_WALL: f64 = 0.6;
/// Where liver and heart, or liver and muscle, are one part: what of it lies on the patient's right is liver if it is this large, mm².
const RIGHT_ASIDE: f64 = -0.08;
const RIGHT_MM2: f64 = 4000.0;

/// An enhanced kidney: brighter than the liver by so many HU, or than any organ before enhancement; its section, mm²; its place beside the spine.
const KIDNEY_HU: std::ops::Range<f32> = 110.0..350.0;
const KIDNEY_OVER_ORGAN: f32 = 20.0;
const KIDNEY_DEVIATION: f32 = 60.0;
const KIDNEY_MM2: std::ops::Range<f64> = 400.0..4500.0;
const KIDNEY_ASIDE: std::ops::Range<f64> = 0.1..0.3;
const KIDNEY_BEHIND: std::ops::Range<f64> = -0.17..0.14;
/// How much of its upright box it fills: less where it lies back and its sinus opens it, for no loop and no vessel of the belly's front lies there.
const KIDNEY_FILL: f64 = 0.4;
const OPEN_KIDNEY_FILL: f64 = 0.3;
const OPEN_KIDNEY_BEHIND: f64 = -0.1;

/// Bone, as a mean over a few pixels.
const BONE_HU: f32 = 180.0;
/// A vertebra's body, which may be no denser than an enhanced organ: its place, mm from the middle of the spine and heights of the body.
const VERTEBRA_HU: f32 = 90.0;
const VERTEBRA_MM: f64 = 18.0;
const VERTEBRA_BEHIND: std::ops::Range<f64> = -0.11..0.0;
/// The spine's own place.
const SPINE_ASIDE: f64 = 0.1;
const SPINE_BEFORE: f64 = -0.12;
/// Other bones lie this near to the skin, mm, or are large; inside the belly's cavity there are none.
const RIB_MM: f32 = 25.0;
const BONE_MM2: f64 = 350.0;
const CAVITY_BEFORE: f64 = -0.15;
const CAVITY_MM: f32 = 20.0;
const CAVITY_DEPTH: f64 = 0.12;

/// Fat, as a mean over a few pixels.
const FAT_HU: std::ops::Range<f32> = -135.0..-50.0;
/// Raster steps from skin and air that a place in fat keeps.
const SKIN_STEPS: f32 = 3.2;
/// The body wall's muscles lie this near to the fat under the skin, mm, or behind the spine.
const WALL_MM: f32 = 20.0;
const BACK_BEHIND: f64 = 0.08;
const MUSCLE_MOST_HU: f32 = 90.0;

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
    /// Pancreas and adrenals, where known: an image does not tell them from bowel.
    Gland,
}

/// Part of the body that a slice crosses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Much aerated lung, or shoulders.
    Chest,
    /// Neither of the others.
    #[default]
    Abdomen,
    /// Large bones at both sides: iliac wings, hip joints.
    Pelvis,
    /// An arm or a leg by itself.
    Limb,
}

/// Candidate places of one slice, image pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sites {
    places: [Vec<[u16; 2]>; 8],
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

    /// Those that are known, or what the image tells.
    #[must_use]
    pub fn find(scan: &Scan, slice: &ScanSlice) -> Self {
        slice.sites.clone().unwrap_or_else(|| Self::told(scan, slice))
    }

    /// Those of a slice of `rows` × `cols` pixels of which `site` knows what grows at each of them.
    pub fn known(part: Part, muscle_hu: f32, body: PixelBox, [rows, cols]: [usize; 2], site: impl Fn([usize; 2]) -> Option<Site>) -> Self {
        let mut known = Self { part, muscle_hu, body: Some(body), places: Default::default() };
        let at = |n: usize| (0..n / STEP).map(|i| i * STEP + STEP / 2);
        for (y, x) in at(rows).flat_map(|y| at(cols).map(move |x| (y, x))) {
            if let Some(site) = site([x, y]) {
                known.places[site as usize].push([x as u16, y as u16]);
            }
        }
        known
    }

    /// Told from the image; regions of real disease hold none.
    #[must_use]
    pub fn told(scan: &Scan, slice: &ScanSlice) -> Self {
        let raster = Raster::of(scan, slice);
        let axes = Axes::of(&raster, slice.body);
        let lung = lung(&raster);
        let count = |mask: &[bool]| mask.iter().filter(|m| **m).count() as f64;
        let lung_share = count(&lung) / count(&raster.inside).max(1.0);
        let part = part(&raster, &axes, lung_share);
        let outside: Vec<bool> = raster.inside.iter().map(|i| !i).collect();
        let skin_steps = distance(&outside, raster.cols);
        let skin_mm: Vec<f32> = skin_steps.iter().map(|s| s * raster.side_mm()).collect();
        let superficial = superficial(&raster, &outside, &skin_steps);
        let near_fat: Vec<bool> = distance(&superficial, raster.cols).iter().map(|s| s * raster.side_mm() < WALL_MM).collect();
        let (organs, organ_hu) = organs(&raster, &axes, part, &near_fat);
        let no_kidneys = part != Part::Abdomen || lung_share > KIDNEY_LUNG_SHARE;
        let kidneys = if no_kidneys { vec![false; raster.points()] } else { kidneys(&raster, &axes, organ_hu) };
        let bones = bones(&raster, &axes, &skin_mm, &kidneys);
        let is_fat = |i: usize| FAT_HU.contains(&raster.mean[i]) && skin_steps[i] > SKIN_STEPS;
        let in_wall = |i: usize| near_fat[i] || axes.sure && axes.behind(i) > BACK_BEHIND;
        let is_muscle = |i: usize| soft(&raster, i) && raster.mean[i] < MUSCLE_MOST_HU && in_wall(i);
        let mut found = Self { part, muscle_hu: MUSCLE_HU, body: Some(slice.body), places: Default::default() };
        let mut muscle: Vec<f32> = Vec::new();
        for i in (0..raster.points()).filter(|i| raster.inside[*i]) {
            let [x, y] = raster.pixel(i);
            let holds = |r: &PixelBox| (r.x1..=r.x2).contains(&x) && (r.y1..=r.y2).contains(&y);
            if slice.disease.iter().any(|d| !d.whole_organ && holds(&d.region)) {
                continue;
            }
            let site = if lung[i] {
                Site::Lung
            } else if kidneys[i] {
                Site::Kidney
            } else if bones[i] {
                Site::Bone
            } else if organs[i] {
                Site::Parenchyma
            } else if is_fat(i) {
                if superficial[i] { Site::Subcutaneous } else { Site::Fat }
            } else if is_muscle(i) {
                muscle.push(raster.mean[i]);
                Site::Muscle
            } else {
                continue;
            };
            found.places[site as usize].push([x as u16, y as u16]);
        }
        if muscle.len() >= LEAST_MUSCLE {
            found.muscle_hu = median(&mut muscle).unwrap_or(MUSCLE_HU);
        }
        found
    }

    /// What was found in the photograph of a limb: nothing of it is an organ, and fat is all of one kind.
    #[must_use]
    pub fn of_limb(mut self) -> Self {
        let fat = std::mem::take(&mut self.places[Site::Fat as usize]);
        self.places[Site::Subcutaneous as usize].extend(fat);
        for site in [Site::Lung, Site::Parenchyma, Site::Kidney] {
            self.places[site as usize].clear();
        }
        Self { part: Part::Limb, ..self }
    }
}

/// All points of these parts.
fn mask_of(raster: &Raster, parts: impl IntoIterator<Item = Vec<usize>>) -> Vec<bool> {
    let mut mask = vec![false; raster.points()];
    parts.into_iter().flatten().for_each(|i| mask[i] = true);
    mask
}

/// Aerated lung; not the gas of bowel and stomach, nor stool.
fn lung(raster: &Raster) -> Vec<bool> {
    let is_lung = |i: usize| LUNG_HU.contains(&raster.mean[i]) && raster.deviation[i] < LUNG_DEVIATION;
    let lungs = raster
        .parts(|i| raster.mean[i] < AERATED_HU)
        .into_iter()
        .filter(|p| raster.mm2(p.len()) > LUNG_MM2 && Raster::share(p, is_lung) > LUNG_SHARE);
    let mut mask = mask_of(raster, lungs);
    (0..raster.points()).for_each(|i| mask[i] &= LUNG_HU.contains(&raster.mean[i]));
    mask
}

fn part(raster: &Raster, axes: &Axes, lung_share: f64) -> Part {
    if lung_share > CHEST_SHARE || axes.breadth() > SHOULDERS {
        return Part::Chest;
    }
    let bones = raster.parts(|i| raster.mean[i] > DENSE_HU);
    let hip = |side: f64| {
        let aside = |p: &[usize]| HIP_ASIDE.contains(&(Raster::over(p, |i| axes.across(i)) * side));
        let whole: usize = bones.iter().filter(|p| raster.mm2(p.len()) > HIP_MM2 && aside(p)).map(Vec::len).sum();
        // A pelvis that is one part with its sacrum reaches far to this side.
        let reach = bones.iter().map(|p| p.iter().filter(|i| HIP_ASIDE.contains(&(axes.across(**i) * side))).count()).max();
        raster.mm2(whole.max(reach.unwrap_or(0))) > HIP_MM2
    };
    if lung_share < 0.01 && hip(-1.0) && hip(1.0) { Part::Pelvis } else { Part::Abdomen }
}

/// Soft tissue without edges.
fn soft(raster: &Raster, i: usize) -> bool {
    SOFT_HU.contains(&raster.mean[i]) && raster.even(i)
}

/// Liver and spleen, and the mean HU of the largest section. `near_fat`: within a wall's thickness of the fat under the skin.
fn organs(raster: &Raster, axes: &Axes, part: Part, near_fat: &[bool]) -> (Vec<bool>, Option<f32>) {
    if part == Part::Pelvis {
        return (vec![false; raster.points()], None);
    }
    let cols = raster.cols;
    let smooth = |i: usize| {
        let beside = [i.wrapping_sub(1), i + 1, i.wrapping_sub(cols), i + cols];
        soft(raster, i) && beside.iter().all(|j| raster.mean.get(*j).is_some_and(|m| (m - raster.mean[i]).abs() < ORGAN_STEP_HU))
    };
    let found = raster.parts(smooth).into_iter().filter_map(|mut section| {
        let hu = Raster::over(&section, |i| f64::from(raster.mean[i]));
        let (area, fill) = (raster.mm2(section.len()), raster.fill(&section));
        let (across, behind) = (Raster::over(&section, |i| axes.across(i)), Raster::over(&section, |i| axes.behind(i)));
        section.retain(|i| axes.behind(*i) < ORGAN_BEHIND);
        let large = area > ORGAN_MM2 || area > SMALL_ORGAN_MM2 && across.abs() > SMALL_ORGAN_ASIDE && fill > SMALL_ORGAN_FILL;
        let itself = part == Part::Abdomen && large && across.abs() > ORGAN_ASIDE && behind < ORGAN_BEHIND;
        if !itself {
            section.retain(|i| axes.across(*i) < RIGHT_ASIDE);
        }
        let right = axes.supine() && raster.mm2(section.len()) > RIGHT_MM2;
        let deep = Raster::share(&section, |i| near_fat[i]) < ORGAN_IN_WALL;
        (hu > ORGAN_HU && deep && (itself || right)).then_some((section, hu as f32))
    });
    let found: Vec<(Vec<usize>, f32)> = found.collect();
    let hu = found.iter().max_by_key(|(section, _)| section.len()).map(|(_, hu)| *hu);
    let organs = found.into_iter().filter(|(_, hu)| *hu < CONTRAST_HU).map(|(section, _)| section);
    (mask_of(raster, organs), hu)
}

/// Enhanced kidneys.
fn kidneys(raster: &Raster, axes: &Axes, organ_hu: Option<f32>) -> Vec<bool> {
    let least = organ_hu.map_or(KIDNEY_HU.start, |hu| KIDNEY_HU.start.max(hu + KIDNEY_OVER_ORGAN));
    let bright = |i: usize| (least..KIDNEY_HU.end).contains(&raster.mean[i]) && raster.deviation[i] < KIDNEY_DEVIATION.max(raster.even_hu);
    let is_kidney = |p: &Vec<usize>| {
        let (across, behind) = (Raster::over(p, |i| axes.across(i)), Raster::over(p, |i| axes.behind(i)));
        let least = if axes.sure && behind > OPEN_KIDNEY_BEHIND { OPEN_KIDNEY_FILL } else { KIDNEY_FILL };
        KIDNEY_ASIDE.contains(&across.abs()) && KIDNEY_BEHIND.contains(&behind) && raster.fill(p) > least
    };
    let found = raster.parts(bright).into_iter().filter(|p| KIDNEY_MM2.contains(&raster.mm2(p.len())));
    mask_of(raster, found.filter(is_kidney))
}

/// Bone; not vessels, heart, bowel and kidneys full of contrast.
fn bones(raster: &Raster, axes: &Axes, skin_mm: &[f32], kidneys: &[bool]) -> Vec<bool> {
    let is_bone = |p: &Vec<usize>| {
        let (across, behind) = (Raster::over(p, |i| axes.across(i)), Raster::over(p, |i| axes.behind(i)));
        let nearest = p.iter().map(|i| skin_mm[*i]).fold(f32::MAX, f32::min);
        let depth = Raster::over(p, |i| f64::from(skin_mm[i]));
        let spine = across.abs() < SPINE_ASIDE && behind > SPINE_BEFORE;
        let in_cavity = !spine && behind < CAVITY_BEFORE && nearest > CAVITY_MM && depth > CAVITY_DEPTH * axes.height_mm(raster);
        let placed = spine || nearest < RIB_MM || raster.mm2(p.len()) > BONE_MM2;
        placed && !in_cavity && Raster::share(p, |i| raster.even(i)) < MOST_EVEN_BONE && !p.iter().any(|i| kidneys[*i])
    };
    let mut bones = mask_of(raster, raster.parts(|i| raster.mean[i] > BONE_HU).into_iter().filter(is_bone));
    if axes.sure {
        let placed = |i: usize| axes.across(i).abs() * axes.width_mm(raster) < VERTEBRA_MM && VERTEBRA_BEHIND.contains(&axes.behind(i));
        (0..raster.points()).for_each(|i| bones[i] |= raster.inside[i] && raster.mean[i] > VERTEBRA_HU && placed(i));
    }
    bones
}

/// The outside, skin, and the fat below it: what can be reached from outside through passages of three raster steps. The gaps in the body wall are narrower.
fn superficial(raster: &Raster, outside: &[bool], skin_steps: &[f32]) -> Vec<bool> {
    let cols = raster.cols;
    let fat = |i: usize| FAT_HU.contains(&raster.mean[i]);
    let open = |i: usize| outside[i] || fat(i);
    let square = |i: usize| {
        let (x, y) = (i % cols, i / cols);
        let (rows, columns) = (y.saturating_sub(1)..(y + 2).min(raster.rows), x.saturating_sub(1)..(x + 2).min(cols));
        rows.flat_map(move |r| columns.clone().map(move |c| r * cols + c))
    };
    let wide: Vec<bool> = (0..raster.points()).map(|i| square(i).all(open)).collect();
    let reached = flood(outside, cols, |i| wide[i]);
    (0..raster.points()).map(|i| outside[i] || square(i).any(|j| reached[j]) && (fat(i) || skin_steps[i] < SKIN_STEPS)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::lab::dataset::Disease;
    use crate::volume::HuImage;
    use crate::volume::body::body_box;
    use crate::volume::frame::ImageGrid;

    const SIDE: usize = 384;

    /// What lies where, middle and half axes in pixels of 1 mm; the last that covers a pixel shows.
    type Ellipse = ([f32; 2], [f32; 2], f32);

    /// A spine of uneven bone, in front of the back.
    const SPINE: Ellipse = ([192.0, 245.0], [22.0, 26.0], 420.0);

    fn scan(parts: &[Ellipse]) -> Scan {
        let body =
            [([192.0, 192.0], [175.0, 125.0], -105.0), ([192.0, 192.0], [130.0, 85.0], 55.0), ([192.0, 192.0], [120.0, 75.0], -105.0)];
        let inside = |(middle, half, _): &Ellipse, x: f32, y: f32| ((x - middle[0]) / half[0]).hypot((y - middle[1]) / half[1]) < 1.0;
        let hu = |i: usize| {
            let (x, y) = ((i % SIDE) as f32, (i / SIDE) as f32);
            let hu = body.iter().chain(parts).rev().find(|p| inside(p, x, y)).map_or(-1000.0, |p| p.2);
            // Bone has trabeculae, and all of it some grain.
            let grain = ((i * 7919) % 23) as f32 - 11.0;
            let trabeculae = if hu > 400.0 { ((i * 104_729) % 301) as f32 - 150.0 } else { 0.0 };
            (hu + grain + trabeculae) as i16
        };
        let image = HuImage { rows: SIDE, cols: SIDE, hu: (0..SIDE * SIDE).map(hu).collect() };
        let body = body_box(&image);
        let slice = ScanSlice { image, z_mm: 0.0, body, disease: Vec::new(), sop_uid: "1".into(), number: 1, sites: None };
        let grid = ImageGrid { rows: SIDE, cols: SIDE, spacing_mm: [1.0, 1.0] };
        Scan { name: "drawn".into(), grid, spacing_mm: 5.0, slices: vec![slice] }
    }

    fn find(parts: &[Ellipse]) -> Sites {
        let scan = scan(parts);
        Sites::find(&scan, &scan.slices[0])
    }

    /// Whether a place of this tissue lies within 4 px of `at`.
    fn has(sites: &Sites, site: Site, at: [f32; 2]) -> bool {
        sites.of(site).iter().any(|p| (f32::from(p[0]) - at[0]).hypot(f32::from(p[1]) - at[1]) < 4.0)
    }

    #[test]
    fn lung_is_lung_and_the_gas_and_stool_of_bowel_are_not() {
        let chest = find(&[SPINE, ([130.0, 190.0], [55.0, 60.0], -850.0), ([255.0, 190.0], [50.0, 60.0], -850.0)]);
        assert_eq!(chest.part, Part::Chest);
        assert!(has(&chest, Site::Lung, [130.0, 190.0]) && has(&chest, Site::Lung, [255.0, 190.0]));
        // Gas in a wall of soft tissue, and gas that is half stool.
        let loops = [([150.0, 150.0], [30.0, 20.0], 30.0), ([150.0, 150.0], [26.0, 16.0], -1000.0), ([240.0, 150.0], [12.0, 12.0], -700.0)];
        let belly = find(&[&[SPINE][..], &loops].concat());
        assert_eq!(belly.part, Part::Abdomen);
        assert!(belly.of(Site::Lung).is_empty(), "{:?}", belly.of(Site::Lung));
    }

    #[test]
    fn an_enhanced_kidney_lies_beside_the_spine_and_loops_full_of_contrast_are_neither_kidney_nor_bone() {
        let (kidney, bowel, thick) = ([120.0, 225.0], [120.0, 150.0], [250.0, 150.0]);
        let sites = find(&[SPINE, (kidney, [18.0, 24.0], 180.0), (bowel, [18.0, 18.0], 180.0), (thick, [16.0, 16.0], 350.0)]);
        assert!(has(&sites, Site::Kidney, kidney));
        assert!(!has(&sites, Site::Kidney, bowel) && !has(&sites, Site::Kidney, thick));
        assert!(!has(&sites, Site::Bone, bowel) && !has(&sites, Site::Bone, thick) && !has(&sites, Site::Bone, kidney));
        assert!(has(&sites, Site::Bone, [192.0, 250.0]));
    }

    #[test]
    fn fat_behind_a_gap_in_the_body_wall_is_not_under_the_skin() {
        let gap = ([192.0, 112.0], [2.5, 12.0], -105.0);
        let sites = find(&[SPINE, gap]);
        assert!(has(&sites, Site::Fat, [192.0, 150.0]) && !has(&sites, Site::Subcutaneous, [192.0, 150.0]));
        assert!(has(&sites, Site::Subcutaneous, [42.0, 192.0]) && !has(&sites, Site::Fat, [42.0, 192.0]));
    }

    #[test]
    fn liver_and_spleen_are_organs_and_muscles_of_the_back_are_not() {
        let (liver, spleen, back) = ([125.0, 180.0], [270.0, 215.0], [150.0, 265.0]);
        let sites = find(&[SPINE, (liver, [50.0, 50.0], 110.0), (spleen, [22.0, 32.0], 115.0), (back, [24.0, 12.0], 60.0)]);
        assert!(has(&sites, Site::Parenchyma, liver) && has(&sites, Site::Parenchyma, spleen));
        assert!(!has(&sites, Site::Parenchyma, back) && has(&sites, Site::Muscle, back));
        assert!((50.0..66.0).contains(&sites.muscle_hu), "{}", sites.muscle_hu);
    }

    #[test]
    fn disease_holds_no_place_but_in_a_whole_organ() {
        let liver = ([125.0, 180.0], [50.0, 50.0], 110.0);
        let mut scan = scan(&[SPINE, liver]);
        for whole_organ in [false, true] {
            let region = PixelBox { x1: 60, y1: 120, x2: 190, y2: 240 };
            scan.slices[0].disease = vec![Disease { region, whole_organ }];
            assert_eq!(has(&Sites::find(&scan, &scan.slices[0]), Site::Parenchyma, liver.0), whole_organ);
        }
    }

    #[test]
    fn a_limb_has_no_organs_and_fat_of_one_kind() {
        let sites = find(&[SPINE, ([125.0, 180.0], [50.0, 50.0], 110.0)]).of_limb();
        assert_eq!(sites.part, Part::Limb);
        assert!([Site::Lung, Site::Parenchyma, Site::Kidney, Site::Fat].iter().all(|s| sites.of(*s).is_empty()));
        assert!(has(&sites, Site::Subcutaneous, [270.0, 180.0]) && !sites.of(Site::Bone).is_empty());
    }
}
