//! On-the-fly synthesis: crops of real CT, or of bodies made up from a seed, with lesions painted in 3-D, real lesions transplanted, and look-alikes that are no lesions.
//! Deterministic by seed; kinds, sizes and contrasts in `table.toml`.

pub mod another;
pub mod augment;
pub mod dicom_out;
pub mod exports;
pub mod graft;
pub mod hard;
pub mod insert;
mod jpeg;
pub mod kind;
mod look_alikes;
pub mod mask;
pub mod organs;
pub mod phantom;
pub mod places;
pub mod preview;
pub mod real;
pub mod recipe;
pub mod recist;
pub mod shape;
pub mod studies;
pub mod warp;

use rand::Rng;
use rand::rngs::StdRng;
use rayon::prelude::*;

use self::hard::FalseAlarm;
use self::insert::Slices;
use self::kind::{Drawn, Kind};
use self::places::density::Density;
use self::places::site::{Part, Site, Sites};
use self::real::RealLesion;
use self::recipe::{Ingredient, Recipe};
use self::warp::View;
use super::dataset::{Scan, ScanSlice};
use crate::detect::TYPE_NAMES;
use crate::volume::frame::{Frame, Plane, interpolate, resample};
use crate::volume::slots::{self, SlotGrid};
use crate::volume::window::windows;

/// Slot pixel, mm.
pub const SLOT_MM: f32 = 0.8;
/// Side of a training crop, slot pixels (205 mm).
pub const CROP: usize = 256;
/// Type of a lesion of which nobody said what it is: the loss leaves it out.
pub const UNKNOWN_TYPE: usize = TYPE_NAMES.len();
/// Chest slices passed over: most of the scans are of the chest, most of the body is not.
const CHEST_SKIPPED: f64 = 0.35;
/// A crop of which more than this counts neither way teaches little: so many of them are passed over.
const MOST_IGNORED: f32 = 0.5;
const IGNORED_SKIPPED: f64 = 0.75;
/// Of the share of real lesions, what is left where they have to be shrunk.
const SHRUNK_SHARE: f64 = 0.4;
/// Share of samples that show a real lesion in its own surroundings, and how many of those are nodules.
const PASTED_SHARE: f64 = 0.1;
const PASTED_LUNG: f64 = 0.5;
/// How often one of the photographed limbs is drawn, beside a scan of one slice.
const LIMB_WEIGHT: f32 = 0.15;
/// Share of samples that show a false alarm of the detector, where there is a list of them.
const HARD_SHARE: f64 = 0.4;
/// Draws of a place until one lies in the crop.
const MOST_DRAWS: usize = 8;
/// A crop's middle lies at least this share of its side inside the body's box.
const LEAST_INSET: f64 = 0.33;
/// Air, lung included.
const AIR_HU: f32 = -500.0;
/// A lesion with fewer pixels on the middle plane is not asked for.
const LEAST_PIXELS: usize = 8;

/// A defect of a built-in table.
#[derive(Debug, thiserror::Error)]
pub enum Defect {
    /// Of the kinds.
    #[error("table.toml: {0}")]
    Kinds(#[from] toml::de::Error),
    /// Of the places of this type.
    #[error("places/density.txt: no 12 × 12 numbers for {0}")]
    Density(&'static str),
}

/// One lesion to be found on the middle plane; slot pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// x1, y1, x2, y2, DeepLesion's convention.
    pub box_px: [f32; 4],
    /// Index into [`TYPE_NAMES`], or [`UNKNOWN_TYPE`].
    pub lesion_type: usize,
    /// Long and short axis, where measured.
    pub axes_px: Option<[f32; 2]>,
    /// Direction of the long axis.
    pub angle_rad: f32,
}

/// One training sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Planes: 1 or the network's context.
    pub slots: usize,
    /// `[slots, CROP, CROP, 3]`, 0..1.
    pub data: Vec<f32>,
    /// What is to be found.
    pub truths: Vec<Truth>,
    /// Regions that count neither way.
    pub ignore: Vec<[f32; 4]>,
}

