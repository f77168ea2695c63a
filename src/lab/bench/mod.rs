//! Benchmarks: this product beside its peers, turn about in one run on one machine, as medians and ratios. Separate from the tests: a benchmark reports, it
//! never passes or fails.

pub mod machine;
pub mod median;
pub mod peer;
pub mod receive;
