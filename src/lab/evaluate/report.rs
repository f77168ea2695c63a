//! The rows of an evaluation: every set and all of them pooled, by every rule, over key images, all images and volumes, by box and by lesion, of every
//! type and size.

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::Sample;
use super::confusion::Confusion;
use super::froc::{AT, AT_VOLUME, Matched, Rule, match_image, read_off};
use super::measured::Measured;
use super::tables::{Counts, POOLED, Slice, Study};
use super::tally::{Found, Scope, Size, Tally, Unit, tallies};

/// Points of a drawn curve.
const CURVE_POINTS: usize = 57;
/// A drawn curve begins at this share of the first point that is reported.
const CURVE_FROM: f64 = 0.25;

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Set name, or [`POOLED`].
    pub set: String,
    /// Name of the [`Rule`].
    pub rule: String,
    /// `key` (images with a lesion, DeepLesion's protocol) or `all`.
    pub images: String,
    /// What false positives are counted over: `image` or `volume`.
    pub per: String,
    /// What is to be found: `boxes` or `lesions`.
    pub unit: String,
    /// Lesion type, or `all`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name of the [`Size`], or `all`.
    pub size: String,
    /// How many to be found.
    pub n: usize,
    /// How many images.
    pub n_images: usize,
    /// How many volumes (cases).
    pub n_volumes: usize,
    /// How many patients.
    pub n_patients: usize,
    /// False positives an image, or a volume.
    pub at: [f64; 7],
    /// Sensitivity there, percent.
    pub sensitivity: [f64; 7],
    /// 95 % interval of it, percent; `null` where too few patients hold a lesion.
    pub ci95: Option<[[f64; 2]; 7]>,
    /// False positives and sensitivity (percent), to be drawn; rows of all types and sizes only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<[f64; 2]>,
}

/// The evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Pixels by which truth boxes of kind `mask` were grown on each side.
    pub pad_px: f64,
    /// Draws of the bootstrap.
    pub bootstrap: usize,
    /// What took part, and what did not.
    pub counts: Counts,
    /// Sets that took part.
    pub sets: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Types of the truth boxes of key images that any candidate overlaps by IoU > 0.5, against the type of the best one.
    pub confusion: Confusion,
    /// Long axes and calibration, where results of `lesionwatch scan --json` were given.
    pub measured: Option<Measured>,
}

/// Matches of every slice by one rule.
fn matched(study: &Study, rule: Rule) -> Vec<Matched> {
    study.slices.par_iter().map(|s| match_image(&s.boxes, rule)).collect()
}

/// What type the found boxes of `study` are taken for.
#[must_use]
pub fn confusion(study: &Study) -> Confusion {
    let matched = matched(study, Rule::Iou);
    let pairs = study.slices.iter().zip(&matched).flat_map(|(slice, m)| {
        let of_mark = slice.marks.iter().zip(&m.hits);
        of_mark.filter_map(|(mark, hit)| Some((mark.kind.as_str(), slice.kinds[(*hit)?].as_str())))
    });
    pairs.collect()
}

/// All rows of `study`; those without anything to find are left out.
#[must_use]
pub fn rows(study: &Study, draws: usize) -> Vec<Row> {
    let sets = study.sets();
    let pooled = (sets.len() > 1).then(|| POOLED.to_owned());
    let views = [
        (Scope::Key, Unit::Boxes),
        (Scope::Key, Unit::Lesions),
        (Scope::All, Unit::Boxes),
        (Scope::All, Unit::Lesions),
        (Scope::Volume, Unit::Lesions),
    ];
    let mut rows = Vec::new();
    for rule in Rule::ALL {
        let matched = matched(study, rule);
        for set in sets.iter().chain(&pooled) {
            let of_set = |s: &Slice| Some(set) == pooled.as_ref() || &s.set == set;
            let slices: Vec<(&Slice, &Matched)> = study.slices.iter().zip(&matched).filter(|(s, _)| of_set(s)).collect();
            for (scope, unit) in views {
                let tallies = tallies(&slices, scope, unit);
                let group = Group { set, rule, scope, unit, tallies: &tallies };
                rows.par_extend(group.cuts().into_par_iter().filter_map(|(kind, size)| group.row(kind, size, draws)));
            }
        }
    }
    rows
}

