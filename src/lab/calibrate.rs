//! Lesion by lesion: how often a reported lesion of some score is a true one, measured on whole synthesized patients of the series kept for validation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::dataset::Scan;
use super::synthesize::studies;
use crate::analysis::{Analyst, Cache};
use crate::detect::nms::iou;
use crate::error::{Class, Failure};
use crate::lesion::score::calibrate;
use crate::series::{eligibility, header};

/// Synthesized patients, and the lesions of each.
pub const PATIENTS: usize = 24;
const LESIONS: [usize; 2] = [2, 5];
/// Seed of the patients: none that training uses.
const SEED: u64 = 7_000_003;
/// A reported lesion is the painted one where their boxes overlap by more than this and it was seen on the painted one's key slice.
const LEAST_OVERLAP: f32 = 0.5;
/// Reported lesions a knot of the calibration stands for, at least.
const LEAST_IN_KNOT: usize = 8;
/// No score says that it is certain.
const MOST_SURE: f32 = 0.98;

/// What was reported of the patients.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judged {
    /// Raw score of every reported lesion, and whether it is a true one.
    pub reported: Vec<(f32, bool)>,
    /// Best raw score of every painted lesion, `None` where it was not reported.
    pub found: Vec<Option<f32>>,
    /// Images of all series.
    pub images: usize,
    /// Series.
    pub series: usize,
}

/// A row of `truth.csv`, as `studies` writes it.
#[derive(Debug, Deserialize)]
struct Truth {
    case: String,
    sop_uid: String,
    x1: f32,
    y1: f32,
    x2: f32,
    y2: f32,
}

/// Synthesizes patients out of `scans` and analyses them. `analyst` reports every lesion with its raw score. `beside` names a folder that does not
/// exist yet; it is removed again.
///
/// # Errors
/// No room for lesions in the series, I/O, the engine's.
pub fn run(analyst: &Analyst, scans: &[Scan], beside: &Path) -> Result<Judged, Failure> {
    let folder = Scratch(beside.to_owned());
    let request = studies::Request { out: folder.0.clone(), patients: PATIENTS, first: 1, seed: SEED, lesions: LESIONS, kinds: Vec::new() };
    studies::run(scans, &request)?;
    let bad = |e: csv::Error| Failure::new(Class::Internal, format!("{}: {e}", folder.0.display()));
    let mut truths: HashMap<String, Vec<Truth>> = HashMap::new();
    for row in csv::Reader::from_path(folder.0.join("truth.csv")).map_err(bad)?.deserialize::<Truth>() {
        let row = row.map_err(bad)?;
        truths.entry(row.case.clone()).or_default().push(row);
    }
    let mut cases: Vec<(String, Vec<Truth>)> = truths.into_iter().collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    let mut judged = Judged::default();
    for (case, truths) in &cases {
        judged.add(analyst, &folder.0.join("CT").join(case), truths)?;
    }
    Ok(judged)
}

/// A folder that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{}: {e}; remove it by hand", self.0.display());
        }
    }
}

impl Judged {
    fn add(&mut self, analyst: &Analyst, folder: &Path, truths: &[Truth]) -> Result<(), Failure> {
        let entries = std::fs::read_dir(folder).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", folder.display())))?;
        let paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        let headers: Vec<_> = paths.par_iter().filter_map(|path| header::read(path).ok()).collect();
        let plan = eligibility::plan(&headers).map_err(|r| Failure::new(Class::Data, format!("{}: {}", folder.display(), r.text)))?;
        let analysis = analyst.finish(&plan, &mut Cache::default(), |_, _| ()).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
        let key_of = |t: &Truth| plan.stack.slices.iter().position(|s| s.sop_instance_uid == t.sop_uid);
        let keys: Vec<Option<usize>> = truths.iter().map(key_of).collect();
        let mut found = vec![None; truths.len()];
        for lesion in &analysis.lesions {
            let is = |n: &usize| {
                let t = &truths[*n];
                let seen = keys[*n].is_some_and(|k| (lesion.slices[0]..=lesion.slices[1]).contains(&k));
                seen && iou(lesion.box_px, [t.x1, t.y1, t.x2, t.y2]) > LEAST_OVERLAP
            };
            let hit = (0..truths.len()).find(is);
            if let Some(n) = hit {
                let best: &mut Option<f32> = &mut found[n];
                // A second report of a lesion counts neither way, as in the protocol.
                if best.is_none() {
                    *best = Some(lesion.score);
                    self.reported.push((lesion.score, true));
                }
            } else {
                self.reported.push((lesion.score, false));
            }
        }
        self.found.extend(found);
        self.images += plan.stack.slices.len();
        self.series += 1;
        Ok(())
    }

