//! Ranges of maps out of what calibration slots make of them. Pure.
//!
//! A range that ends too far out spends its 256 steps on outliers (stock min/max calibration cost published YOLO models 4 to 30 points); one that ends too
//! early cuts off what matters. In this network the second is what costs: the rare, large values are what lesions light up, calibration slots hold few
//! lesions, and what is cut off lowers scores (models/BENCHMARKS.md). [`Method`] says where a range ends.

use std::collections::BTreeMap;

/// Bins between zero and the largest value of a map.
const BINS: usize = 4096;
/// Share of values within the range, for [`Method::Percentile`].
const WITHIN: f64 = 0.9999;
/// A range of [`Method::Headroom`] ends at so many times the largest value: in crops with lesions maps reach up to 2.25 times as far as in the calibration
/// slots. What a bit of resolution less costs is measured layer by layer, and layers that it costs too much stay f32.
const HEADROOM: f32 = 2.0;
/// Candidates of [`Method::Mse`] lie evenly between a twentieth of the largest value and that value.
const CANDIDATES: usize = 96;
/// Steps of an int8 map.
const STEPS: f64 = 255.0;

/// Where a range ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// At twice the largest value seen: lesions light up more than healthy slots do
    Headroom,
    /// Where the mean square of what rounding and clipping lose is least
    Mse,
    /// Where 99.99 % of the values lie below
    Percentile,
    /// At the largest value seen
    Max,
}

impl Method {
    /// As `bundle.toml` and the command line write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Headroom => "headroom",
            Self::Mse => "mse",
            Self::Percentile => "percentile",
            Self::Max => "max",
        }
    }
}

/// Values of one map over all calibration slots.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    most: f32,
    counts: Vec<u64>,
}

impl Histogram {
    /// For values up to `most`.
    #[must_use]
    pub fn up_to(most: f32) -> Self {
        Self { most, counts: vec![0; BINS] }
    }

    /// Largest value.
    #[must_use]
    pub const fn most(&self) -> f32 {
        self.most
    }

    /// Counts values. Zeros are held exactly by any range and left out.
    pub fn add(&mut self, values: &[f32]) {
        let bins = BINS as f32 / self.most.max(f32::MIN_POSITIVE);
        for v in values.iter().filter(|v| **v > 0.0) {
            self.counts[((v * bins) as usize).min(BINS - 1)] += 1;
        }
    }

    /// The end of the range. A map that is zero throughout gets 1: any range holds it.
    #[must_use]
    pub fn range(&self, method: Method) -> f32 {
        let total: u64 = self.counts.iter().sum();
        if total == 0 || self.most <= 0.0 {
            return 1.0;
        }
        match method {
            Method::Headroom => self.most * HEADROOM,
            Method::Max => self.most,
            Method::Percentile => {
                let mut left = ((1.0 - WITHIN) * total as f64) as u64;
                let last = (0..BINS).rev().find(|bin| {
                    let (here, before) = (self.counts[*bin], left);
                    left = left.saturating_sub(here);
                    here > before
                });
                self.most * (last.unwrap_or(BINS - 1) + 1) as f32 / BINS as f32
            }
            Method::Mse => {
                let candidates = (0..CANDIDATES).map(|i| self.most * (0.05 + 0.95 * (i + 1) as f32 / CANDIDATES as f32));
                candidates.min_by(|a, b| self.loss(*a).total_cmp(&self.loss(*b))).unwrap_or(self.most)
            }
        }
    }

    /// Sum of squares of what a range loses: a twelfth of a step squared within, the distance squared beyond.
    fn loss(&self, range: f32) -> f64 {
        let (width, range) = (f64::from(self.most) / BINS as f64, f64::from(range));
        let rounding = (range / STEPS).powi(2) / 12.0;
        let beyond = |bin: usize| (bin as f64 + 0.5) * width - range;
        self.counts.iter().enumerate().map(|(bin, n)| *n as f64 * if beyond(bin) > 0.0 { beyond(bin).powi(2) } else { rounding }).sum()
    }
}

/// Maps by name.
pub type Histograms = BTreeMap<String, Histogram>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 100,000 values evenly between 0 and 1, and a few far out.
    fn with_outliers() -> Histogram {
        let mut h = Histogram::up_to(50.0);
        h.add(&(1..=100_000).map(|i| i as f32 / 100_000.0).collect::<Vec<_>>());
        h.add(&[50.0; 5]);
        h
    }

    #[test]
    fn outliers_decide_about_max_and_headroom_only() {
        let h = with_outliers();
        assert_eq!((h.range(Method::Max), h.range(Method::Headroom)), (50.0, 100.0));
        assert!((0.9..1.1).contains(&h.range(Method::Percentile)), "{}", h.range(Method::Percentile));
        assert!(h.range(Method::Mse) < 50.0);
    }

    #[test]
    fn mse_takes_what_loses_least() {
        let mut h = Histogram::up_to(4.0);
        let values: Vec<f32> = (1..100_000).map(|i| -(i as f32 / 100_000.0).ln()).filter(|v| *v <= 4.0).collect();
        h.add(&values);
        let lost = |range: f32| {
            let mut through = values.clone();
            crate::detect::quantization::through_int8(&mut through, range);
            values.iter().zip(&through).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let taken = h.range(Method::Mse);
        for other in [1.0, 2.0, 3.0, 4.0] {
            assert!(lost(taken) <= lost(other) * 1.02, "{taken}: {} {other}: {}", lost(taken), lost(other));
        }
    }

    #[test]
    fn a_map_of_zeros_has_a_range_all_the_same() {
        let mut h = Histogram::up_to(0.0);
        h.add(&[0.0; 10]);
        for method in [Method::Headroom, Method::Mse, Method::Percentile, Method::Max] {
            assert_eq!(h.range(method), 1.0);
        }
    }
}
