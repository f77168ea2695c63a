//! One row of DL_info.csv: read, and held against itself. Pure.
//!
//! Pixels are as the table counts them; [`super::deeplesion`] knows from where.

use csv::StringRecord;

use crate::detect::TYPES;
use crate::lab::mine::rules::{Points, bounding_box, lengths};

/// Columns that are read.
pub const COLUMNS: [&str; 15] = [
    "File_name",
    "Patient_index",
    "Study_index",
    "Series_ID",
    "Key_slice_index",
    "Measurement_coordinates",
    "Bounding_boxes",
    "Lesion_diameters_Pixel_",
    "Normalized_lesion_location",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Slice_range",
    "Spacing_mm_px_",
    "Image_size",
    "Train_Val_Test",
];

/// The table has three decimals; stated and computed values may differ by this, pixels.
const SLACK_PX: f64 = 0.1;
/// Pixels and slice intervals outside are no CT, mm.
const SPACING_MM: std::ops::RangeInclusive<f64> = 0.05..=20.0;

/// What can be wrong with a row, an image or a patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A cell is missing or is not what its column holds.
    Unreadable,
    /// File name and numbers name different images.
    FileName,
    /// The box is not the extent of the end points ± 5 px.
    Box,
    /// The diameters are not the lengths of the axes.
    Diameters,
    /// The short axis is longer than the long one.
    Axes,
    /// An end point lies outside the image.
    OutsideImage,
    /// Pixel size or slice interval is not that of a CT.
    Spacing,
    /// The normalised location is not within 0..1.
    Location,
    /// The key slice lies outside the slice range.
    SliceRange,
    /// The patient is in two splits.
    PatientInTwoSplits,
    /// The key image is not there.
    MissingImage,
    /// The key image is there but cannot be read.
    DamagedImage,
    /// The image's size is not the table's.
    ImageSize,
    /// A slice of the slice range is not there.
    MissingContext,
}

impl Kind {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "cells that cannot be read",
            Self::FileName => "file name and numbers differ",
            Self::Box => "box is not end points ± 5 px",
            Self::Diameters => "diameters are not the axes' lengths",
            Self::Axes => "short axis longer than the long one",
            Self::OutsideImage => "end points outside the image",
            Self::Spacing => "spacing is none of a CT",
            Self::Location => "normalised location outside 0..1",
            Self::SliceRange => "key slice outside the slice range",
            Self::PatientInTwoSplits => "patient in two splits",
            Self::MissingImage => "key image missing",
            Self::DamagedImage => "key image cannot be read",
            Self::ImageSize => "image size differs from the table",
            Self::MissingContext => "context slices missing",
        }
    }

    /// Whether training does without the row: nobody knows where its lesion is.
    #[must_use]
    pub const fn spoils(self) -> bool {
        matches!(self, Self::Unreadable | Self::FileName | Self::Box | Self::OutsideImage | Self::Spacing)
    }

    /// What training does about it, for a report.
    #[must_use]
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::Unreadable => "; training does without these rows",
            Self::MissingContext => "; the nearest slice stands in",
            Self::MissingImage | Self::DamagedImage | Self::ImageSize => "; training leaves these images out",
            _ if self.spoils() => "; training leaves their images out",
            _ => "",
        }
    }
}

/// Which image, counted as the file names do: slices from 1, from head to feet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Numbers {
    /// Patient.
    pub patient: u32,
    /// Study of the patient.
    pub study: u32,
    /// Series of the study.
    pub series: u32,
    /// Slice of the series.
    pub slice: u32,
}

impl Numbers {
    /// `{patient}_{study}_{series}`, the folder of the series.
    #[must_use]
    pub fn folder(self) -> String {
        format!("{:06}_{:02}_{:02}", self.patient, self.study, self.series)
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Line in the file, the header is line 1.
    pub line: u64,
    /// `File_name`.
    pub file_name: String,
    /// Which image.
    pub numbers: Numbers,
    /// End points: long axis, short axis.
    pub points: Points,
    /// x1, y1, x2, y2.
    pub box_px: [f64; 4],
    /// Long and short.
    pub diameters_px: [f64; 2],
    /// x, y, z.
    pub location: [f64; 3],
    /// Index into the eight types, `None` for -1.
    pub lesion_type: Option<u8>,
    /// Flagged.
    pub noisy: bool,
    /// First and last slice of context.
    pub range: [u32; 2],
    /// x, y, slice interval.
    pub spacing_mm: [f64; 3],
    /// Columns, rows.
    pub size: [u32; 2],
    /// 1 train, 2 validation, 3 test.
    pub split: u8,
}

/// Where the columns of a table stand.
#[derive(Debug, Clone)]
pub struct Columns([usize; COLUMNS.len()]);

impl Columns {
    /// Of a header line.
    ///
    /// # Errors
    /// The first column that is missing.
    pub fn find(header: &StringRecord) -> Result<Self, &'static str> {
        let mut at = [0; COLUMNS.len()];
        for (place, name) in at.iter_mut().zip(COLUMNS) {
            *place = header.iter().position(|h| h.trim_start_matches('\u{feff}') == name).ok_or(name)?;
        }
        Ok(Self(at))
    }
}

