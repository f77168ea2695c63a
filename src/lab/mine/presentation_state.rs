//! Softcopy presentation states (PS3.3 C.10.5): lines drawn on an image, paired where they cross like axes → marks. Pure.

use std::collections::BTreeMap;

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attribute::{floats, items, referenced, text};
use super::line_pair::pairs;
use super::mark::{LeftOut, Mark, Place, Reason, Refusal};

/// A two-point polyline with where it stands in the object.
struct Line {
    item: String,
    tracking_uid: Option<String>,
    ends: [[f64; 2]; 2],
}

/// Marks and what gave none.
#[must_use]
pub fn read(state: &InMemDicomObject, moment: &str) -> (Vec<Mark>, Vec<LeftOut>) {
    let (mut lines, mut left_out): (BTreeMap<String, Vec<Line>>, Vec<LeftOut>) = Default::default();
    let shown: Vec<String> = items(state, tags::REFERENCED_SERIES_SEQUENCE)
        .iter()
        .flat_map(|series| referenced(series, tags::REFERENCED_IMAGE_SEQUENCE))
        .collect();
    for (a, annotation) in items(state, tags::GRAPHIC_ANNOTATION_SEQUENCE).iter().enumerate() {
        let mut images = referenced(annotation, tags::REFERENCED_IMAGE_SEQUENCE);
        if images.is_empty() {
            // Without a list of its own an annotation lies on every image of the state (C.10.5): of one alone the place is known.
            images.clone_from(&shown);
        }
        for (g, graphic) in items(annotation, tags::GRAPHIC_OBJECT_SEQUENCE).iter().enumerate() {
            let item = format!("annotation {} graphic {}", a + 1, g + 1);
            match line(graphic, &images) {
                Ok((image, ends)) => {
                    lines.entry(image).or_default().push(Line { item, tracking_uid: text(graphic, tags::TRACKING_UID), ends })
                }
                Err(refusal) => left_out.push(LeftOut { item, refusal }),
            }
        }
    }
    let mut marks = Vec::new();
    for (image, lines) in lines {
        let ends: Vec<[[f64; 2]; 2]> = lines.iter().map(|l| l.ends).collect();
        let (found, alone) = pairs(&ends);
        for (points_px, [i, j]) in found {
            marks.push(Mark {
                item: format!("{} and {}", lines[i].item, lines[j].item),
                tracking_uid: lines[i].tracking_uid.clone().filter(|uid| lines[j].tracking_uid.as_ref() == Some(uid)),
                moment: moment.to_owned(),
                place: Place::Image { sop_instance_uid: image.clone(), points_px },
                stated_mm: None,
                lesion_type: -1,
                patient: text(state, tags::PATIENT_ID),
            });
        }
        for i in alone {
            let refusal = Refusal::new(Reason::NotBidimensional, "a line that no other line of its image crosses at 74 degrees or more");
            left_out.push(LeftOut { item: lines[i].item.clone(), refusal });
        }
    }
    (marks, left_out)
}

/// One graphic object as a line on one image, pixels from the first pixel's centre.
fn line(graphic: &InMemDicomObject, images: &[String]) -> Result<(String, [[f64; 2]; 2]), Refusal> {
    let kind = text(graphic, tags::GRAPHIC_TYPE).unwrap_or_default();
    let data = floats(graphic, tags::GRAPHIC_DATA).unwrap_or_default();
    let (true, &[x1, y1, x2, y2]) = (matches!(kind.as_str(), "POLYLINE" | "INTERPOLATED"), &data[..]) else {
        let text = format!("a {kind} of {} points, not a line of two", data.len() / 2);
        return Err(Refusal::new(Reason::NotBidimensional, text));
    };
    let units = text(graphic, tags::GRAPHIC_ANNOTATION_UNITS).unwrap_or_default();
    if units != "PIXEL" {
        let text = format!("Graphic Annotation Units are '{units}'; only PIXEL says where on the image it lies");
        return Err(Refusal::new(Reason::WrongUnit, text));
    }
    let [image] = images else {
        let text = format!("the annotation names {} images; a mark lies on one", images.len());
        return Err(Refusal::new(Reason::NoImageReference, text));
    };
    // 0 at the outer corner of the first pixel (C.10.5.1.2).
    Ok((image.clone(), [[x1 - 0.5, y1 - 0.5], [x2 - 0.5, y2 - 0.5]]))
}
