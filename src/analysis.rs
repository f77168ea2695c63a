//! One series through volume, detect and lesion: slots are encoded as soon as their slices are there, and what was computed is kept by what it was
//! computed *from*. Work done while slices arrive is speculation; the result is that of the final set.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use crate::detect::bundle::{Bundle, tolerance};
use crate::detect::crew::Crew;
use crate::detect::standby::Standby;
use crate::detect::{Candidate, Engine, EngineError, Features};
use crate::lesion::link::{Track, link};
use crate::lesion::{Lesion, measure, score};
use crate::series::SliceHeader;
use crate::series::eligibility::StackPlan;
use crate::volume::HuImage;
use crate::volume::body::{PixelBox, body_box, body_of_plane};
use crate::volume::frame::{Frame, ImageGrid, Plane, interpolate, resample};
use crate::volume::pixels::{DecodeError, decode_slice};
use crate::volume::slots::{self, SlotGrid, SlotKey};
use crate::volume::window::slot_input;

/// Lesions reported a series: more than a reader would look at one by one; the best are kept.
pub const MOST_LESIONS: usize = 20;
/// What stopped an analysis.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// A slice cannot be decoded.
    #[error("slice {slice}: {source}")]
    Decode {
        /// Its instance number or UID.
        slice: String,
        /// Why.
        source: DecodeError,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl AnalysisError {
    /// The stage for a `failed` outcome.
    #[must_use]
    pub const fn stage(&self) -> &'static str {
        match self {
            Self::Decode { .. } => "decode",
            Self::Engine(_) => "detect",
        }
    }
}

/// What is known of one series so far, keyed by content.
#[derive(Default)]
pub struct Cache {
    features: HashMap<SlotKey, Features>,
    candidates: HashMap<Vec<SlotKey>, Vec<Candidate>>,
    bodies: HashMap<String, PixelBox>,
    /// Where the body is in slots, for a bundle that asks for it.
    outlines: HashMap<SlotKey, PixelBox>,
    /// Which engine made it: maps of one are of no use to another, and a series is told by one.
    crew: u64,
    /// Slots encoded, in all (speculation that came to nothing included).
    pub encoded: usize,
}

/// The result of one stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// Lesions at or above the operating point, best first.
    pub lesions: Vec<Lesion>,
    /// Candidates of each slot, before linking.
    pub candidates: Vec<Vec<Candidate>>,
    /// Where slots lie in z.
    pub grid: SlotGrid,
    /// Where slots lie in the plane.
    pub frame: Frame,
}

/// Bundle and engines, one a thread.
pub struct Analyst {
    bundle: Arc<Bundle>,
    shift: RwLock<Shift>,
    standby: Option<Mutex<Standby>>,
    threads: usize,
    min_score: f32,
}

/// A crew, and which one since the start.
struct Shift {
    number: u64,
    crew: Crew,
}

struct Layout {
    image: ImageGrid,
    grid: SlotGrid,
    frame: Frame,
    keys: Vec<SlotKey>,
    windows: Vec<Vec<usize>>,
}

impl Analyst {
    /// `threads` forks of `engine`; lesions are reported from `min_score` (calibrated) on, by default the bundle's operating point.
    #[must_use]
    pub fn new(bundle: Arc<Bundle>, engine: Box<dyn Engine>, threads: usize, min_score: Option<f32>) -> Self {
        let min_score = min_score.or_else(|| bundle.operating_point().map(|p| p.score)).unwrap_or(1.0);
        let threads = threads.max(1);
        Self { bundle, shift: RwLock::new(Shift { number: 0, crew: Crew::of(engine, threads) }), standby: None, threads, min_score }
    }

    /// Replaces a failing engine by one of `standby`, in the middle of a series if it must.
    #[must_use]
    pub fn with_standby(self, standby: Standby) -> Self {
        Self { standby: Some(Mutex::new(standby)), ..self }
    }

    /// The bundle in use.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Name and numeric format of the engine.
    #[must_use]
    pub fn engine(&self) -> (&'static str, &'static str) {
        self.shift().crew.engines().first().map_or(("none", "none"), |e| {
            let e = e.lock().unwrap_or_else(PoisonError::into_inner);
            (e.name(), e.quantization())
        })
    }