struct Group<'a> {
    set: &'a str,
    rule: Rule,
    scope: Scope,
    unit: Unit,
    tallies: &'a [Tally],
}

impl<'a> Group<'a> {
    /// Everything; each type, where there is more than one; each size class.
    fn cuts(&self) -> Vec<(Option<&'a str>, Option<Size>)> {
        let kinds: BTreeSet<&str> = self.tallies.iter().flat_map(|t| &t.truths).map(|f| f.kind.as_str()).collect();
        let kinds = kinds.iter().filter(|_| kinds.len() > 1).map(|k| (Some(*k), None));
        let sizes = Size::ALL.into_iter().map(|s| (None, Some(s)));
        std::iter::once((None, None)).chain(kinds).chain(sizes).collect()
    }

    fn row(&self, kind: Option<&str>, size: Option<Size>, draws: usize) -> Option<Row> {
        let keep = |f: &Found| kind.is_none_or(|k| f.kind == k) && size.is_none_or(|s| f.size == Some(s));
        let sample = Sample::new(self.tallies, self.scope, keep);
        let n = sample.truths();
        if n == 0 {
            return None;
        }
        let at = if self.scope == Scope::Volume { AT_VOLUME } else { AT };
        let curve = sample.curve(at[6]);
        let percent = |x: f64| 100.0 * read_off(&curve, x);
        let drawn = kind.is_none() && size.is_none();
        Some(Row {
            set: self.set.to_owned(),
            rule: self.rule.name().to_owned(),
            images: if self.scope == Scope::Key { "key" } else { "all" }.to_owned(),
            per: if self.scope == Scope::Volume { "volume" } else { "image" }.to_owned(),
            unit: if self.unit == Unit::Boxes { "boxes" } else { "lesions" }.to_owned(),
            kind: kind.unwrap_or("all").to_owned(),
            size: size.map_or("all", Size::name).to_owned(),
            n,
            n_images: self.tallies.iter().map(|t| t.images).sum(),
            n_volumes: self.tallies.iter().map(|t| t.volumes).sum(),
            n_patients: self.tallies.len(),
            at,
            sensitivity: at.map(percent),
            ci95: sample.interval(draws, at).map(|ci| ci.map(|ends| ends.map(|s| s * 100.0))),
            curve: if drawn { grid(at).map(|x| [x, percent(x)]).collect() } else { Vec::new() },
        })
    }
}

