//! Uncompressed CT objects by the thousand, written in this process: receiving is tested with them, not analysing. Image Type says localizer, so that the
//! outcome of their series is `not_analysed` and no engine competes for the processor.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};

use dicom_core::value::PrimitiveValue;
use dicom_core::{DataElement, VR, dicom_value};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

/// SOP Instance UID of object `n` of a series.
pub fn sop_uid(series: &str, n: usize) -> String {
    format!("{series}.{n}")
}

/// Values of the pixels of object `n`: no two objects are alike.
fn pixels(n: usize, side: usize) -> Vec<u16> {
    let mut state = (n as u32).wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u16 & 0x0FFF
    };
    std::iter::repeat_with(next).take(side * side).collect()
}

/// `count` objects of side × side pixels; `series` is their Series Instance UID.
pub fn ct(dir: &Path, series: &str, count: usize, side: usize) -> Vec<PathBuf> {
    let folder = dir.join(series);
    std::fs::create_dir_all(&folder).unwrap();
    let text = |tag, vr, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let short = |tag, value: usize| DataElement::new(tag, VR::US, PrimitiveValue::from(value as u16));
    (0..count)
        .map(|n| {
            let object = InMemDicomObject::from_element_iter([
                DataElement::new(tags::IMAGE_TYPE, VR::CS, dicom_value!(Strs, ["ORIGINAL", "PRIMARY", "LOCALIZER"])),
                text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
                text(tags::SOP_INSTANCE_UID, VR::UI, &sop_uid(series, n)),
                text(tags::MODALITY, VR::CS, "CT"),
                text(tags::STUDY_INSTANCE_UID, VR::UI, &format!("{series}.9999999")),
                text(tags::SERIES_INSTANCE_UID, VR::UI, series),
                text(tags::INSTANCE_NUMBER, VR::IS, &n.to_string()),
                short(tags::SAMPLES_PER_PIXEL, 1),
                text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
                short(tags::ROWS, side),
                short(tags::COLUMNS, side),
                short(tags::BITS_ALLOCATED, 16),
                short(tags::BITS_STORED, 12),
                short(tags::HIGH_BIT, 11),
                short(tags::PIXEL_REPRESENTATION, 0),
                DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels(n, side).into())),
            ]);
            let meta = FileMetaTableBuilder::new()
                .media_storage_sop_class_uid(uids::CT_IMAGE_STORAGE)
                .media_storage_sop_instance_uid(sop_uid(series, n))
                .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
            let path = folder.join(format!("{n}.dcm"));
            object.with_meta(meta).unwrap().write_to_file(&path).unwrap();
            path
        })
        .collect()
}

/// The bytes of a data set of [`ct`]: what follows the meta information.
pub fn data_set(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    // PS3.10 7.1: preamble, DICM, (0002,0000) with the length of the rest.
    let length = u32::from_le_bytes(bytes[140..144].try_into().unwrap()) as usize;
    bytes[144 + length..].to_vec()
}
