//! `bench exports`: what 8 bits and JPEG make of the same images for a detector: how many candidates it has in each, and how many of those it had
//! before it still has. Images without a marked lesion are taken, so that every candidate over a high score is a false alarm or nearly.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::machine::Machine;
use crate::detect::nms::iou;
use crate::detect::{Candidate, Engine, EngineError, select};
use crate::error::{Class, Failure};
use crate::lab::alone;
use crate::lab::dataset::{Scan, ScanSlice, backgrounds};
use crate::lab::synthesize::exports::Export;
use crate::shipped;
use crate::volume::HuImage;
use crate::volume::pixels::{AIR_HU, MOST_HU};

/// Raw scores from which on candidates are counted.
const SCORES: [f32; 3] = [0.3, 0.45, 0.55];
/// The one whose candidates are looked for again.
const STRONG: usize = 1;
/// Boxes of one thing, before and after.
const SAME_IOU: f32 = 0.5;
/// The f32 engine that is on every machine.
const ENGINE: &str = "candle-cpu";

/// What is asked for.
#[derive(Debug, Args)]
pub struct Request {
    /// Folder with one folder of DICOM a CT series, and REAL-DISEASE.csv
    #[arg(long, value_name = "DIR")]
    ct: PathBuf,
    /// Series (folder names) that are not to be used; repeat for several
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Bundle (folder or .tar) [default: the one built in]
    #[arg(long, value_name = "BUNDLE")]
    model: Option<PathBuf>,
    /// Every so many of the images, each by itself
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Write the table as JSON
    #[arg(long, value_name = "FILE")]
    pub(in crate::lab) json: Option<PathBuf>,
}

/// One export.
#[derive(Debug, Serialize)]
struct Row {
    export: String,
    /// Candidates an image from each of the scores on, regions of marked disease apart.
    candidates: [f64; SCORES.len()],
    /// Share of the strong candidates of the images as they are that are strong ones here, too.
    kept: f64,
}

/// The benchmark's result.
#[derive(Debug, Serialize)]
pub struct Table {
    machine: Machine,
    model: String,
    images: usize,
    rows: Vec<Row>,
}

/// Runs the detector over every image, as it is and exported.
///
/// # Errors
/// Unreadable folders or bundle, no image, the engine's.
pub fn run(request: &Request) -> Result<Table, Failure> {
    let bundle = shipped::open(request.model.as_deref())?;
    let mut engine = select::started(&bundle, ENGINE).map_err(|reason| Failure::new(Class::Unavailable, reason))?;
    let scans = backgrounds::read(&request.ct, &request.skip)?;
    let all = scans.iter().flat_map(|scan| scan.slices.iter().map(move |slice| (scan, slice)));
    let images: Vec<(&Scan, &ScanSlice)> = all.step_by(request.every as usize).collect();
    if images.is_empty() {
        return Err(Failure::new(Class::Data, format!("{}: no CT image in it", request.ct.display())));
    }
    let mut found = |export: Option<&Export>| -> Result<Vec<Vec<Candidate>>, Failure> {
        let all = images.iter().map(|(scan, slice)| look(engine.as_mut(), scan, slice, export));
        all.collect::<Result<_, _>>().map_err(|e| Failure::new(Class::Internal, e.to_string()))
    };
    let before = found(None)?;
    let mut rows = vec![Row::of("as it is".into(), &before, &before)];
    for (name, export) in Export::measured() {
        rows.push(Row::of(name, &before, &found(Some(&export))?));
    }
    let about = &bundle.description;
    Ok(Table { machine: Machine::here(), model: format!("{} {}", about.name, about.version), images: images.len(), rows })
}

/// Candidates of one image by itself, those in marked disease left out.
fn look(engine: &mut dyn Engine, scan: &Scan, slice: &ScanSlice, export: Option<&Export>) -> Result<Vec<Candidate>, EngineError> {
    let exported = export.map(|export| exported(&slice.image, export));
    alone::look(engine, scan, slice, exported.as_ref().unwrap_or(&slice.image)).map(|(finds, _)| finds)
}

fn exported(image: &HuImage, export: &Export) -> HuImage {
    let mut plane: Vec<f32> = image.hu.iter().map(|v| f32::from(*v)).collect();
    export.apply(&mut plane, image.cols);
    HuImage { hu: plane.into_iter().map(|v| v.round().clamp(f32::from(AIR_HU), f32::from(MOST_HU)) as i16).collect(), ..*image }
}

impl Row {
    fn of(export: String, before: &[Vec<Candidate>], after: &[Vec<Candidate>]) -> Self {
        let strong = |c: &&Candidate| c.score >= SCORES[STRONG];
        let candidates = SCORES.map(|score| after.iter().flatten().filter(|c| c.score >= score).count() as f64 / after.len().max(1) as f64);
        let (mut kept, mut all) = (0, 0);
        for (before, after) in before.iter().zip(after) {
            let again = |c: &&Candidate| after.iter().filter(strong).any(|a| iou(a.box_px, c.box_px) > SAME_IOU);
            all += before.iter().filter(strong).count();
            kept += before.iter().filter(strong).filter(again).count();
        }
        Self { export, candidates, kept: kept as f64 / all.max(1) as f64 }
    }
}

impl Table {
    /// For the terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{}; {}, {ENGINE} f32, {} images, each by itself\n\n", self.machine.text(), self.model, self.images);
        let scores = SCORES.map(|s| format!("from {s}"));
        let _ = writeln!(out, "{:<40} {:>10} {:>10} {:>10}  {:>8}", "candidates an image", scores[0], scores[1], scores[2], "kept");
        for row in &self.rows {
            let [a, b, c] = row.candidates;
            let _ = writeln!(out, "{:<40} {a:>10.2} {b:>10.2} {c:>10.2}  {:>7.1}%", row.export, row.kept * 100.0);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::TYPES;

    fn candidate(x: f32, score: f32) -> Candidate {
        Candidate { box_px: [x, 0.0, x + 20.0, 20.0], score, types: [0.0; TYPES], axes_px: [0.0; 2], angle_rad: 0.0 }
    }

    #[test]
    fn candidates_are_counted_an_image_and_looked_for_again() {
        let before = [vec![candidate(0.0, 0.6), candidate(50.0, 0.5), candidate(90.0, 0.4)], Vec::new()];
        let after = [vec![candidate(2.0, 0.46), candidate(50.0, 0.44)], vec![candidate(7.0, 0.9)]];
        let row = Row::of("x".into(), &before, &after);
        assert_eq!(row.candidates, [1.5, 1.0, 0.5]);
        assert_eq!(row.kept, 0.5);
    }
}
