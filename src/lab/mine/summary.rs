//! What a run of `mine` did: counts for the terminal and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::mark::{Document, Kind};
use super::table::Row;

/// Counts; the same input gives the same, whatever the order of files.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Summary {
    /// Objects read, by kind.
    pub objects: BTreeMap<Kind, usize>,
    /// Bidimensional marks found in them.
    pub marks: usize,
    /// Lines of the review list, by reason.
    pub reasons: BTreeMap<&'static str, usize>,
    /// Headers read in the image folders.
    pub image_headers: usize,
    /// Files there that are no DICOM images.
    pub image_files_not_read: usize,
    /// Rows of DL_info.csv.
    pub lesions: usize,
    /// Of those, flagged `Possibly_noisy`.
    pub suspicious: usize,
    /// Images written.
    pub slices: usize,
    /// Lesions in train, validation, test.
    pub split: [usize; 3],
    /// Patients in train, validation, test.
    pub patients: [usize; 3],
}

impl Summary {
    /// Counts objects and marks; `images` lay among the objects.
    #[must_use]
    pub fn of(documents: &[Document], images: usize) -> Self {
        let mut summary = Self::default();
        if images > 0 {
            summary.objects.insert(Kind::Image, images);
        }
        for document in documents {
            *summary.objects.entry(document.kind).or_insert(0) += 1;
            summary.marks += document.marks.len();
        }
        summary
    }

    /// Counts rows.
    pub fn rows(&mut self, rows: &[Row]) {
        let mut patients = BTreeMap::new();
        self.lesions = rows.len();
        self.suspicious = rows.iter().filter(|r| r.noisy).count();
        for row in rows {
            let part = usize::from(row.split.clamp(1, 3)) - 1;
            self.split[part] += 1;
            patients.insert(row.numbers.patient, part);
        }
        for part in patients.into_values() {
            self.patients[part] += 1;
        }
    }

    /// The table for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, n: usize| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:32}{n:>9}");
        };
        for (kind, n) in &self.objects {
            let name = match kind {
                Kind::StructuredReport => "structured reports",
                Kind::PresentationState => "presentation states",
                Kind::Aim => "AIM annotations",
                Kind::Table => "tables",
                Kind::Image => "images among the objects",
                Kind::Other => "other or unreadable files",
            };
            line(name, *n);
        }
        line("bidimensional marks", self.marks);
        for (reason, n) in &self.reasons {
            line(&format!("  {}", reason.replace('_', " ")), *n);
        }
        line("image headers", self.image_headers);
        line("  files that are no DICOM images", self.image_files_not_read);
        line("lesions", self.lesions);
        line("  of those suspicious", self.suspicious);
        for (i, part) in ["train", "validation", "test"].iter().enumerate() {
            line(&format!("  {part} ({} patients)", self.patients[i]), self.split[i]);
        }
        line("slices written", self.slices);
        text
    }
}
