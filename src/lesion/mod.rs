//! Boxes of slots → lesions: link in 3-D, measure on the key slice, score. Pure: no I/O, no clock.

pub mod keyimage;
pub mod link;
pub mod measure;
pub mod score;

use crate::detect::TYPES;

/// One lesion of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesion {
    /// 1-based, by falling score.
    pub number: u32,
    /// Calibrated, 0..1.
    pub score: f32,
    /// Probability of each of DeepLesion's types.
    pub types: [f32; TYPES],
    /// Index of the key slice in the stack's slices (rising z).
    pub key_slice: usize,
    /// First and last slice it was seen on (indices as above, inclusive).
    pub slices: [usize; 2],
    /// x1, y1, x2, y2 in 0-based pixels of the key slice's original image (pixel centres), DeepLesion's convention.
    pub box_px: [f32; 4],
    /// Centre in the patient's LPS coordinates, mm.
    pub center_lps_mm: [f64; 3],
    /// RECIST long axis, mm.
    pub long_axis_mm: f32,
    /// Short axis at right angles to it, mm.
    pub short_axis_mm: f32,
    /// End points of the long, then of the short axis, pixels of the key slice.
    pub recist_px: [[f32; 2]; 4],
    /// True where the axes come from a segmentation of the key slice, false where from the predicted box.
    pub segmented: bool,
    /// Volume estimate, mm³.
    pub volume_mm3: f32,
}
