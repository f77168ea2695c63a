//! Sensitivities of a group of patients, and their 95 % interval by drawing patients with replacement. Pure; the same tallies give the same interval.
//!
//! Slices of one patient are not independent, so patients are drawn, not images. Scores are sorted once: a draw is a weight a patient and one walk
//! down the sorted scores, which ends where the curve has passed the last point that is read off.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::froc::{Step, curve, read_off};
use super::tally::{Found, Scope, Tally};

/// Patients with something to find below which an interval says nothing.
const FEWEST_PATIENTS: usize = 5;
/// Every group draws from this seed: rows of the same patients are compared on the same draws.
const SEED: u64 = 0;

struct Event {
    score: f64,
    patient: usize,
    hit: bool,
}

/// A group of patients.
pub struct Sample {
    events: Vec<Event>,
    truths: Vec<usize>,
    /// Images or volumes.
    units: Vec<usize>,
}

impl Sample {
    /// Those truths of `tallies` that `keep` keeps, against all their false positives: predictions are not typed.
    pub fn new(tallies: &[Tally], scope: Scope, keep: impl Fn(&Found) -> bool) -> Self {
        let mut events = Vec::new();
        for (patient, tally) in tallies.iter().enumerate() {
            let hits = tally.truths.iter().filter(|t| keep(t)).filter_map(|t| t.score);
            events.extend(hits.map(|score| Event { score, patient, hit: true }));
            events.extend(tally.false_positives.iter().map(|score| Event { score: *score, patient, hit: false }));
        }
        events.sort_by(|a, b| b.score.total_cmp(&a.score));
        Self {
            events,
            truths: tallies.iter().map(|t| t.truths.iter().filter(|f| keep(f)).count()).collect(),
            units: tallies.iter().map(|t| if scope == Scope::Volume { t.volumes } else { t.images }).collect(),
        }
    }

    /// How many truths.
    #[must_use]
    pub fn truths(&self) -> usize {
        self.truths.iter().sum()
    }

    fn weighted_curve(&self, weights: &[f64], until: f64) -> Option<Vec<[f64; 2]>> {
        let total = |counts: &[usize]| counts.iter().zip(weights).map(|(n, w)| *n as f64 * w).sum::<f64>();
        let (truths, units) = (total(&self.truths), total(&self.units));
        let step = |e: &Event| {
            let weight = weights[e.patient];
            let (false_positives, hits) = if e.hit { (0.0, weight) } else { (weight, 0.0) };
            Step { score: e.score, false_positives, hits }
        };
        (truths > 0.0 && units > 0.0).then(|| curve(self.events.iter().map(step), units, truths, until))
    }

    /// The curve up to one point past `until`; empty where there is nothing to find.
    #[must_use]
    pub fn curve(&self, until: f64) -> Vec<[f64; 2]> {
        self.weighted_curve(&vec![1.0; self.truths.len()], until).unwrap_or_default()
    }

    /// 2.5th and 97.5th percentile of the sensitivity at each of `at` (ascending) over `draws` draws; `None` without draws and below
    /// [`FEWEST_PATIENTS`].
    #[must_use]
    pub fn interval(&self, draws: usize, at: [f64; 7]) -> Option<[[f64; 2]; 7]> {
        let patients = self.truths.len();
        if draws == 0 || self.truths.iter().filter(|n| **n > 0).count() < FEWEST_PATIENTS {
            return None;
        }
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut drawn: [Vec<f64>; 7] = Default::default();
        for _ in 0..draws {
            let mut weights = vec![0.0; patients];
            for _ in 0..patients {
                weights[rng.random_range(0..patients)] += 1.0;
            }
            // A draw of patients without any truth says nothing of sensitivity.
            let Some(curve) = self.weighted_curve(&weights, at[6]) else { continue };
            for (values, x) in drawn.iter_mut().zip(at) {
                values.push(read_off(&curve, x));
            }
        }
        Some(drawn.map(|mut values| {
            values.sort_by(f64::total_cmp);
            [percentile(&values, 2.5), percentile(&values, 97.5)]
        }))
    }
}

/// Percentile of sorted values by linear interpolation.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let at = percent / 100.0 * sorted.len().saturating_sub(1) as f64;
    let (low, share) = (at.floor() as usize, at.fract());
    match (sorted.get(low), sorted.get(low + 1)) {
        (Some(a), Some(b)) => a + (b - a) * share,
        (Some(a), None) => *a,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::froc::AT;
    use super::*;

    fn patient(scores: &[Option<f64>]) -> Tally {
        let truths = scores.iter().map(|score| Found { score: *score, kind: "lung".into(), size: None }).collect();
        Tally { truths, false_positives: vec![], images: 1, volumes: 1 }
    }

    #[test]
    fn percentiles_are_interpolated() {
        assert_eq!(percentile(&[0.0, 1.0, 2.0, 3.0, 4.0], 97.5), 3.9);
        assert_eq!(percentile(&[7.0], 2.5), 7.0);
    }

    #[test]
    fn an_interval_needs_five_patients_and_is_the_same_twice() {
        let mut all: Vec<Tally> = (0..4).map(|i| patient(&[(i % 2 == 0).then_some(0.5)])).collect();
        assert_eq!(Sample::new(&all, Scope::Key, |_| true).interval(100, AT), None);
        all.extend((0..16).map(|i| patient(&[(i % 2 == 0).then_some(0.5)])));
        let sample = Sample::new(&all, Scope::Key, |_| true);
        let interval = sample.interval(500, AT).unwrap();
        assert_eq!(sample.interval(500, AT).unwrap(), interval);
        // 20 coins: 0.5 ± 1.96 √(0.25 / 20) = 0.28 … 0.72.
        assert!((interval[0][0] - 0.28).abs() < 0.08 && (interval[0][1] - 0.72).abs() < 0.08, "{interval:?}");
        assert_eq!(sample.interval(0, AT), None);
    }

    #[test]
    fn all_found_has_an_interval_of_no_width() {
        let all: Vec<Tally> = (0..6).map(|_| patient(&[Some(0.9)])).collect();
        assert_eq!(Sample::new(&all, Scope::Key, |_| true).interval(50, AT), Some([[1.0, 1.0]; 7]));
    }
}
