//! Documents → what the page shows. Pure: repeats change nothing, later versions replace earlier ones, everything is bounded.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde::Serialize;
use serde_json::Value;

use crate::alert::document::{Event, EventType, OpenAlerts, ResultDocument, Status};

/// Alerts that are closed and still shown, and series, at most.
const MOST_ALERTS: usize = 100;
const MOST_SERIES: usize = 200;
/// Event ids remembered to tell repeats.
const MOST_REMEMBERED: usize = 2000;
/// Key images kept, bytes in all.
const MOST_IMAGE_BYTES: usize = 64 << 20;

/// One alert on the page.
#[derive(Debug, Clone, Serialize)]
pub struct ShownAlert {
    /// The latest event.
    pub event: Event,
    /// Nobody has dealt with it.
    pub open: bool,
    /// How it was closed, if so.
    pub closed_by: Option<String>,
}

/// Everything the page shows.
#[derive(Debug, Default)]
pub struct ReadingList {
    alerts: BTreeMap<String, ShownAlert>,
    series: BTreeMap<String, ResultDocument>,
    status: Option<Status>,
    images: BTreeMap<(String, u32), Vec<u8>>,
    image_order: VecDeque<(String, u32)>,
    seen: HashSet<String>,
    seen_order: VecDeque<String>,
    /// The page's own connection to the broker.
    pub connected: bool,
}

impl ReadingList {
    /// Takes in an event; false for one that was there before.
    pub fn event(&mut self, event: Event) -> bool {
        if !self.remember(&event.event_id) {
            return false;
        }
        let newer = self.alerts.get(&event.alert_id).is_none_or(|a| (event.version, event.seq) > (a.event.version, a.event.seq));
        if newer {
            let open = matches!(event.event_type, EventType::Opened | EventType::Updated | EventType::Superseded);
            let closed_by = match (&event.event_type, &event.acknowledgement) {
                (EventType::Acknowledged, Some(ack)) => {
                    Some(format!("{:?} by {}", ack.action, if ack.by.is_empty() { "somebody" } else { &ack.by }).to_lowercase())
                }
                (EventType::Retracted, _) => Some("retracted".into()),
                (EventType::Expired, _) => Some("expired".into()),
                _ => None,
            };
            self.alerts.insert(event.alert_id.clone(), ShownAlert { event, open, closed_by });
        }
        while self.alerts.values().filter(|a| !a.open).count() > MOST_ALERTS {
            let oldest = self.alerts.iter().filter(|(_, a)| !a.open).min_by_key(|(_, a)| a.event.seq).map(|(id, _)| id.clone());
            if let Some(id) = oldest {
                self.alerts.remove(&id);
            }
        }
        true
    }

    /// Takes in a result.
    pub fn result(&mut self, document: ResultDocument) {
        let uid = document.body.series.series_instance_uid.clone();
        if self.series.get(&uid).is_none_or(|d| document.version > d.version) {
            self.series.insert(uid, document);
        }
        while self.series.len() > MOST_SERIES {
            let oldest = self.series.iter().min_by_key(|(_, d)| d.seq).map(|(uid, _)| uid.clone());
            if let Some(uid) = oldest {
                self.series.remove(&uid);
            }
        }
    }

    /// Takes in the retained list: what it does not name any more was closed while this page was away.
    pub fn open_list(&mut self, list: &OpenAlerts) {
        for alert in self.alerts.values_mut().filter(|a| a.open) {
            if !list.open.iter().any(|o| o.alert_id == alert.event.alert_id) {
                alert.open = false;
                alert.closed_by.get_or_insert_with(|| "closed".into());
            }
        }
    }

    /// Takes in a status.
    pub fn status(&mut self, status: Status) {
        self.status = Some(status);
    }

    /// Takes in a key image.
    pub fn image(&mut self, alert: &str, number: u32, png: Vec<u8>) {
        let key = (alert.to_owned(), number);
        if self.images.insert(key.clone(), png).is_none() {
            self.image_order.push_back(key);
        }
        while self.images.values().map(Vec::len).sum::<usize>() > MOST_IMAGE_BYTES {
            match self.image_order.pop_front() {
                Some(old) => self.images.remove(&old),
                None => break,
            };
        }
    }

