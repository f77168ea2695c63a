//! AIM v4 XML (Annotation and Image Markup, as ePAD writes it): annotations with two lines → marks. Pure.

use std::path::Path;

use roxmltree::{Document as Xml, Node};

use super::line_pair::pairs;
use super::mark::{Axis, Document, Kind, LeftOut, Mark, Place, Reason, Refusal, axis, millimetres};
use super::rules::Points;

/// Reads one file.
#[must_use]
pub fn read(path: &Path, xml: &str) -> Document {
    // DTDs stay refused: no entity is expanded, so no file is larger than it is.
    let parsed = match Xml::parse(xml) {
        Ok(parsed) => parsed,
        Err(e) => return Document::refused(path.to_owned(), Reason::Unreadable, format!("not readable as XML: {e}")),
    };
    let root = parsed.root_element();
    let version = root.attribute("aimVersion").unwrap_or_default();
    if root.tag_name().name() != "ImageAnnotationCollection" || !version.starts_with("AIMv4") {
        let text = format!("XML of kind {} {version}, not an ImageAnnotationCollection of AIM v4", root.tag_name().name());
        return Document::refused(path.to_owned(), Reason::NotMeasurements, text);
    }
    let mut document = Document {
        path: path.to_owned(),
        kind: Kind::Aim,
        uid: identifier(root, "uniqueIdentifier").unwrap_or_default(),
        moment: moment(root),
        predecessors: Vec::new(),
        marks: Vec::new(),
        left_out: Vec::new(),
    };
    let patient = child(root, "person").and_then(|p| child(p, "id")).and_then(value).map(str::to_owned);
    for (n, annotation) in all(root, "ImageAnnotation").enumerate() {
        let item = format!("annotation {}", n + 1);
        match bidimensional(annotation) {
            Ok((place, stated_mm)) => document.marks.push(Mark {
                item,
                tracking_uid: identifier(annotation, "trackingUniqueIdentifier"),
                moment: Some(moment(annotation)).filter(|m| !m.is_empty()).unwrap_or_else(|| document.moment.clone()),
                place,
                stated_mm,
                lesion_type: -1,
                patient: patient.clone(),
            }),
            Err(refusal) => document.left_out.push(LeftOut { item, refusal }),
        }
    }
    document
}

fn all<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.descendants().filter(move |n| n.is_element() && n.tag_name().name() == name)
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.is_element() && n.tag_name().name() == name)
}

fn value<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    node.attribute("value").map(str::trim).filter(|v| !v.is_empty())
}

fn identifier(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name)?.attribute("root").map(str::to_owned)
}

/// Digits of the dateTime: ISO and HL7 forms sort alike without their separators.
fn moment(node: Node<'_, '_>) -> String {
    child(node, "dateTime").and_then(value).unwrap_or_default().chars().filter(char::is_ascii_digit).take(14).collect()
}

fn number(node: Node<'_, '_>, name: &str) -> Option<f64> {
    child(node, name).and_then(value)?.parse().ok().filter(|v: &f64| v.is_finite())
}

fn bidimensional(annotation: Node<'_, '_>) -> Result<(Place, Option<[f64; 2]>), Refusal> {
    let stated = stated_mm(annotation)?;
    let (mut lines, mut images): (Vec<Vec<[f64; 2]>>, Vec<String>) = Default::default();
    for markup in all(annotation, "MarkupEntity") {
        let kind = markup.attributes().find(|a| a.name() == "type").map_or("", |a| a.value());
        let kind = kind.rsplit(':').next().unwrap_or_default();
        // ePAD writes the axes of a perpendicular as multi-points, other tools as polylines.
        if matches!(kind, "TwoDimensionPolyline" | "TwoDimensionMultiPoint") {
            lines.push(points(markup)?);
            images.extend(identifier(markup, "imageReferenceUid"));
        }
    }
    let not = |text: String| Refusal::new(Reason::NotBidimensional, text);
    let points_px: Points = match &lines[..] {
        [both] if both.len() == 4 => [both[0], both[1], both[2], both[3]],
        [a, b] if a.len() == 2 && b.len() == 2 => {
            let crossing = !pairs(&[[a[0], a[1]], [b[0], b[1]]]).0.is_empty();
            if !crossing && stated.is_none() {
                return Err(not("two lines that do not cross at 74 degrees or more, with no long and short axis stated".into()));
            }
            [a[0], a[1], b[0], b[1]]
        }
        _ => {
            return Err(not(format!(
                "{} polylines of {:?} points, not two of two",
                lines.len(),
                lines.iter().map(Vec::len).collect::<Vec<_>>()
            )));
        }
    };
    images.dedup();
    let [image] = &images[..] else {
        return Err(match images.len() {
            0 => Refusal::new(Reason::NoImageReference, "no imageReferenceUid"),
            _ => not("the two axes are drawn on different images".into()),
        });
    };
    // AIM carries the coordinates of an SCOORD: 0 at the outer corner of the first pixel.
    let points_px = points_px.map(|[x, y]| [x - 0.5, y - 0.5]);
    Ok((Place::Image { sop_instance_uid: image.clone(), points_px }, stated))
}

