//! The workbench that makes the detector: mine bookmarks, read scans, synthesize lesions, train, evaluate, write the bundle. Unreachable from the daemon.

pub mod alone;
pub mod bench;
pub mod calibrate;
pub mod cli;
pub mod dataset;
pub mod evaluate;
pub mod export;
pub mod mine;
pub mod operating;
pub mod prior;
pub mod quantize;
pub mod retrieve;
pub mod slots;
pub mod synthesize;
pub mod train;
