//! The DeepLesion release as published, which is the layout of `mine` too: `DL_info.csv` and `Images_png/{patient}_{study}_{series}/{slice}.png`.
//!
//! Slices are numbered from 1, from head to feet, so z falls as they rise. The release counts pixels from 1 (its own loaders subtract one), `mine` from 0,
//! at the centre of the first pixel; the two are told apart by the column `Normalized_lesion_location` ([`super::row::Row::located_by_mine`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use csv::StringRecord;

use super::key_slice::{KeySlice, Mark, Split, Stack};
use super::picture::Unreadable;
use super::row::{Columns, Numbers, Row};
use crate::error::{Class, Failure};
use crate::volume::frame::ImageGrid;

/// Rows that are looked at to tell who wrote a table.
const ROWS_LOOKED_AT: usize = 50;

/// Where the images of one key slice are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Which image.
    pub numbers: Numbers,
    /// First and last slice of its context.
    pub range: [u32; 2],
    /// x, y, slice interval.
    pub spacing_mm: [f32; 3],
    /// Columns, rows.
    pub size: [u32; 2],
}

/// Who wrote a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The release: the first pixel has the coordinate 1.
    Release,
    /// `mine`: the first pixel has the coordinate 0.
    Mine,
}

impl Writer {
    /// Coordinate of the first pixel's centre.
    #[must_use]
    pub const fn first_pixel(self) -> f64 {
        match self {
            Self::Release => 1.0,
            Self::Mine => 0.0,
        }
    }

    /// Of the table at `path`.
    ///
    /// # Errors
    /// As [`rows`].
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let (mut looked, mut by_mine) = (0, 0);
        rows(path, &mut |_, row| {
            if let Ok(row) = row {
                looked += 1;
                by_mine += usize::from(row.located_by_mine());
            }
            looked < ROWS_LOOKED_AT
        })?;
        Ok(if looked > 0 && by_mine == looked { Self::Mine } else { Self::Release })
    }
}

