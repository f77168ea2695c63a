//! The documents: names are fixed, additions allowed. Flat to read, no patient identity. `schemas/` holds their JSON Schemas.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ReportedLesion, SeriesResult, Timing};
use crate::detect::TYPE_NAMES;
use crate::series::{Outcome, Reason};

/// Value of `schema` in every document.
pub const SCHEMA: &str = "lesionwatch/1";
/// A clock before this was never set: 2024-01-01.
const TRUSTED_FROM_S: i64 = 1_704_067_200;

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A series holds something to look at.
    Opened,
    /// A new version of the same alert.
    Updated,
    /// An earlier version is void; the new one follows under the same id.
    Superseded,
    /// A new version holds nothing: the alert is void.
    Retracted,
    /// A person has dealt with it.
    Acknowledged,
    /// Nobody has, and its time is over.
    Expired,
}

/// `…/alerts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`SCHEMA`].
    pub schema: String,
    /// UUIDv7; consumers deduplicate on it.
    pub event_id: String,
    /// Monotone a device, over restarts.
    pub seq: i64,
    /// Of the process that made the event.
    pub boot_id: String,
    /// What it says.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// RFC 3339, UTC, milliseconds.
    pub at: String,
    /// The clock had been set when it was made.
    pub clock_trusted: bool,
    /// Of the alert; the same over its versions.
    pub alert_id: String,
    /// Of the result.
    pub version: u32,
    /// `high`, `normal` or `low`.
    pub priority: String,
    /// Everything else is that of the result.
    #[serde(flatten)]
    pub body: Body,
    /// Who acknowledged, on `acknowledged` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledgement: Option<Ack>,
}

/// `…/results`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultDocument {
    /// [`SCHEMA`].
    pub schema: String,
    /// UUIDv7.
    pub event_id: String,
    /// As in [`Event`].
    pub seq: i64,
    /// As in [`Event`].
    pub boot_id: String,
    /// Always `result`.
    #[serde(rename = "type")]
    pub document_type: String,
    /// As in [`Event`].
    pub at: String,
    /// As in [`Event`].
    pub clock_trusted: bool,
    /// Alert of the series, if there is one.
    pub alert_id: Option<String>,
    /// Rises with every new result of the series.
    pub version: u32,
    /// The result.
    #[serde(flatten)]
    pub body: Body,
}

/// What events and results share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// `analysed`, `not_analysed` or `failed`.
    pub outcome: String,
    /// Why not, where it was not analysed.
    pub reason: Option<Reason>,
    /// Which series.
    pub series: Series,
    /// Which model.
    pub model: Model,
    /// Best first.
    pub lesions: Vec<LesionDocument>,
    /// Milliseconds since the first slice.
    pub timing_ms: TimingDocument,
}

/// `series`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// (0020,000D)
    pub study_instance_uid: String,
    /// (0020,000E)
    pub series_instance_uid: String,
    /// (0008,0060)
    pub modality: String,
    /// (0018,0015)
    pub body_part: Option<String>,
    /// (0020,0011)
    pub series_number: Option<i32>,
    /// Sender.
    pub calling_ae: String,
    /// Slices of the stack.
    pub slices: usize,
    /// Their distance.
    pub slice_spacing_mm: Option<f64>,
}

/// `model`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Bundle name.
    pub name: String,
    /// Bundle version.
    pub version: String,
    /// Of the master weights.
    pub sha256: String,
    /// Which engine.
    pub engine: String,
    /// Numeric format.
    pub quantization: String,
}

/// One of `lesions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LesionDocument {
    /// 1-based, best first.
    pub number: u32,
    /// Calibrated, 0..1.
    pub score: f64,
    /// Most probable type.
    #[serde(rename = "type")]
    pub lesion_type: String,
    /// Types of at least 1 %.
    pub type_probabilities: std::collections::BTreeMap<String, f64>,
    /// The slice it shows best on.
    pub key_image: KeyImage,
    /// x1, y1, x2, y2 on the key image, 0-based pixel centres; RECIST end points grown by 5 px.
    pub box_px: [f64; 4],
    /// Centre, LPS.
    pub center_lps_mm: [f64; 3],
    /// RECIST long axis.
    pub long_axis_mm: f64,
    /// RECIST short axis.
    pub short_axis_mm: f64,
    /// Ends of the long, then of the short axis.
    pub recist_px: [[f64; 2]; 4],
    /// The axes come from a segmentation of the key slice (else from the box).
    pub segmented: bool,
    /// Ellipsoid estimate.
    pub volume_mm3: f64,
    /// First and last slice, 1-based positions in the stack from the feet up.
    pub slices: [usize; 2],
}

/// `key_image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyImage {
    /// (0008,0018)
    pub sop_instance_uid: String,
    /// (0020,0013)
    pub instance_number: Option<i32>,
    /// Frame of a multi-frame object, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_number: Option<u32>,
}

/// `timing_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimingDocument {
    /// Always 0.
    pub first_slice: u64,
    /// Success of the last slice.
    pub last_slice: u64,
    /// Held to be complete.
    pub settled: u64,
    /// Lesions ready.
    pub analysed: u64,
    /// First offered to the broker; `null` before.
    pub offered: Option<u64>,
}

