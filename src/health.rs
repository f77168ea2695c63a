//! What the appliance says of itself: facts → one verdict with reasons. Pure.

/// Facts the verdict rests on, gathered by the wiring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The broker has an open session with us.
    pub broker_connected: bool,
    /// Alerts waiting for a subscriber's `received`.
    pub outbox_depth: usize,
    /// Free space of the state folder's file system.
    pub free_mib: u64,
    /// Free space below which objects are refused.
    pub reserve_mib: u64,
    /// Stages that stopped ticking, by name.
    pub stalled: Vec<&'static str>,
    /// The engine that runs is not the one preferred.
    pub engine_fallback: Option<String>,
    /// Settled series whose result could not be written to the journal yet.
    pub unwritten: u64,
}

/// Worst first is what a person should read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Everything works.
    Ok,
    /// Works with less than it should have.
    Degraded,
    /// Something that a person must mend.
    Failing,
}

impl Verdict {
    /// The word in the status document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

/// Free space under this multiple of the reserve is worth a warning before objects are refused.
const LOW_SPACE_FACTOR: u64 = 4;

/// Verdict and reasons, the worst first.
#[must_use]
pub fn judge(facts: &Facts) -> (Verdict, Vec<String>) {
    let mut reasons = Vec::new();
    for stage in &facts.stalled {
        reasons.push((Verdict::Failing, format!("{stage} has stopped; restart the service and keep the log")));
    }
    if facts.unwritten > 0 {
        let text = format!("the results of {} series cannot be written; free space on the disk of [state] dir", facts.unwritten);
        reasons.push((Verdict::Failing, text));
    }
    if facts.free_mib <= facts.reserve_mib {
        reasons.push((
            Verdict::Failing,
            format!("disk full: {} MiB free, {} MiB reserved; new objects are refused", facts.free_mib, facts.reserve_mib),
        ));
    } else if facts.free_mib < facts.reserve_mib.saturating_mul(LOW_SPACE_FACTOR) {
        reasons.push((Verdict::Degraded, format!("disk nearly full: {} MiB free", facts.free_mib)));
    }
    if !facts.broker_connected {
        reasons.push((Verdict::Degraded, format!("broker not connected; {} events wait in the outbox", facts.outbox_depth)));
    }
    if let Some(engine) = &facts.engine_fallback {
        reasons.push((Verdict::Degraded, format!("running on {engine}")));
    }
    reasons.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
    let verdict = reasons.first().map_or(Verdict::Ok, |(verdict, _)| *verdict);
    (verdict, reasons.into_iter().map(|(_, text)| text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Facts {
        Facts {
            broker_connected: true,
            outbox_depth: 0,
            free_mib: 10_000,
            reserve_mib: 256,
            stalled: Vec::new(),
            engine_fallback: None,
            unwritten: 0,
        }
    }

    #[test]
    fn a_healthy_appliance_has_no_reasons() {
        assert_eq!(judge(&healthy()), (Verdict::Ok, Vec::new()));
    }

    #[test]
    fn the_worst_reason_decides_and_comes_first() {
        let facts = Facts { broker_connected: false, outbox_depth: 3, free_mib: 100, ..healthy() };
        let (verdict, reasons) = judge(&facts);
        assert_eq!(verdict, Verdict::Failing);
        assert!(reasons[0].starts_with("disk full"), "{reasons:?}");
        assert!(reasons[1].contains("3 events"), "{reasons:?}");
    }

    #[test]
    fn low_space_warns_before_it_refuses() {
        assert_eq!(judge(&Facts { free_mib: 600, ..healthy() }).0, Verdict::Degraded);
    }

    #[test]
    fn a_stalled_stage_is_failing() {
        assert_eq!(judge(&Facts { stalled: vec!["analyst"], ..healthy() }).0, Verdict::Failing);
        assert_eq!(judge(&Facts { unwritten: 1, ..healthy() }).0, Verdict::Failing);
    }
}