/// The `N` numbers of a cell.
fn numbers<const N: usize>(cell: &str, column: &str) -> Result<[f64; N], String> {
    let mut values = [0.0; N];
    let mut parts = cell.split(',');
    let complaint = || format!("column {column}: {cell:?} is not {N} numbers");
    for value in &mut values {
        let part = parts.next().ok_or_else(complaint)?;
        *value = part.trim().parse::<f64>().ok().filter(|v| v.is_finite()).ok_or_else(complaint)?;
    }
    if parts.next().is_some() { Err(complaint()) } else { Ok(values) }
}

fn whole<T: std::str::FromStr>(cell: &str, column: &str) -> Result<T, String> {
    cell.trim().parse().map_err(|_| format!("column {column}: {cell:?} is not a whole number that fits"))
}

fn pair(cell: &str, column: &str) -> Result<[u32; 2], String> {
    let (a, b) = cell.split_once(',').ok_or_else(|| format!("column {column}: {cell:?} is not two whole numbers"))?;
    Ok([whole(a, column)?, whole(b, column)?])
}

impl Row {
    /// Reads one record.
    ///
    /// # Errors
    /// Column and cell that are not what they must be.
    pub fn parse(record: &StringRecord, columns: &Columns, line: u64) -> Result<Self, String> {
        let cell = |i: usize| {
            let text = record.get(columns.0[i]).map(str::trim).filter(|v| !v.is_empty());
            text.map(|v| (v, COLUMNS[i])).ok_or_else(|| format!("column {} is empty", COLUMNS[i]))
        };
        let of = |i: usize| -> Result<u32, String> { cell(i).and_then(|(v, c)| whole(v, c)) };
        let (p, c) = cell(5)?;
        let p = numbers::<8>(p, c)?;
        let lesion_type = match cell(9)? {
            ("-1", _) => None,
            (text, column) => {
                let code: u8 = whole(text, column)?;
                let fits = (1..=TYPES as u8).contains(&code);
                Some(fits.then(|| code - 1).ok_or_else(|| format!("column {column}: {code} is none of -1, 1 to {TYPES}"))?)
            }
        };
        let split: u8 = cell(14).and_then(|(v, c)| whole(v, c))?;
        if !(1..=3).contains(&split) {
            return Err(format!("column {}: {split} is none of 1 (train), 2 (validation), 3 (test)", COLUMNS[14]));
        }
        Ok(Self {
            line,
            file_name: cell(0)?.0.to_owned(),
            numbers: Numbers { patient: of(1)?, study: of(2)?, series: of(3)?, slice: of(4)? },
            points: [[p[0], p[1]], [p[2], p[3]], [p[4], p[5]], [p[6], p[7]]],
            box_px: cell(6).and_then(|(v, c)| numbers(v, c))?,
            diameters_px: cell(7).and_then(|(v, c)| numbers(v, c))?,
            location: cell(8).and_then(|(v, c)| numbers(v, c))?,
            lesion_type,
            noisy: of(10)? != 0,
            range: cell(11).and_then(|(v, c)| pair(v, c))?,
            spacing_mm: cell(12).and_then(|(v, c)| numbers(v, c))?,
            size: cell(13).and_then(|(v, c)| pair(v, c))?,
            split,
        })
    }

