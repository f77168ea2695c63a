//! Attributes of a data set as the readers of measurement objects need them: absent, empty and unusable are one and the same. Pure.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

/// A value as text without padding, `None` where absent or empty.
#[must_use]
pub fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = object.get(tag)?.to_str().ok()?;
    let value = value.trim_matches(['\0', ' ']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// A whole number.
#[must_use]
pub fn int(object: &InMemDicomObject, tag: Tag) -> Option<i64> {
    object.get(tag)?.to_int::<i64>().ok()
}

/// All numbers of a value, every one finite.
#[must_use]
pub fn floats(object: &InMemDicomObject, tag: Tag) -> Option<Vec<f64>> {
    let values = object.get(tag)?.to_multi_float64().ok()?;
    values.iter().all(|v| v.is_finite()).then_some(values)
}

/// Exactly `N` finite numbers.
#[must_use]
pub fn vector<const N: usize>(object: &InMemDicomObject, tag: Tag) -> Option<[f64; N]> {
    floats(object, tag)?.try_into().ok()
}

/// Items of a sequence, none where absent.
#[must_use]
pub fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    object.get(tag).and_then(|e| e.items()).unwrap_or_default()
}

/// A coded concept: code value, coding scheme designator, code meaning (PS3.3 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// (0008,0100)
    pub value: String,
    /// (0008,0102)
    pub scheme: String,
    /// (0008,0104), "" where absent.
    pub meaning: String,
}

/// First item of a code sequence.
#[must_use]
pub fn code(object: &InMemDicomObject, tag: Tag) -> Option<Code> {
    let item = items(object, tag).first()?;
    Some(Code {
        value: text(item, tags::CODE_VALUE)?,
        scheme: text(item, tags::CODING_SCHEME_DESIGNATOR)?,
        meaning: text(item, tags::CODE_MEANING).unwrap_or_default(),
    })
}

/// SOP Instance UIDs of a Referenced SOP Sequence or Referenced Image Sequence.
#[must_use]
pub fn referenced(object: &InMemDicomObject, tag: Tag) -> Vec<String> {
    items(object, tag).iter().filter_map(|item| text(item, tags::REFERENCED_SOP_INSTANCE_UID)).collect()
}

/// Date and time as digits that sort (`YYYYMMDDHHMMSS.FFFFFF`), "" where there is no date.
#[must_use]
pub fn moment(object: &InMemDicomObject, date: Tag, time: Tag) -> String {
    let digits = |tag| text(object, tag).unwrap_or_default();
    let date = digits(date);
    if date.is_empty() { date } else { date + &digits(time) }
}
