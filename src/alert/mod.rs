//! What the reading room is told: documents, the durable outbox, MQTT. The only room that names the MQTT client (`mqtt.rs`) and broker (`broker.rs`).

pub mod broker;
pub mod deliver;
pub mod document;
pub mod journal;
pub mod mqtt;
pub mod policy;

use crate::analysis::Analyst;
use crate::lesion::Lesion;
use crate::series::eligibility::StackPlan;
use crate::series::{Outcome, SliceHeader};

/// The finished result of one version of one series, handed to the alert room by the wiring.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesResult {
    /// What series this is.
    pub series: SeriesFacts,
    /// Hash over the set of SOP Instance UIDs (and digests) it was computed from: the same set gives the same key.
    pub set_key: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Lesions at or above the operating point, best first; empty unless analysed.
    pub lesions: Vec<ReportedLesion>,
    /// Which model and engine.
    pub model: ModelFacts,
    /// Milliseconds since the first slice was received.
    pub timing: Timing,
}

/// A lesion with what only the wiring knows of its key slice.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportedLesion {
    /// Geometry, score, type.
    pub lesion: Lesion,
    /// SOP Instance UID of the key slice.
    pub key_sop_instance_uid: String,
    /// Its Instance Number, if it has one.
    pub key_instance_number: Option<i32>,
    /// Which of its frames, where it has many.
    pub key_frame_number: Option<u32>,
    /// First and last Instance Number-ordered slice positions are in `lesion.slices`; this is the PNG key image, if configured.
    pub key_image_png: Option<Vec<u8>>,
}

/// The `series` object of every document.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesFacts {
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
    /// AE title of the sender.
    pub calling_ae: String,
    /// Distinct slices in the stack (instances, where there is no stack).
    pub slices: usize,
    /// Distance of neighbouring slices along the normal, mm.
    pub slice_spacing_mm: Option<f64>,
}

impl SeriesFacts {
    /// Facts of a series as documents carry them.
    #[must_use]
    pub fn of(headers: &[SliceHeader], plan: Option<&StackPlan>, calling_ae: &str) -> Self {
        let first = headers.first();
        Self {
            study_instance_uid: first.map(|h| h.study_instance_uid.clone()).unwrap_or_default(),
            series_instance_uid: first.map(|h| h.series_instance_uid.clone()).unwrap_or_default(),
            modality: first.map(|h| h.modality.clone()).unwrap_or_default(),
            body_part: first.and_then(|h| h.body_part.clone()),
            series_number: first.and_then(|h| h.series_number),
            calling_ae: calling_ae.to_owned(),
            slices: plan.map_or(headers.len(), |p| p.stack.slices.len()),
            slice_spacing_mm: plan.map(|p| (p.stack.spacing_mm * 1000.0).round() / 1000.0),
        }
    }
}

/// The `model` object of every document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// Bundle name.
    pub name: String,
    /// Bundle version.
    pub version: String,
    /// SHA-256 of the bundle's master weights.
    pub sha256: String,
    /// Engine that computed it.
    pub engine: String,
    /// `f32`, `int8`, …
    pub quantization: String,
}

impl ModelFacts {
    /// Facts of the model as documents carry them.
    #[must_use]
    pub fn of(analyst: &Analyst) -> Self {
        let (engine, quantization) = analyst.engine();
        let d = &analyst.bundle().description;
        Self {
            name: d.name.clone(),
            version: d.version.clone(),
            sha256: analyst.bundle().weights_sha256.clone(),
            engine: engine.to_owned(),
            quantization: quantization.to_owned(),
        }
    }
}

/// The `timing_ms` object: milliseconds since the first slice was stored (0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// The last slice was stored (its Success sent).
    pub last_slice: u64,
    /// The series was held to be complete.
    pub settled: u64,
    /// Lesions were ready.
    pub analysed: u64,
}
