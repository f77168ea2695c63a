//! `lesionwatch scan`: the offline verb. Folders or files of DICOM → a table, JSON, candidates, key images. What can be written is written before a
//! series that failed makes the exit code 65.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::alert::document::ResultDocument;
use crate::alert::{ModelFacts, ReportedLesion, SeriesFacts, SeriesResult, Timing};
use crate::analysis::{Analysis, Analyst, Cache};
use crate::detect::{select, type_name};
use crate::error::{Class, Failure};
use crate::files::find;
use crate::lesion::keyimage;
use crate::series::eligibility::{self, StackPlan};
use crate::series::{Outcome, SliceHeader, header};
use crate::shipped;
use crate::volume::frame::ImageGrid;
use crate::volume::pixels;

/// Candidates written an image at most, best first.
const MOST_CANDIDATES: usize = 100;

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// DICOM files, or folders that are searched for them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Write the results as a JSON array of result documents (`-` is stdout; the table then goes to stderr)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write every candidate kept before the operating point as CSV, the evaluator's input
    #[arg(long, value_name = "FILE.csv")]
    pub candidates: Option<PathBuf>,
    /// Write a key image with box and axes for every lesion
    #[arg(long, value_name = "DIR")]
    pub png: Option<PathBuf>,
    /// Which engine; a name alone computes in f32, auto takes what passes the self-test and is fastest here
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = select::NAMES)]
    pub engine: String,
    /// Model bundle (folder or .tar) instead of the built-in one
    #[arg(long, value_name = "BUNDLE")]
    pub model: Option<PathBuf>,
    /// Report lesions from this calibrated score on (default: the bundle's operating point)
    #[arg(long, value_name = "X", value_parser = calibrated_score)]
    pub min_score: Option<f32>,
    /// Analyse what eligibility would refuse, a single slice included
    #[arg(long)]
    pub force: bool,
}

pub(crate) fn calibrated_score(text: &str) -> Result<f32, String> {
    let score: f32 = text.parse().map_err(|_| "a number is expected".to_owned())?;
    // NaN is in no range.
    if (0.0..=1.0).contains(&score) { Ok(score) } else { Err("a calibrated score lies between 0 and 1".into()) }
}

/// One stack and what came of it.
struct Done {
    headers: Vec<SliceHeader>,
    plan: Option<StackPlan>,
    outcome: Outcome,
    analysis: Option<Analysis>,
    milliseconds: u64,
}

/// Runs the verb.
///
/// # Errors
/// [`Class::Data`] where nothing could be read or a series failed, [`Class::Io`] where a result could not be written.
pub fn run(args: &ScanArgs) -> Result<(), Failure> {
    let series = read(&args.paths)?;
    let bundle = Arc::new(shipped::open(args.model.as_deref())?);
    let choice = select::choose(&bundle, &args.engine).map_err(|e| Failure::new(Class::Unavailable, e.to_string()))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let analyst = Analyst::new(bundle, choice.engine, threads, args.min_score);
    let total: usize = series.values().map(Vec::len).sum();
    let bar = progress_bar(total as u64);
    let mut done = Vec::new();
    for (uid, headers) in series {
        bar.set_message(short(&uid).to_owned());
        let before = bar.position();
        done.extend(analyse(&analyst, &headers, args.force, |n| bar.set_position(before + n.min(headers.len()) as u64)));
        bar.set_position(before + headers.len() as u64);
    }
    bar.finish_and_clear();
    // With `--json -` stdout is the document and nothing else. A terminal that went away does not keep the files from being written.
    let table = if args.json.as_deref().is_some_and(is_stdout) {
        print_table(&mut std::io::stderr().lock(), &done, &analyst)
    } else {
        print_table(&mut std::io::stdout().lock(), &done, &analyst)
    }
    .map_err(|e| io(Path::new("table"), e));
    if let Some(path) = &args.json {
        write_json(path, &done, &analyst)?;
    }
    if let Some(path) = &args.candidates {
        write_candidates(path, &done)?;
    }
    if let Some(folder) = &args.png {
        write_images(folder, &done)?;
    }
    table.and_then(|()| verdict(&done))
}

/// Whether everything that was to be analysed was: a script must not take silence for health.
fn verdict(done: &[Done]) -> Result<(), Failure> {
    let named = |d: &Done| d.headers.first().map(|h| h.series_instance_uid.clone());
    let all: BTreeSet<_> = done.iter().map(named).collect();
    let failed: BTreeSet<_> = done.iter().filter(|d| matches!(d.outcome, Outcome::Failed(_))).map(named).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let text = format!("{} of {} series failed, see the table; everything else was written. Send them again.", failed.len(), all.len());
    Err(Failure::new(Class::Data, text))
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn progress_bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:20} {bar:40} {pos}/{len} slices  {elapsed} elapsed, {eta} to go");
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The last 12 characters of a UID: enough to tell series apart, and to find one.
fn short(uid: &str) -> &str {
    uid.get(uid.len().saturating_sub(12)..).unwrap_or(uid)
}