    /// Computes the next few slots; true when nothing is left to do. While slices still arrive (`settled` false) slots whose neighbours may yet come
    /// are left alone.
    ///
    /// # Errors
    /// [`AnalysisError`]; the cache stays usable.
    pub fn advance(&self, plan: &StackPlan, cache: &mut Cache, settled: bool) -> Result<bool, AnalysisError> {
        loop {
            match self.advance_once(plan, cache, settled) {
                Err(AnalysisError::Engine(reason)) => self.replace(cache.crew, reason)?,
                other => return other,
            }
        }
    }

    /// Another engine instead of that of crew `number`, unless it was replaced already.
    fn replace(&self, number: u64, reason: EngineError) -> Result<(), AnalysisError> {
        let Some(standby) = &self.standby else { return Err(reason.into()) };
        let mut shift = self.shift.write().unwrap_or_else(PoisonError::into_inner);
        if shift.number == number {
            let next = standby.lock().unwrap_or_else(PoisonError::into_inner).replace(&self.bundle, reason, Instant::now())?;
            *shift = Shift { number: number + 1, crew: Crew::of(next, self.threads) };
        }
        Ok(())
    }

    /// Goes back to the first choice of engine where its time has come; to be called between series.
    pub fn recover(&self) {
        let Some(standby) = &self.standby else { return };
        // Let go before the crew is taken: `replace` takes the two the other way round.
        let engine = standby.lock().unwrap_or_else(PoisonError::into_inner).recovered(&self.bundle, Instant::now());
        if let Some(engine) = engine {
            let mut shift = self.shift.write().unwrap_or_else(PoisonError::into_inner);
            *shift = Shift { number: shift.number + 1, crew: Crew::of(engine, self.threads) };
        }
    }

    fn shift(&self) -> std::sync::RwLockReadGuard<'_, Shift> {
        self.shift.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance_once(&self, plan: &StackPlan, cache: &mut Cache, settled: bool) -> Result<bool, AnalysisError> {
        let shift = self.shift();
        let crew = &shift.crew;
        if cache.crew != shift.number {
            cache.crew = shift.number;
            cache.features.clear();
            cache.candidates.clear();
        }
        let layout = self.layout(crew, plan, cache)?;
        let context = self.context();
        let missing: Vec<usize> = (0..layout.keys.len())
            .filter(|i| settled || layout.windows[*i].iter().collect::<HashSet<_>>().len() == context)
            .filter(|i| !cache.candidates.contains_key(&layout.key(*i)))
            .take(crew.turn())
            .collect();
        if missing.is_empty() {
            return Ok(true);
        }
        let windows: Vec<&[usize]> = missing.iter().map(|i| layout.windows[*i].as_slice()).collect();
        let known = |slot: usize| cache.features.get(&layout.keys[slot]);
        let outlines = Mutex::new(Vec::new());
        let (encoded, mut found) = crew.over_windows(&windows, known, |engine, slot| {
            let plane = plane(plan, &layout, slot)?;
            if self.bundle.prior.is_some() {
                outlines.lock().unwrap_or_else(PoisonError::into_inner).push((layout.keys[slot], body_of_plane(&plane)));
            }
            Ok::<_, AnalysisError>(engine.encode(&slot_input(&plane))?)
        })?;
        cache.outlines.extend(outlines.into_inner().unwrap_or_else(PoisonError::into_inner));
        if let Some(prior) = &self.bundle.prior {
            // A slot is in the middle of its own window, so it was encoded by now.
            for (i, finds) in missing.iter().zip(&mut found) {
                if let Some(body) = cache.outlines.get(&layout.keys[*i]) {
                    prior.apply(finds, *body);
                }
            }
        }
        cache.encoded += encoded.len();
        cache.features.extend(encoded.into_iter().map(|(slot, maps)| (layout.keys[slot], maps)));
        cache.candidates.extend(missing.iter().map(|i| layout.key(*i)).zip(found));
        // Kept are the maps that slots still to be done will ask for: the turn's far edge, and the ends of a stack that still grows either way.
        let waiting = (0..layout.keys.len()).filter(|i| !cache.candidates.contains_key(&layout.key(*i)));
        let keep: HashSet<SlotKey> = waiting.flat_map(|i| layout.windows[i].iter().map(|w| layout.keys[*w]).collect::<Vec<_>>()).collect();
        cache.features.retain(|k, _| keep.contains(k));
        Ok(false)
    }

