//! A checkpoint → a bundle: folded weights, ONNX, self-test, calibration and operating points measured on the series kept for validation.

use std::path::{Path, PathBuf};

use super::dataset::Scan;
use super::evaluate::froc::AT;
use super::evaluate::synthetic;
use super::operating;
use super::synthesize::Sampler;
use super::train::checkpoint;
use crate::detect::bundle::{Bundle, Description, Input, OperatingPoint};
use crate::detect::candle_engine::CandleEngine;
use crate::detect::prior::Prior;
use crate::error::{Class, Failure};
use crate::volume::{frame, slots, window};

/// Crops of each kind (one slot, full context) that validation runs over.
pub const VALIDATION_CROPS: usize = 400;

/// What the bundle says of itself.
pub struct About {
    /// Bundle name.
    pub name: String,
    /// Bundle version.
    pub version: String,
    /// Training data in a sentence.
    pub training_data: String,
    /// Licence and attribution.
    pub licence: String,
    /// Name of the validation series.
    pub validation: String,
    /// Text of the card, without the scores.
    pub card: String,
}

/// Another network whose weights are averaged into the checkpoint's.
pub struct Blend {
    /// It.
    pub bundle: Bundle,
    /// Its share, 0 to 1.
    pub share: f32,
}

fn internal(e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Internal, e.to_string())
}

/// Writes the bundle of the mean of `runs`, which ranks by `prior`, too, where there is one. `scans` is the validation series only; `series` is its folder of DICOM.
///
/// # Errors
/// A damaged checkpoint, another network to blend with, an unreadable series, I/O.
pub fn run(
    runs: &[PathBuf],
    scans: &[Scan],
    series: &Path,
    about: &About,
    (blend, prior): (Option<&Blend>, Option<&Prior>),
    out: &Path,
) -> Result<(), Failure> {
    let sampler = &Sampler::new(scans.to_vec(), Vec::new(), 0.0).map_err(internal)?;
    let (spec, mut weights, progress) = checkpoint::mean(runs)?;
    let several = runs.len() > 1;
    let mut blended = if several { format!(" Every weight is the mean of {} runs'.", runs.len()) } else { String::new() };
    if let Some(blend) = blend {
        let (name, share) = (&blend.bundle.description, blend.share);
        let mixed = weights.blended(&blend.bundle.weights, share);
        weights =
            mixed.map_err(|e| Failure::new(Class::Data, format!("--blend: {} {} and the checkpoint: {e}", name.name, name.version)))?;
        blended = format!(
            " Every weight is the mean of {} and of {} {}'s, which has {:.0} % of it.",
            if several { format!("those of {} runs", runs.len()) } else { "the checkpoint's".into() },
            name.name,
            name.version,
            share * 100.0
        );
    }
    // Before anything is measured: what ships is what the card speaks of.
    let weights = weights.rounded_to_half().map_err(|e| Failure::new(Class::Data, format!("the checkpoint's weights: {e}")))?;
    let mut engine = CandleEngine::new(&spec, &weights).map_err(internal)?;
    let single = synthetic::run(sampler, &mut engine, VALIDATION_CROPS, 1, 11).map_err(internal)?;
    let context = synthetic::run(sampler, &mut engine, VALIDATION_CROPS, spec.context, 12).map_err(internal)?;
    let mut description = Description {
        name: about.name.clone(),
        version: about.version.clone(),
        training_data: about.training_data.clone(),
        licence: about.licence.clone(),
        default_operating_point: "default".into(),
        network: spec,
        input: Input { spacing_mm: frame::SPACING_MM, step_mm: slots::STEP_MM, windows_hu: window::WINDOWS_HU },
        classes: crate::detect::TYPE_NAMES.map(str::to_owned).to_vec(),
        operating_points: vec![OperatingPoint {
            name: "default".into(),
            score: 0.0,
            fp_per_image: 0.0,
            sensitivity: 0.0,
            measured_on: String::new(),
        }],
        calibration: vec![[0.0, 0.0], [1.0, 1.0]],
        quantization: None,
        files: Default::default(),
    };
    // First with raw scores and without a threshold: how often is a reported lesion a true one, and what does the untouched series get?
    let mut write = |description: &Description, card: &str| {
        Bundle::write(out, description.clone(), &weights, card, &mut engine)?;
        prior.map_or(Ok(()), |prior| Bundle::put_prior(out, prior, &description.calibration, &description.operating_points))
    };
    write(&description, &about.card).map_err(internal)?;
    let analyst = operating::analyst(Bundle::open(out).map_err(internal)?)?;
    let measured = operating::measure(&analyst, scans, series, &about.validation, &out.with_extension("patients"))?;
    description.calibration.clone_from(&measured.calibration);
    description.operating_points.clone_from(&measured.operating_points);
    let row = |name: &str, v: &synthetic::Validation| {
        let s = v.matches().sensitivities().map(|s| format!("{:.1}", s * 100.0)).join(" | ");
        format!("| {name} | {s} |\n")
    };
    let card = format!(
        "{}\n## Training run\n\n{} steps, {} samples, {:.0} minutes.{blended}\n\n## Synthetic lesions in {} (kept out of training)\n\nSensitivity (%) at false positives a 205 mm crop, IoU > 0.5, {VALIDATION_CROPS} crops each:\n\n| crops | {} |\n|---|{}\n{}{}\n{}\nType of the lesions found in the crops (IoU > 0.5, at any score), {} of {} right:\n\n{}",
        about.card,
        progress.steps,
        progress.samples,
        progress.minutes,
        about.validation,
        AT.map(|a| format!("@{a}")).join(" | "),
        "---|".repeat(AT.len()),
        row("one slot", &single),
        row("with context", &context),
        measured.text,
        context.confusion.right(),
        context.confusion.n(),
        context.confusion.markdown(),
    );
    write(&description, &card).map_err(internal)
}