/// Planes of one crop while they are worked on.
pub struct Planes {
    /// Side, pixels.
    pub size: usize,
    /// Side of a pixel, mm.
    pub pixel_mm: f32,
    /// HU, one vector a plane, rising z.
    pub hu: Vec<Vec<f32>>,
    /// z of each plane relative to the middle one, mm.
    pub offsets_mm: Vec<f32>,
}

/// Backgrounds with their places, kinds and real lesions: everything a sample is drawn from.
pub struct Sampler {
    scans: Vec<(Scan, Vec<Sites>, SlotGrid)>,
    /// Indices of `scans` by cumulated weight.
    weights: Vec<f32>,
    kinds: Vec<Kind>,
    density: Density,
    real: Vec<RealLesion>,
    /// Share of lesions that are real ones.
    real_share: f64,
    hard: Vec<FalseAlarm>,
    /// Of `hard`.
    hard_weights: Vec<f32>,
    recipe: Recipe,
}

impl Sampler {
    /// Prepares `scans` (finds their places once).
    ///
    /// # Errors
    /// A defect of a built-in table.
    pub fn new(scans: Vec<Scan>, real: Vec<RealLesion>, real_share: f64) -> Result<Self, Defect> {
        let (kinds, density) = (kind::table()?, Density::built_in()?);
        let scans = prepared(scans, Sites::find);
        // A series of 100 slices is worth more than one slice, but not a hundred times.
        let weights = scans.iter().map(|(s, ..)| (s.slices.len() as f32).sqrt()).collect();
        Ok(Self { scans, weights, kinds, density, real, real_share, hard: Vec::new(), hard_weights: Vec::new(), recipe: Recipe::default() })
    }

    /// Draws from these photographs of limbs, too ([`real::limbs`]).
    #[must_use]
    pub fn with_limbs(mut self, limbs: Vec<Scan>) -> Self {
        self.weights.extend(std::iter::repeat_n(LIMB_WEIGHT, limbs.len()));
        self.scans.extend(prepared(limbs, |scan, slice| Sites::find(scan, slice).of_limb()));
        self
    }

    /// Draws made-up bodies in this share of the samples, however many there are, where there are others, too: of all scans that it has by then, limbs included.
    #[must_use]
    pub fn with_phantom_share(mut self, share: f32) -> Self {
        let made: Vec<bool> = self.scans.iter().map(|(scan, ..)| phantom::is_one(scan)).collect();
        let sum = |of: bool| self.weights.iter().zip(&made).filter(|(_, m)| **m == of).map(|(w, _)| w).sum::<f32>();
        let (real, phantoms) = (sum(false), sum(true));
        if real > 0.0 && phantoms > 0.0 {
            let times = share / (1.0 - share) * real / phantoms;
            self.weights.iter_mut().zip(&made).filter(|(_, m)| **m).for_each(|(w, _)| *w *= times);
        }
        self
    }

    /// Shows these false alarms in [`HARD_SHARE`] of the samples; their indices are those of the scans given to [`Sampler::new`].
    #[must_use]
    pub fn with_false_alarms(self, hard: Vec<FalseAlarm>) -> Self {
        Self { hard_weights: hard.iter().map(|h| h.weight).collect(), hard, ..self }
    }

    /// Draws by this recipe instead of the whole one.
    #[must_use]
    pub fn with_recipe(self, recipe: Recipe) -> Self {
        Self { recipe, ..self }
    }

    /// Draws one sample of `slots` planes (1 or an odd number).
    pub fn sample(&self, rng: &mut StdRng, slots: usize) -> Sample {
        loop {
            if let Some(sample) = self.try_sample(rng, slots) {
                return sample;
            }
        }
    }