/// Goes through a table row by row, with the line; `each` says whether to go on. One row is in memory at a time.
///
/// # Errors
/// No such file, a column missing, no CSV.
pub fn rows(path: &Path, each: &mut dyn FnMut(u64, Result<Row, String>) -> bool) -> Result<(), Failure> {
    let failed = |class, e: &dyn std::fmt::Display| Failure::new(class, format!("{}: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| failed(Class::Io, &e))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(std::io::BufReader::new(file));
    let header = reader.headers().map_err(|e| failed(Class::Data, &e))?;
    let columns = Columns::find(header).map_err(|name| {
        failed(Class::Data, &format!("line 1: there is no column {name}; the columns of DeepLesion's DL_info.csv are needed"))
    })?;
    let mut record = StringRecord::new();
    loop {
        let row = match reader.read_record(&mut record) {
            Ok(true) => Row::parse(&record, &columns, record.position().map_or(0, csv::Position::line)),
            Ok(false) => return Ok(()),
            // Text that is no UTF-8 costs its row only.
            Err(e) if matches!(e.kind(), csv::ErrorKind::Utf8 { .. }) => Err("not UTF-8".to_owned()),
            Err(e) => return Err(failed(Class::Io, &e)),
        };
        let line = record.position().map_or(0, csv::Position::line);
        if !each(line, row) {
            return Ok(());
        }
    }
}

/// The folder of images.
#[derive(Debug, Clone)]
pub struct Images {
    root: PathBuf,
}

/// Reads the index of `table`.
///
/// # Errors
/// As [`rows`]; a table without one usable row.
pub fn open(table: &Path) -> Result<(Images, Vec<KeySlice<Place>>), Failure> {
    let writer = Writer::of(table)?;
    let mut keys: BTreeMap<Numbers, (Split, Place, Vec<Mark>, bool)> = BTreeMap::new();
    let (mut count, mut left_out) = (0usize, 0usize);
    let mut first: Option<(u64, String)> = None;
    rows(table, &mut |line, row| {
        count += 1;
        let spoilt = match &row {
            Err(e) => Some(e.clone()),
            Ok(row) => row.contradictions(writer.first_pixel()).into_iter().find(|(kind, _)| kind.spoils()).map(|(_, e)| e),
        };
        if let Some(e) = &spoilt {
            left_out += 1;
            first.get_or_insert_with(|| (line, e.clone()));
        }
        if let Ok(row) = row {
            let place = Place { numbers: row.numbers, range: row.range, spacing_mm: row.spacing_mm.map(|v| v as f32), size: row.size };
            let key = keys.entry(row.numbers).or_insert_with(|| (Split::of_code(row.split), place, Vec::with_capacity(1), false));
            // Where one of its lesions is, nobody knows: the image would teach that it is none.
            key.3 |= spoilt.is_some();
            key.2.push(mark(&row, writer.first_pixel()));
        }
        true
    })?;
    if let Some((line, e)) = first {
        eprintln!(
            "{}: {left_out} of {count} rows cannot be used, their images are left out; first line {line}: {e}; `lesionlab dataset` names all",
            table.display()
        );
    }
    let keys: Vec<KeySlice<Place>> = keys
        .into_values()
        .filter(|(.., spoilt)| !spoilt)
        .map(|(split, place, marks, _)| KeySlice { split, marks: marks.into_boxed_slice(), place })
        .collect();
    if keys.is_empty() {
        return Err(Failure::new(Class::Data, format!("{}: none of its {count} rows can be used", table.display())));
    }
    Ok((Images::beside(table), keys))
}

fn mark(row: &Row, first_pixel: f64) -> Mark {
    let px = |v: f64| (v - first_pixel) as f32;
    Mark { box_px: row.box_px.map(px), points: Some(row.points.map(|p| p.map(px))), lesion_type: row.lesion_type, noisy: row.noisy }
}

impl Images {
    /// `Images_png` beside a table.
    #[must_use]
    pub fn beside(table: &Path) -> Self {
        Self { root: table.parent().unwrap_or(Path::new(".")).join("Images_png") }
    }

    /// Folder of a series.
    #[must_use]
    pub fn folder(&self, numbers: Numbers) -> PathBuf {
        self.root.join(numbers.folder())
    }

    /// File of a slice.
    #[must_use]
    pub fn file(&self, numbers: Numbers) -> PathBuf {
        self.folder(numbers).join(format!("{:03}.png", numbers.slice))
    }

    /// Slices of `range` whose files are there, rising.
    #[must_use]
    pub fn there(&self, numbers: Numbers, range: [u32; 2]) -> Vec<u32> {
        let entries = std::fs::read_dir(self.folder(numbers)).into_iter().flatten().flatten();
        let number = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".png")?.parse::<u32>().ok();
        let mut there: Vec<u32> = entries.filter_map(|e| number(e.file_name())).filter(|n| (range[0]..=range[1]).contains(n)).collect();
        there.sort_unstable();
        there.dedup();
        there
    }

    /// The slices of a place that are there.
    ///
    /// # Errors
    /// The key image is not.
    pub fn stack(&self, place: &Place) -> Result<Stack, Unreadable> {
        let key = place.numbers.slice;
        let range = [place.range[0].min(key), place.range[1].max(key)];
        let there = self.there(place.numbers, range);
        if !there.contains(&key) {
            return Err(Unreadable::new(&self.file(place.numbers), "is not there"));
        }
        let [sx, sy, interval] = place.spacing_mm.map(f64::from);
        let z = |slice: u32| (f64::from(key) - f64::from(slice)) * interval;
        let slices = there.into_iter().rev().map(|n| (z(n), self.file(Numbers { slice: n, ..place.numbers }))).collect();
        let grid = ImageGrid { rows: place.size[1] as usize, cols: place.size[0] as usize, spacing_mm: [sy, sx] };
        Ok(Stack { grid, interval_mm: interval, slices })
    }
}
