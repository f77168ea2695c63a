//! Marks of one image that are one lesion → lesions, in an order that depends on nothing but them. Pure.

use std::collections::BTreeMap;

use super::images::Index;
use super::mark::{Document, Mark};
use super::place::Placed;
use super::rules::{Points, average, bounding_box, patient_hash, same_lesions};

/// Where a mark came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// Index of the document.
    pub document: usize,
    /// The mark.
    pub mark: Mark,
}

/// One lesion on its key image.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesion {
    /// SHA-256 of what names the patient.
    pub patient: [u8; 32],
    /// Stack of the index.
    pub stack: usize,
    /// Rank among slices at the same place.
    pub layer: usize,
    /// Place in the stack, from the head.
    pub place: usize,
    /// Slice of the stack.
    pub slice: usize,
    /// End points, long axis first, to a thousandth of a pixel.
    pub points: Points,
    /// DeepLesion's coarse type, -1 where unknown.
    pub lesion_type: i8,
    /// Its marks, at least one.
    pub origins: Vec<Origin>,
}

/// What names the patient of a mark: the image, else the mark, else the study.
fn patient(placed: &Placed, index: &Index) -> [u8; 32] {
    let facts = &index.stacks[placed.stack].facts;
    let named = facts.patient.as_deref().or(placed.mark.patient.as_deref());
    named.map_or_else(|| patient_hash(&format!("study {}", facts.study_instance_uid)), patient_hash)
}

fn order(a: &Placed, b: &Placed, documents: &[Document]) -> std::cmp::Ordering {
    let points = |p: &Placed| p.points.as_flattened().iter().map(|v| (v * 1000.0).round() as i64).collect::<Vec<_>>();
    (points(a), &documents[a.document].uid, &a.mark.item).cmp(&(points(b), &documents[b.document].uid, &b.mark.item))
}

/// Merges what overlaps on one image.
#[must_use]
pub fn lesions(placed: Vec<Placed>, documents: &[Document], index: &Index) -> Vec<Lesion> {
    let mut images: BTreeMap<(usize, usize), Vec<Placed>> = BTreeMap::new();
    for p in placed {
        images.entry((p.stack, p.slice)).or_default().push(p);
    }
    let mut all = Vec::new();
    for ((stack, slice), mut marks) in images {
        marks.sort_by(|a, b| order(a, b, documents));
        let on = &index.stacks[stack];
        let spacing = on.geometry.map_or([1.0; 2], |g| g.spacing_mm);
        let (place, layer) = on.place_of(slice);
        let boxes: Vec<[f64; 4]> = marks.iter().map(|m| bounding_box(&m.points)).collect();
        for group in same_lesions(&boxes) {
            let points: Vec<Points> = group.iter().map(|i| marks[*i].points).collect();
            let Some(mean) = average(&points, spacing) else { continue };
            all.push(Lesion {
                patient: patient(&marks[group[0]], index),
                stack,
                layer,
                place,
                slice,
                points: mean.map(|p| p.map(|v| (v * 1000.0).round() / 1000.0)),
                lesion_type: group.iter().map(|i| marks[*i].mark.lesion_type).find(|t| *t > 0).unwrap_or(-1),
                origins: group.iter().map(|i| Origin { document: marks[*i].document, mark: marks[*i].mark.clone() }).collect(),
            });
        }
    }
    all
}
