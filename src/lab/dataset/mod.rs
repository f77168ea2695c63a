//! What the detector is trained and measured on: CT without marks as backgrounds, and key slices with marked lesions.
//!
//! [`backgrounds`] reads whole series into memory for synthesis. Marked slices stay on disk: [`deeplesion`] reads the layout of the public release, which
//! `mine` writes too, [`truth_table`] DICOM with the evaluator's tables; [`key_slice`] is what both have in common, [`marked`] either, an index in memory and images read when
//! asked for by [`picture`]; [`draw`] makes training samples of it. [`row`] is one row of the release's table, [`check`] the report on a whole dataset.
//!
//! Words: a *mark* is a lesion on its *key slice*; *context* are the slices round it.

pub mod backgrounds;
pub mod check;
pub mod deeplesion;
pub mod draw;
pub mod key_slice;
pub mod marked;
pub mod picture;
pub mod row;
pub mod truth_table;

pub use backgrounds::{Disease, Scan, ScanSlice, read};
