//! Benchmarks: parts of the product beside their peers, turn about in one run, so that a ratio holds where the machine is noisy. Separate from the tests: a
//! benchmark reports, it never passes or fails.
//!
//! A *round* times every path once; tables give the median over rounds, and ratios are medians of the rounds' ratios.

pub mod engines;
pub mod exports;
pub mod layers;
pub mod machine;
pub mod median;
pub mod process;
pub mod rail;
pub mod receive;
pub mod step;
pub mod talk;
pub mod torch;
