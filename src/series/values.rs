//! Values of a header's attributes, in bounds. They are asked for with `get`: the library's error about a missing one takes a backtrace, a sixth of the time
//! of reading headers.

use dicom_core::Tag;
use dicom_object::InMemDicomObject;

/// Values of Image Type that are looked at: four are defined (PS3.3 C.8.2.1.1.1), makers append some.
pub const MOST_IMAGE_TYPES: usize = 16;

/// Why a header could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a Part 10 file, or damaged.
    #[error("header not readable: {0}")]
    Unreadable(String),
    /// An identifier that everything hangs on is missing or empty.
    #[error("{name} {tag} is missing or empty")]
    Missing {
        /// Attribute name.
        name: &'static str,
        /// Its tag.
        tag: Tag,
    },
    /// The functional groups are not those of as many frames.
    #[error("Number of Frames (0028,0008) says {said}, Per-Frame Functional Groups (5200,9230) are those of {found}")]
    Frames {
        /// (0028,0008)
        said: u32,
        /// Items.
        found: usize,
    },
}

/// A value as text, `None` where absent or empty.
pub fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = object.get(tag)?.to_str().ok()?;
    let value = value.trim_matches(['\0', ' ']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// A value as a CS (PS3.5 6.2) may stand in a document or a sentence: 16 of A-Z, 0-9, space and _. Peers write anything, of any length; small
/// letters are meant as capitals, everything else becomes _.
pub fn code_string(raw: &str) -> String {
    let cut: String = raw
        .trim()
        .chars()
        .take(16)
        .map(|c| c.to_ascii_uppercase())
        .map(|c| if c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ' { c } else { '_' })
        .collect();
    cut.trim_end().to_owned()
}

/// A UID, in bounds: up to 64 visible ASCII characters (PS3.5 9.1 has digits and dots; offline files have more).
pub fn uid(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value: String = text(object, tag)?.chars().filter(char::is_ascii_graphic).take(64).collect();
    (!value.is_empty()).then_some(value)
}

/// A whole number; of a decimal one its whole part.
pub fn int(object: &InMemDicomObject, tag: Tag) -> Option<i64> {
    let element = object.get(tag)?;
    element.to_int::<i64>().ok().or_else(|| element.to_float64().ok().filter(|v| v.is_finite()).map(|v| v as i64))
}

/// Exactly `N` finite numbers.
pub fn floats<const N: usize>(object: &InMemDicomObject, tag: Tag) -> Option<[f64; N]> {
    let values = object.get(tag)?.to_multi_float64().ok()?;
    let values: [f64; N] = values.try_into().ok()?;
    values.iter().all(|v| v.is_finite()).then_some(values)
}
