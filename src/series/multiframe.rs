//! Enhanced CT and Legacy Converted Enhanced CT (PS3.3 A.38, A.70): the functional groups of each frame → one slice a frame, as if it had been sent alone.
//! Pure.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};

use super::values::{HeaderError, MOST_IMAGE_TYPES, code_string, floats, text};
use super::{FrameOf, SliceHeader};

/// Classes whose frames are slices.
pub const CLASSES: [&str; 2] = ["1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"];
/// Frames of one object: four metres of body at 1 mm; more is a damaged or hostile header.
pub const MOST_FRAMES: u32 = 4096;

/// One item's worth of attributes for a frame: its own groups, then those that all frames share.
struct Groups<'a> {
    own: &'a InMemDicomObject,
    shared: Option<&'a InMemDicomObject>,
}

fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    object.get(tag).and_then(|e| e.items()).unwrap_or_default()
}

impl Groups<'_> {
    /// The macro's item (PS3.3 C.7.6.16): what a frame says for itself goes before what is said for all.
    fn item(&self, group: Tag) -> Option<&InMemDicomObject> {
        let first = |object| items(object, group).first();
        first(self.own).or_else(|| self.shared.and_then(first))
    }

    fn floats<const N: usize>(&self, group: Tag, tag: Tag) -> Option<[f64; N]> {
        floats(self.item(group)?, tag)
    }

    fn number(&self, group: Tag, tag: Tag) -> Option<f64> {
        self.floats::<1>(group, tag).map(|v| v[0])
    }
}

/// The slices of `object`, in the order of its frames; `whole` is its header as one object.
///
/// # Errors
/// [`HeaderError::Frames`] where the functional groups are not those of as many frames as it says.
pub fn slices(object: &DefaultDicomObject, whole: &SliceHeader) -> Result<Vec<SliceHeader>, HeaderError> {
    let frames = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    if frames.len() != whole.frames as usize {
        return Err(HeaderError::Frames { said: whole.frames, found: frames.len() });
    }
    let shared = items(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).first();
    Ok((1..).zip(frames).map(|(number, own)| slice(number, &Groups { own, shared }, whole)).collect())
}