    fn try_sample(&self, rng: &mut StdRng, slots: usize) -> Option<Sample> {
        let hard = (!self.hard.is_empty() && rng.random_bool(HARD_SHARE)).then(|| self.hard[pick(rng, &self.hard_weights)]);
        let (scan, sites, grid) = &self.scans[hard.map_or_else(|| pick(rng, &self.weights), |h| h.scan)];
        if slots > 1 && grid.slots.len() < slots {
            return None;
        }
        let slot = match hard {
            Some(h) => grid.at(scan.slices[h.slice].z_mm)?,
            None => rng.random_range(0..grid.slots.len()),
        };
        let key_slice = grid.slots[slot].nearest();
        let places = &sites[key_slice];
        if places.part == Part::Chest && rng.random_bool(CHEST_SKIPPED) {
            return None;
        }
        let pasted = hard.is_none() && !self.real.is_empty() && rng.random_bool(PASTED_SHARE);
        let wanted = match rng.random_range(0..100) {
            _ if pasted => 0,
            0..20 => 0,
            20..73 => 1,
            73..91 => 2,
            _ => 3,
        };
        let kinds: Vec<f32> = self.kinds.iter().map(|k| if places.of(k.site).is_empty() { 0.0 } else { k.weight }).collect();
        if wanted > 0 && kinds.iter().all(|w| *w == 0.0) {
            return None;
        }
        // The first lesion's place decides where the crop lies: off its middle by up to 90 pixels.
        let zoom = f64::from(rng.random_range(-0.28f32..0.28).exp());
        let pixel_mm = f64::from(SLOT_MM) * zoom;
        let first = (wanted > 0 && hard.is_none()).then(|| pick(rng, &kinds));
        let image_place = match (first, hard) {
            (Some(kind), _) => place_of(rng, &self.density, places, &self.kinds[kind])?,
            (None, Some(alarm)) => alarm.centre.map(|v| v.round() as u16),
            (None, None) => {
                let b = places.body?;
                [rng.random_range(b.x1..=b.x2) as u16, rng.random_range(b.y1..=b.y2) as u16]
            }
        };
        let jitter = if first.is_some() { 95.0 } else { 40.0 } * pixel_mm;
        let spacing = scan.grid.spacing_mm;
        // Towards the body where a crop would show more air than it: less than a third of it may hang over.
        let held = |wanted: f64, low: usize, high: usize, spacing: f64| {
            let (inset, middle) = (LEAST_INSET * CROP as f64 * pixel_mm / spacing, (low + high) as f64 / 2.0);
            wanted.clamp((low as f64 + inset).min(middle), (high as f64 - inset).max(middle))
        };
        let body = places.body?;
        let centre = [
            held(f64::from(image_place[0]) + rng.random_range(-jitter..jitter) / spacing[1], body.x1, body.x2, spacing[1]),
            held(f64::from(image_place[1]) + rng.random_range(-jitter..jitter) / spacing[0], body.y1, body.y2, spacing[0]),
        ];
        let view = View::random(rng, centre, scan.grid, pixel_mm, self.recipe.has(Ingredient::Bends));
        let mut planes = crop(scan, grid, slot, slots, &view);
        let slices = Slices {
            thickness_mm: scan.spacing_mm as f32,
            own_noise: self.recipe.has(Ingredient::PlaneNoise),
            borrowed_grain: self.recipe.has(Ingredient::LungGrain),
        };
        let to_crop = |p: [u16; 2]| view.to_crop(p.map(f64::from));
        let slice = &scan.slices[key_slice];
        let mut ignore: Vec<[f32; 4]> = slice.disease.iter().map(|d| view.region(d.region)).collect();
        if share_of_crop(&ignore) > MOST_IGNORED && rng.random_bool(IGNORED_SKIPPED) {
            return None;
        }
        let mut truths: Vec<Truth> = Vec::new();
        self.look_alikes(rng, &mut planes, places, &view, slices, pixel_mm);
        if pasted && let Some(lesion) = self.pasted(rng) {
            let (truth, unsure) = lesion.paste(&mut planes, self.recipe.has(Ingredient::Surroundings), rng)?;
            truths.push(truth);
            ignore.extend(unsure);
        }
        for n in 0..wanted {
            let kind = &self.kinds[first.filter(|_| n == 0).unwrap_or_else(|| pick(rng, &kinds))];
            let within = |place: &[f32; 2]| place.iter().all(|v| (6.0..CROP as f32 - 6.0).contains(v));
            let place = if first.is_some() && n == 0 {
                Some(to_crop(image_place)).filter(within)
            } else {
                (0..MOST_DRAWS).filter_map(|_| place_of(rng, &self.density, places, kind).map(to_crop)).find(within)
            };
            let Some(place) = place else { continue };
            if let Some(truth) = self.lesion(rng, &mut planes, kind, places, place, slices) {
                truths.retain(|t| crate::detect::nms::iou(t.box_px, truth.box_px) < 0.2);
                truths.push(truth);
            }
        }
        Some(finish(planes, truths, ignore, &self.recipe, rng))
    }

