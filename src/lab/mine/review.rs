//! The review list: one line for everything that was left out, merged, or is to be looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::mark::{Document, Mark, Place, Refusal};
use crate::error::{Class, Failure};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The object's file.
    pub source: PathBuf,
    /// Where in it; "" for the whole.
    pub item: String,
    /// Image that the mark names, "" where it names none.
    pub image: String,
    /// Row of DL_info.csv, "" where it is in none.
    pub harvested: String,
    /// Code of the reason.
    pub reason: &'static str,
    /// Code of what became of it.
    pub fate: &'static str,
    /// The sentence.
    pub detail: String,
}

impl Line {
    /// A line about a part of a document.
    #[must_use]
    pub fn new(document: &Document, item: &str, refusal: &Refusal) -> Self {
        Self {
            source: document.path.clone(),
            item: item.to_owned(),
            image: String::new(),
            harvested: String::new(),
            reason: refusal.reason.code(),
            fate: refusal.reason.fate().code(),
            detail: refusal.detail.clone(),
        }
    }

    /// A line about a mark.
    #[must_use]
    pub fn about(document: &Document, mark: &Mark, refusal: &Refusal) -> Self {
        let image = match &mark.place {
            Place::Image { sop_instance_uid, .. } => sop_instance_uid.clone(),
            Place::Patient { sop_instance_uid, .. } => sop_instance_uid.clone().unwrap_or_default(),
        };
        Self { image, ..Self::new(document, &mark.item, refusal) }
    }

    /// The same with the row it went into.
    #[must_use]
    pub fn of(self, harvested: &str) -> Self {
        Self { harvested: harvested.to_owned(), ..self }
    }
}

/// Lines by their reason's code.
#[must_use]
pub fn counts(lines: &[Line]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line.reason).or_insert(0) += 1;
    }
    counts
}

/// Writes the list, sorted: what was left out first.
///
/// # Errors
/// [`Class::Io`].
pub fn write(path: &Path, lines: &mut [Line]) -> Result<(), Failure> {
    lines.sort_by(|a, b| (a.fate, a.reason, &a.source, &a.item, a).cmp(&(b.fate, b.reason, &b.source, &b.item, b)));
    let failed = |e: csv::Error| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    let mut writer = csv::Writer::from_path(path).map_err(failed)?;
    writer.write_record(["fate", "reason", "detail", "source", "item", "sop_instance_uid", "file_name"]).map_err(failed)?;
    for line in lines.iter() {
        let source = line.source.to_string_lossy();
        writer.write_record([line.fate, line.reason, &line.detail, &source, &line.item, &line.image, &line.harvested]).map_err(failed)?;
    }
    writer.flush().map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))
}