/// `…/ack`, inbound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Which alert.
    pub alert_id: String,
    /// Which version of it.
    pub version: u32,
    /// What was done.
    pub action: Action,
    /// Who or what.
    #[serde(default)]
    pub by: String,
    /// e.g. `radiologist`.
    #[serde(default)]
    pub role: String,
    /// When, RFC 3339.
    #[serde(default)]
    pub at: String,
}

/// What an acknowledgement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A subscriber's software has it: delivery is done.
    Received,
    /// A person saw it.
    Seen,
    /// A person agrees.
    Accepted,
    /// A person does not.
    Dismissed,
}

/// `…/alerts/open`, retained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAlerts {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the list was made.
    pub at: String,
    /// Newest last.
    pub open: Vec<OpenAlert>,
}

/// One of `open`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAlert {
    /// Which alert.
    pub alert_id: String,
    /// Its present version.
    pub version: u32,
    /// Its priority.
    pub priority: String,
    /// When it was first opened.
    pub opened_at: String,
}

/// `…/status`, retained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    /// `online`, `stopped` or `offline` (the will).
    pub availability: String,
    /// Of this process.
    pub boot_id: String,
    /// Of this program.
    pub version: String,
    /// Which engine runs.
    pub engine: String,
    /// Which model, `name version`.
    pub model: String,
    /// `ok`, `degraded` or `failing`.
    pub health: String,
    /// Why not `ok`, worst first.
    pub reasons: Vec<String>,
    /// Events that wait.
    pub outbox_depth: usize,
    /// When it was said.
    pub time: String,
}

/// RFC 3339, UTC, milliseconds.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Whether the clock had been set.
#[must_use]
pub fn clock_trusted(at: Timestamp) -> bool {
    at.as_second() >= TRUSTED_FROM_S
}

fn round(value: impl Into<f64>, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value.into() * scale).round() / scale
}

impl From<&ReportedLesion> for LesionDocument {
    fn from(r: &ReportedLesion) -> Self {
        let l = &r.lesion;
        let named = || TYPE_NAMES.iter().zip(l.types);
        Self {
            number: l.number,
            score: round(l.score, 3),
            lesion_type: named().max_by(|a, b| a.1.total_cmp(&b.1)).map_or("", |(n, _)| n).to_owned(),
            type_probabilities: named().filter(|(_, p)| *p >= 0.01).map(|(n, p)| ((*n).to_owned(), round(p, 3))).collect(),
            key_image: KeyImage {
                sop_instance_uid: r.key_sop_instance_uid.clone(),
                instance_number: r.key_instance_number,
                frame_number: r.key_frame_number,
            },
            box_px: l.box_px.map(|v| round(v, 1)),
            center_lps_mm: l.center_lps_mm.map(|v| round(v, 1)),
            long_axis_mm: round(l.long_axis_mm, 1),
            short_axis_mm: round(l.short_axis_mm, 1),
            recist_px: l.recist_px.map(|p| p.map(|v| round(v, 1))),
            segmented: l.segmented,
            volume_mm3: round(l.volume_mm3, 0),
            slices: l.slices.map(|s| s + 1),
        }
    }
}

impl From<&SeriesResult> for Body {
    fn from(r: &SeriesResult) -> Self {
        let (outcome, reason) = match &r.outcome {
            Outcome::Analysed => ("analysed", None),
            Outcome::NotAnalysed(reason) => ("not_analysed", Some(reason.clone())),
            Outcome::Failed(reason) => ("failed", Some(reason.clone())),
        };
        let Timing { last_slice, settled, analysed } = r.timing;
        Self {
            outcome: outcome.into(),
            reason,
            series: Series {
                study_instance_uid: r.series.study_instance_uid.clone(),
                series_instance_uid: r.series.series_instance_uid.clone(),
                modality: r.series.modality.clone(),
                body_part: r.series.body_part.clone(),
                series_number: r.series.series_number,
                calling_ae: r.series.calling_ae.clone(),
                slices: r.series.slices,
                slice_spacing_mm: r.series.slice_spacing_mm,
            },
            model: Model {
                name: r.model.name.clone(),
                version: r.model.version.clone(),
                sha256: r.model.sha256.clone(),
                engine: r.model.engine.clone(),
                quantization: r.model.quantization.clone(),
            },
            lesions: r.lesions.iter().map(LesionDocument::from).collect(),
            timing_ms: TimingDocument { first_slice: 0, last_slice, settled, analysed, offered: None },
        }
    }
}

impl ResultDocument {
    /// A document made outside the appliance (`scan --json`): no sequence, no alert.
    #[must_use]
    pub fn offline(result: &SeriesResult) -> Self {
        let now = Timestamp::now();
        Self::new(result, now, 0, "", None, 1)
    }

    /// A result document.
    #[must_use]
    pub fn new(result: &SeriesResult, now: Timestamp, seq: i64, boot_id: &str, alert_id: Option<String>, version: u32) -> Self {
        Self {
            schema: SCHEMA.into(),
            event_id: uuid::Uuid::now_v7().to_string(),
            seq,
            boot_id: boot_id.to_owned(),
            document_type: "result".into(),
            at: rfc3339(now),
            clock_trusted: clock_trusted(now),
            alert_id,
            version,
            body: Body::from(result),
        }
    }
}
