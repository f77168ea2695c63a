//! How long C-STOREs take, as a histogram that Prometheus reads.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, ms: a synced slice takes a few, a full queue or a slow disk hundreds.
const BOUNDS_MS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000];

/// Times so far.
#[derive(Debug, Default)]
pub struct Latency {
    /// The last one is for what took longer than all bounds.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    /// One more.
    pub fn observe(&self, took: Duration) {
        let bucket = BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(*bound)).unwrap_or(BOUNDS_MS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The lines of a histogram in seconds.
    #[must_use]
    pub fn prometheus(&self, name: &str, help: &str) -> String {
        let mut out = format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
        let bounds = BOUNDS_MS.iter().map(|ms| (*ms as f64 / 1000.0).to_string()).chain(["+Inf".to_owned()]);
        let mut so_far = 0;
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            so_far += bucket.load(Ordering::Relaxed);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {so_far}", self.sum_us.load(Ordering::Relaxed) as f64 / 1e6);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_counts_in_its_bucket_and_all_above() {
        let latency = Latency::default();
        [1, 3, 3, 700, 60_000].iter().for_each(|ms| latency.observe(Duration::from_millis(*ms)));
        let text = latency.prometheus("t", "times");
        for line in [
            "t_bucket{le=\"0.001\"} 1",
            "t_bucket{le=\"0.002\"} 1",
            "t_bucket{le=\"0.005\"} 3",
            "t_bucket{le=\"1\"} 4",
            "t_bucket{le=\"+Inf\"} 5",
            "t_sum 60.707",
            "t_count 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}
