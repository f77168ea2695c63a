//! A CT image of a synthesized study → a DICOM file: CT Image Storage (PS3.3 A.3), Explicit VR Little Endian, 12 bits.

use std::path::Path;

use dicom_core::value::PrimitiveValue;
use dicom_core::{DataElement, VR, dicom_value};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use sha2::{Digest, Sha256};

use crate::error::{Class, Failure};
use crate::series::part10;
use crate::volume::HuImage;
use crate::volume::pixels::AIR_HU;

/// What says in the header that no such patient was ever scanned.
const DESCRIPTION: &str = "synthesized by lesionlab";

/// What all images of a series have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesFacts {
    /// (0010,0020): up to 64 characters.
    pub patient_id: String,
    /// (0020,000D)
    pub study_uid: String,
    /// (0020,000E)
    pub series_uid: String,
    /// (0020,0052)
    pub frame_uid: String,
    /// Row spacing, column spacing, mm.
    pub spacing_mm: [f64; 2],
    /// Distance of neighbouring slices, mm.
    pub thickness_mm: f64,
}

/// A UID that depends on nothing but `parts`: a UUID (RFC 9562, version 8) as PS3.5 B.2 writes it.
#[must_use]
pub fn uid(parts: &[&str]) -> String {
    let hash = Sha256::digest(parts.join("\n").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    format!("2.25.{}", uuid::Builder::from_custom_bytes(bytes).into_uuid().as_u128())
}

/// A number as DS: up to 16 characters (PS3.5 6.2).
fn decimal(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').chars().take(16).collect()
}

/// Writes one axial image whose middle lies on the table's axis at `z_mm`.
///
/// # Errors
/// [`Class::Io`] with the path.
pub fn write(path: &Path, series: &SeriesFacts, sop_uid: &str, number: usize, z_mm: f64, image: &HuImage) -> Result<(), Failure> {
    let text = |tag, vr, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let list = |tag, vr, values: &[f64]| DataElement::new(tag, vr, PrimitiveValue::Strs(values.iter().map(|v| decimal(*v)).collect()));
    let short = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let [sy, sx] = series.spacing_mm;
    let corner = [-(image.cols as f64 - 1.0) / 2.0 * sx, -(image.rows as f64 - 1.0) / 2.0 * sy, z_mm];
    // Rescale Intercept is the least HU there is, so stored values start at 0 and end below 4096.
    let stored = image.hu.iter().map(|v| v.saturating_sub(AIR_HU).clamp(0, 4095).cast_unsigned()).collect();
    let object = InMemDicomObject::from_element_iter([
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100"),
        DataElement::new(tags::IMAGE_TYPE, VR::CS, dicom_value!(Strs, ["DERIVED", "PRIMARY", "AXIAL"])),
        text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, sop_uid),
        text(tags::STUDY_DATE, VR::DA, ""),
        text(tags::STUDY_TIME, VR::TM, ""),
        text(tags::ACCESSION_NUMBER, VR::SH, ""),
        text(tags::MODALITY, VR::CS, "CT"),
        text(tags::MANUFACTURER, VR::LO, "lesionwatch"),
        text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        text(tags::SERIES_DESCRIPTION, VR::LO, DESCRIPTION),
        text(tags::DERIVATION_DESCRIPTION, VR::ST, DESCRIPTION),
        text(tags::PATIENT_NAME, VR::PN, ""),
        text(tags::PATIENT_ID, VR::LO, &series.patient_id),
        text(tags::PATIENT_BIRTH_DATE, VR::DA, ""),
        text(tags::PATIENT_SEX, VR::CS, ""),
        list(tags::SLICE_THICKNESS, VR::DS, &[series.thickness_mm]),
        text(tags::KVP, VR::DS, ""),
        text(tags::PATIENT_POSITION, VR::CS, "HFS"),
        text(tags::LATERALITY, VR::CS, ""),
        text(tags::STUDY_INSTANCE_UID, VR::UI, &series.study_uid),
        text(tags::SERIES_INSTANCE_UID, VR::UI, &series.series_uid),
        text(tags::STUDY_ID, VR::SH, "1"),
        text(tags::SERIES_NUMBER, VR::IS, "1"),
        text(tags::ACQUISITION_NUMBER, VR::IS, "1"),
        text(tags::INSTANCE_NUMBER, VR::IS, &number.to_string()),
        list(tags::IMAGE_POSITION_PATIENT, VR::DS, &corner),
        list(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
        text(tags::FRAME_OF_REFERENCE_UID, VR::UI, &series.frame_uid),
        text(tags::POSITION_REFERENCE_INDICATOR, VR::LO, ""),
        short(tags::SAMPLES_PER_PIXEL, 1),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        short(tags::ROWS, u16::try_from(image.rows).unwrap_or(u16::MAX)),
        short(tags::COLUMNS, u16::try_from(image.cols).unwrap_or(u16::MAX)),
        list(tags::PIXEL_SPACING, VR::DS, &series.spacing_mm),
        short(tags::BITS_ALLOCATED, 16),
        short(tags::BITS_STORED, 12),
        short(tags::HIGH_BIT, 11),
        short(tags::PIXEL_REPRESENTATION, 0),
        text(tags::WINDOW_CENTER, VR::DS, "50"),
        text(tags::WINDOW_WIDTH, VR::DS, "400"),
        list(tags::RESCALE_INTERCEPT, VR::DS, &[AIR_HU.into()]),
        text(tags::RESCALE_SLOPE, VR::DS, "1"),
        text(tags::RESCALE_TYPE, VR::LO, "HU"),
        DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(stored)),
    ]);
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(uids::CT_IMAGE_STORAGE)
        .media_storage_sop_instance_uid(sop_uid)
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let failed = |e: &dyn std::error::Error| Failure::new(Class::Io, format!("{}: {}", path.display(), part10::chain(e)));
    object.with_meta(meta).map_err(|e| failed(&e))?.write_to_file(path).map_err(|e| failed(&e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::series::{eligibility, header};
    use crate::volume::pixels;

    #[test]
    fn what_is_written_is_read_back_and_eligible() {
        let folder = tempfile::tempdir().unwrap();
        let hu: Vec<i16> = (0..64 * 48).map(|i| [-1024, 3071, 0, -37, 55][i % 5]).collect();
        let image = HuImage { rows: 48, cols: 64, hu };
        let series = SeriesFacts {
            patient_id: "SYN-0001".into(),
            study_uid: uid(&["1", "study"]),
            series_uid: uid(&["1", "series"]),
            frame_uid: uid(&["1", "frame"]),
            spacing_mm: [0.7421875, 0.7421875],
            thickness_mm: 2.5,
        };
        let mut headers = Vec::new();
        for n in 0..30usize {
            let path = folder.path().join(format!("{n:04}.dcm"));
            write(&path, &series, &uid(&["1", &n.to_string()]), n + 1, -20.0 + 2.5 * n as f64, &image).unwrap();
            assert_eq!(pixels::decode(&path).unwrap(), image);
            headers.push(header::read(&path).unwrap());
        }
        let h = &headers[3];
        assert_eq!((h.sop_instance_uid.as_str(), h.pixel_spacing_mm), (uid(&["1", "3"]).as_str(), Some([0.742188, 0.742188])));
        assert_eq!(h.position_mm.map(|p| p[2]), Some(-12.5));
        assert!(eligibility::plan(&headers).is_ok());
    }

    #[test]
    fn uids_are_valid_and_of_their_parts() {
        assert_eq!(uid(&["1", "2"]), uid(&["1", "2"]));
        assert_ne!(uid(&["1", "2"]), uid(&["12", ""]));
        assert!((0..200).all(|i| uid(&[&i.to_string()]).len() <= 64));
    }
}