    /// A sarcoma shrunk to a node is still a sarcoma: fewer of them than nodules in lungs.
    fn real_share(&self, site: Site) -> f64 {
        if site == Site::Lung { self.real_share } else { self.real_share * SHRUNK_SHARE }
    }

    /// A real lesion to be pasted with its surroundings: nodules and sarcomas alike often, although there are ten times as many nodules.
    fn pasted(&self, rng: &mut StdRng) -> Option<&RealLesion> {
        let in_lung = rng.random_bool(PASTED_LUNG);
        let fitting: Vec<&RealLesion> = self.real.iter().filter(|r| r.in_lung == in_lung).collect();
        choose(rng, &fitting).copied()
    }

    fn lesion(&self, rng: &mut StdRng, planes: &mut Planes, kind: &Kind, places: &Sites, place: [f32; 2], slices: Slices) -> Option<Truth> {
        let lesion_type = kind.type_in(places.part)?;
        let middle = planes.hu.len() / 2;
        if matches!(kind.site, Site::Lung | Site::Muscle | Site::Fat | Site::Subcutaneous) && rng.random_bool(self.real_share(kind.site)) {
            let in_lung = kind.site == Site::Lung;
            let fitting: Vec<&RealLesion> = self.real.iter().filter(|r| r.in_lung == in_lung && !r.beside_bone).collect();
            if let Some(lesion) = choose(rng, &fitting) {
                let wanted_mm = kind.long_mm(rng);
                if sticks_out(planes, middle, kind.site, place, wanted_mm) {
                    return None;
                }
                let shrink = if in_lung { rng.random_range(0.7..1.3) } else { (wanted_mm / lesion.long_mm().max(1.0)).clamp(0.15, 1.0) };
                let mut truth = lesion.transplant(planes, place, shrink, rng)?;
                truth.lesion_type = lesion_type;
                return Some(truth);
            }
        }
        let Drawn { shape, mut look, long_mm } = kind.draw(rng, places.muscle_hu);
        look.yields &= self.recipe.has(Ingredient::Room);
        if sticks_out(planes, middle, kind.site, place, long_mm) {
            return None;
        }
        let z = rng.random_range(-0.65..0.65) * shape.semi_mm[2];
        let centre = [place[0], place[1], z];
        let mask = insert::section(planes, middle, &shape, centre, look);
        let truth = recist::measure(&mask, planes.size, LEAST_PIXELS, lesion_type)?;
        insert::paint(planes, &shape, centre, look, slices, rng);
        Some(truth)
    }
}

/// Scans with their places and slots.
fn prepared(scans: Vec<Scan>, find: impl Fn(&Scan, &ScanSlice) -> Sites + Sync) -> Vec<(Scan, Vec<Sites>, SlotGrid)> {
    let prepare = |scan: Scan| {
        let sites = scan.slices.iter().map(|s| find(&scan, s)).collect();
        let positions: Vec<f64> = scan.slices.iter().map(|s| s.z_mm).collect();
        let grid = slots::grid(&positions, scan.spacing_mm);
        (scan, sites, grid)
    };
    scans.into_par_iter().map(prepare).collect()
}

