//! One instance's header → [`SliceHeader`]. Reads up to the pixel data, tolerates missing optional attributes, never panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;

use super::{SliceHeader, part10};

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
}

/// Reads the header of `path`.
///
/// # Errors
/// [`HeaderError`].
pub fn read(path: &Path) -> Result<SliceHeader, HeaderError> {
    // The parser is not ours: whatever it does on a damaged file is an error of that file.
    catch_unwind(AssertUnwindSafe(|| read_unguarded(path)))
        .unwrap_or_else(|_| Err(HeaderError::Unreadable("the parser failed on it".into())))
}

fn read_unguarded(path: &Path) -> Result<SliceHeader, HeaderError> {
    let object = part10::open(path, Some(tags::PIXEL_DATA)).map_err(HeaderError::Unreadable)?;
    let identifier = |name, tag| match text(&object, tag) {
        Some(value) => Ok(value),
        None => Err(HeaderError::Missing { name, tag }),
    };
    let whole = |tag| int(&object, tag);
    Ok(SliceHeader {
        path: path.to_owned(),
        study_instance_uid: text(&object, tags::STUDY_INSTANCE_UID).unwrap_or_default(),
        series_instance_uid: text(&object, tags::SERIES_INSTANCE_UID).unwrap_or_default(),
        sop_instance_uid: identifier("SOP Instance UID", tags::SOP_INSTANCE_UID)?,
        sop_class_uid: text(&object, tags::SOP_CLASS_UID).unwrap_or_default(),
        transfer_syntax_uid: object.meta().transfer_syntax().trim_end_matches(['\0', ' ']).to_owned(),
        modality: text(&object, tags::MODALITY).unwrap_or_default(),
        image_type: text(&object, tags::IMAGE_TYPE).map(|v| v.split('\\').map(|s| s.trim().to_owned()).collect()).unwrap_or_default(),
        body_part: text(&object, tags::BODY_PART_EXAMINED),
        series_number: whole(tags::SERIES_NUMBER).and_then(|v| i32::try_from(v).ok()),
        instance_number: whole(tags::INSTANCE_NUMBER).and_then(|v| i32::try_from(v).ok()),
        rows: whole(tags::ROWS).and_then(|v| u16::try_from(v).ok()),
        cols: whole(tags::COLUMNS).and_then(|v| u16::try_from(v).ok()),
        samples_per_pixel: whole(tags::SAMPLES_PER_PIXEL).and_then(|v| u16::try_from(v).ok()).unwrap_or(1),
        frames: whole(tags::NUMBER_OF_FRAMES).and_then(|v| u32::try_from(v).ok()).unwrap_or(1),
        pixel_spacing_mm: floats(&object, tags::PIXEL_SPACING).filter(|v: &[f64; 2]| v.iter().all(|s| (0.01..100.0).contains(s))),
        position_mm: floats(&object, tags::IMAGE_POSITION_PATIENT),
        orientation: floats(&object, tags::IMAGE_ORIENTATION_PATIENT),
        thickness_mm: floats::<1>(&object, tags::SLICE_THICKNESS).map(|v| v[0]).filter(|t| *t > 0.0),
        gantry_tilt_deg: floats::<1>(&object, tags::GANTRY_DETECTOR_TILT).map(|v| v[0]),
        has_rescale: floats::<1>(&object, tags::RESCALE_SLOPE).is_some() && floats::<1>(&object, tags::RESCALE_INTERCEPT).is_some(),
        has_pixels: object.element(tags::BITS_ALLOCATED).is_ok(),
    })
}

/// A value as text, `None` where absent or empty.
fn text(object: &DefaultDicomObject, tag: Tag) -> Option<String> {
    let value = object.element(tag).ok()?.to_str().ok()?;
    let value = value.trim_matches(['\0', ' ']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn int(object: &DefaultDicomObject, tag: Tag) -> Option<i64> {
    let element = object.element(tag).ok()?;
    element.to_int::<i64>().ok().or_else(|| element.to_float64().ok().filter(|v| v.is_finite()).map(|v| v as i64))
}

/// Exactly `N` finite numbers.
fn floats<const N: usize>(object: &DefaultDicomObject, tag: Tag) -> Option<[f64; N]> {
    let values = object.element(tag).ok()?.to_multi_float64().ok()?;
    let values: [f64; N] = values.try_into().ok()?;
    values.iter().all(|v| v.is_finite()).then_some(values)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_header_is_read() {
        let header = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314/0100.dcm"))).unwrap();
        assert_eq!((header.modality.as_str(), header.instance_number, header.rows), ("CT", Some(100), Some(512)));
        assert!(header.has_rescale && header.has_pixels && header.position_mm.is_some() && header.orientation.is_some());
        assert_eq!(header.pixel_spacing_mm, Some([0.78125, 0.78125]));
    }

    #[test]
    fn garbage_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0x42; 5000]).unwrap();
        assert!(matches!(read(file.path()), Err(HeaderError::Unreadable(_))));
    }
}
