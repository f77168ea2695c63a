//! `lesionlab prior`: measures where and as what a bundle's network finds something in CT without marked disease, holds DeepLesion's table of marks
//! against it, and puts both into the bundle ([`crate::detect::prior`]), with calibration and operating points as they are from then on.

mod density;
mod levels;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use self::density::Spot;
use self::levels::Levels;
use super::dataset::{Scan, backgrounds, deeplesion};
use super::{alone, calibrate, operating};
use crate::detect::bundle::{Bundle, OperatingPoint};
use crate::detect::candle_engine::CandleEngine;
use crate::detect::prior::{Prior, place};
use crate::detect::{Candidate, TYPE_NAMES, TYPES, likeliest};
use crate::error::{Class, Failure};

/// Finds taken of an image, best first: more than any reader is shown, so that most are no lesions and all places are among them.
const FINDS: usize = 30;

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// Bundle folder.
    pub bundle: PathBuf,
    /// DeepLesion's `DL_info.csv`.
    pub marks: PathBuf,
    /// Folder with one folder of DICOM a series.
    pub ct: PathBuf,
    /// Series that are not used.
    pub skip: Vec<String>,
    /// Series kept out of training.
    pub validation: String,
    /// Table of levels.
    pub levels: Option<PathBuf>,
}

/// What was put into the bundle.
#[derive(Debug)]
pub struct Report {
    prior: Prior,
    marks: [usize; TYPES],
    finds: [usize; TYPES],
    before: Option<OperatingPoint>,
    after: operating::Measured,
}

fn internal(e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Internal, e.to_string())
}

/// Measures, and writes into the bundle.
///
/// # Errors
/// A bundle, table or series that cannot be used; I/O; the engine's.
pub fn run(request: &Request) -> Result<Report, Failure> {
    let mut bundle = Bundle::open(&request.bundle).map_err(|e| Failure::new(Class::Data, e.to_string()))?;
    let marks = marks(&request.marks)?;
    let levels = request.levels.as_deref().map(Levels::read).transpose()?.unwrap_or_default();
    let (kept, scans): (Vec<Scan>, Vec<Scan>) =
        backgrounds::read(&request.ct, &request.skip)?.into_iter().partition(|s| s.name == request.validation);
    if kept.is_empty() || scans.is_empty() {
        let missing = if kept.is_empty() { request.validation.as_str() } else { "that is not kept for validation" };
        return Err(Failure::new(Class::Data, format!("{}: no series {missing}", request.ct.display())));
    }
    let finds = finds(&bundle, &scans, &levels)?;
    // What a raw score is worth, by looks alone.
    bundle.prior = None;
    let beside = request.bundle.with_extension("patients");
    let by_looks = calibrate::run(&operating::analyst(bundle.clone())?, &kept, &beside)?.calibration();
    let weight = 1.0
        / slope(&by_looks).ok_or_else(|| {
            Failure::new(Class::Data, format!("{}: too few lesions of it are found to say what a score is worth", request.validation))
        })?;
    let images: usize = scans.iter().map(|s| s.slices.len()).sum();
    let prior = Prior {
        measured_on: format!("{} marks, {} finds in {images} images without marked disease", marks.len(), finds.len()),
        weight: (weight * 1000.0).round() / 1000.0,
        types: density::odds(&marks, &finds).into(),
    };
    prior.check().map_err(internal)?;
    bundle.prior = Some(prior.clone());
    let series = request.ct.join(&request.validation);
    let after = operating::measure(&operating::analyst(bundle.clone())?, &kept, &series, &request.validation, &beside)?;
    let before = bundle.operating_point().cloned();
    Bundle::put_prior(&request.bundle, &prior, &after.calibration, &after.operating_points).map_err(internal)?;
    let count = |spots: &[Spot]| std::array::from_fn(|t| spots.iter().filter(|s| s.lesion_type == t).count());
    Ok(Report { marks: count(&marks), finds: count(&finds), prior, before, after })
}