fn slice(number: u32, groups: &Groups<'_>, whole: &SliceHeader) -> SliceHeader {
    let value = |tag| groups.number(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, tag);
    let rescale = value(tags::RESCALE_SLOPE).zip(value(tags::RESCALE_INTERCEPT));
    // Maps of effective atomic number or electron density have the same class, and are no HU.
    let unit = groups.item(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE).and_then(|item| text(item, tags::RESCALE_TYPE));
    let is_hu = unit.is_none_or(|unit| unit == "HU" || unit == "US");
    let frame_type = groups.item(tags::CT_IMAGE_FRAME_TYPE_SEQUENCE).and_then(|item| text(item, tags::FRAME_TYPE));
    let tilt = groups.number(tags::CT_ACQUISITION_DETAILS_SEQUENCE, tags::GANTRY_DETECTOR_TILT);
    let converted = groups.number(tags::UNASSIGNED_SHARED_CONVERTED_ATTRIBUTES_SEQUENCE, tags::GANTRY_DETECTOR_TILT);
    SliceHeader {
        frames: 1,
        frame: Some(FrameOf { number, slope: rescale.map_or(1.0, |r| r.0), intercept: rescale.map_or(0.0, |r| r.1) }),
        image_type: frame_type
            .map_or_else(|| whole.image_type.clone(), |t| t.split('\\').take(MOST_IMAGE_TYPES).map(code_string).collect()),
        pixel_spacing_mm: groups
            .floats(tags::PIXEL_MEASURES_SEQUENCE, tags::PIXEL_SPACING)
            .filter(|v: &[f64; 2]| v.iter().all(|s| (0.01..100.0).contains(s))),
        position_mm: groups.floats(tags::PLANE_POSITION_SEQUENCE, tags::IMAGE_POSITION_PATIENT),
        orientation: groups.floats(tags::PLANE_ORIENTATION_SEQUENCE, tags::IMAGE_ORIENTATION_PATIENT),
        thickness_mm: groups.number(tags::PIXEL_MEASURES_SEQUENCE, tags::SLICE_THICKNESS).filter(|t| *t > 0.0),
        gantry_tilt_deg: tilt.or(converted).or(whole.gantry_tilt_deg),
        has_rescale: rescale.is_some() && is_hu,
        ..whole.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::header;
    use super::*;
    use dicom_core::value::DataSetSequence;
    use dicom_core::{DataElement, PrimitiveValue, VR};
    use dicom_object::FileMetaTableBuilder;

    type Item = InMemDicomObject;

    fn put(object: &mut Item, tag: Tag, vr: VR, value: &str) {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }

    fn sequence(object: &mut Item, tag: Tag, items: Vec<Item>) {
        object.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
    }

    fn group(tag: Tag, attributes: &[(Tag, &str)]) -> Item {
        let (mut item, mut outer) = (Item::new_empty(), Item::new_empty());
        attributes.iter().for_each(|(tag, value)| put(&mut item, *tag, VR::DS, value));
        sequence(&mut outer, tag, vec![item]);
        outer
    }

    fn join(parts: Vec<Item>) -> Item {
        parts.into_iter().flatten().fold(Item::new_empty(), |mut all, element| {
            all.put(element);
            all
        })
    }

    /// `frames` slices 2 mm apart; the third has a rescale of its own.
    fn enhanced(frames: usize, said: &str) -> tempfile::NamedTempFile {
        let mut object = Item::new_empty();
        put(&mut object, tags::SOP_CLASS_UID, VR::UI, CLASSES[0]);
        put(&mut object, tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4");
        put(&mut object, tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3");
        put(&mut object, tags::MODALITY, VR::CS, "CT");
        put(&mut object, tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\VOLUME\\NONE");
        put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, said);
        let rescale =
            |slope| group(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, &[(tags::RESCALE_SLOPE, slope), (tags::RESCALE_INTERCEPT, "-1024")]);
        let shared = join(vec![
            group(tags::PIXEL_MEASURES_SEQUENCE, &[(tags::PIXEL_SPACING, "0.7\\0.8"), (tags::SLICE_THICKNESS, "2")]),
            group(tags::PLANE_ORIENTATION_SEQUENCE, &[(tags::IMAGE_ORIENTATION_PATIENT, "1\\0\\0\\0\\1\\0")]),
            rescale("1"),
        ]);
        let own = (0..frames).map(|i| {
            let place = group(tags::PLANE_POSITION_SEQUENCE, &[(tags::IMAGE_POSITION_PATIENT, &format!("-100\\-100\\{}", 2 * i))]);
            join(if i == 2 { vec![place, rescale("2")] } else { vec![place] })
        });
        let own = own.collect();
        sequence(&mut object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![shared]);
        sequence(&mut object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, own);
        let meta = FileMetaTableBuilder::new().transfer_syntax("1.2.840.10008.1.2.1");
        let file = tempfile::NamedTempFile::new().unwrap();
        object.with_meta(meta).unwrap().write_to_file(file.path()).unwrap();
        file
    }

    #[test]
    fn frames_are_slices_and_what_one_says_for_itself_goes_first() {
        let file = enhanced(4, "4");
        let slices = header::slices(file.path()).unwrap();
        assert_eq!(slices.len(), 4);
        let third = &slices[2];
        assert_eq!((third.pixel_spacing_mm, third.position_mm), (Some([0.7, 0.8]), Some([-100.0, -100.0, 4.0])));
        assert_eq!((third.thickness_mm, third.frames, third.has_rescale), (Some(2.0), 1, true));
        assert_eq!(third.frame, Some(FrameOf { number: 3, slope: 2.0, intercept: -1024.0 }));
        assert_eq!(slices[3].frame, Some(FrameOf { number: 4, slope: 1.0, intercept: -1024.0 }));
        assert_eq!((third.key().as_str(), third.label().as_str()), ("1.2.3.4/3", "frame 3"));
    }

    #[test]
    fn a_count_that_the_groups_do_not_bear_out_is_an_error_and_an_absurd_one_is_not_followed() {
        for said in ["3", "5"] {
            let error = header::slices(enhanced(4, said).path()).unwrap_err();
            assert!(error.to_string().contains(&format!("says {said}")) && error.to_string().contains("of 4"), "{error}");
        }
        for said in ["4097", "2000000000"] {
            let slices = header::slices(enhanced(4, said).path()).unwrap();
            assert_eq!((slices.len(), slices[0].frames.to_string().as_str()), (1, said));
        }
    }
}
