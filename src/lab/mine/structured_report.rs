//! Structured reports (PS3.16 TID 1500): measurement groups with a long and a short axis → marks. Pure.
//!
//! End points hang on each length (`INFERRED FROM` a polyline of two points) or on the group (one polyline of four points, long axis first, or two of
//! two). Content items by reference are followed (PS3.3 C.17.3.2.5).

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::attribute::{Code, code, floats, items, referenced, text};
use super::mark::{Axis, LeftOut, Mark, Place, Reason, Refusal, axis, lesion_type, millimetres};

/// Containers in containers: deeper is no measurement report.
const MOST_DEPTH: usize = 16;
const MEASUREMENT_GROUP: (&str, &str) = ("125007", "DCM");
const FINDING_SITE: [&str; 2] = ["363698007", "G-C0E3"];
const TRACKING_UID: (&str, &str) = ("112040", "DCM");

/// Marks and what gave none, in the order of the report.
#[must_use]
pub fn read(report: &InMemDicomObject, moment: &str) -> (Vec<Mark>, Vec<LeftOut>) {
    let mut reader =
        Reader { root: report, moment, patient: text(report, tags::PATIENT_ID), groups: 0, marks: Vec::new(), left_out: Vec::new() };
    reader.walk(report, 0);
    (reader.marks, reader.left_out)
}

/// Drawn points with what they were drawn on.
#[derive(Debug, Clone, PartialEq)]
enum Drawn {
    /// Image-relative, as stored: 0 at the outer corner of the first pixel (PS3.3 C.18.6.1.1).
    Image { sop_instance_uid: Option<String>, points: Vec<[f64; 2]> },
    /// LPS mm.
    Patient { frame_of_reference_uid: String, points: Vec<[f64; 3]> },
}

struct Reader<'a> {
    root: &'a InMemDicomObject,
    moment: &'a str,
    patient: Option<String>,
    groups: usize,
    marks: Vec<Mark>,
    left_out: Vec<LeftOut>,
}

fn is(code: Option<&Code>, wanted: (&str, &str)) -> bool {
    code.is_some_and(|c| c.value == wanted.0 && c.scheme == wanted.1)
}

fn value_type(item: &InMemDicomObject) -> String {
    text(item, tags::VALUE_TYPE).unwrap_or_default()
}

fn named(item: &InMemDicomObject) -> Option<Code> {
    code(item, tags::CONCEPT_NAME_CODE_SEQUENCE)
}

impl<'a> Reader<'a> {
    /// Content of an item, references resolved.
    fn children(&self, item: &'a InMemDicomObject) -> Vec<&'a InMemDicomObject> {
        items(item, tags::CONTENT_SEQUENCE).iter().map(|child| self.resolve(child).unwrap_or(child)).collect()
    }

    /// The item that a by-reference relationship names: positions from the root, which is 1.
    fn resolve(&self, item: &InMemDicomObject) -> Option<&'a InMemDicomObject> {
        let way = item.get(tags::REFERENCED_CONTENT_ITEM_IDENTIFIER)?.to_multi_int::<u32>().ok()?;
        way.iter().skip(1).try_fold(self.root, |at, n| items(at, tags::CONTENT_SEQUENCE).get((*n as usize).checked_sub(1)?))
    }

    fn walk(&mut self, container: &'a InMemDicomObject, depth: usize) {
        let children = self.children(container);
        let has_axis = children.iter().any(|c| axis_of(c).is_some());
        if has_axis || is(named(container).as_ref(), MEASUREMENT_GROUP) {
            self.groups += 1;
            let tracking_uid = children.iter().find(|c| is(named(c).as_ref(), TRACKING_UID)).and_then(|c| text(c, tags::UID));
            let item = format!("group {}", self.groups);
            match self.group(&children) {
                Ok((place, stated_mm)) => self.marks.push(Mark {
                    item,
                    tracking_uid,
                    moment: self.moment.to_owned(),
                    place,
                    stated_mm: Some(stated_mm),
                    lesion_type: site(&children),
                    patient: self.patient.clone(),
                }),
                Err(refusal) => self.left_out.push(LeftOut { item, refusal }),
            }
        } else if depth < MOST_DEPTH {
            // As they stand, not by reference: a reference to a container above would never end.
            for child in items(container, tags::CONTENT_SEQUENCE).iter().filter(|c| value_type(c) == "CONTAINER") {
                self.walk(child, depth + 1);
            }
        }
    }