/// A place of the kind's tissue, as dense as radiologists mark lesions of its type; none where the slice has no such tissue or nobody would mark one in it.
fn place_of(rng: &mut StdRng, density: &Density, places: &Sites, kind: &Kind) -> Option<[u16; 2]> {
    let (lesion_type, body) = (kind.type_in(places.part)?, places.body?);
    for _ in 0..MOST_DRAWS {
        let at = *choose(rng, places.of(kind.site))?;
        if density.keeps(rng, lesion_type, at, body) {
            return Some(at);
        }
    }
    None
}

/// Share of a crop that lies in one of these regions at least, on a raster of 16 × 16 points.
fn share_of_crop(regions: &[[f32; 4]]) -> f32 {
    const POINTS: usize = 16;
    let at = |i: usize| (i as f32 + 0.5) * CROP as f32 / POINTS as f32;
    let covered = |i: &usize| {
        let (x, y) = (at(i % POINTS), at(i / POINTS));
        regions.iter().any(|r| r[0] <= x && x <= r[2] && r[1] <= y && y <= r[3])
    };
    (0..POINTS * POINTS).filter(covered).count() as f32 / (POINTS * POINTS) as f32
}

/// Whether a lesion of `long_mm` at `at` of a plane reaches into air: a mass of the body wall does not hang in front of the skin. In lung all do.
fn sticks_out(planes: &Planes, plane: usize, site: Site, [x, y]: [f32; 2], long_mm: f32) -> bool {
    let (size, radius) = (planes.size, long_mm * 0.45 / planes.pixel_mm);
    let in_air = |i: usize| {
        let (sin, cos) = (i as f32 * std::f32::consts::FRAC_PI_4).sin_cos();
        let at = [x + radius * cos, y + radius * sin].map(|v| v.clamp(0.0, size as f32 - 1.0) as usize);
        planes.hu[plane][at[1] * size + at[0]] < AIR_HU
    };
    site != Site::Lung && (0..8).any(in_air)
}

/// The planes of `slots` slots round slot `at`.
#[must_use]
pub fn crop(scan: &Scan, grid: &SlotGrid, at: usize, slots: usize, view: &View) -> Planes {
    let planes = planes_of(scan, grid, at, slots, view.frame());
    Planes { size: CROP, hu: planes.hu.into_iter().map(|hu| view.crop(hu)).collect(), ..planes }
}

/// The planes of `slots` slots round slot `at` on a square frame.
fn planes_of(scan: &Scan, grid: &SlotGrid, at: usize, slots: usize, frame: &Frame) -> Planes {
    let plane = |slot: usize| -> Plane {
        let s = grid.slots[slot];
        let lower = resample(&scan.slices[s.lower].image, frame);
        if s.weight == 0.0 { lower } else { interpolate(&lower, &resample(&scan.slices[s.upper].image, frame), s.weight) }
    };
    let window = grid.window(at, slots);
    let offsets_mm = window.iter().map(|s| (grid.slots[*s].z_mm - grid.slots[at].z_mm) as f32).collect();
    Planes { size: frame.width, pixel_mm: SLOT_MM, hu: window.into_iter().map(|s| plane(s).hu).collect(), offsets_mm }
}

/// What every crop goes through last, painted or marked: augmentation, lesions cut by its border set apart, windows, mirroring.
pub fn finish(mut planes: Planes, mut truths: Vec<Truth>, mut ignore: Vec<[f32; 4]>, recipe: &Recipe, rng: &mut StdRng) -> Sample {
    augment::augment(&mut planes, recipe, rng);
    // Cut by the crop: neither asked for nor held against anyone.
    let side = CROP as f32;
    truths.retain(|t| {
        let whole = t.box_px[0] > -6.0 && t.box_px[1] > -6.0 && t.box_px[2] < side + 5.0 && t.box_px[3] < side + 5.0;
        if !whole {
            ignore.push(t.box_px);
        }
        whole
    });
    let mut sample = to_sample(&planes, truths, ignore);
    mirror(rng, &mut sample);
    sample
}