/// Headers by Series Instance UID; what is not DICOM is counted and said.
fn read(paths: &[PathBuf]) -> Result<BTreeMap<String, Vec<SliceHeader>>, Failure> {
    let (mut files, mut refused) = (Vec::new(), Vec::new());
    for path in paths {
        find(path, &mut files, &mut refused).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
    }
    files.sort();
    let mut series: BTreeMap<String, Vec<SliceHeader>> = BTreeMap::new();
    for file in &files {
        match header::slices(file) {
            Ok(slices) => {
                for h in slices {
                    let uid = if h.series_instance_uid.is_empty() { file.display().to_string() } else { h.series_instance_uid.clone() };
                    series.entry(uid).or_default().push(h);
                }
            }
            Err(e) => refused.push(format!("{}: {e}", file.display())),
        }
    }
    for line in refused.iter().take(10) {
        eprintln!("not read: {line}");
    }
    if refused.len() > 10 {
        eprintln!("not read: {} more files", refused.len() - 10);
    }
    if series.is_empty() {
        return Err(Failure::new(Class::Data, format!("none of {} files is DICOM; name folders or files of a CT series", files.len())));
    }
    for headers in series.values_mut() {
        let mut seen = std::collections::HashSet::new();
        headers.retain(|h| seen.insert(h.key()));
    }
    Ok(series)
}

fn analyse(analyst: &Analyst, headers: &[SliceHeader], force: bool, mut progress: impl FnMut(usize)) -> Vec<Done> {
    let plan = eligibility::plan(headers);
    let forced = if force { eligibility::forced(headers) } else { Vec::new() };
    let plans = match plan {
        _ if !forced.is_empty() => forced,
        Ok(plan) => vec![plan],
        Err(reason) => {
            return vec![Done {
                headers: headers.to_vec(),
                plan: None,
                outcome: Outcome::NotAnalysed(reason),
                analysis: None,
                milliseconds: 0,
            }];
        }
    };
    let mut finished = 0;
    plans
        .into_iter()
        .map(|plan| {
            let start = std::time::Instant::now();
            let result = analyst.finish(&plan, &mut Cache::default(), |n, _| progress(finished + n));
            finished += plan.stack.slices.len();
            let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (outcome, analysis) = match result {
                Ok(analysis) => (Outcome::Analysed, Some(analysis)),
                Err(e) => (Outcome::Failed(crate::series::Reason { code: e.stage().into(), text: e.to_string() }), None),
            };
            Done { headers: plan.stack.slices.clone(), plan: Some(plan), outcome, analysis, milliseconds }
        })
        .collect()
}

fn print_table(out: &mut impl Write, done: &[Done], analyst: &Analyst) -> std::io::Result<()> {
    let (engine, quantization) = analyst.engine();
    let model = &analyst.bundle().description;
    writeln!(out, "model {} {} on {engine} {quantization}. Research use: a triage aid, not a diagnosis.", model.name, model.version)?;
    for d in done {
        let Some(first) = d.headers.first() else { continue };
        let number = first.series_number.map_or_else(|| "-".into(), |n| n.to_string());
        write!(out, "\nseries {number}  …{}  {} slices", short(&first.series_instance_uid), d.headers.len())?;
        if let Some(plan) = &d.plan {
            write!(out, " {:.2} mm apart", plan.stack.spacing_mm)?;
        }
        match (&d.outcome, &d.analysis) {
            (Outcome::NotAnalysed(r), _) => writeln!(out, "\n  not analysed ({}): {}", r.code, r.text)?,
            (Outcome::Failed(r), _) => writeln!(out, "\n  failed at {}: {}", r.code, r.text)?,
            (Outcome::Analysed, Some(a)) if a.lesions.is_empty() => {
                writeln!(out, "\n  analysed in {:.1} s: no lesion at or above the operating point", d.milliseconds as f64 / 1000.0)?
            }
            (Outcome::Analysed, Some(a)) => {
                writeln!(out, "\n  analysed in {:.1} s: {} lesions", d.milliseconds as f64 / 1000.0, a.lesions.len())?;
                writeln!(
                    out,
                    "  {:>3}  {:>5}  {:<12} {:>13}  {:>8}  {:>9}  box (pixels)",
                    "#", "score", "type", "axes mm", "instance", "z mm"
                )?;
                for l in &a.lesions {
                    let key = &d.headers[l.key_slice];
                    let number = key.frame.map(|f| i64::from(f.number)).or(key.instance_number.map(i64::from));
                    let instance = number.map_or_else(|| "-".into(), |n| n.to_string());
                    let [x1, y1, x2, y2] = l.box_px;
                    writeln!(
                        out,
                        "  {:>3}  {:>5.2}  {:<12} {:>5.1} × {:>5.1}  {:>8}  {:>9.1}  {x1:.0} {y1:.0} {x2:.0} {y2:.0}",
                        l.number,
                        l.score,
                        type_name(&l.types),
                        l.long_axis_mm,
                        l.short_axis_mm,
                        instance,
                        l.center_lps_mm[2],
                    )?;
                }
            }
            (Outcome::Analysed, None) => writeln!(out)?,
        }
    }
    Ok(())
}

