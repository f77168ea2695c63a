//! One CSV table with named columns. Duty: every complaint names file, line and column.
//!
//! A *line* is counted as an editor counts it: the header is line 1.

use std::collections::HashMap;
use std::path::Path;

use csv::StringRecord;

use crate::error::{Class, Failure};

/// Why an evaluation cannot use what it was given.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Not there, or not a table.
    #[error("{file}: {reason}")]
    Unreadable {
        /// Which file.
        file: String,
        /// In the reader's words.
        reason: String,
    },
    /// A column that the evaluation hangs on is missing.
    #[error("{file}, line 1: there is no column {column}; it needs {needed}")]
    Column {
        /// Which file.
        file: String,
        /// The missing one.
        column: String,
        /// All that must be there.
        needed: String,
    },
    /// One cell.
    #[error("{file}, line {line}, column {column}: {value:?} {complaint}")]
    Cell {
        /// Which file.
        file: String,
        /// Where in it.
        line: u64,
        /// Which column.
        column: String,
        /// As found.
        value: String,
        /// What is wrong, and what would do.
        complaint: String,
    },
    /// A file that says nothing about what is asked.
    #[error("{file}: {complaint}")]
    Whole {
        /// Which file.
        file: String,
        /// What is wrong, and what to do.
        complaint: String,
    },
    /// A set that no image belongs to.
    #[error("--sets: no image of {file} is of set {set:?}; it has {known}")]
    Set {
        /// The image table.
        file: String,
        /// As asked.
        set: String,
        /// What there is.
        known: String,
    },
}

impl From<InputError> for Failure {
    fn from(e: InputError) -> Self {
        let class = if matches!(e, InputError::Set { .. }) { Class::Usage } else { Class::Data };
        Self::new(class, e.to_string())
    }
}

/// A table in memory.
#[derive(Debug)]
pub struct Sheet {
    file: String,
    columns: HashMap<String, usize>,
    records: Vec<StringRecord>,
}

impl Sheet {
    /// Reads `path`, which must have the columns `needed`.
    ///
    /// # Errors
    /// No file, no CSV, rows of unequal length, a column missing or there twice.
    pub fn read(path: &Path, needed: &[&str]) -> Result<Self, InputError> {
        let file = path.display().to_string();
        let unreadable = |e: csv::Error| InputError::Unreadable { file: file.clone(), reason: e.to_string() };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(unreadable)?;
        let mut columns = HashMap::new();
        for (i, name) in reader.headers().map_err(unreadable)?.iter().enumerate() {
            if columns.insert(name.to_owned(), i).is_some() {
                return Err(InputError::Unreadable { file, reason: format!("line 1: column {name} is there twice") });
            }
        }
        if let Some(column) = needed.iter().find(|c| !columns.contains_key(**c)) {
            return Err(InputError::Column { file, column: (*column).to_owned(), needed: needed.join(", ") });
        }
        let records = reader.records().collect::<Result<_, _>>().map_err(unreadable)?;
        Ok(Self { file, columns, records })
    }

    /// The file, for complaints.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its rows.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.records.iter().map(|record| Line { sheet: self, record })
    }
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    sheet: &'a Sheet,
    record: &'a StringRecord,
}

impl<'a> Line<'a> {
    /// Line number in the file.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    /// A cell; `None` where the table has no such column or the cell is empty.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&'a str> {
        self.sheet.columns.get(column).and_then(|i| self.record.get(*i)).filter(|v| !v.is_empty())
    }

    /// A complaint about a cell.
    #[must_use]
    pub fn complain(&self, column: &str, complaint: impl Into<String>) -> InputError {
        InputError::Cell {
            file: self.sheet.file.clone(),
            line: self.number(),
            column: column.to_owned(),
            value: self.get(column).unwrap_or_default().to_owned(),
            complaint: complaint.into(),
        }
    }

    /// A cell that may not be empty.
    ///
    /// # Errors
    /// It is.
    pub fn text(&self, column: &str) -> Result<&'a str, InputError> {
        self.get(column).ok_or_else(|| self.complain(column, "is empty"))
    }

    /// A finite number, `None` where there is no such column or the cell is empty.
    ///
    /// # Errors
    /// It is something else.
    pub fn number_if_any(&self, column: &str) -> Result<Option<f64>, InputError> {
        let parse = |v: &str| v.parse::<f64>().ok().filter(|v| v.is_finite());
        self.get(column).map(|v| parse(v).ok_or_else(|| self.complain(column, "is not a finite number"))).transpose()
    }

    /// A finite number.
    ///
    /// # Errors
    /// It is something else, or empty.
    pub fn finite(&self, column: &str) -> Result<f64, InputError> {
        self.number_if_any(column)?.ok_or_else(|| self.complain(column, "is empty: a number is needed"))
    }

    /// Columns x1, y1, x2, y2: 0-based first and last pixel.
    ///
    /// # Errors
    /// Not numbers, or the last before the first.
    pub fn box_px(&self) -> Result<[f64; 4], InputError> {
        let [x1, y1, x2, y2] = [self.finite("x1")?, self.finite("y1")?, self.finite("x2")?, self.finite("y2")?];
        for (last, low, high) in [("x2", x1, x2), ("y2", y1, y2)] {
            if high < low {
                return Err(self.complain(last, format!("lies before {low}, where the box begins")));
            }
        }
        Ok([x1, y1, x2, y2])
    }
}
