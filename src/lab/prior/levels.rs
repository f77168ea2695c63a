//! How far down the body an image lies, on DeepLesion's scale of 0 to 1 (its regressor of body parts; the lung's apex is at about 0.34, its dome at 0.56,
//! the hip at 0.82). A table has landmarks, levels between them are interpolated.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Class, Failure};

/// Landmarks by series, by file number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Levels(BTreeMap<String, BTreeMap<u32, f32>>);

#[derive(Debug, Deserialize)]
struct Row {
    series: String,
    number: u32,
    level: f32,
}

impl Levels {
    /// Reads a table with the columns series, number (of the file, `NNNN.dcm`) and level; lines that begin with # are remarks.
    ///
    /// # Errors
    /// No such file, a line that is none, a level outside of 0 to 1.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |class, e: &dyn std::fmt::Display| Failure::new(class, format!("{}: {e}", path.display()));
        let file = std::fs::File::open(path).map_err(|e| failed(Class::Io, &e))?;
        let mut found = Self::default();
        for row in csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(file).deserialize::<Row>() {
            let row = row.map_err(|e| failed(Class::Data, &e))?;
            if !(0.0..=1.0).contains(&row.level) {
                return Err(failed(Class::Data, &format!("{} {:04}: level {} is not within 0..1", row.series, row.number, row.level)));
            }
            found.0.entry(row.series).or_default().insert(row.number, row.level);
        }
        Ok(found)
    }

    /// Level of an image; `None` outside of the landmarks.
    #[must_use]
    pub fn of(&self, series: &str, number: u32) -> Option<f32> {
        let marks = self.0.get(series)?;
        let (below, low) = marks.range(..=number).next_back()?;
        let (above, high) = marks.range(number..).next()?;
        let share = if above == below { 0.0 } else { (number - below) as f32 / (above - below) as f32 };
        Some(low + (high - low) * share)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn levels_lie_between_landmarks_and_nowhere_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# by eye\nseries,number,level\nA,10,0.4\nA,20,0.6\nA,40,0.7\n").unwrap();
        let levels = Levels::read(file.path()).unwrap();
        let near = |n: u32, level: f32| (levels.of("A", n).unwrap() - level).abs() < 1e-6;
        assert!(near(10, 0.4) && near(15, 0.5) && near(30, 0.65) && near(40, 0.7));
        assert_eq!([levels.of("A", 9), levels.of("A", 41), levels.of("B", 10)], [None; 3]);
        std::fs::write(file.path(), "series,number,level\nA,10,1.4\n").unwrap();
        assert!(Levels::read(file.path()).unwrap_err().to_string().contains("A 0010: level 1.4"));
    }
}
