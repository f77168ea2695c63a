//! The report on a dataset: what is in it, and every row and image that does not hold what it says.
//!
//! Goes through the table row by row and through the files one by one; what is kept are counts, the first lines of each kind of problem, and a number a
//! patient and a key slice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::deeplesion::{self, Images, Writer};
use super::marked::{Layout, Split};
use super::picture;
use super::row::{Kind, Numbers, Row};
use super::truth_table;
use crate::detect::TYPE_NAMES;
use crate::error::Failure;
use crate::series::header;

/// Type of lesions that nobody named.
const UNKNOWN: &str = "unknown";

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Only this part.
    pub split: Option<Split>,
    /// Decode every key image to its end instead of reading its header.
    pub decode: bool,
    /// Lines shown of each kind of problem.
    pub lines: usize,
}

/// One kind of problem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// How many.
    pub count: usize,
    /// The first of them.
    pub lines: Vec<String>,
}

/// The report.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// As named.
    pub path: String,
    /// `release`, `mine` or `truth_table`.
    pub layout: &'static str,
    /// Coordinate of the first pixel's centre in the table.
    pub first_pixel: u8,
    /// Only this part was looked at.
    pub split: Option<Split>,
    /// Rows (marks) looked at.
    pub rows: usize,
    /// Of them, those that training can use as far as the table goes.
    pub rows_usable: usize,
    /// Flagged as possibly noisy.
    pub noisy: usize,
    /// Key images.
    pub key_images: usize,
    /// Key images that are there.
    pub key_images_there: usize,
    /// Slices of context that the table promises, key images included; each counts for every key slice.
    pub context_slices: usize,
    /// Of them, those that are there.
    pub context_slices_there: usize,
    /// Patients.
    pub patients: usize,
    /// Lesions by split and type.
    pub lesions: BTreeMap<Split, BTreeMap<&'static str, usize>>,
    /// What is wrong.
    pub problems: BTreeMap<Kind, Problems>,
    #[serde(skip)]
    most_lines: usize,
}

/// Looks through the dataset at `path`.
///
/// # Errors
/// No dataset, a table that is none. What is wrong with rows and images is in the report.
pub fn report(path: &Path, request: &Request) -> Result<Report, Failure> {
    let mut report = Report { path: path.display().to_string(), split: request.split, most_lines: request.lines, ..Report::default() };
    match Layout::of(path)? {
        Layout::Release(table) => report.release(&table, request)?,
        Layout::TruthTable(folder) => report.truth_table(&folder, request)?,
    }
    Ok(report)
}

impl Report {
    fn problem(&mut self, kind: Kind, line: impl FnOnce() -> String) {
        let most = self.most_lines;
        let problems = self.problems.entry(kind).or_default();
        problems.count += 1;
        if problems.lines.len() < most {
            problems.lines.push(line());
        }
    }

    fn lesion(&mut self, split: Split, lesion_type: Option<u8>) {
        let name = lesion_type.and_then(|t| TYPE_NAMES.get(usize::from(t))).unwrap_or(&UNKNOWN);
        *self.lesions.entry(split).or_default().entry(name).or_default() += 1;
    }

    fn release(&mut self, table: &Path, request: &Request) -> Result<(), Failure> {
        let writer = Writer::of(table)?;
        self.layout = if writer == Writer::Mine { "mine" } else { "release" };
        self.first_pixel = u8::from(writer == Writer::Release);
        let images = Images::beside(table);
        let mut patients: HashMap<u32, Split> = HashMap::new();
        let mut seen: HashSet<Numbers> = HashSet::new();
        deeplesion::rows(table, &mut |line, row| {
            match row {
                Err(e) => {
                    self.rows += 1;
                    self.problem(Kind::Unreadable, || format!("line {line}: {e}"));
                }
                Ok(row) => {
                    let split = Split::of_code(row.split);
                    // A patient's other split counts whichever part is looked at.
                    let first = *patients.entry(row.numbers.patient).or_insert(split);
                    if request.split.is_none_or(|s| s == split) {
                        self.row(&row, writer, first);
                        if seen.insert(row.numbers) {
                            self.image(&row, &images, request.decode);
                        }
                    }
                }
            }
            true
        })?;
        self.key_images = seen.len();
        self.patients = patients.values().filter(|s| request.split.is_none_or(|wanted| wanted == **s)).count();
        Ok(())
    }

    fn row(&mut self, row: &Row, writer: Writer, first_split: Split) {
        let (line, split) = (row.line, Split::of_code(row.split));
        self.rows += 1;
        self.noisy += usize::from(row.noisy);
        self.lesion(split, row.lesion_type);
        let contradictions = row.contradictions(writer.first_pixel());
        self.rows_usable += usize::from(!contradictions.iter().any(|(kind, _)| kind.spoils()));
        for (kind, text) in contradictions {
            self.problem(kind, || format!("line {line}: {text}"));
        }
        if first_split != split {
            let patient = row.numbers.patient;
            self.problem(Kind::PatientInTwoSplits, || {
                format!("line {line}: patient {patient} is in {} here and in {} before", split.name(), first_split.name())
            });
        }
    }

