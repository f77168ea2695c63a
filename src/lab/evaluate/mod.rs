//! How good a detector is: candidates of `lesionwatch scan --candidates` against a truth table, set by set.

pub mod froc;
pub mod synthetic;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use self::froc::{AT, Image, Rule, matches};
use crate::error::{Class, Failure};

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Set name.
    pub set: String,
    /// `IoU>0.5` or `IoBB>=0.3`.
    pub rule: String,
    /// `key` (slices with a lesion, DeepLesion's protocol) or `all`.
    pub images: String,
    /// How many images.
    pub n_images: usize,
    /// How many boxes.
    pub n_boxes: usize,
    /// How many patients.
    pub n_patients: usize,
    /// Sensitivity, percent, at 0.5, 1, 2, 4, 5, 8 and 16 false positives an image.
    pub sensitivity: [f64; 7],
}

type Record = BTreeMap<String, String>;

fn table(path: &Path) -> Result<Vec<Record>, Failure> {
    let bad = |e: csv::Error| Failure::new(Class::Data, format!("{}: {e}", path.display()));
    csv::Reader::from_path(path).map_err(bad)?.deserialize::<Record>().collect::<Result<_, _>>().map_err(bad)
}

fn number(path: &Path, row: &Record, key: &str) -> Result<f64, Failure> {
    let value = row.get(key).and_then(|v| v.parse::<f64>().ok()).filter(|v| v.is_finite());
    value.ok_or_else(|| Failure::new(Class::Data, format!("{}: column {key} of {row:?} is no number", path.display())))
}

fn a_box(path: &Path, row: &Record, grow: f64) -> Result<[f64; 4], Failure> {
    let n = |key| number(path, row, key);
    Ok([n("x1")? - grow, n("y1")? - grow, n("x2")? + grow, n("y2")? + grow])
}

/// Reads candidates (`sop_uid,x1,y1,x2,y2,score`), truth (`set,sop_uid,x1,y1,x2,y2,box_kind,…`) and images (`set,sop_uid,patient,…`); truth boxes of
/// kind `mask` are grown by `pad` pixels on each side. Rows by set, and `all` pooled.
///
/// # Errors
/// A table that cannot be read, with the row.
pub fn run(candidates: &Path, truth: &Path, images: &Path, pad: f64) -> Result<Vec<Row>, Failure> {
    let mut by_image: BTreeMap<String, (String, String, Image)> = BTreeMap::new();
    for row in table(images)? {
        let get = |key: &str| row.get(key).cloned().unwrap_or_default();
        by_image.insert(get("sop_uid"), (get("set"), get("patient"), Image::default()));
    }
    for row in table(truth)? {
        let grow = if row.get("box_kind").is_some_and(|k| k == "mask") { pad } else { 0.0 };
        if let Some((_, _, image)) = row.get("sop_uid").and_then(|uid| by_image.get_mut(uid)) {
            image.truths.push(a_box(truth, &row, grow)?);
        }
    }
    let mut strangers = 0;
    for row in table(candidates)? {
        match row.get("sop_uid").and_then(|uid| by_image.get_mut(uid)) {
            Some((_, _, image)) => image.predictions.push((a_box(candidates, &row, 0.0)?, number(candidates, &row, "score")?)),
            None => strangers += 1,
        }
    }
    if strangers > 0 {
        eprintln!("{strangers} candidates are of images that are not listed; left out");
    }
    let mut sets: Vec<String> = by_image.values().map(|(set, ..)| set.clone()).collect();
    sets.sort();
    sets.dedup();
    let mut rows = Vec::new();
    for set in sets.iter().map(String::as_str).chain(["all"]) {
        let of_set: Vec<_> = by_image.values().filter(|(s, ..)| set == "all" || s == set).collect();
        for (rule, name) in [(Rule::Iou, "IoU>0.5"), (Rule::Iobb, "IoBB>=0.3")] {
            for (kind, key_only) in [("key", true), ("all", false)] {
                let chosen: Vec<_> = of_set.iter().filter(|(_, _, i)| !key_only || !i.truths.is_empty()).collect();
                let mut patients: Vec<&str> = chosen.iter().map(|(_, p, _)| p.as_str()).collect();
                patients.sort_unstable();
                patients.dedup();
                let m = matches(chosen.iter().map(|(_, _, i)| i), rule);
                rows.push(Row {
                    set: set.to_owned(),
                    rule: name.to_owned(),
                    images: kind.to_owned(),
                    n_images: m.images,
                    n_boxes: m.hits.len(),
                    n_patients: patients.len(),
                    sensitivity: m.sensitivities().map(|s| s * 100.0),
                });
            }
        }
    }
    Ok(rows)
}

/// The table for a terminal.
pub fn print(rows: &[Row]) {
    let at = AT.map(|a| format!("@{a}"));
    println!(
        "{:<12} {:<10} {:<6} {:>6} {:>6} {:>8}  {}",
        "set",
        "overlap",
        "images",
        "n",
        "boxes",
        "patients",
        at.map(|a| format!("{a:>6}")).join(" ")
    );
    for r in rows {
        let values = r.sensitivity.map(|s| format!("{s:>6.1}")).join(" ");
        println!("{:<12} {:<10} {:<6} {:>6} {:>6} {:>8}  {values}", r.set, r.rule, r.images, r.n_images, r.n_boxes, r.n_patients);
    }
}
