//! A key slice with its marks, wherever its images come from.

use std::path::PathBuf;

use crate::volume::frame::ImageGrid;

/// A part of a dataset; a patient is in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// To train on.
    Train,
    /// To steer by.
    Validation,
    /// To judge by, once.
    Test,
}

impl Split {
    /// Of `Train_Val_Test`: 1, 2, 3.
    #[must_use]
    pub const fn of_code(code: u8) -> Self {
        match code {
            1 => Self::Train,
            2 => Self::Validation,
            _ => Self::Test,
        }
    }

    /// As reports and the command line call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// A lesion on its key slice; pixels of the image, 0 at the centre of the first one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// x1, y1, x2, y2, DeepLesion's convention.
    pub box_px: [f32; 4],
    /// Ends of the long axis, then of the short one, where drawn.
    pub points: Option<[[f32; 2]; 4]>,
    /// Index into [`crate::detect::TYPE_NAMES`], where known.
    pub lesion_type: Option<u8>,
    /// Looks wrong: neither to be found nor to be held against anyone.
    pub noisy: bool,
}

/// An image with its marks.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySlice<P> {
    /// Part of the dataset.
    pub split: Split,
    /// At least one.
    pub marks: Box<[Mark]>,
    /// Its images.
    pub place: P,
}

impl<P> KeySlice<P> {
    /// The same, with its images' place put in other words.
    pub fn at<Q>(self, put: impl FnOnce(P) -> Q) -> KeySlice<Q> {
        KeySlice { split: self.split, marks: self.marks, place: put(self.place) }
    }
}

/// The slices round a key slice, not yet read.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// In-plane geometry.
    pub grid: ImageGrid,
    /// Distance of neighbouring slices, mm.
    pub interval_mm: f64,
    /// Position relative to the key slice (0), mm, rising, and file.
    pub slices: Vec<(f64, PathBuf)>,
}