fn points(markup: Node<'_, '_>) -> Result<Vec<[f64; 2]>, Refusal> {
    let mut found = Vec::new();
    for point in all(markup, "TwoDimensionSpatialCoordinate") {
        let (Some(index), Some(x), Some(y)) = (number(point, "coordinateIndex"), number(point, "x"), number(point, "y")) else {
            return Err(Refusal::new(Reason::Unreadable, "a coordinate without index, x or y"));
        };
        found.push((index, [x, y]));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(found.into_iter().map(|(_, p)| p).collect())
}

/// Long and short axis among the calculations, where both are there.
fn stated_mm(annotation: Node<'_, '_>) -> Result<Option<[f64; 2]>, Refusal> {
    let (mut long, mut short) = (None, None);
    for calculation in all(annotation, "CalculationEntity") {
        let Some(kind) = all(calculation, "typeCode").next() else { continue };
        let Some(axis) = axis(kind.attribute("code").unwrap_or_default(), kind.attribute("codeSystemName").unwrap_or_default()) else {
            continue;
        };
        let unit = all(calculation, "unitOfMeasure").next().and_then(value).unwrap_or_default();
        let Some(number) = all(calculation, "CalculationResult")
            .find_map(|r| number(r, "value").or_else(|| all(r, "CalculationData").find_map(|d| number(d, "value"))))
        else {
            continue;
        };
        match axis {
            Axis::Long => long = Some(millimetres(number, unit, "long axis")?),
            Axis::Short => short = Some(millimetres(number, unit, "short axis")?),
        }
    }
    Ok(long.zip(short).map(|(l, s)| [l, s]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(image: &str, a: [f64; 2], b: [f64; 2]) -> String {
        let point = |i: usize, p: [f64; 2]| {
            format!(
                "<TwoDimensionSpatialCoordinate><coordinateIndex value=\"{i}\"/><x value=\"{}\"/><y value=\"{}\"/></TwoDimensionSpatialCoordinate>",
                p[0], p[1]
            )
        };
        // The second end first: the index counts, not the order in the file.
        format!(
            "<MarkupEntity xsi:type=\"TwoDimensionPolyline\"><imageReferenceUid root=\"{image}\"/><twoDimensionSpatialCoordinateCollection>{}{}</twoDimensionSpatialCoordinateCollection></MarkupEntity>",
            point(1, b),
            point(0, a)
        )
    }

    fn calculation(code: &str, unit: &str, value: f64) -> String {
        format!(
            "<CalculationEntity><typeCode code=\"{code}\" codeSystemName=\"SRT\"/><calculationResultCollection><CalculationResult xsi:type=\"CompactCalculationResult\"><unitOfMeasure value=\"{unit}\"/><value value=\"{value}\"/></CalculationResult></calculationResultCollection></CalculationEntity>"
        )
    }

    fn document(body: &str) -> Document {
        let xml = format!(
            "<ImageAnnotationCollection xmlns=\"gme://caCORE.caCORE/4.4/edu.northwestern.radiology.AIM\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" aimVersion=\"AIMv4_0\"><uniqueIdentifier root=\"2.25.1\"/><dateTime value=\"2020-03-01T10:00:00\"/><person><id value=\"P7\"/></person><imageAnnotations><ImageAnnotation>{body}</ImageAnnotation></imageAnnotations></ImageAnnotationCollection>"
        );
        read(Path::new("a.xml"), &xml)
    }

    #[test]
    fn two_lines_with_their_lengths_are_a_mark() {
        let body = line("1.2.3", [10.5, 20.5], [30.5, 20.5])
            + &line("1.2.3", [20.5, 14.5], [20.5, 26.5])
            + &calculation("G-A185", "cm", 1.4)
            + &calculation("G-A186", "mm", 8.4);
        let read = document(&body);
        assert_eq!((read.uid.as_str(), read.moment.as_str(), read.left_out.len()), ("2.25.1", "20200301100000", 0));
        let mark = &read.marks[0];
        let points_px = [[10.0, 20.0], [30.0, 20.0], [20.0, 14.0], [20.0, 26.0]];
        assert_eq!(mark.place, Place::Image { sop_instance_uid: "1.2.3".into(), points_px });
        assert_eq!((mark.stated_mm, mark.patient.as_deref()), (Some([14.0, 8.4]), Some("P7")));
    }

    #[test]
    fn what_is_no_pair_says_why() {
        let reason = |body: &str| document(body).left_out[0].refusal.reason;
        assert_eq!(reason(&line("1.2", [0.0, 0.0], [9.0, 0.0])), Reason::NotBidimensional);
        let apart = line("1.2", [0.0, 0.0], [9.0, 0.0]) + &line("1.3", [4.0, -4.0], [4.0, 4.0]);
        assert_eq!(reason(&apart), Reason::NotBidimensional);
        let pixels = line("1.2", [0.0, 0.0], [9.0, 0.0]) + &line("1.2", [4.0, -4.0], [4.0, 4.0]) + &calculation("G-A185", "pixels", 9.0);
        assert_eq!(reason(&pixels), Reason::WrongUnit);
        assert_eq!(read(Path::new("a.xml"), "<html/>").left_out[0].refusal.reason, Reason::NotMeasurements);
        assert_eq!(read(Path::new("a.xml"), "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>").left_out[0].refusal.reason, Reason::Unreadable);
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "[<>/a-z =\"]{0,200}") {
            let _ = read(Path::new("a.xml"), &text);
        }
    }
}