    /// What of the row contradicts the rest of it; `first_pixel` is the coordinate of the first pixel's centre.
    #[must_use]
    pub fn contradictions(&self, first_pixel: f64) -> Vec<(Kind, String)> {
        let mut found = Vec::new();
        let n = self.numbers;
        let named = format!("{}_{:03}.png", n.folder(), n.slice);
        if self.file_name != named {
            found.push((Kind::FileName, format!("{} is called {}", named, self.file_name)));
        }
        let extent = bounding_box(&self.points);
        let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if apart(&extent, &self.box_px) > SLACK_PX {
            found.push((Kind::Box, format!("box {:?}, end points ± 5 px {extent:?}", self.box_px)));
        }
        let [long, short] = lengths(&self.points, [1.0, 1.0]);
        if apart(&[long, short], &self.diameters_px) > SLACK_PX {
            found.push((Kind::Diameters, format!("diameters {:?}, axes of {long:.3} and {short:.3} px", self.diameters_px)));
        }
        if short > long + SLACK_PX {
            found.push((Kind::Axes, format!("long axis {long:.2} px, short axis {short:.2} px")));
        }
        let on = |v: f64, n: u32| (-0.5..=f64::from(n) - 0.5).contains(&(v - first_pixel));
        if let Some([x, y]) = self.points.iter().find(|[x, y]| !on(*x, self.size[0]) || !on(*y, self.size[1])) {
            found.push((Kind::OutsideImage, format!("end point {x}, {y} on an image of {} x {} pixels", self.size[0], self.size[1])));
        }
        if !self.spacing_mm.iter().all(|s| SPACING_MM.contains(s)) {
            found.push((Kind::Spacing, format!("spacing {:?} mm", self.spacing_mm)));
        }
        if !self.location.iter().all(|v| (0.0..=1.0).contains(v)) {
            found.push((Kind::Location, format!("location {:?}", self.location)));
        }
        if !(self.range[0]..=self.range[1]).contains(&n.slice) {
            found.push((Kind::SliceRange, format!("key slice {}, range {} to {}", n.slice, self.range[0], self.range[1])));
        }
        found
    }

    /// Whether x and y of the location are the middle of the box as shares of the image: true of every row that `mine` writes, which counts from 0; the
    /// release has coordinates of the body there.
    #[must_use]
    pub fn located_by_mine(&self) -> bool {
        let middle = |i: usize| (self.box_px[i] + self.box_px[i + 2]) / 2.0 / f64::from(self.size[i]);
        (0..2).all(|i| (self.location[i] - middle(i)).abs() < 2e-5)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn row(change: impl Fn(&mut Vec<String>)) -> Result<Row, String> {
        let mut cells: Vec<String> = [
            "000003_01_01_016.png",
            "3",
            "1",
            "1",
            "16",
            "357.938, 289.428, 364.226, 314.912, 367.536, 300.35, 350.988, 305.976",
            "345.988, 284.428, 372.536, 319.912",
            "26.2489, 17.4787",
            "0.69148, 0.624435, 0.616547",
            "-1",
            "0",
            "4, 28",
            "0.488281, 0.488281, 2.5",
            "512, 512",
            "1",
        ]
        .map(str::to_owned)
        .to_vec();
        change(&mut cells);
        let columns = Columns::find(&StringRecord::from(COLUMNS.to_vec())).unwrap();
        Row::parse(&StringRecord::from(cells), &columns, 2)
    }

    #[test]
    fn a_published_row_is_read_and_agrees_with_itself() {
        let row = row(|_| ()).unwrap();
        assert_eq!((row.numbers.slice, row.lesion_type, row.noisy, row.range, row.split), (16, None, false, [4, 28], 1));
        assert_eq!(row.contradictions(1.0), []);
        assert!(!row.located_by_mine());
    }

    #[test]
    fn each_contradiction_is_found_by_its_kind() {
        for (at, cell, kind) in [
            (0, "000003_01_01_017.png", Kind::FileName),
            (6, "340.988, 284.428, 372.536, 319.912", Kind::Box),
            (7, "26.2489, 19.4787", Kind::Diameters),
            (8, "0.69148, 1.624435, 0.616547", Kind::Location),
            (11, "17, 28", Kind::SliceRange),
            (12, "0.488281, 0.488281, 0", Kind::Spacing),
            (13, "512, 300", Kind::OutsideImage),
        ] {
            let found = row(|cells| cells[at] = cell.into()).unwrap().contradictions(1.0);
            assert_eq!(found.iter().map(|(k, _)| *k).collect::<Vec<_>>(), [kind]);
        }
    }

    #[test]
    fn what_is_no_row_is_named_by_column_and_cell() {
        for (at, cell, words) in [
            (5, "1, 2, 3", "Measurement_coordinates"),
            (6, "a, 1, 2, 3", "\"a, 1, 2, 3\""),
            (9, "9", "none of -1, 1 to 8"),
            (14, "4", "Train_Val_Test"),
            (1, "", "Patient_index is empty"),
            (12, "nan, 1, 1", "Spacing_mm_px_"),
        ] {
            let message = row(|cells| cells[at] = cell.into()).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