    fn group(&self, children: &[&'a InMemDicomObject]) -> Result<(Place, [f64; 2]), Refusal> {
        let of = |wanted| children.iter().copied().filter(|c| axis_of(c) == Some(wanted)).collect::<Vec<_>>();
        let (long, short) = (of(Axis::Long), of(Axis::Short));
        let ([long], [short]) = (&long[..], &short[..]) else {
            let others: Vec<String> =
                children.iter().filter(|c| value_type(c) == "NUM").filter_map(|c| named(c)).map(|c| c.meaning).collect();
            let holds = if others.is_empty() { "no lengths".to_owned() } else { others.join(", ") };
            let text = format!("{} long and {} short axes; the group holds {holds}", long.len(), short.len());
            return Err(Refusal::new(Reason::NotBidimensional, text));
        };
        let stated_mm = [length_mm(long, "long axis")?, length_mm(short, "short axis")?];
        let place = self.place(children, long, short)?;
        Ok((place, stated_mm))
    }

    fn place(&self, children: &[&'a InMemDicomObject], long: &'a InMemDicomObject, short: &'a InMemDicomObject) -> Result<Place, Refusal> {
        let on_long = self.drawn(&self.children(long))?;
        let on_short = self.drawn(&self.children(short))?;
        let on_group = self.drawn(children)?;
        let pair = match (&on_long[..], &on_short[..], &on_group[..]) {
            ([a], [b], _) if a.len() == 2 && b.len() == 2 => vec![a.clone(), b.clone()],
            ([both], _, _) | (_, [both], _) | (_, _, [both]) if both.len() == 4 => vec![both.clone()],
            (_, _, [a, b]) if a.len() == 2 && b.len() == 2 => vec![a.clone(), b.clone()],
            _ => {
                let text = "the axes are not drawn as polylines of two points each, nor as one of four";
                return Err(Refusal::new(Reason::NotBidimensional, text));
            }
        };
        let image = children.iter().chain(&self.children(long)).chain(&self.children(short)).find_map(|c| image_of(c));
        joined(&pair, image)
    }

    /// Polylines among content items; what has another form is no axis.
    fn drawn(&self, content: &[&'a InMemDicomObject]) -> Result<Vec<Drawn>, Refusal> {
        let mut found = Vec::new();
        for item in content {
            let kind = value_type(item);
            if !matches!(kind.as_str(), "SCOORD" | "SCOORD3D") || text(item, tags::GRAPHIC_TYPE).as_deref() != Some("POLYLINE") {
                continue;
            }
            let data = floats(item, tags::GRAPHIC_DATA)
                .ok_or_else(|| Refusal::new(Reason::Unreadable, format!("{kind} without usable Graphic Data")))?;
            found.push(if kind == "SCOORD" {
                let sop_instance_uid = self.children(item).into_iter().find_map(image_of);
                Drawn::Image { sop_instance_uid, points: data.chunks_exact(2).map(|p| [p[0], p[1]]).collect() }
            } else {
                let frame_of_reference_uid = text(item, tags::REFERENCED_FRAME_OF_REFERENCE_UID)
                    .ok_or_else(|| Refusal::new(Reason::NoImageReference, "SCOORD3D without Referenced Frame of Reference UID"))?;
                Drawn::Patient { frame_of_reference_uid, points: data.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect() }
            });
        }
        Ok(found)
    }
}

impl Drawn {
    fn len(&self) -> usize {
        match self {
            Self::Image { points, .. } => points.len(),
            Self::Patient { points, .. } => points.len(),
        }
    }
}

/// One or two drawings as four end points on one thing.
fn joined(pair: &[Drawn], image: Option<String>) -> Result<Place, Refusal> {
    let apart = || Refusal::new(Reason::NotBidimensional, "the two axes are drawn on different images");
    match pair.first() {
        Some(Drawn::Image { sop_instance_uid, .. }) => {
            let mut points = Vec::new();
            for drawn in pair {
                match drawn {
                    Drawn::Image { sop_instance_uid: uid, points: p } if uid == sop_instance_uid => points.extend_from_slice(p),
                    _ => return Err(apart()),
                }
            }
            let sop_instance_uid = sop_instance_uid
                .clone()
                .or(image)
                .ok_or_else(|| Refusal::new(Reason::NoImageReference, "the drawn axes name no image they were selected from"))?;
            let points: [[f64; 2]; 4] = points.try_into().map_err(|_| apart())?;
            Ok(Place::Image { sop_instance_uid, points_px: points.map(|[x, y]| [x - 0.5, y - 0.5]) })
        }
        Some(Drawn::Patient { frame_of_reference_uid, .. }) => {
            let mut points = Vec::new();
            for drawn in pair {
                match drawn {
                    Drawn::Patient { frame_of_reference_uid: uid, points: p } if uid == frame_of_reference_uid => {
                        points.extend_from_slice(p);
                    }
                    _ => return Err(apart()),
                }
            }
            let points_mm: [[f64; 3]; 4] = points.try_into().map_err(|_| apart())?;
            Ok(Place::Patient { frame_of_reference_uid: frame_of_reference_uid.clone(), sop_instance_uid: image, points_mm })
        }
        None => Err(apart()),
    }
}

fn axis_of(item: &InMemDicomObject) -> Option<Axis> {
    if value_type(item) != "NUM" {
        return None;
    }
    let name = named(item)?;
    axis(&name.value, &name.scheme)
}

fn image_of(item: &InMemDicomObject) -> Option<String> {
    if value_type(item) != "IMAGE" {
        return None;
    }
    referenced(item, tags::REFERENCED_SOP_SEQUENCE).into_iter().next()
}

fn length_mm(item: &InMemDicomObject, what: &str) -> Result<f64, Refusal> {
    let value = items(item, tags::MEASURED_VALUE_SEQUENCE).first();
    let number = value.and_then(|v| floats(v, tags::NUMERIC_VALUE)).and_then(|v| v.first().copied());
    let (Some(value), Some(number)) = (value, number) else {
        return Err(Refusal::new(Reason::NotBidimensional, format!("{what} has no value")));
    };
    let unit = code(value, tags::MEASUREMENT_UNITS_CODE_SEQUENCE);
    match unit {
        Some(unit) if unit.scheme == "UCUM" => millimetres(number, &unit.value, what),
        Some(unit) => Err(Refusal::new(Reason::WrongUnit, format!("{what} is in '{}' of {}, not of UCUM", unit.value, unit.scheme))),
        None => Err(Refusal::new(Reason::WrongUnit, format!("{what} has no unit"))),
    }
}

fn site(children: &[&InMemDicomObject]) -> i8 {
    children
        .iter()
        .filter(|c| named(c).is_some_and(|n| FINDING_SITE.contains(&n.value.as_str())))
        .filter_map(|c| code(c, tags::CONCEPT_CODE_SEQUENCE))
        .map(|c| lesion_type(&c.value))
        .find(|t| *t > 0)
        .unwrap_or(-1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use dicom_core::value::DataSetSequence;
    use dicom_core::{DataElement, PrimitiveValue, Tag, VR, dicom_value};
    use proptest::prelude::*;

    use super::*;

    fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> DataElement<InMemDicomObject> {
        DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
    }

    fn string(tag: Tag, vr: VR, text: &str) -> DataElement<InMemDicomObject> {
        DataElement::new(tag, vr, PrimitiveValue::from(text))
    }

    fn coded(tag: Tag, value: &str, scheme: &str) -> DataElement<InMemDicomObject> {
        let parts = [(tags::CODE_VALUE, value), (tags::CODING_SCHEME_DESIGNATOR, scheme), (tags::CODE_MEANING, value)];
        sequence(tag, vec![InMemDicomObject::from_element_iter(parts.map(|(t, v)| string(t, VR::SH, v)))])
    }

    fn item(kind: &str, name: (&str, &str), more: Vec<DataElement<InMemDicomObject>>) -> InMemDicomObject {
        let own = [string(tags::VALUE_TYPE, VR::CS, kind), coded(tags::CONCEPT_NAME_CODE_SEQUENCE, name.0, name.1)];
        InMemDicomObject::from_element_iter(own.into_iter().chain(more))
    }

    fn length(code: &str, mm: &str) -> InMemDicomObject {
        let value = [string(tags::NUMERIC_VALUE, VR::DS, mm), coded(tags::MEASUREMENT_UNITS_CODE_SEQUENCE, "mm", "UCUM")];
        item("NUM", (code, "SCT"), vec![sequence(tags::MEASURED_VALUE_SEQUENCE, vec![InMemDicomObject::from_element_iter(value)])])
    }

    /// A polyline that names its image by reference to the first item of the report.
    fn line(points: &[f32]) -> InMemDicomObject {
        let way = DataElement::new(tags::REFERENCED_CONTENT_ITEM_IDENTIFIER, VR::UL, dicom_value!(U32, [1, 1]));
        let reference = InMemDicomObject::from_element_iter([string(tags::RELATIONSHIP_TYPE, VR::CS, "SELECTED FROM"), way]);
        let data = DataElement::new(tags::GRAPHIC_DATA, VR::FL, PrimitiveValue::F32(points.into()));
        let more = vec![string(tags::GRAPHIC_TYPE, VR::CS, "POLYLINE"), data, sequence(tags::CONTENT_SEQUENCE, vec![reference])];
        item("SCOORD", ("111030", "DCM"), more)
    }

    fn report(group: Vec<InMemDicomObject>) -> InMemDicomObject {
        let image = InMemDicomObject::from_element_iter([string(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, "1.2.3")]);
        let image = item("IMAGE", ("121324", "DCM"), vec![sequence(tags::REFERENCED_SOP_SEQUENCE, vec![image])]);
        let group = item("CONTAINER", MEASUREMENT_GROUP, vec![sequence(tags::CONTENT_SEQUENCE, group)]);
        let inner = item("CONTAINER", ("126010", "DCM"), vec![sequence(tags::CONTENT_SEQUENCE, vec![group])]);
        item("CONTAINER", ("126000", "DCM"), vec![sequence(tags::CONTENT_SEQUENCE, vec![image, inner])])
    }

    #[test]
    fn an_image_by_reference_and_lines_on_the_group_are_found() {
        let lines = [line(&[10.5, 20.5, 30.5, 20.5]), line(&[20.5, 14.5, 20.5, 26.5])];
        let group = [length("103339001", "20"), length("103340004", "12")].into_iter().chain(lines).collect();
        let (marks, left_out) = read(&report(group), "20200101");
        assert_eq!(left_out, []);
        let points_px = [[10.0, 20.0], [30.0, 20.0], [20.0, 14.0], [20.0, 26.0]];
        assert_eq!(marks[0].place, Place::Image { sop_instance_uid: "1.2.3".into(), points_px });
        assert_eq!((marks[0].stated_mm, marks[0].item.as_str()), (Some([20.0, 12.0]), "group 1"));
    }

    #[test]
    fn axes_that_are_not_drawn_are_no_mark() {
        let (marks, left_out) = read(&report(vec![length("103339001", "20"), length("103340004", "12")]), "");
        assert_eq!((marks.len(), left_out[0].refusal.reason), (0, Reason::NotBidimensional));
    }

    proptest! {
        #[test]
        fn any_polylines_are_no_panic(a in prop::collection::vec(-1e6f32..1e6, 0..12), b in prop::collection::vec(-1e6f32..1e6, 0..12)) {
            let group = vec![length("103339001", "20"), length("103340004", "x"), line(&a), line(&b)];
            let _ = read(&report(group), "");
        }
    }
}
