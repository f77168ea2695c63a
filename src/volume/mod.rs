//! Stored pixels → HU → the detector's grid. Pure but for reading one file ([`pixels`]).

/// One decoded axial image in Hounsfield units, row-major, `hu.len() == rows * cols`.
#[derive(Debug, Clone, PartialEq)]
pub struct HuImage {
    /// Height in pixels.
    pub rows: usize,
    /// Width in pixels.
    pub cols: usize,
    /// HU, clamped to [-1024, 3071]; padding is -1024.
    pub hu: Vec<i16>,
}
