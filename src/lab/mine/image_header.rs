//! What the index keeps of one image's header: where it lies, what it belongs to, and what stands against it. Reads up to the pixel data.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attribute::{int, text, vector};
use super::mark::{Reason, Refusal};
use crate::series::eligibility::LEAST_AXIAL;
use crate::series::{part10, stack};

/// Direction cosines of one stack agree to this.
const DIRECTION_STEP: f64 = 1e-3;

/// Images of one stack have all of this in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackKey {
    /// (0020,000E)
    pub series_instance_uid: Box<str>,
    /// Rows and columns.
    pub size: [u16; 2],
    /// Pixel Spacing, µm.
    spacing_um: [i64; 2],
    /// Direction cosines in steps of [`DIRECTION_STEP`].
    direction: [i32; 6],
    /// What stands against its images.
    against: Option<Reason>,
}

/// What a stack says of its study and patient. The identity is never written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// (0020,000D)
    pub study_instance_uid: String,
    /// (0008,0020)
    pub study_date: String,
    /// (0020,0011)
    pub series_number: i64,
    /// (0010,0020)
    pub patient: Option<String>,
    /// M, F or "".
    pub sex: &'static str,
    /// Whole years.
    pub age_years: Option<u32>,
    /// Lower and upper end of the first window, HU.
    pub window_hu: Option<[f64; 2]>,
    /// (0018,0050), mm.
    pub thickness_mm: Option<f64>,
}

/// In-plane geometry of a stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Direction of a row (x), then of a column (y).
    pub orientation: [f64; 6],
    /// Unit normal, pointing to the head.
    pub normal: [f64; 3],
    /// Row spacing (y), column spacing (x), mm.
    pub spacing_mm: [f64; 2],
}

/// One image's header.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageHeader {
    /// (0008,0018)
    pub sop_instance_uid: Box<str>,
    /// (0020,0052), "" where absent. Not the stack's: there are collections whose anonymiser gave every slice its own.
    pub frame_of_reference_uid: Box<str>,
    /// (0020,0013)
    pub instance_number: i64,
    /// Centre of the first pixel, LPS mm.
    pub position_mm: [f64; 3],
    /// Its stack.
    pub key: StackKey,
    /// `None` where the header does not give it.
    pub geometry: Option<Geometry>,
    /// What stands against it as an image to mark lesions on.
    pub against: Option<Refusal>,
    /// Its study and patient.
    pub facts: Facts,
}

/// Reads the header of `path`.
///
/// # Errors
/// A sentence for a file that is no DICOM object with an instance and a series.
pub fn read(path: &Path) -> Result<ImageHeader, String> {
    // The parser is not ours: whatever it does on a damaged file is an error of that file.
    let object = catch_unwind(AssertUnwindSafe(|| part10::open(path, Some(tags::PIXEL_DATA))))
        .unwrap_or_else(|_| Err("the parser failed on it".into()))?;
    let need = |name: &str, tag| text(&object, tag).ok_or_else(|| format!("{name} is missing or empty"));
    let sop_instance_uid = need("SOP Instance UID (0008,0018)", tags::SOP_INSTANCE_UID)?;
    let series_instance_uid = need("Series Instance UID (0020,000E)", tags::SERIES_INSTANCE_UID)?;
    let side = |tag| int(&object, tag).and_then(|v| u16::try_from(v).ok()).unwrap_or(0);
    let size = [side(tags::ROWS), side(tags::COLUMNS)];
    let geometry = geometry(&object);
    let position = vector::<3>(&object, tags::IMAGE_POSITION_PATIENT);
    let against = against(&object, size, geometry.filter(|_| position.is_some())).err();
    let key = StackKey {
        series_instance_uid: series_instance_uid.into(),
        size,
        spacing_um: geometry.map_or([0; 2], |g| g.spacing_mm.map(|s| (s * 1000.0).round() as i64)),
        direction: geometry.map_or([0; 6], |g| g.orientation.map(|c| (c / DIRECTION_STEP).round() as i32)),
        against: against.as_ref().map(|r| r.reason),
    };
    Ok(ImageHeader {
        sop_instance_uid: sop_instance_uid.into(),
        frame_of_reference_uid: text(&object, tags::FRAME_OF_REFERENCE_UID).unwrap_or_default().into(),
        instance_number: int(&object, tags::INSTANCE_NUMBER).unwrap_or(0),
        position_mm: position.unwrap_or_default(),
        key,
        geometry,
        against,
        facts: facts(&object),
    })
}