/// Numbers of false positives at which a curve is drawn: even on a logarithmic axis.
fn grid(at: [f64; 7]) -> impl Iterator<Item = f64> {
    let (from, to) = (at[0] * CURVE_FROM, at[6]);
    (0..CURVE_POINTS).map(move |i| from * (to / from).powf(i as f64 / (CURVE_POINTS - 1) as f64))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tables::Mark;
    use super::*;

    fn slice(case: &str, uid: &str, truths: &[([f64; 4], &str, &str)], predictions: &[([f64; 4], f64)]) -> Slice {
        let mut slice = Slice { set: "vol".into(), case: case.into(), patient: case.into(), sop_uid: uid.into(), ..Slice::default() };
        slice.boxes.predictions = predictions.to_vec();
        slice.kinds = vec![String::new(); predictions.len()];
        for (truth, lesion, kind) in truths {
            slice.boxes.truths.push(*truth);
            slice.marks.push(Mark { lesion: (*lesion).into(), kind: (*kind).into(), long_axis_mm: None });
        }
        slice
    }

    const FIRST: [f64; 4] = [10.0, 10.0, 19.0, 19.0];
    const SECOND: [f64; 4] = [50.0, 50.0, 69.0, 69.0];
    const CORNER: [f64; 4] = [0.0, 0.0, 9.0, 9.0];

    /// Case A on three slices, the third without a lesion; case B on one. `predictions` of a1, a2, a3, b1.
    fn study(predictions: [&[([f64; 4], f64)]; 4]) -> Study {
        let [a1, a2, a3, b1] = predictions;
        let mut study = Study::default();
        study.slices = vec![
            slice("A", "a1", &[(FIRST, "1", "liver")], a1),
            slice("A", "a2", &[(FIRST, "1", "liver"), (SECOND, "2", "lung")], a2),
            slice("A", "a3", &[], a3),
            slice("B", "b1", &[(CORNER, "1", "lung")], b1),
        ];
        study
    }

    fn get<'a>(rows: &'a [Row], rule: Rule, images: &str, unit: &str, kind: &str) -> &'a Row {
        let fits = |r: &&Row| r.rule == rule.name() && r.images == images && r.per == "image" && r.unit == unit && r.kind == kind;
        rows.iter().find(fits).unwrap()
    }

    #[test]
    fn everything_found_is_100_and_nothing_is_0() {
        let perfect = study([&[(FIRST, 0.9)], &[(FIRST, 0.9), (SECOND, 0.9)], &[], &[(CORNER, 0.9)]]);
        assert!(rows(&perfect, 0).iter().all(|r| r.sensitivity == [100.0; 7]));
        assert!(rows(&study([&[]; 4]), 0).iter().all(|r| r.sensitivity == [0.0; 7]));
    }

    /// .9 finds a1; .8 false in a1; .7 finds lesion 2 in a2, .65 again; .6 false in a3, which only `all` counts; .5 false in b1; .4 finds b1.
    #[test]
    fn curves_worked_out_by_hand() {
        let rows = rows(
            &study([
                &[(FIRST, 0.9), ([100.0, 100.0, 109.0, 109.0], 0.8)],
                &[([51.0, 50.0, 69.0, 69.0], 0.7), ([50.0, 51.0, 69.0, 69.0], 0.65)],
                &[([0.0, 0.0, 5.0, 5.0], 0.6)],
                &[([100.0, 0.0, 109.0, 9.0], 0.5), ([1.0, 0.0, 9.0, 9.0], 0.4)],
            ]),
            0,
        );
        let near = |row: &Row, half: f64, one: f64| {
            assert!((row.sensitivity[0] - half).abs() < 1e-9 && (row.sensitivity[1] - one).abs() < 1e-9, "{row:?}");
        };
        // (0, 1/4) (1/3, 2/4) (2/3, 3/4)
        let key = get(&rows, Rule::Iou, "key", "boxes", "all");
        assert_eq!((key.n, key.n_images, key.n_patients), (4, 3, 2));
        near(key, 62.5, 75.0);
        // (0, 1/4) (1/4, 2/4) (2/4, 2/4) (3/4, 3/4)
        let all = get(&rows, Rule::Iou, "all", "boxes", "all");
        assert_eq!(all.n_images, 4);
        near(all, 50.0, 75.0);
        // Lesion 1 of A is found on a1.
        let lesions = get(&rows, Rule::Iou, "key", "lesions", "all");
        assert_eq!(lesions.n, 3);
        near(lesions, 250.0 / 3.0, 100.0);
        near(get(&rows, Rule::Iou, "key", "boxes", "lung"), 75.0, 100.0);
        // Strict: .65 is false too: (0, 1/4) (1/3, 2/4) (2/3, 2/4) (1, 3/4)
        near(get(&rows, Rule::Strict, "key", "boxes", "all"), 50.0, 75.0);
    }

    #[test]
    fn a_small_box_inside_is_found_by_iobb_only() {
        let rows = rows(&study([&[], &[], &[], &[([2.0, 2.0, 4.0, 4.0], 0.9)]]), 0);
        assert_eq!(get(&rows, Rule::Iobb, "key", "boxes", "all").sensitivity[1], 25.0);
        assert_eq!(get(&rows, Rule::Iou, "key", "boxes", "all").sensitivity[1], 0.0);
    }
}