    fn image(&mut self, row: &Row, images: &Images, decode: bool) {
        let (line, path) = (row.line, images.file(row.numbers));
        let wanted = (row.range[1] as usize + 1).saturating_sub(row.range[0] as usize);
        let there = images.there(row.numbers, row.range).len();
        self.context_slices += wanted;
        self.context_slices_there += there;
        if !path.exists() {
            self.problem(Kind::MissingImage, || format!("line {line}: {}", path.display()));
            return;
        }
        self.key_images_there += 1;
        if there < wanted {
            let folder = images.folder(row.numbers);
            self.problem(Kind::MissingContext, || format!("line {line}: {} of {wanted} slices in {}", wanted - there, folder.display()));
        }
        let size = if decode { picture::read(&path).map(|image| [image.rows, image.cols]) } else { picture::png_size(&path) };
        match size {
            Err(e) => self.problem(Kind::DamagedImage, || format!("line {line}: {e}")),
            Ok([rows, cols]) if [cols, rows] != row.size.map(|v| v as usize) => self.problem(Kind::ImageSize, || {
                format!("line {line}: {} has {cols} x {rows} pixels, the table says {} x {}", path.display(), row.size[0], row.size[1])
            }),
            Ok(_) => {}
        }
    }

    fn truth_table(&mut self, folder: &Path, request: &Request) -> Result<(), Failure> {
        self.layout = "truth_table";
        let study = truth_table::study(folder)?;
        let mut patients = BTreeSet::new();
        for slice in &study.slices {
            let split = truth_table::split_of(&slice.patient);
            if request.split.is_some_and(|s| s != split) {
                continue;
            }
            patients.insert((&slice.set, &slice.patient));
            let path = folder.join(slice.path.as_deref().unwrap_or_default());
            let there = slice.path.is_some() && path.is_file();
            self.context_slices += 1;
            self.context_slices_there += usize::from(there);
            if slice.marks.is_empty() {
                if !there {
                    self.problem(Kind::MissingContext, || format!("image {}: {}", slice.sop_uid, path.display()));
                }
                continue;
            }
            self.key_images += 1;
            self.key_images_there += usize::from(there);
            for mark in &slice.marks {
                self.rows += 1;
                self.lesion(split, truth_table::type_of(&mark.kind));
            }
            if !there {
                self.problem(Kind::MissingImage, || format!("image {}: {}", slice.sop_uid, path.display()));
                self.rows_usable += slice.marks.len();
                continue;
            }
            let size = header::read(&path).map_err(|e| e.to_string()).and_then(|h| {
                let size = h.rows.zip(h.cols).ok_or("no Rows and Columns")?;
                h.pixel_spacing_mm.and(h.position_mm).ok_or("no Pixel Spacing or no Image Position (Patient)")?;
                Ok([f64::from(size.0), f64::from(size.1)])
            });
            let whole = if request.decode { picture::read(&path).map(|_| ()).map_err(|e| e.reason) } else { Ok(()) };
            let [rows, cols] = match whole.and(size) {
                Ok(size) => size,
                Err(e) => {
                    self.problem(Kind::DamagedImage, || format!("{}: {e}", path.display()));
                    continue;
                }
            };
            for (b, mark) in slice.boxes.truths.iter().zip(&slice.marks) {
                let m = crate::lab::mine::rules::MARGIN_PX;
                let inside = b[0] + m > -1.0 && b[1] + m > -1.0 && b[2] - m < cols && b[3] - m < rows;
                self.rows_usable += usize::from(inside);
                if !inside {
                    self.problem(Kind::OutsideImage, || {
                        format!("{}: lesion {} at {b:?} on an image of {cols} x {rows} pixels", path.display(), mark.lesion)
                    });
                }
            }
        }
        self.patients = patients.len();
        Ok(())
    }

    /// As text for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let what = match self.layout {
            "release" => "DeepLesion's release layout, pixels counted from 1",
            "mine" => "harvest of `lesionlab mine`, pixels counted from 0",
            _ => "DICOM with image and truth table; patients split by hash",
        };
        let part = self.split.map_or_else(|| "all splits".to_owned(), |s| format!("split {}", s.name()));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {what}; {part}", self.path);
        let _ =
            writeln!(text, "{} lesions, {} usable, {} possibly noisy; {} patients", self.rows, self.rows_usable, self.noisy, self.patients);
        let _ = writeln!(
            text,
            "{} key images, {} there; {} slices of context, {} there",
            self.key_images, self.key_images_there, self.context_slices, self.context_slices_there
        );
        let names: Vec<&str> = TYPE_NAMES.into_iter().chain([UNKNOWN]).collect();
        let _ = writeln!(text, "\n{:12}{}{:>13}", "lesions", names.iter().map(|n| format!("{n:>13}")).collect::<String>(), "all");
        for (split, by_type) in &self.lesions {
            let cells: String = names.iter().map(|n| format!("{:>13}", by_type.get(n).copied().unwrap_or(0))).collect();
            let _ = writeln!(text, "{:12}{cells}{:>13}", split.name(), by_type.values().sum::<usize>());
        }
        if self.problems.is_empty() {
            text.push_str("\nno problem found\n");
        }
        for (kind, problems) in &self.problems {
            let _ = writeln!(text, "\n{}: {}{}", kind.name(), problems.count, kind.consequence());
            for line in &problems.lines {
                let _ = writeln!(text, "  {line}");
            }
            if problems.count > problems.lines.len() {
                let _ = writeln!(text, "  … and {} more", problems.count - problems.lines.len());
            }
        }
        text
    }
}
