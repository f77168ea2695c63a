//! A bidimensional mark as a reader drew it, whatever object it came in, and why one is left out. Pure.

use std::path::PathBuf;

/// What kind of object a mark came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Structured report (TID 1500).
    StructuredReport,
    /// Softcopy presentation state with drawn lines.
    PresentationState,
    /// AIM v4 XML.
    Aim,
    /// Vendor's export as CSV or JSON.
    Table,
    /// An image that lies among the objects.
    Image,
    /// Nothing that holds measurements, or not readable.
    Other,
}

/// Why something was left out, merged, or is to be looked at. Each has a code for programs and is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The object or row cannot be read.
    Unreadable,
    /// The object holds no measurements.
    NotMeasurements,
    /// Not a pair of drawn axes.
    NotBidimensional,
    /// A length in neither mm nor cm, or end points in units that name no pixels.
    WrongUnit,
    /// The mark names no image and no frame of reference.
    NoImageReference,
    /// The image is in none of the image folders.
    MissingImage,
    /// World coordinates that lie on no slice.
    OffSlice,
    /// The image is no CT image whose HU can be computed.
    NotCt,
    /// The image is no axial one.
    NotAxial,
    /// An end point outside the image.
    OutsideImage,
    /// Stated and drawn lengths differ.
    LengthsDisagree,
    /// The key image's pixels cannot be decoded.
    NoPixels,
    /// The same document was already read from another file.
    Duplicate,
    /// A later revision replaces it.
    Superseded,
    /// Overlaps another mark of the same image: averaged into one.
    Merged,
    /// Suspicious: its centre lies outside the body.
    OutsideBody,
    /// Suspicious: mean below -900 HU.
    Air,
    /// Suspicious: long axis over four times the short one.
    Elongated,
    /// Suspicious: an axis under two pixels.
    Tiny,
    /// A slice of context could not be decoded: the range of context ends before it.
    ContextCut,
}

/// What became of a mark for a [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Not in the harvest.
    LeftOut,
    /// In the harvest as part of another mark.
    Merged,
    /// In the harvest, flagged `Possibly_noisy`.
    Suspicious,
    /// In the harvest; told for completeness.
    Noted,
}

impl Reason {
    /// As written into the review list and the report.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NotMeasurements => "not_measurements",
            Self::NotBidimensional => "not_bidimensional",
            Self::WrongUnit => "wrong_unit",
            Self::NoImageReference => "no_image_reference",
            Self::MissingImage => "missing_image",
            Self::OffSlice => "off_slice",
            Self::NotCt => "not_ct",
            Self::NotAxial => "not_axial",
            Self::OutsideImage => "outside_image",
            Self::LengthsDisagree => "lengths_disagree",
            Self::NoPixels => "no_pixels",
            Self::Duplicate => "duplicate",
            Self::Superseded => "superseded",
            Self::Merged => "merged",
            Self::OutsideBody => "outside_body",
            Self::Air => "air",
            Self::Elongated => "elongated",
            Self::Tiny => "tiny",
            Self::ContextCut => "context_cut",
        }
    }

    /// What it does to a mark.
    #[must_use]
    pub const fn fate(self) -> Fate {
        match self {
            Self::Merged => Fate::Merged,
            Self::OutsideBody | Self::Air | Self::Elongated | Self::Tiny => Fate::Suspicious,
            Self::ContextCut => Fate::Noted,
            _ => Fate::LeftOut,
        }
    }
}

impl Fate {
    /// As written into the review list.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::LeftOut => "left_out",
            Self::Merged => "merged",
            Self::Suspicious => "suspicious",
            Self::Noted => "noted",
        }
    }
}

/// A reason with the sentence that carries the offending values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct Refusal {
    /// Counted by.
    pub reason: Reason,
    /// One line.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Where four end points lie: both of one axis, then both of the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// On an image: x, y in pixels, 0 at the centre of the first pixel.
    Image {
        /// SOP Instance UID of the image.
        sop_instance_uid: String,
        /// End points.
        points_px: [[f64; 2]; 4],
    },
    /// In the patient: LPS mm.
    Patient {
        /// Frame of Reference UID.
        frame_of_reference_uid: String,
        /// The image it was drawn on, where the object says so.
        sop_instance_uid: Option<String>,
        /// End points.
        points_mm: [[f64; 3]; 4],
    },
}