fn io(path: &Path, e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Io, format!("{}: {e}", path.display()))
}

fn write_json(path: &Path, done: &[Done], analyst: &Analyst) -> Result<(), Failure> {
    let documents: Vec<ResultDocument> = done
        .iter()
        .map(|d| {
            let lesions = d.analysis.iter().flat_map(|a| &a.lesions).map(|l| ReportedLesion {
                lesion: l.clone(),
                key_sop_instance_uid: d.headers[l.key_slice].sop_instance_uid.clone(),
                key_instance_number: d.headers[l.key_slice].instance_number,
                key_frame_number: d.headers[l.key_slice].frame.map(|f| f.number),
                key_image_png: None,
            });
            let result = SeriesResult {
                series: SeriesFacts::of(&d.headers, d.plan.as_ref(), ""),
                set_key: String::new(),
                outcome: d.outcome.clone(),
                lesions: lesions.collect(),
                model: ModelFacts::of(analyst),
                timing: Timing { analysed: d.milliseconds, ..Timing::default() },
            };
            ResultDocument::offline(&result)
        })
        .collect();
    let text = serde_json::to_string_pretty(&documents).map_err(|e| io(path, e))?;
    if is_stdout(path) {
        return writeln!(std::io::stdout().lock(), "{text}").map_err(|e| io(path, e));
    }
    std::fs::write(path, text + "\n").map_err(|e| io(path, e))
}

/// Every slice appears with the candidates of the slot nearest to it, in its own pixels.
fn write_candidates(path: &Path, done: &[Done]) -> Result<(), Failure> {
    let file = std::fs::File::create(path).map_err(|e| io(path, e))?;
    let mut out = std::io::BufWriter::new(file);
    let mut write = || -> std::io::Result<()> {
        writeln!(out, "series_uid,sop_uid,instance_number,slot_z_mm,x1,y1,x2,y2,score,type")?;
        for d in done {
            let (Some(plan), Some(a)) = (&d.plan, &d.analysis) else { continue };
            for (header, position) in plan.stack.slices.iter().zip(&plan.stack.positions_mm) {
                let nearest =
                    a.grid.slots.iter().enumerate().min_by(|x, y| (x.1.z_mm - position).abs().total_cmp(&(y.1.z_mm - position).abs()));
                let Some((slot, at)) = nearest else { continue };
                let image = ImageGrid::of(header);
                for c in a.candidates[slot].iter().take(MOST_CANDIDATES) {
                    let [x1, y1, x2, y2] = a.frame.box_to_image(c.box_px, image);
                    // A frame is found by its own number: the instance has one for all.
                    let number = header.frame.map(|f| i64::from(f.number)).or(header.instance_number.map(i64::from));
                    let instance = number.map_or_else(String::new, |n| n.to_string());
                    writeln!(
                        out,
                        "{},{},{instance},{:.3},{x1:.2},{y1:.2},{x2:.2},{y2:.2},{:.5},{}",
                        header.series_instance_uid,
                        header.sop_instance_uid,
                        at.z_mm,
                        c.score,
                        type_name(&c.types)
                    )?;
                }
            }
        }
        out.flush()
    };
    write().map_err(|e| io(path, e))
}

/// File name of a key image. Lesions are numbered stack by stack and the tail of a series UID is not unique, so series and slice are in it, hashed.
fn image_name(header: &SliceHeader, number: u32) -> String {
    let series = short(&header.series_instance_uid).replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_");
    let digest = Sha256::digest(format!("{}/{}", header.series_instance_uid, header.key()));
    let hash: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("{series}-{hash}-lesion{number:02}.png")
}

fn write_images(folder: &Path, done: &[Done]) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
    for d in done {
        for l in d.analysis.iter().flat_map(|a| &a.lesions) {
            let header = &d.headers[l.key_slice];
            let image = pixels::decode_slice(header).map_err(|e| io(&header.path, e))?;
            let png = keyimage::draw(&image, l).map_err(|e| io(folder, e))?;
            let path = folder.join(image_name(header, l.number));
            std::fs::write(&path, png).map_err(|e| io(&path, e))?;
        }
    }
    Ok(())
}