/// What of the table says a type and a place in the body.
fn marks(table: &Path) -> Result<Vec<Spot>, Failure> {
    let mut marks = Vec::new();
    deeplesion::rows(table, &mut |_, row| {
        if let Ok(row) = row
            && !row.noisy
            && !row.located_by_mine()
            && let Some(lesion_type) = row.lesion_type
        {
            let [x, y, z] = row.location.map(|v| v as f32);
            marks.push(Spot { lesion_type: usize::from(lesion_type), place: [x, y], level: Some(z) });
        }
        true
    })?;
    if marks.is_empty() {
        let text = "no row says both a type and a place in the body: DeepLesion's validation and test rows do, `lesionlab mine` has shares of the image instead";
        return Err(Failure::new(Class::Data, format!("{}: {text}", table.display())));
    }
    Ok(marks)
}

/// The best finds of every image.
fn finds(bundle: &Bundle, scans: &[Scan], levels: &Levels) -> Result<Vec<Spot>, Failure> {
    let mut engine = CandleEngine::new(&bundle.description.network, &bundle.weights).map_err(internal)?;
    let mut spots = Vec::new();
    for scan in scans {
        for slice in &scan.slices {
            let level = levels.of(&scan.name, slice.number);
            let (finds, body) = alone::look(&mut engine, scan, slice, &slice.image).map_err(internal)?;
            let spot = |f: &Candidate| likeliest(&f.types).map(|lesion_type| Spot { lesion_type, place: place(f, body), level });
            spots.extend(finds.iter().take(FINDS).filter_map(spot));
        }
    }
    Ok(spots)
}

/// Log odds of a lesion that is a true one by logits of its raw score: the least-squares line through a calibration's knots. At least 1: a score says no
/// less than it seems to.
fn slope(calibration: &[[f32; 2]]) -> Option<f32> {
    let logit = |p: f32| (p / (1.0 - p)).ln();
    let inside = |v: &f32| *v > 0.0 && *v < 1.0;
    // The last knot is no measurement: it ends the curve.
    let measured = &calibration[..calibration.len().saturating_sub(1)];
    let points: Vec<[f32; 2]> = measured.iter().filter(|k| k.iter().all(inside)).map(|k| k.map(logit)).collect();
    let n = points.len() as f32;
    let mean = [0, 1].map(|i| points.iter().map(|p| p[i]).sum::<f32>() / n);
    let spread: f32 = points.iter().map(|p| (p[0] - mean[0]).powi(2)).sum();
    let common: f32 = points.iter().map(|p| (p[0] - mean[0]) * (p[1] - mean[1])).sum();
    (points.len() >= 3 && spread > 0.0).then(|| (common / spread).max(1.0))
}

impl Report {
    /// For the terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "{}; weight {}\n\n{:<12} {:>6} {:>6} {:>6}  places\n",
            self.prior.measured_on, self.prior.weight, "type", "marks", "finds", "odds"
        );
        for (t, of) in self.prior.types.iter().enumerate() {
            let least = of.places.iter().flatten().copied().fold(f32::INFINITY, f32::min);
            let most = of.places.iter().flatten().copied().fold(f32::NEG_INFINITY, f32::max);
            let places = if of.places.is_empty() { "too few to say".to_owned() } else { format!("{least:+.2} to {most:+.2}") };
            let _ = writeln!(out, "{:<12} {:>6} {:>6} {:>+6.2}  {places}", TYPE_NAMES[t], self.marks[t], self.finds[t], of.odds);
        }
        for (when, point) in [("before", self.before.as_ref()), ("now", self.after.operating_points.first())] {
            if let Some(p) = point {
                let _ = write!(
                    out,
                    "\n{when}: score {:.3}, {:.2} false ones an image, {:.0} % of lesions",
                    p.score,
                    p.fp_per_image,
                    p.sensitivity * 100.0
                );
            }
        }
        let _ = write!(out, "\n\n{}", self.after.text);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_worth_what_its_calibration_says() {
        let logistic = |x: f32| 1.0 / (1.0 + (-x).exp());
        let mut knots = vec![[0.0, 0.0]];
        knots.extend([0.0f32, 0.3, 0.5, 0.8].map(|x| [logistic(x), logistic(5.0 * x - 3.0)]));
        knots.push([1.0, 0.99]);
        assert!((slope(&knots).unwrap_or(0.0) - 5.0).abs() < 0.01);
        assert_eq!(slope(&knots[..3]), None);
        let flat = [[0.2, 0.2], [0.4, 0.25], [0.6, 0.3], [1.0, 0.4]];
        assert_eq!(slope(&flat), Some(1.0));
    }
}
