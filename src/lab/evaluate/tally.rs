//! What matching leaves of each patient: the scores at which lesions are found, the scores of false positives, and what they are counted over. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::froc::Matched;
use super::tables::Slice;

/// Which images count, and what false positives are counted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Images with a truth box, false positives an image: DeepLesion's protocol.
    Key,
    /// Every image, false positives an image.
    All,
    /// Every image, false positives a volume. A false positive is still a box on one slice: one object on nine slices counts nine times.
    Volume,
}

/// What is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Every truth box.
    Boxes,
    /// Every lesion, once, by any of its boxes.
    Lesions,
}

/// RECIST long axis of the lesion, in the classes that DeepLesion is reported by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// Below 10 mm.
    Small,
    /// 10 to 30 mm.
    Medium,
    /// Above 30 mm.
    Large,
}

impl Size {
    /// In the order of reports.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// Of a long axis.
    #[must_use]
    pub fn of(long_axis_mm: f64) -> Self {
        match long_axis_mm {
            mm if mm < 10.0 => Self::Small,
            mm if mm <= 30.0 => Self::Medium,
            _ => Self::Large,
        }
    }

    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "<10 mm",
            Self::Medium => "10-30 mm",
            Self::Large => ">30 mm",
        }
    }
}

/// A truth box or a lesion.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Best score, `None` where never found.
    pub score: Option<f64>,
    /// Type.
    pub kind: String,
    /// Size class, where known.
    pub size: Option<Size>,
}

/// One patient.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// What was to be found.
    pub truths: Vec<Found>,
    /// Scores of false positives.
    pub false_positives: Vec<f64>,
    /// Images.
    pub images: usize,
    /// Volumes.
    pub volumes: usize,
}

/// Tallies of the patients of `slices`. The same patient id in two sets is two patients. Where the boxes of a lesion disagree, the last one's type and
/// the largest size hold.
#[must_use]
pub fn tallies(slices: &[(&Slice, &Matched)], scope: Scope, unit: Unit) -> Vec<Tally> {
    let mut patients: BTreeMap<(&str, &str), (Tally, BTreeSet<&str>, HashMap<(&str, &str), usize>)> = BTreeMap::new();
    for (slice, matched) in slices {
        if scope == Scope::Key && slice.marks.is_empty() {
            continue;
        }
        let (tally, cases, lesions) = patients.entry((&slice.set, &slice.patient)).or_default();
        let score = |i: usize| slice.boxes.predictions[i].1;
        tally.images += 1;
        cases.insert(&slice.case);
        tally.volumes = cases.len();
        tally.false_positives.extend(matched.false_positives.iter().map(|i| score(*i)));
        for (mark, hit) in slice.marks.iter().zip(&matched.hits) {
            let found = Found { score: hit.map(score), kind: mark.kind.clone(), size: mark.long_axis_mm.map(Size::of) };
            let place = match unit {
                Unit::Boxes => tally.truths.len(),
                Unit::Lesions => *lesions.entry((&slice.case, &mark.lesion)).or_insert(tally.truths.len()),
            };
            match tally.truths.get_mut(place) {
                None => tally.truths.push(found),
                Some(lesion) => {
                    // `None` is below every score.
                    lesion.score = if found.score > lesion.score { found.score } else { lesion.score };
                    lesion.kind = found.kind;
                    lesion.size = lesion.size.max(found.size);
                }
            }
        }
    }
    patients.into_values().map(|(tally, ..)| tally).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_meet_at_10_and_30_mm() {
        assert_eq!([9.99, 10.0, 30.0, 30.01].map(Size::of), [Size::Small, Size::Medium, Size::Medium, Size::Large]);
    }
}
