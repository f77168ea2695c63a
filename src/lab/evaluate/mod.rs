//! How good a detector is: candidates of `lesionwatch scan --candidates` against a truth table, by the DeepLesion protocol.
//!
//! [`tables`] reads what is given and refuses what does not fit, [`froc`] matches and draws curves, [`tally`] sums up by patient, [`bootstrap`] says how
//! sure that is, [`report`] makes the rows, [`confusion`] says what type found lesions are taken for, [`measured`] looks at what was reported of found lesions; `terminal` and `html` show it.

pub mod bootstrap;
pub mod confusion;
pub mod froc;
pub mod gallery;
mod headline;
mod html;
pub mod measured;
mod plot;
pub mod report;
pub mod sheet;
pub mod synthetic;
pub mod tables;
pub mod tally;
mod terminal;

use std::path::{Path, PathBuf};

use self::measured::Measured;
use self::report::Report;
use self::tables::Study;
use crate::error::{Class, Failure};

/// What is to be evaluated, and where the report goes.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// CSV of `lesionwatch scan --candidates`.
    pub candidates: PathBuf,
    /// Truth table.
    pub truth: PathBuf,
    /// Image table.
    pub images: PathBuf,
    /// Pixels by which truth boxes of kind `mask` are grown on each side.
    pub pad_px: f64,
    /// Sets that take part; none named means all.
    pub sets: Vec<String>,
    /// Draws of the bootstrap; 0 for no intervals.
    pub bootstrap: usize,
    /// JSON of `lesionwatch scan --json`.
    pub results: Option<PathBuf>,
    /// JSON to write.
    pub json: Option<PathBuf>,
    /// Page to write.
    pub html: Option<PathBuf>,
    /// Folder that the image table's paths start from.
    pub dicom: Option<PathBuf>,
}

/// Evaluates, writes the files that were asked for, returns the tables for a terminal.
///
/// # Errors
/// A table that cannot be used, with file, line and column; a file that cannot be written.
pub fn run(request: &Request) -> Result<String, Failure> {
    if !(request.pad_px.is_finite() && request.pad_px >= 0.0) {
        return Err(Failure::new(Class::Usage, format!("--pad: {} is no number of pixels", request.pad_px)));
    }
    let study = Study::read(&request.candidates, &request.truth, &request.images, request.pad_px, &request.sets)?;
    let measured = request.results.as_deref().map(|path| Measured::read(path, &study)).transpose()?;
    let report = Report {
        pad_px: request.pad_px,
        bootstrap: request.bootstrap,
        counts: study.counts.clone(),
        sets: study.sets(),
        rows: report::rows(&study, request.bootstrap),
        confusion: report::confusion(&study),
        measured,
    };
    if let Some(path) = &request.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
        write(path, &(text + "\n"))?;
    }
    if let Some(path) = &request.html {
        let gallery = gallery::hang(&study, request.dicom.as_deref());
        let title = request.candidates.file_name().unwrap_or_default().to_string_lossy();
        write(path, &html::page(&title, &report, &study, &gallery))?;
    }
    Ok(terminal::text(&report))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))
}
