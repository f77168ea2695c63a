//! Where a bundle's thresholds lie: how often a reported lesion of some score is a true one, and what the series kept for validation gets as it is.

use std::path::Path;
use std::sync::Arc;

use super::calibrate;
use super::dataset::Scan;
use crate::analysis::{Analyst, Cache};
use crate::detect::bundle::{Bundle, OperatingPoint};
use crate::detect::candle_engine::CandleEngine;
use crate::error::{Class, Failure};
use crate::lesion::score;
use crate::series::{eligibility, header};

/// Lesions that the default operating point may flag in the validation series as it is, where none is marked.
const MOST_FLAGGED: usize = 2;

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Raw → calibrated score.
    pub calibration: Vec<[f32; 2]>,
    /// The default one first.
    pub operating_points: Vec<OperatingPoint>,
    /// The same for a card, in Markdown.
    pub text: String,
}

/// Reports every lesion of a bundle with its raw score, on two threads.
///
/// # Errors
/// The engine's.
pub fn analyst(mut bundle: Bundle) -> Result<Analyst, Failure> {
    bundle.description.calibration = vec![[0.0, 0.0], [1.0, 1.0]];
    let engine = CandleEngine::new(&bundle.description.network, &bundle.weights);
    let engine = engine.map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    Ok(Analyst::new(Arc::new(bundle), Box::new(engine), 2, Some(0.0)))
}

/// Synthesizes patients out of `scans`, the series `validation`, and analyses them and the series as it is, a folder of DICOM. `analyst` reports every
/// lesion with its raw score; `beside` names a folder that does not exist yet.
///
/// # Errors
/// No room for lesions in the series, I/O, the engine's.
pub fn measure(analyst: &Analyst, scans: &[Scan], series: &Path, validation: &str, beside: &Path) -> Result<Measured, Failure> {
    let judged = calibrate::run(analyst, scans, beside)?;
    let calibration = judged.calibration();
    let flagged: Vec<f32> = raw_scores(analyst, series)?.into_iter().map(|raw| score::calibrate(raw, &calibration)).collect();
    let threshold = flagged.get(MOST_FLAGGED).map_or(0.5, |s| (s + 0.0005).min(0.98));
    let on = format!("{} synthesized patients of {validation} ({} lesions)", judged.series, judged.found.len());
    let operating_points = [("default", threshold), ("sensitive", threshold * 0.5)]
        .into_iter()
        .map(|(name, score)| {
            let (fp_per_image, _, sensitivity) = judged.at(score, &calibration);
            OperatingPoint { name: name.into(), score, fp_per_image, sensitivity, measured_on: on.clone() }
        })
        .collect();
    let (_, false_a_series, found) = judged.at(threshold, &calibration);
    let reliability: String = judged
        .reliability(&calibration)
        .iter()
        .map(|(low, high, n, mean, share)| format!("| {low:.1} to {high:.1} | {n} | {mean:.2} | {share:.2} |\n"))
        .collect();
    let text = format!(
        "Default operating point: calibrated score {threshold:.3}, chosen so that the validation series as it is, in which no lesion is marked, gets at most {MOST_FLAGGED} flags. On {on} it finds {:.0} % of the lesions with {false_a_series:.1} false ones a series. The scores of the strongest flags in that series: {}.\n\nThe score of a lesion is the share of true ones among the lesions reported with such a score on those patients (isotonic, so fitted on what this table shows):\n\n| score | lesions | mean score | true |\n|---|---|---|---|\n{reliability}",
        found * 100.0,
        flagged.iter().take(6).map(|s| format!("{s:.3}")).collect::<Vec<_>>().join(", "),
    );
    Ok(Measured { calibration, operating_points, text })
}

/// Scores of all lesions in a series, best first.
fn raw_scores(analyst: &Analyst, series: &Path) -> Result<Vec<f32>, Failure> {
    let entries = std::fs::read_dir(series).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", series.display())))?;
    let headers: Vec<_> = entries.flatten().filter_map(|e| header::read(&e.path()).ok()).collect();
    let plan = eligibility::plan(&headers).map_err(|r| Failure::new(Class::Data, format!("{}: {}", series.display(), r.text)))?;
    let analysis = analyst.finish(&plan, &mut Cache::default(), |_, _| ()).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    Ok(analysis.lesions.iter().map(|l| l.score).collect())
}
