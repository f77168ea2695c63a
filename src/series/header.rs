//! One instance's header → [`SliceHeader`]. Reads up to the pixel data, tolerates missing optional attributes, never panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;

pub use super::values::HeaderError;
use super::values::{MOST_IMAGE_TYPES, code_string, floats, int, text, uid};
use super::{SliceHeader, multiframe, nesting, part10};

/// What is large without being pixels (documents, waveforms, contours, raw data) stands behind the description of the image, group 0028.
const BEHIND_IMAGE: Tag = Tag(0x0029, 0x0000);

/// Reads the header of `path` as that of one object, whatever number of frames it has.
///
/// # Errors
/// [`HeaderError`].
pub fn read(path: &Path) -> Result<SliceHeader, HeaderError> {
    guarded(path, |object| whole(path, object))
}

/// Reads the slices of `path`: one, or one a frame where the class has frames that are slices. An object of more frames than are followed is returned as
/// one, for eligibility to refuse.
///
/// # Errors
/// [`HeaderError`].
pub fn slices(path: &Path) -> Result<Vec<SliceHeader>, HeaderError> {
    guarded(path, |object| {
        let whole = whole(path, object)?;
        if multiframe::CLASSES.contains(&whole.sop_class_uid.as_str()) && whole.frames <= multiframe::MOST_FRAMES {
            multiframe::slices(object, &whole)
        } else {
            Ok(vec![whole])
        }
    })
}

/// The parser is not ours: whatever it does on a damaged file is an error of that file.
fn guarded<T>(path: &Path, read: impl FnOnce(&DefaultDicomObject) -> Result<T, HeaderError>) -> Result<T, HeaderError> {
    let open = || match part10::open(path, Some(tags::PIXEL_DATA)) {
        Err(e) if e.contains(nesting::TOO_LONG) => part10::open(path, Some(BEHIND_IMAGE)),
        other => other,
    };
    let all = || read(&open().map_err(HeaderError::Unreadable)?);
    catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|_| Err(HeaderError::Unreadable("the parser failed on it".into())))
}