    /// The whole analysis of a settled stack; what the cache holds is not computed again. `progress` is told slots done and slots in all.
    ///
    /// # Errors
    /// [`AnalysisError`].
    pub fn finish(&self, plan: &StackPlan, cache: &mut Cache, mut progress: impl FnMut(usize, usize)) -> Result<Analysis, AnalysisError> {
        loop {
            while !self.advance(plan, cache, true)? {
                progress(cache.candidates.len(), plan.stack.slices.len());
            }
            match self.still_right(cache.crew) {
                Ok(()) => break,
                Err(reason) => self.replace(cache.crew, reason)?,
            }
        }
        let layout = self.layout(&self.shift().crew, plan, cache)?;
        let candidates: Vec<Vec<Candidate>> =
            (0..layout.keys.len()).map(|i| cache.candidates.get(&layout.key(i)).cloned().unwrap_or_default()).collect();
        let mut tracks: Vec<(f32, Track)> = link(&candidates)
            .into_iter()
            .map(|t| (score::calibrate(t.score(), &self.bundle.description.calibration), t))
            .filter(|(s, _)| *s >= self.min_score)
            .collect();
        tracks.truncate(MOST_LESIONS);
        let lesions = tracks
            .into_iter()
            .enumerate()
            .map(|(n, (score, track))| lesion(n as u32 + 1, score, &track, plan, &layout))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Analysis { lesions, candidates, grid: layout.grid, frame: layout.frame })
    }

    /// An engine that may be replaced has to pass the self-test once more after a series, before anyone is told what it found.
    fn still_right(&self, number: u64) -> Result<(), EngineError> {
        let Some(standby) = &self.standby else { return Ok(()) };
        let shift = self.shift();
        if shift.number != number {
            // Replaced in the meantime: whatever was computed goes with it.
            return Err(EngineError::Failed { engine: "replaced", reason: "in the middle of a series".into() });
        }
        for engine in shift.crew.engines() {
            let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
            let allowed = tolerance(engine.quantization());
            let tested = catch_unwind(AssertUnwindSafe(|| self.bundle.self_test(engine.as_mut(), allowed)));
            let reason = match tested {
                Ok(Ok(())) => continue,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "it panicked".into(),
            };
            return Err(EngineError::Failed { engine: engine.name(), reason });
        }
        standby.lock().unwrap_or_else(PoisonError::into_inner).proved();
        Ok(())
    }

    fn context(&self) -> usize {
        self.bundle.description.network.context
    }

    fn layout(&self, crew: &Crew, plan: &StackPlan, cache: &mut Cache) -> Result<Layout, AnalysisError> {
        let slices = &plan.stack.slices;
        let names: Vec<String> = slices.iter().map(SliceHeader::key).collect();
        let image = ImageGrid::of(&slices[0]);
        let mut body = None;
        if image.needs_body() {
            let unknown: Vec<usize> = (0..slices.len()).filter(|i| !cache.bodies.contains_key(&names[*i])).collect();
            let boxes = crew.each(&unknown, |_, i| Ok::<_, AnalysisError>(body_box(&decoded(&slices[i])?)))?;
            cache.bodies.extend(unknown.iter().map(|i| names[*i].clone()).zip(boxes));
            body = names.iter().filter_map(|name| cache.bodies.get(name).copied()).reduce(PixelBox::union);
        }
        let frame = Frame::choose(image, body);
        let grid = slots::grid(&plan.stack.positions_mm, plan.stack.spacing_mm);
        let keys = grid.slots.iter().map(|s| slots::key(s, &frame, |i| names[i].as_str())).collect();
        let windows = (0..grid.slots.len()).map(|i| grid.window(i, self.context())).collect();
        Ok(Layout { image, grid, frame, keys, windows })
    }
}