    /// A key image.
    #[must_use]
    pub fn png(&self, alert: &str, number: u32) -> Option<&[u8]> {
        self.images.get(&(alert.to_owned(), number)).map(Vec::as_slice)
    }

    /// Version of an open alert.
    #[must_use]
    pub fn version(&self, alert: &str) -> Option<u32> {
        self.alerts.get(alert).map(|a| a.event.version)
    }

    /// What the page draws: open alerts first, by priority, then the newest.
    #[must_use]
    pub fn view(&self) -> Value {
        let rank =
            |a: &ShownAlert| (!a.open, ["high", "normal", "low"].iter().position(|p| *p == a.event.priority).unwrap_or(3), -a.event.seq);
        let mut alerts: Vec<&ShownAlert> = self.alerts.values().collect();
        alerts.sort_by_key(|a| rank(a));
        let mut series: Vec<&ResultDocument> = self.series.values().collect();
        series.sort_by_key(|d| -d.seq);
        let images: Vec<String> = self.images.keys().map(|(a, n)| format!("{a}/{n}")).collect();
        serde_json::json!({ "alerts": alerts, "series": series, "status": self.status, "connected": self.connected, "images": images })
    }

    fn remember(&mut self, id: &str) -> bool {
        if !self.seen.insert(id.to_owned()) {
            return false;
        }
        self.seen_order.push_back(id.to_owned());
        if self.seen_order.len() > MOST_REMEMBERED
            && let Some(old) = self.seen_order.pop_front()
        {
            self.seen.remove(&old);
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn event(id: &str, alert: &str, kind: &str, version: u32, seq: i64, priority: &str) -> Event {
        serde_json::from_value(serde_json::json!({
            "schema": "lesionwatch/1", "event_id": id, "seq": seq, "boot_id": "b", "type": kind, "at": "2026-01-01T00:00:00.000Z", "clock_trusted": true,
            "alert_id": alert, "version": version, "priority": priority, "outcome": "analysed", "reason": null,
            "series": { "study_instance_uid": "1", "series_instance_uid": "2", "modality": "CT", "body_part": null, "series_number": 3, "calling_ae": "CT", "slices": 9, "slice_spacing_mm": 2.0 },
            "model": { "name": "m", "version": "1", "sha256": "x", "engine": "tract", "quantization": "f32" },
            "lesions": [], "timing_ms": { "first_slice": 0, "last_slice": 1, "settled": 2, "analysed": 3, "offered": 4 }
        }))
        .unwrap()
    }

    fn order(list: &ReadingList) -> Vec<String> {
        list.view()["alerts"].as_array().unwrap().iter().map(|a| a["event"]["alert_id"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn open_ones_come_first_by_priority_then_newest() {
        let mut list = ReadingList::default();
        for (i, (alert, priority)) in [("a", "low"), ("b", "high"), ("c", "normal"), ("d", "high")].into_iter().enumerate() {
            assert!(list.event(event(&format!("e{i}"), alert, "opened", 1, i as i64, priority)));
        }
        list.event(event("e9", "b", "acknowledged", 1, 9, "high"));
        assert_eq!(order(&list), ["d", "c", "a", "b"]);
    }

    #[test]
    fn repeats_and_older_versions_change_nothing() {
        let mut list = ReadingList::default();
        assert!(list.event(event("e1", "a", "updated", 2, 5, "high")));
        assert!(!list.event(event("e1", "a", "updated", 2, 5, "high")));
        list.event(event("e0", "a", "opened", 1, 3, "low"));
        assert_eq!(list.version("a"), Some(2));
    }

    #[test]
    fn what_was_closed_elsewhere_is_closed_here() {
        let mut list = ReadingList::default();
        list.event(event("e1", "a", "opened", 1, 1, "high"));
        list.open_list(&OpenAlerts { schema: "lesionwatch/1".into(), at: String::new(), open: Vec::new() });
        assert_eq!(list.view()["alerts"][0]["open"], false);
    }
}