fn whole(path: &Path, object: &DefaultDicomObject) -> Result<SliceHeader, HeaderError> {
    let identifier = |name, tag| match uid(object, tag) {
        Some(value) => Ok(value),
        None => Err(HeaderError::Missing { name, tag }),
    };
    let whole = |tag| int(object, tag);
    Ok(SliceHeader {
        path: path.to_owned(),
        study_instance_uid: uid(object, tags::STUDY_INSTANCE_UID).unwrap_or_default(),
        series_instance_uid: uid(object, tags::SERIES_INSTANCE_UID).unwrap_or_default(),
        sop_instance_uid: identifier("SOP Instance UID", tags::SOP_INSTANCE_UID)?,
        sop_class_uid: uid(object, tags::SOP_CLASS_UID).unwrap_or_default(),
        transfer_syntax_uid: object.meta().transfer_syntax().trim_end_matches(['\0', ' ']).to_owned(),
        modality: text(object, tags::MODALITY).map(|v| code_string(&v)).unwrap_or_default(),
        image_type: text(object, tags::IMAGE_TYPE)
            .map(|v| v.split('\\').take(MOST_IMAGE_TYPES).map(code_string).collect())
            .unwrap_or_default(),
        body_part: text(object, tags::BODY_PART_EXAMINED).map(|v| code_string(&v)),
        series_number: whole(tags::SERIES_NUMBER).and_then(|v| i32::try_from(v).ok()),
        instance_number: whole(tags::INSTANCE_NUMBER).and_then(|v| i32::try_from(v).ok()),
        rows: whole(tags::ROWS).and_then(|v| u16::try_from(v).ok()),
        cols: whole(tags::COLUMNS).and_then(|v| u16::try_from(v).ok()),
        samples_per_pixel: whole(tags::SAMPLES_PER_PIXEL).and_then(|v| u16::try_from(v).ok()).unwrap_or(1),
        frames: whole(tags::NUMBER_OF_FRAMES).and_then(|v| u32::try_from(v).ok()).unwrap_or(1),
        frame: None,
        pixel_spacing_mm: floats(object, tags::PIXEL_SPACING).filter(|v: &[f64; 2]| v.iter().all(|s| (0.01..100.0).contains(s))),
        position_mm: floats(object, tags::IMAGE_POSITION_PATIENT),
        orientation: floats(object, tags::IMAGE_ORIENTATION_PATIENT),
        thickness_mm: floats::<1>(object, tags::SLICE_THICKNESS).map(|v| v[0]).filter(|t| *t > 0.0),
        gantry_tilt_deg: floats::<1>(object, tags::GANTRY_DETECTOR_TILT).map(|v| v[0]),
        has_rescale: floats::<1>(object, tags::RESCALE_SLOPE).is_some() && floats::<1>(object, tags::RESCALE_INTERCEPT).is_some(),
        has_pixels: object.get(tags::BITS_ALLOCATED).is_some(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use dicom_core::{DataElement, VR};

    #[test]
    fn the_samples_header_is_read() {
        let header = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314/0100.dcm"))).unwrap();
        assert_eq!((header.modality.as_str(), header.instance_number, header.rows), ("CT", Some(100), Some(512)));
        assert!(header.has_rescale && header.has_pixels && header.position_mm.is_some() && header.orientation.is_some());
        assert_eq!(header.pixel_spacing_mm, Some([0.78125, 0.78125]));
    }

    #[test]
    fn what_a_peer_writes_reaches_documents_in_bounds() {
        use super::super::values::code_string;
        assert_eq!(code_string("CT"), "CT");
        assert_eq!(code_string(" Chest/Abdomen "), "CHEST_ABDOMEN");
        assert_eq!(code_string("<script>\u{1b}[31m\n\u{e9}"), "_SCRIPT___31M__");
        assert_eq!(code_string(&"A".repeat(27_000)), "A".repeat(16));
        let sample = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314/0100.dcm"));
        let mut object = part10::open(sample, None).unwrap();
        let mut put = |tag, vr, text: &str| object.put(DataElement::new(tag, vr, dicom_core::PrimitiveValue::from(text)));
        put(tags::MODALITY, VR::CS, &"free text, ".repeat(2_500));
        put(tags::BODY_PART_EXAMINED, VR::CS, "Patient\u{7}: A. Person, born 1950");
        put(tags::SERIES_NUMBER, VR::IS, "99999999999999999999");
        put(tags::SERIES_INSTANCE_UID, VR::UI, &"1.2 ".repeat(1_000));
        let file = tempfile::NamedTempFile::new().unwrap();
        object.write_to_file(file.path()).unwrap();
        let header = read(file.path()).unwrap();
        assert_eq!((header.modality.as_str(), header.body_part.as_deref()), ("FREE TEXT_ FREE", Some("PATIENT__ A_ PER")));
        assert_eq!((header.series_number, header.series_instance_uid.len()), (None, 64));
    }

    #[test]
    fn a_large_object_without_pixels_is_known_by_what_stands_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sample = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314/0100.dcm"));
        part10::open(sample, Some(BEHIND_IMAGE)).unwrap().write_to_file(file.path()).unwrap();
        // Encapsulated Document (0042,0011) of 100 MiB, all holes.
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes.extend([0x42, 0, 0x11, 0, b'O', b'B', 0, 0]);
        bytes.extend((100u32 << 20).to_le_bytes());
        std::fs::write(file.path(), &bytes).unwrap();
        file.as_file().set_len(bytes.len() as u64 + (100 << 20)).unwrap();
        let header = slices(file.path()).unwrap();
        assert_eq!((header.len(), header[0].modality.as_str(), header[0].instance_number), (1, "CT", Some(100)));
    }

    #[test]
    fn garbage_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0x42; 5000]).unwrap();
        assert!(matches!(read(file.path()), Err(HeaderError::Unreadable(_))));
    }
}