/// HU of slot `i`.
fn plane(plan: &StackPlan, layout: &Layout, i: usize) -> Result<Plane, AnalysisError> {
    let slot = layout.grid.slots[i];
    let plane = |slice: usize| Ok::<_, AnalysisError>(resample(&decoded(&plan.stack.slices[slice])?, &layout.frame));
    let lower = plane(slot.lower)?;
    if slot.weight == 0.0 { Ok(lower) } else { Ok(interpolate(&lower, &plane(slot.upper)?, slot.weight)) }
}

impl Layout {
    /// What the heads of slot `i` depend on.
    fn key(&self, i: usize) -> Vec<SlotKey> {
        self.windows[i].iter().map(|w| self.keys[*w]).collect()
    }
}

fn decoded(slice: &SliceHeader) -> Result<HuImage, AnalysisError> {
    decode_slice(slice).map_err(|source| AnalysisError::Decode { slice: slice.label(), source })
}

fn lesion(number: u32, score: f32, track: &Track, plan: &StackPlan, layout: &Layout) -> Result<Lesion, AnalysisError> {
    let (slot, candidate) = track.key();
    let key_slice = layout.grid.slots[*slot].nearest();
    let header = &plan.stack.slices[key_slice];
    let image = decoded(header)?;
    let box_px = layout.frame.box_to_image(candidate.box_px, layout.image);
    let recist = measure::measure(&image, box_px, layout.image.spacing_mm);
    let (first, last) = (track.seen[0].0, track.seen[track.seen.len() - 1].0);
    let depth_mm = layout.grid.slots[last].z_mm - layout.grid.slots[first].z_mm + layout.grid.step_mm;
    Ok(Lesion {
        number,
        score,
        types: track.types(),
        key_slice,
        slices: [layout.grid.slots[first].nearest(), layout.grid.slots[last].nearest()],
        box_px,
        center_lps_mm: to_patient(header, [f32::midpoint(box_px[0], box_px[2]), f32::midpoint(box_px[1], box_px[3])]),
        long_axis_mm: recist.long_mm,
        short_axis_mm: recist.short_mm,
        recist_px: recist.points_px,
        segmented: recist.segmented,
        volume_mm3: measure::ellipsoid_mm3(recist.long_mm, recist.short_mm, depth_mm as f32),
    })
}