fn geometry(object: &InMemDicomObject) -> Option<Geometry> {
    let orientation = vector::<6>(object, tags::IMAGE_ORIENTATION_PATIENT)?;
    let spacing_mm = vector::<2>(object, tags::PIXEL_SPACING).filter(|v| v.iter().all(|s| (0.01..100.0).contains(s)))?;
    Some(Geometry { orientation, normal: stack::normal(orientation)?, spacing_mm })
}

/// What stands against marks on an image.
fn against(object: &InMemDicomObject, size: [u16; 2], geometry: Option<Geometry>) -> Result<(), Refusal> {
    let not_ct = |text: String| Err(Refusal::new(Reason::NotCt, text));
    let modality = text(object, tags::MODALITY).unwrap_or_default();
    if modality != "CT" {
        return not_ct(format!("the image is of modality '{modality}'"));
    }
    if text(object, tags::IMAGE_TYPE).is_some_and(|t| t.split('\\').any(|v| v.trim() == "LOCALIZER")) {
        return not_ct("the image is a localizer".into());
    }
    if int(object, tags::NUMBER_OF_FRAMES).unwrap_or(1) > 1 || int(object, tags::SAMPLES_PER_PIXEL).unwrap_or(1) != 1 {
        return not_ct("the image has several frames, or colour".into());
    }
    if vector::<1>(object, tags::RESCALE_SLOPE).is_none() || vector::<1>(object, tags::RESCALE_INTERCEPT).is_none() {
        return not_ct("the image has no rescale to HU".into());
    }
    let Some(geometry) = geometry.filter(|_| size.iter().all(|s| *s > 0)) else {
        return not_ct("the image has no size, position, orientation or pixel spacing".into());
    };
    if geometry.normal[2].abs() < LEAST_AXIAL {
        let angle = geometry.normal[2].abs().min(1.0).acos().to_degrees();
        return Err(Refusal::new(Reason::NotAxial, format!("the image is tilted by {angle:.0} degrees from axial")));
    }
    Ok(())
}

fn facts(object: &InMemDicomObject) -> Facts {
    let first = |tag| super::attribute::floats(object, tag).and_then(|v| v.first().copied());
    let window_hu = first(tags::WINDOW_CENTER)
        .zip(first(tags::WINDOW_WIDTH))
        .filter(|(_, width)| *width > 0.0)
        .map(|(centre, width)| [centre - width / 2.0, centre + width / 2.0]);
    Facts {
        study_instance_uid: text(object, tags::STUDY_INSTANCE_UID).unwrap_or_default(),
        study_date: text(object, tags::STUDY_DATE).unwrap_or_default(),
        series_number: int(object, tags::SERIES_NUMBER).unwrap_or(0),
        patient: text(object, tags::PATIENT_ID),
        sex: match text(object, tags::PATIENT_SEX).as_deref() {
            Some("M") => "M",
            Some("F") => "F",
            _ => "",
        },
        age_years: text(object, tags::PATIENT_AGE).and_then(|age| years(&age)),
        window_hu,
        thickness_mm: vector::<1>(object, tags::SLICE_THICKNESS).map(|v| v[0]).filter(|t| *t > 0.0),
    }
}

/// Whole years of an Age String (`061Y`, `007M`).
fn years(age: &str) -> Option<u32> {
    let (digits, unit) = age.trim().split_at_checked(3)?;
    let n: u32 = digits.parse().ok()?;
    match unit {
        "Y" => Some(n),
        "M" => Some(n / 12),
        "W" => Some(n / 52),
        "D" => Some(n / 365),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_slice_is_an_axial_one_with_a_patient() {
        let header = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314/0100.dcm"))).unwrap();
        assert_eq!((header.instance_number, header.against, header.key.size), (100, None, [512, 512]));
        assert_eq!(header.facts.patient.as_deref(), Some("LIDC-IDRI-0314"));
        assert!(header.geometry.unwrap().normal[2] > 0.99);
    }

    #[test]
    fn ages_come_in_four_units() {
        assert_eq!(["061Y", "030M", "104W", "006D", "61", "", "é"].map(years), [Some(61), Some(2), Some(2), Some(0), None, None, None]);
    }
}
