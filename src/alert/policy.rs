//! What a new result means for the alert of its series. Pure.

use super::SeriesResult;
use super::document::EventType;
use crate::series::Outcome;

/// Score from which, and long axis from which (mm; the size at which guidelines act at once), an alert is of high priority.
const HIGH_SCORE: f32 = 0.8;
const HIGH_LONG_MM: f32 = 20.0;
/// Below this score it is of low priority.
const LOW_SCORE: f32 = 0.4;

/// What the journal knows of the alert of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// There was none, or it was retracted.
    None,
    /// It is open.
    Open,
    /// A person dealt with it, or it expired.
    Closed,
}

/// Which event a result makes, if any.
///
/// Lesions open an alert, or update the one there is (a closed one is opened again: there is something new to see). A result without lesions retracts
/// an open alert only where the series *was* analysed: a failure to analyse takes nothing back.
#[must_use]
pub fn decide(result: &SeriesResult, known: Known) -> Option<EventType> {
    match (result.lesions.is_empty(), known) {
        (false, Known::None) => Some(EventType::Opened),
        (false, Known::Open | Known::Closed) => Some(EventType::Updated),
        (true, Known::Open) if result.outcome == Outcome::Analysed => Some(EventType::Retracted),
        (true, _) => None,
    }
}

/// `high`, `normal` or `low`.
#[must_use]
pub fn priority(result: &SeriesResult) -> &'static str {
    let best = result.lesions.iter().map(|l| l.lesion.score).fold(0.0, f32::max);
    let high = result.lesions.iter().any(|l| l.lesion.score >= HIGH_SCORE && l.lesion.long_axis_mm >= HIGH_LONG_MM);
    if high {
        "high"
    } else if best >= LOW_SCORE {
        "normal"
    } else {
        "low"
    }
}