/// Pixel → patient coordinates (PS3.3 C.7.6.2.1.1).
fn to_patient(header: &SliceHeader, [x, y]: [f32; 2]) -> [f64; 3] {
    let (Some(origin), Some(o), Some([row, column])) = (header.position_mm, header.orientation, header.pixel_spacing_mm) else {
        return [0.0; 3];
    };
    std::array::from_fn(|i| origin[i] + f64::from(x) * column * o[i] + f64::from(y) * row * o[i + 3])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::detect::TYPE_NAMES;
    use crate::detect::prior::{GRID, OfType, Prior};
    use crate::detect::{select, tiny};
    use crate::series::{eligibility, header};
    use std::path::Path;

    fn sample(step: usize) -> Vec<SliceHeader> {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314"));
        (60..=180).step_by(step).map(|n| header::read(&folder.join(format!("{n:04}.dcm"))).unwrap()).collect()
    }

    fn analyst() -> Analyst {
        analyst_with(None)
    }

    fn analyst_with(prior: Option<Prior>) -> Analyst {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path()).unwrap();
        let mut bundle = Bundle::open(folder.path()).unwrap();
        bundle.prior = prior;
        let bundle = Arc::new(bundle);
        let engine = select::choose(&bundle, "candle-cpu").unwrap().engine;
        Analyst::new(bundle, engine, 2, None)
    }

    /// Every type alike, from the body's left to its right.
    fn leaning() -> Prior {
        let row: Vec<f32> = (0..GRID).map(|column| column as f32 / 5.0 - 2.0).collect();
        let of = |name: &str| OfType { name: name.into(), odds: 0.0, places: vec![row.clone(); GRID] };
        Prior { measured_on: "nothing".into(), weight: 0.2, types: TYPE_NAMES.map(of).into() }
    }

    /// A prior moves scores and nothing else, by the place in the body that is on the slot.
    #[test]
    fn a_prior_is_asked_of_every_slot() {
        let plan = eligibility::plan(&sample(8)).unwrap();
        let finished = |prior| analyst_with(prior).finish(&plan, &mut Cache::default(), |_, _| ()).unwrap().candidates;
        let (looks, both) = (finished(None), finished(Some(leaning())));
        let key = |c: &Candidate| c.box_px.map(f32::to_bits);
        let mut moved = [0, 0];
        for (looks, both) in looks.iter().zip(&both) {
            assert_eq!(looks.len(), both.len());
            let before: HashMap<_, _> = looks.iter().map(|c| (key(c), c.score)).collect();
            for find in both {
                let middle = f32::midpoint(find.box_px[0], find.box_px[2]);
                // Left and right of anything that could be the middle of this body.
                match middle as u32 {
                    0..=200 => moved[0] += i32::from(find.score < before[&key(find)]),
                    312.. => moved[1] += i32::from(find.score > before[&key(find)]),
                    _ => {}
                }
            }
            assert!(both.is_sorted_by(|a, b| a.score >= b.score));
        }
        let sides = |low: u32, high: u32| {
            both.iter().flatten().filter(|c| (low..=high).contains(&(f32::midpoint(c.box_px[0], c.box_px[2]) as u32))).count() as i32
        };
        assert!(moved[0] > 0 && moved[0] == sides(0, 200) && moved[1] > 0 && moved[1] == sides(312, 512), "{moved:?}");
    }

    /// The promise that arrival changes nothing: slices in any order, worked on in between, give what a clean run gives.
    #[test]
    fn speculation_changes_nothing() {
        speculates(&analyst());
        speculates(&analyst_with(Some(leaning())));
    }

    fn speculates(analyst: &Analyst) {
        let headers = sample(4);
        let plan = |h: &[SliceHeader]| eligibility::plan(h).unwrap();
        let clean = analyst.finish(&plan(&headers), &mut Cache::default(), |_, _| ()).unwrap();
        assert!(!clean.lesions.is_empty());
        let mut shuffled = headers.clone();
        shuffled.reverse();
        shuffled.swap(3, 20);
        let mut cache = Cache::default();
        for n in eligibility::LEAST_SLICES..=shuffled.len() {
            if let Ok(plan) = eligibility::plan(&shuffled[..n]) {
                analyst.advance(&plan, &mut cache, false).unwrap();
            }
        }
        assert!(cache.encoded > 0);
        assert_eq!(analyst.finish(&plan(&shuffled), &mut cache, |_, _| ()).unwrap(), clean);
    }

    #[test]
    fn in_order_arrival_encodes_each_slot_about_once() {
        let analyst = analyst();
        let headers = sample(4);
        let mut cache = Cache::default();
        for n in eligibility::LEAST_SLICES..=headers.len() {
            while !analyst.advance(&eligibility::plan(&headers[..n]).unwrap(), &mut cache, false).unwrap() {}
        }
        let plan = eligibility::plan(&headers).unwrap();
        let result = analyst.finish(&plan, &mut cache, |_, _| ()).unwrap();
        let slots = result.grid.slots.len();
        assert!(cache.encoded <= slots + 4, "{} encoded for {slots} slots", cache.encoded);
    }

    #[test]
    fn a_slice_that_does_not_decode_is_named() {
        let mut headers = sample(8);
        let folder = tempfile::tempdir().unwrap();
        let bad = folder.path().join("bad.dcm");
        let bytes = std::fs::read(&headers[5].path).unwrap();
        std::fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
        headers[5].path = bad;
        let error = analyst().finish(&eligibility::plan(&headers).unwrap(), &mut Cache::default(), |_, _| ()).unwrap_err();
        assert_eq!(error.stage(), "decode");
        assert!(error.to_string().starts_with("slice 100:"), "{error}");
    }
}
