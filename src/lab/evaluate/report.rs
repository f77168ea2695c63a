//! The rows of an evaluation: every set and all of them pooled, by every rule, over key images, all images and volumes, by box and by lesion, of every
//! type and size.

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::Sample;
use super::froc::{AT, AT_VOLUME, Matched, Rule, match_image, read_off};
use super::measured::Measured;
use super::tables::{Counts, Slice, Study};
use super::tally::{Found, Scope, Size, Tally, Unit, tallies};

/// Name of the row of all sets together.
pub const POOLED: &str = "pooled";
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
    /// Long axes and calibration, where results of `lesionwatch scan --json` were given.
    pub measured: Option<Measured>,
}

/// Matches of every slice by one rule.
fn matched(study: &Study, rule: Rule) -> Vec<Matched> {
    study.slices.par_iter().map(|s| match_image(&s.boxes, rule)).collect()
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
