//! DL_info.csv: DeepLesion's columns in the official order. Pure but for writing the file.

use std::path::Path;

use super::images::Stack;
use super::lesion::Lesion;
use super::numbers::Numbers;
use super::rules::{bounding_box, lengths, split};
use crate::error::{Class, Failure};

/// The columns as published.
pub const COLUMNS: [&str; 18] = [
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
    "DICOM_windows",
    "Patient_gender",
    "Patient_age",
    "Train_Val_Test",
];

/// Window of images that name none, HU: DeepLesion's usual one.
const USUAL_WINDOW_HU: [f64; 2] = [-175.0, 275.0];
/// Ages above are written as this: an extreme age names a person.
const MOST_AGE_YEARS: u32 = 90;

/// One row, as text, with the numbers that sort it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `{patient}_{study}_{series}_{slice}.png`.
    pub file_name: String,
    /// Which series.
    pub numbers: Numbers,
    /// From 1, from the head.
    pub slice: usize,
    /// 1 train, 2 validation, 3 test.
    pub split: u8,
    /// Suspicious.
    pub noisy: bool,
    /// DeepLesion's coarse type.
    pub lesion_type: i8,
    fields: [String; 18],
}

/// Up to `decimals` digits, without trailing zeros.
fn plain(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.into() }
}

fn list(values: &[f64], decimals: usize) -> String {
    values.iter().map(|v| plain(*v, decimals)).collect::<Vec<_>>().join(", ")
}

impl Row {
    /// The row of a lesion; `range` is the first and last slice of its context.
    #[must_use]
    pub fn new(lesion: &Lesion, numbers: Numbers, stack: &Stack, noisy: bool, range: [usize; 2]) -> Self {
        let slice = lesion.place + 1;
        let Numbers { patient, study, series } = numbers;
        let file_name = format!("{patient:06}_{study:02}_{series:02}_{slice:03}.png");
        let [rows, cols] = stack.key.size;
        let [sy, sx] = stack.geometry.map_or([1.0; 2], |g| g.spacing_mm);
        let bounds = bounding_box(&lesion.points);
        let part = split(&lesion.patient);
        // x and y as shares of the image; z as share of the stack, from the head (DeepLesion's own comes from a regressor of body parts).
        let location = [
            (bounds[0] + bounds[2]) / 2.0 / f64::from(cols),
            (bounds[1] + bounds[3]) / 2.0 / f64::from(rows),
            (lesion.place as f64 + 0.5) / stack.places.len().max(1) as f64,
        ];
        let facts = &stack.facts;
        let fields = [
            file_name.clone(),
            patient.to_string(),
            study.to_string(),
            series.to_string(),
            slice.to_string(),
            list(lesion.points.as_flattened(), 3),
            list(&bounds, 3),
            list(&lengths(&lesion.points, [1.0, 1.0]), 4),
            list(&location, 6),
            lesion.lesion_type.to_string(),
            u8::from(noisy).to_string(),
            format!("{}, {}", range[0], range[1]),
            list(&[sx, sy, stack.interval_mm()], 6),
            format!("{cols}, {rows}"),
            list(&facts.window_hu.unwrap_or(USUAL_WINDOW_HU), 3),
            facts.sex.to_owned(),
            facts.age_years.map(|a| a.min(MOST_AGE_YEARS).to_string()).unwrap_or_default(),
            part.to_string(),
        ];
        Self { file_name, numbers, slice, split: part, noisy, lesion_type: lesion.lesion_type, fields }
    }

    /// Sorts rows: series, slice, then the box.
    #[must_use]
    pub fn order(&self) -> (Numbers, usize, &str) {
        (self.numbers, self.slice, &self.fields[6])
    }
}

/// Writes the table beside its place and moves it there: a table that can be seen is whole.
///
/// # Errors
/// [`Class::Io`].
pub fn write(path: &Path, rows: &[Row]) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    let partial = path.with_extension("csv.part");
    let mut writer = csv::Writer::from_path(&partial).map_err(|e| failed(&e))?;
    writer.write_record(COLUMNS).map_err(|e| failed(&e))?;
    for row in rows {
        writer.write_record(&row.fields).map_err(|e| failed(&e))?;
    }
    let file = writer.into_inner().map_err(|e| failed(&e))?;
    file.sync_all().map_err(|e| failed(&e))?;
    std::fs::rename(&partial, path).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_public_table_writes_them() {
        assert_eq!(list(&[357.938, 0.488281, 5.0, -0.0, -1024.5], 6), "357.938, 0.488281, 5, 0, -1024.5");
        assert_eq!(plain(300.35, 3), "300.35");
    }
}
