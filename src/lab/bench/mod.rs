//! Benchmarks: the product and a peer on the same input in the same run, turn about; medians and ratios, and where it ran.

pub mod engines;
pub mod machine;
pub mod median;
