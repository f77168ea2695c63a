//! Stored pixels → HU → the detector's grid. Pure but for reading one file ([`pixels`], [`multiframe`]).

pub mod body;
pub mod frame;
pub mod jpeg_extended;
pub mod multiframe;
pub mod pixels;
pub mod slots;
pub mod window;

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

/// One slot as the network sees it: three windows of one plane.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotInput {
    /// Rows; a multiple of 32.
    pub height: usize,
    /// Columns; a multiple of 32.
    pub width: usize,
    /// `height * width * 3` values 0..1, channels last.
    pub data: Vec<f32>,
}