fn to_sample(planes: &Planes, truths: Vec<Truth>, ignore: Vec<[f32; 4]>) -> Sample {
    let data = planes.hu.iter().flatten().flat_map(|hu| windows(hu.clamp(-1024.0, 3071.0))).collect();
    Sample { slots: planes.hu.len(), data, truths, ignore }
}

/// Mirrors left and right half of the time, front and back now and then (prone patients).
fn mirror(rng: &mut StdRng, sample: &mut Sample) {
    let (across, down) = (rng.random_bool(0.5), rng.random_bool(0.15));
    let last = CROP as f32 - 1.0;
    if across {
        for row in sample.data.chunks_exact_mut(CROP * 3) {
            for x in 0..CROP / 2 {
                for c in 0..3 {
                    row.swap(x * 3 + c, (CROP - 1 - x) * 3 + c);
                }
            }
        }
    }
    if down {
        for plane in sample.data.chunks_exact_mut(CROP * CROP * 3) {
            for y in 0..CROP / 2 {
                let (top, bottom) = plane.split_at_mut((CROP - 1 - y) * CROP * 3);
                top[y * CROP * 3..(y + 1) * CROP * 3].swap_with_slice(&mut bottom[..CROP * 3]);
            }
        }
    }
    let turn = |b: &mut [f32; 4]| {
        if across {
            (b[0], b[2]) = (last - b[2], last - b[0]);
        }
        if down {
            (b[1], b[3]) = (last - b[3], last - b[1]);
        }
    };
    for t in &mut sample.truths {
        turn(&mut t.box_px);
        if across != down {
            t.angle_rad = (std::f32::consts::PI - t.angle_rad).rem_euclid(std::f32::consts::PI);
        }
    }
    sample.ignore.iter_mut().for_each(turn);
}

fn pick(rng: &mut StdRng, weights: &[f32]) -> usize {
    let mut at = rng.random_range(0.0..weights.iter().sum::<f32>().max(f32::MIN_POSITIVE));
    for (i, w) in weights.iter().enumerate() {
        if at < *w {
            return i;
        }
        at -= w;
    }
    weights.len().saturating_sub(1)
}

fn choose<'a, T>(rng: &mut StdRng, all: &'a [T]) -> Option<&'a T> {
    if all.is_empty() { None } else { Some(&all[rng.random_range(0..all.len())]) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// A real scan, three phantoms and a limb, which is no phantom though it has no UID either.
    #[test]
    fn phantoms_have_their_share_however_many_there_are() {
        let phantoms = phantom::scans(1, 3);
        let mut limb = phantoms[0].clone();
        limb.slices.iter_mut().for_each(|s| s.sites = None);
        let mut real = limb.clone();
        real.slices.iter_mut().for_each(|s| s.sop_uid = "1.2".into());
        let scans = std::iter::once(real.clone()).chain(phantoms.clone()).collect();
        let sampler = Sampler::new(scans, Vec::new(), 0.0).unwrap().with_limbs(vec![limb]).with_phantom_share(0.2);
        let mut rng = StdRng::seed_from_u64(1);
        let drawn = (0..10_000).filter(|_| (1..4).contains(&pick(&mut rng, &sampler.weights))).count();
        assert!((1900..2100).contains(&drawn), "{drawn} of 10,000");
        for alone in [phantoms, vec![real]] {
            let sampler = Sampler::new(alone, Vec::new(), 0.0).unwrap();
            let before = sampler.weights.clone();
            assert_eq!(sampler.with_phantom_share(0.2).weights, before);
        }
    }
}
