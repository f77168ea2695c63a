//! Bookmarks → dataset: the measurements that radiologists left in a PACS, with the CT they were drawn on, as a dataset laid out like DeepLesion.
//!
//! [`source`] tells what a file is, [`structured_report`], [`presentation_state`], [`aim`] and [`export_table`] read it into [`mark`]s; [`revise`] decides
//! which statement of a lesion counts; [`images`] indexes the CT, [`place`] puts marks on it by the [`rules`], [`lesion`] merges readers; [`harvest`] and
//! [`table`] write, [`truth_table`] writes what the evaluator needs, [`review`] and [`summary`] tell what was left out and why.
//!
//! Words: a *document* is one object with its revision; a *mark* is a pair of axes as drawn; a *lesion* is what one or several marks of one image show.

pub mod aim;
pub mod attribute;
pub mod export_table;
pub mod harvest;
pub mod image_header;
pub mod images;
pub mod lesion;
pub mod line_pair;
pub mod mark;
pub mod numbers;
pub mod place;
pub mod presentation_state;
pub mod review;
pub mod revise;
pub mod rules;
pub mod source;
pub mod structured_report;
pub mod summary;
pub mod table;
pub mod truth_table;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;

use self::images::{Index, Wanted};
use self::mark::{Document, Kind};
use self::review::Line;
use self::summary::Summary;
use crate::error::{Class, Failure};
use crate::files::find;

/// Files of an image folder that were not read and are named on stderr.
const MOST_NAMED: usize = 10;

/// What is to be mined, and where it goes.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Files and folders of measurement objects.
    pub objects: Vec<PathBuf>,
    /// Folders of CT.
    pub images: Vec<PathBuf>,
    /// Folder to write.
    pub out: PathBuf,
    /// Review list; `{out}-review.csv` where not given: it names files and images, so it stays outside the dataset.
    pub review: Option<PathBuf>,
    /// Counts as JSON.
    pub json: Option<PathBuf>,
    /// Folder for the evaluator's tables of the same lesions; they name files and images, so not below `out`.
    pub truth: Option<PathBuf>,
}

impl Request {
    /// Where the review list goes.
    #[must_use]
    pub fn review_path(&self) -> PathBuf {
        self.review.clone().unwrap_or_else(|| {
            let mut name = self.out.file_name().unwrap_or_default().to_owned();
            name.push("-review.csv");
            self.out.with_file_name(name)
        })
    }
}

/// Mines; writes dataset, review list and JSON.
///
/// # Errors
/// [`Class::Usage`] where `out` holds a dataset already, [`Class::Io`] for what cannot be read or written. Objects that cannot be used are no error but
/// lines of the review list.
pub fn run(request: &Request) -> Result<Summary, Failure> {
    if request.out.join("DL_info.csv").exists() || request.out.join("Images_png").exists() {
        let text = format!("{} holds a dataset already; name a new folder, or remove it", request.out.display());
        return Err(Failure::new(Class::Usage, text));
    }
    let (mut documents, images) = read(&request.objects)?;
    let mut summary = Summary::of(&documents, images);
    let mut lines = revise::documents(&mut documents);
    for document in &documents {
        lines.extend(document.left_out.iter().map(|l| Line::new(document, &l.item, &l.refusal)));
    }
    let bar = bar("{msg:10} {pos} headers, {elapsed} elapsed", "images", None);
    let index = Index::read(&request.images, &Wanted::of(&documents), |n| bar.set_position(n as u64))?;
    bar.finish_and_clear();
    tell(&index);
    (summary.image_headers, summary.image_files_not_read) = (index.headers, index.not_read.len());
    let mut placed = Vec::new();
    for (d, document) in documents.iter().enumerate() {
        for mark in &document.marks {
            match place::place(d, mark, &index) {
                Ok(p) => placed.push(p),
                Err(refusal) => lines.push(Line::about(document, mark, &refusal)),
            }
        }
    }
    lines.extend(revise::lesions(&mut placed, &documents, &index));
    let lesions = lesion::lesions(placed, &documents, &index);
    let mut written = harvest::Harvest::default();
    if !lesions.is_empty() {
        let bar = self::bar(
            "{msg:10} {bar:40} {pos}/{len} slices  {elapsed} elapsed, {eta} to go",
            "writing",
            Some(harvest::planned(&lesions, &index)),
        );
        written = harvest::write(&request.out, &lesions, &documents, &index, &|| bar.inc(1))?;
        bar.finish_and_clear();
    }
    lines.append(&mut written.lines);
    summary.reasons = review::counts(&lines);
    summary.slices = written.slices;
    summary.rows(&written.rows);
    review::write(&request.review_path(), &mut lines)?;
    if let Some(path) = &request.json {
        let text = serde_json::to_string_pretty(&summary).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
    }
    if !written.rows.is_empty() {
        table::write(&request.out.join("DL_info.csv"), &written.rows)?;
        if let Some(folder) = &request.truth {
            truth_table::write(folder, &written.marked)?;
        }
    }
    Ok(summary)
}

/// Reads every object; the rate goes to stderr. Of images among them only the number comes back.
fn read(paths: &[PathBuf]) -> Result<(Vec<Document>, usize), Failure> {
    let (mut files, mut refused) = (Vec::new(), Vec::new());
    for path in paths {
        find(path, &mut files, &mut refused).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
    }
    for line in refused {
        eprintln!("not read: {line}");
    }
    files.sort();
    files.dedup();
    let start = Instant::now();
    let bar = bar("{msg:10} {bar:40} {pos}/{len} objects  {elapsed} elapsed, {eta} to go", "objects", Some(files.len()));
    let images = AtomicUsize::new(0);
    let documents: Vec<Document> = files
        .par_iter()
        .filter_map(|path| {
            let document = source::read(path);
            bar.inc(1);
            let image = document.kind == Kind::Image;
            images.fetch_add(usize::from(image), Ordering::Relaxed);
            (!image).then_some(document)
        })
        .collect();
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{} objects read in {seconds:.1} s ({:.0} a second)", files.len(), files.len() as f64 / seconds.max(1e-9));
    Ok((documents, images.into_inner()))
}

/// A progress bar on stderr; one without a `length` only counts.
pub(super) fn bar(template: &str, message: &'static str, length: Option<usize>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length.map(|n| n as u64), ProgressDrawTarget::stderr()).with_message(message);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn tell(index: &Index) {
    for (path, e) in index.not_read.iter().take(MOST_NAMED) {
        eprintln!("not an image: {}: {e}", path.display());
    }
    if index.not_read.len() > MOST_NAMED {
        eprintln!("not an image: {} more files", index.not_read.len() - MOST_NAMED);
    }
}