    /// Knots raw → share of true lesions: pooled until they rise (isotonic regression, Ayer et al. 1955) and stand for enough lesions.
    #[must_use]
    pub fn calibration(&self) -> Vec<[f32; 2]> {
        let mut sorted = self.reported.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Sum of scores, true ones, number.
        let mut blocks: Vec<[f32; 3]> = Vec::new();
        let share = |b: &[f32; 3]| (b[1] + 0.5) / (b[2] + 1.0);
        for chunk in sorted.chunks(LEAST_IN_KNOT) {
            let mut block = [0.0; 3];
            for (score, hit) in chunk {
                block = [block[0] + score, block[1] + f32::from(u8::from(*hit)), block[2] + 1.0];
            }
            while let Some(last) = blocks.last().filter(|last| share(last) >= share(&block)) {
                block = [block[0] + last[0], block[1] + last[1], block[2] + last[2]];
                blocks.pop();
            }
            blocks.push(block);
        }
        let mut knots = vec![[0.0, 0.0]];
        for block in &blocks {
            let (raw, likely) = (block[0] / block[2], share(block).min(MOST_SURE));
            if knots.last().is_some_and(|k: &[f32; 2]| raw > k[0] && likely > k[1]) {
                knots.push([raw, likely]);
            }
        }
        let [raw, likely] = knots[knots.len() - 1];
        if raw < 1.0 {
            knots.push([1.0, (likely + 0.01).min(MOST_SURE + 0.01)]);
        }
        knots
    }

    /// False lesions an image, false lesions a series and sensitivity by lesion from a calibrated score on.
    #[must_use]
    pub fn at(&self, score: f32, knots: &[[f32; 2]]) -> (f32, f32, f32) {
        let over = |raw: f32| calibrate(raw, knots) >= score;
        let false_ones = self.reported.iter().filter(|(raw, hit)| !hit && over(*raw)).count() as f32;
        let found = self.found.iter().flatten().filter(|raw| over(**raw)).count() as f32;
        (false_ones / self.images.max(1) as f32, false_ones / self.series.max(1) as f32, found / self.found.len().max(1) as f32)
    }

    /// Rows of a table: calibrated score from, to, lesions, mean score, share of true ones.
    #[must_use]
    pub fn reliability(&self, knots: &[[f32; 2]]) -> Vec<(f32, f32, usize, f32, f32)> {
        let bin = |n: u8| {
            let (low, high) = (f32::from(n) / 5.0, f32::from(n + 1) / 5.0);
            let within = |(raw, hit): &(f32, bool)| Some((calibrate(*raw, knots), *hit)).filter(|(s, _)| (low..high).contains(s));
            let inside: Vec<(f32, bool)> = self.reported.iter().filter_map(within).collect();
            let n = inside.len();
            let mean = inside.iter().map(|(s, _)| s).sum::<f32>() / n.max(1) as f32;
            (low, high, n, mean, inside.iter().filter(|(_, hit)| *hit).count() as f32 / n.max(1) as f32)
        };
        (0..5).map(bin).filter(|row| row.2 > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores whose share of true lesions is the score squared.
    fn judged() -> Judged {
        let reported = (0..2000).map(|n| {
            let raw = (n % 100) as f32 / 100.0;
            (raw, ((n / 100 * 37 + n * 11) % 97) as f32 / 97.0 < raw * raw)
        });
        Judged { reported: reported.collect(), found: vec![Some(0.9), Some(0.2), None, None], images: 100, series: 10 }
    }

    #[test]
    fn a_calibrated_score_is_the_share_of_true_lesions() {
        let judged = judged();
        let knots = judged.calibration();
        assert!(knots.windows(2).all(|w| w[0][0] < w[1][0] && w[0][1] < w[1][1]), "{knots:?}");
        assert!(knots.iter().flatten().all(|v| (0.0..=1.0).contains(v)));
        for (low, high, n, mean, share) in judged.reliability(&knots) {
            assert!((mean - share).abs() < 0.08, "{low}..{high}: {n} lesions, {mean} told, {share} true");
        }
    }

    #[test]
    fn points_count_false_lesions_and_found_ones() {
        let judged = judged();
        let knots = [[0.0, 0.0], [1.0, 1.0]];
        let false_ones = judged.reported.iter().filter(|(raw, hit)| *raw >= 0.5 && !hit).count() as f32;
        assert_eq!(judged.at(0.5, &knots), (false_ones / 100.0, false_ones / 10.0, 0.25));
        assert_eq!(judged.at(0.0, &knots).2, 0.5);
    }

    #[test]
    fn nothing_reported_leaves_a_calibration_that_holds() {
        assert_eq!(Judged::default().calibration(), [[0.0, 0.0], [1.0, 0.01]]);
    }
}