/// One bidimensional mark.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Where in its object ("group 2", "line 17").
    pub item: String,
    /// Names the lesion in every revision of its report.
    pub tracking_uid: Option<String>,
    /// When it was stated, as digits that sort; "" where unknown.
    pub moment: String,
    /// The end points.
    pub place: Place,
    /// Lengths of the two axes as stated, mm, in the order of the points.
    pub stated_mm: Option<[f64; 2]>,
    /// DeepLesion's coarse type (1 bone … 8 pelvis) where the site of the finding says it, else -1.
    pub lesion_type: i8,
    /// Whose it is, where the object says so and the image does not. Never written.
    pub patient: Option<String>,
}

/// A part of a document that gave no mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where in its object.
    pub item: String,
    /// Why.
    pub refusal: Refusal,
}

/// One object with what it held.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// SOP Instance UID, or what identifies the content of another format.
    pub uid: String,
    /// When it was written, as digits that sort.
    pub moment: String,
    /// Documents that it replaces.
    pub predecessors: Vec<String>,
    /// Marks.
    pub marks: Vec<Mark>,
    /// What gave none.
    pub left_out: Vec<LeftOut>,
}

impl Document {
    /// A file that gives nothing.
    pub fn refused(path: PathBuf, reason: Reason, detail: impl Into<String>) -> Self {
        let left_out = vec![LeftOut { item: String::new(), refusal: Refusal::new(reason, detail) }];
        Self { path, kind: Kind::Other, uid: String::new(), moment: String::new(), predecessors: Vec::new(), marks: Vec::new(), left_out }
    }
}

/// Codes of the two axes in one of the schemes that name them, SNOMED CT or the older SRT (PS3.16 CID 7470).
const LONG_AXES: [&str; 4] = ["103339001", "G-A185", "131187009", "G-A193"];
const SHORT_AXES: [&str; 6] = ["103340004", "G-A186", "131188004", "G-A194", "131189007", "G-A195"];

/// Which axis a length is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Long, or major.
    Long,
    /// Short, minor, or perpendicular.
    Short,
}

/// The axis that a coded length names.
#[must_use]
pub fn axis(code: &str, scheme: &str) -> Option<Axis> {
    if !matches!(scheme, "SCT" | "SRT" | "SNM3") {
        return None;
    }
    if LONG_AXES.contains(&code) {
        return Some(Axis::Long);
    }
    SHORT_AXES.contains(&code).then_some(Axis::Short)
}

/// Millimetres of a length in a UCUM unit.
///
/// # Errors
/// [`Reason::WrongUnit`] for anything but mm and cm: of pixels or percents nobody knows the size.
pub fn millimetres(value: f64, unit: &str, what: &str) -> Result<f64, Refusal> {
    match unit {
        "mm" => Ok(value),
        "cm" => Ok(value * 10.0),
        _ => Err(Refusal::new(Reason::WrongUnit, format!("{what} is in '{unit}'; mm and cm are read"))),
    }
}

/// DeepLesion's coarse type of a finding site (SNOMED CT, SRT), -1 for any other.
#[must_use]
pub fn lesion_type(site: &str) -> i8 {
    match site {
        "272673000" | "3138006" | "T-10000" | "51282000" | "T-11500" => 1,
        "818981001" | "113345001" | "818983003" | "T-D4000" => 2,
        "72410000" | "T-D3300" => 3,
        "10200004" | "T-62000" => 4,
        "39607008" | "T-28000" | "3341006" | "44029006" => 5,
        "64033007" | "T-71000" | "9846003" | "18639004" => 6,
        "87784001" | "T-1A000" | "71616004" | "T-13000" => 7,
        "816092008" | "12921003" | "T-D6000" => 8,
        _ => -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_known_by_both_codes_and_not_by_a_strange_scheme() {
        for code in ["103339001", "G-A185"] {
            assert_eq!(axis(code, if code.starts_with('G') { "SRT" } else { "SCT" }), Some(Axis::Long));
        }
        assert_eq!(axis("103340004", "SCT"), Some(Axis::Short));
        assert_eq!(axis("G-A186", "SRT"), Some(Axis::Short));
        assert_eq!(axis("103339001", "99VENDOR"), None);
        assert_eq!(axis("410668003", "SCT"), None);
    }

    #[test]
    fn centimetres_are_converted_and_pixels_refused() {
        assert_eq!(millimetres(1.5, "cm", "x"), Ok(15.0));
        let refused = millimetres(1.5, "{pixels}", "long axis").map_err(|e| e.to_string());
        assert_eq!(refused, Err("wrong_unit: long axis is in '{pixels}'; mm and cm are read".into()));
    }
}
