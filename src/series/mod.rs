//! Which slices belong together, whether they can be analysed, and when a series is complete. Pure: no sockets, no pixels;
//! the only I/O is reading a header from a spooled file (`header.rs`).

pub mod collect;
pub mod eligibility;
pub mod header;
pub mod multiframe;
pub mod nesting;
pub mod part10;
pub mod settle;
pub mod stack;
pub mod values;

use std::path::PathBuf;

/// One frame of a multi-frame object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameOf {
    /// Its place, from 1.
    pub number: u32,
    /// (0028,1053) of this frame.
    pub slope: f64,
    /// (0028,1052) of this frame.
    pub intercept: f64,
}

/// What `series` and `volume` need of one slice's header (no pixels): of an instance, or of one frame of one. Read by `header::slices`.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceHeader {
    /// The Part 10 file.
    pub path: PathBuf,
    /// (0020,000D)
    pub study_instance_uid: String,
    /// (0020,000E)
    pub series_instance_uid: String,
    /// (0008,0018)
    pub sop_instance_uid: String,
    /// (0008,0016)
    pub sop_class_uid: String,
    /// (0002,0010)
    pub transfer_syntax_uid: String,
    /// (0008,0060), "" where absent.
    pub modality: String,
    /// (0008,0008) values.
    pub image_type: Vec<String>,
    /// (0018,0015)
    pub body_part: Option<String>,
    /// (0020,0011)
    pub series_number: Option<i32>,
    /// (0020,0013)
    pub instance_number: Option<i32>,
    /// (0028,0010), (0028,0011)
    pub rows: Option<u16>,
    /// Columns.
    pub cols: Option<u16>,
    /// (0028,0002)
    pub samples_per_pixel: u16,
    /// (0028,0008), 1 where absent, and for one frame.
    pub frames: u32,
    /// Which frame this is, of an object whose frames are slices.
    pub frame: Option<FrameOf>,
    /// (0028,0030): row spacing (y), column spacing (x), mm.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    /// (0020,0032), LPS mm.
    pub position_mm: Option<[f64; 3]>,
    /// (0020,0037): direction of a row (x), then of a column (y).
    pub orientation: Option<[f64; 6]>,
    /// (0018,0050), mm.
    pub thickness_mm: Option<f64>,
    /// (0018,1120), degrees.
    pub gantry_tilt_deg: Option<f64>,
    /// (0028,1052) present: HU can be computed.
    pub has_rescale: bool,
    /// Pixel data element present.
    pub has_pixels: bool,
}

impl SliceHeader {
    /// Tells it from every other slice: the UID, with the number of the frame where it is one.
    #[must_use]
    pub fn key(&self) -> String {
        self.frame.map_or_else(|| self.sop_instance_uid.clone(), |f| format!("{}/{}", self.sop_instance_uid, f.number))
    }

    /// The number that a person finds it by: of the frame, else of the instance, else the UID.
    #[must_use]
    pub fn label(&self) -> String {
        match (self.frame, self.instance_number) {
            (Some(frame), _) => format!("frame {}", frame.number),
            (None, Some(number)) => number.to_string(),
            (None, None) => self.sop_instance_uid.clone(),
        }
    }
}

/// Why a series was not analysed: a stable code for programs, a sentence for a technologist.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reason {
    /// e.g. `localizer`, `not_ct`, `gantry_tilt`, `uneven_spacing`, `too_few_slices`.
    pub code: String,
    /// One sentence, with the offending value and what to do.
    pub text: String,
}

/// How a series ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The detector ran over the whole stack.
    Analysed,
    /// The series is not one the detector is meant for.
    NotAnalysed(Reason),
    /// Something broke; the reason's code is the stage (`decode`, `detect`, …).
    Failed(Reason),
}
