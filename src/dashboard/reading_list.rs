//! Documents → what the page shows. Pure: repeats change nothing, later versions replace earlier ones, everything is bounded.
//!
//! Words: an alert is *listed* while the retained list of open alerts names it. Where list and event disagree, the later one is right. A listed alert
//! whose event this page does not have is a *stub*: it is shown, counted and can be acknowledged before its details come.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde::Serialize;
use serde_json::Value;

use crate::alert::document::{Event, EventType, LesionDocument, OpenAlert, OpenAlerts, ResultDocument, Status};
use crate::lesion::keyimage;

/// Alerts that are closed and still shown, and series, at most.
const MOST_ALERTS: usize = 100;
const MOST_SERIES: usize = 200;
/// Event ids remembered to tell repeats.
const MOST_REMEMBERED: usize = 2000;
/// Key images kept, bytes in all.
const MOST_IMAGE_BYTES: usize = 64 << 20;

/// The latest event of an alert.
#[derive(Debug, Clone)]
struct Known {
    event: Event,
    closed_by: Option<String>,
    opened_at: String,
}

/// One alert on the page.
#[derive(Debug, Clone, Serialize)]
pub struct ShownAlert<'a> {
    /// The latest event.
    pub event: &'a Event,
    /// Nobody has dealt with it.
    pub open: bool,
    /// How it was closed, if so.
    pub closed_by: Option<&'a str>,
    /// When it was first opened, as far as this page knows.
    pub opened_at: &'a str,
}

/// What is known of an alert, list and event taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    Closed,
    /// Open, but in a version whose event is not here.
    Outdated,
}

/// A key image.
#[derive(Debug)]
struct Picture {
    png: Vec<u8>,
    /// Its pixels a pixel of the slice.
    scale: f64,
}

/// Alert, lesion number, caption: two versions of an alert number their lesions alike, but a picture says which lesion it shows.
type PictureKey = (String, u32, String);

/// Everything the page shows.
#[derive(Debug, Default)]
pub struct ReadingList {
    alerts: BTreeMap<String, Known>,
    listed: Option<OpenAlerts>,
    series: BTreeMap<String, ResultDocument>,
    status: Option<Status>,
    images: BTreeMap<PictureKey, Picture>,
    image_order: VecDeque<PictureKey>,
    seen: HashSet<String>,
    seen_order: VecDeque<String>,
    /// The page's own connection to the broker.
    pub connected: bool,
    /// How often that connection ended.
    pub disconnects: u64,
}

fn opens(event: &Event) -> bool {
    matches!(event.event_type, EventType::Opened | EventType::Updated | EventType::Superseded)
}

fn picture_key(alert: &str, lesion: &LesionDocument) -> PictureKey {
    (alert.to_owned(), lesion.number, keyimage::caption(lesion.box_px, lesion.slices))
}

/// Lower is shown first.
fn rank(priority: &str) -> usize {
    ["high", "normal", "low"].iter().position(|p| *p == priority).unwrap_or(3)
}

impl ReadingList {
    /// Takes in an event; false for one that was there before.
    pub fn event(&mut self, event: Event) -> bool {
        if !self.remember(&event.event_id) {
            return false;
        }
        let before = self.alerts.get(&event.alert_id);
        if before.is_none_or(|a| (event.version, event.seq) > (a.event.version, a.event.seq)) {
            let closed_by = match (&event.event_type, &event.acknowledgement) {
                (EventType::Acknowledged, Some(ack)) => {
                    let by = if ack.by.is_empty() { "somebody" } else { &ack.by };
                    Some(format!("{} by {by}", format!("{:?}", ack.action).to_lowercase()))
                }
                (EventType::Retracted, _) => Some("retracted: a later version of the series holds nothing".into()),
                (EventType::Expired, _) => Some("expired: nobody answered in time".into()),
                _ => None,
            };
            let opened_at = before
                .map(|a| a.opened_at.clone())
                .or_else(|| self.entry(&event.alert_id).map(|o| o.opened_at.clone()))
                .unwrap_or_else(|| event.at.clone());
            self.alerts.insert(event.alert_id.clone(), Known { event, closed_by, opened_at });
        }
        self.forget_old();
        true
    }

    fn forget_old(&mut self) {
        let mut closed: Vec<(i64, String)> =
            self.alerts.iter().filter(|(_, a)| self.standing(a) == Standing::Closed).map(|(id, a)| (a.event.seq, id.clone())).collect();
        closed.sort();
        for (_, id) in closed.iter().take(closed.len().saturating_sub(MOST_ALERTS)) {
            self.alerts.remove(id);
        }
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

    /// Takes in the retained list: it closes what it does not name any more, and opens what this page has not heard of.
    pub fn open_list(&mut self, list: OpenAlerts) {
        for entry in &list.open {
            if let Some(known) = self.alerts.get_mut(&entry.alert_id) {
                known.opened_at.clone_from(&entry.opened_at);
            }
        }
        self.listed = Some(list);
    }

    fn entry(&self, alert: &str) -> Option<&OpenAlert> {
        self.listed.as_ref()?.open.iter().find(|o| o.alert_id == alert)
    }

    fn standing(&self, known: &Known) -> Standing {
        let event = &known.event;
        // Same form, same clock: the text compares as the time does.
        match self.listed.as_ref().filter(|list| list.at > event.at).map(|_| self.entry(&event.alert_id)) {
            Some(None) => Standing::Closed,
            Some(Some(entry)) if !opens(event) || entry.version > event.version => Standing::Outdated,
            None if !opens(event) => Standing::Closed,
            Some(Some(_)) | None => Standing::Open,
        }
    }

    /// Listed alerts whose details are not here, by priority, then the newest.
    #[must_use]
    pub fn stubs(&self) -> Vec<&OpenAlert> {
        let listed = self.listed.iter().flat_map(|list| &list.open);
        let mut stubs: Vec<&OpenAlert> =
            listed.filter(|o| self.alerts.get(&o.alert_id).is_none_or(|a| self.standing(a) == Standing::Outdated)).collect();
        stubs.sort_by(|a, b| (rank(&a.priority), &b.opened_at).cmp(&(rank(&b.priority), &a.opened_at)));
        stubs
    }

    /// Takes in a status.
    pub fn status(&mut self, status: Status) {
        self.status = Some(status);
    }

    /// Boot id of the appliance while it is there to be asked.
    #[must_use]
    pub fn reachable(&self) -> Option<&str> {
        self.status.as_ref().filter(|_| self.lost().is_none()).map(|s| s.boot_id.as_str())
    }

    /// Takes in a key image. One that does not say which lesion it shows is not kept: a wrong picture is worse than none.
    pub fn image(&mut self, alert: &str, number: u32, png: Vec<u8>) {
        let Some(caption) = keyimage::text(&png, "lesion") else { return };
        let scale = keyimage::text(&png, "scale").and_then(|s| s.parse().ok()).filter(|s: &f64| s.is_finite() && *s > 0.0).unwrap_or(1.0);
        let key = (alert.to_owned(), number, caption.to_owned());
        if self.images.insert(key.clone(), Picture { png, scale }).is_none() {
            self.image_order.push_back(key);
        }
        while self.images.values().map(|p| p.png.len()).sum::<usize>() > MOST_IMAGE_BYTES {
            match self.image_order.pop_front() {
                Some(old) => self.images.remove(&old),
                None => break,
            };
        }
    }

    /// The key image of a lesion of this very version.
    #[must_use]
    pub fn png(&self, alert: &str, version: u32, number: u32) -> Option<&[u8]> {
        let event = &self.alerts.get(alert).filter(|a| a.event.version == version)?.event;
        let lesion = event.body.lesions.iter().find(|l| l.number == number)?;
        self.images.get(&picture_key(alert, lesion)).map(|p| p.png.as_slice())
    }

    /// Present version of an alert.
    #[must_use]
    pub fn version(&self, alert: &str) -> Option<u32> {
        let (listed, known) = (self.entry(alert).map(|o| o.version), self.alerts.get(alert));
        match known {
            Some(a) if self.standing(a) != Standing::Outdated => Some(a.event.version),
            _ => listed,
        }
    }

    /// Open alerts, stubs included.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.stubs().len() + self.alerts.values().filter(|a| self.standing(a) == Standing::Open).count()
    }

    /// Why silence means nothing now: new alerts could not arrive.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        if !self.connected {
            return Some("The broker is not reached: new alerts cannot arrive here.".into());
        }
        match &self.status {
            None => Some("Nothing was heard from the appliance yet.".into()),
            Some(s) if s.availability != "online" => {
                Some(format!("The appliance is {}: what the scanner sends is not looked at.", s.availability))
            }
            Some(_) => None,
        }
    }

    /// `ok`, `degraded` or `failing`, and why: the appliance's own verdict, where it can be had.
    #[must_use]
    pub fn health(&self) -> (String, Vec<String>) {
        match (self.lost(), &self.status) {
            (None, Some(status)) => (status.health.clone(), status.reasons.clone()),
            (lost, _) => ("failing".into(), lost.into_iter().collect()),
        }
    }

    /// What the page draws: stubs, then open alerts, by priority, then the newest.
    #[must_use]
    pub fn view(&self) -> Value {
        let mut alerts: Vec<ShownAlert<'_>> = self
            .alerts
            .values()
            .filter(|a| self.standing(a) != Standing::Outdated)
            .map(|a| {
                let open = self.standing(a) == Standing::Open;
                let closed_by = (!open).then(|| a.closed_by.as_deref().unwrap_or("closed"));
                ShownAlert { event: &a.event, open, closed_by, opened_at: &a.opened_at }
            })
            .collect();
        alerts.sort_by_key(|a| (!a.open, if a.open { rank(&a.event.priority) } else { 0 }, -a.event.seq));
        let mut series: Vec<&ResultDocument> = self.series.values().collect();
        series.sort_by_key(|d| -d.seq);
        let mut images = serde_json::Map::new();
        for ShownAlert { event, .. } in &alerts {
            for lesion in &event.body.lesions {
                if let Some(picture) = self.images.get(&picture_key(&event.alert_id, lesion)) {
                    images.insert(format!("{}/{}/{}", event.alert_id, event.version, lesion.number), picture.scale.into());
                }
            }
        }
        serde_json::json!({
            "alerts": alerts, "stubs": self.stubs(), "series": series, "status": self.status, "connected": self.connected, "lost": self.lost(), "images": images,
        })
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

    fn list(at: &str, open: &[(&str, u32)]) -> OpenAlerts {
        let open = open.iter().map(|(id, version)| OpenAlert {
            alert_id: (*id).into(),
            version: *version,
            priority: "high".into(),
            opened_at: "2025-12-31T23:00:00.000Z".into(),
        });
        OpenAlerts { schema: "lesionwatch/1".into(), at: at.into(), open: open.collect() }
    }

    const BEFORE: &str = "2025-12-31T23:59:00.000Z";
    const LATER: &str = "2026-01-01T00:00:01.000Z";

    #[test]
    fn what_was_closed_elsewhere_is_closed_here() {
        let mut reading = ReadingList::default();
        reading.event(event("e1", "a", "opened", 1, 1, "high"));
        reading.open_list(list(BEFORE, &[]));
        assert_eq!(reading.view()["alerts"][0]["open"], true, "a list from before the alert closes nothing");
        reading.open_list(list(LATER, &[]));
        assert_eq!(reading.view()["alerts"][0]["open"], false);
    }

    #[test]
    fn a_listed_alert_without_its_event_is_a_stub_until_it_comes() {
        let mut reading = ReadingList::default();
        reading.open_list(list(LATER, &[("a", 2)]));
        assert_eq!((reading.open_count(), reading.version("a")), (1, Some(2)));
        assert_eq!(reading.view()["stubs"][0]["alert_id"], "a");
        reading.event(event("e1", "a", "opened", 1, 1, "high"));
        assert_eq!((reading.stubs().len(), reading.version("a")), (1, Some(2)), "details of an old version are not the alert's");
        reading.event(event("e2", "a", "updated", 2, 2, "high"));
        let view = reading.view();
        assert_eq!((reading.stubs().len(), reading.open_count(), &view["alerts"][0]["open"]), (0, 1, &Value::Bool(true)));
        assert_eq!(view["alerts"][0]["opened_at"], "2025-12-31T23:00:00.000Z");
        // Acknowledged before the list that still names it is known to be old.
        let mut closed = event("e3", "a", "acknowledged", 2, 3, "high");
        closed.at = "2026-01-01T00:00:02.000Z".into();
        reading.event(closed);
        assert_eq!(reading.open_count(), 0);
    }

    fn with_lesion(mut event: Event, x: f64) -> Event {
        event.body.lesions = serde_json::from_value(serde_json::json!([{
            "number": 1, "score": 0.5, "type": "lung", "type_probabilities": {}, "key_image": { "sop_instance_uid": "1", "instance_number": 5 },
            "box_px": [x, 50.0, x + 40.0, 90.0], "center_lps_mm": [0, 0, 0], "long_axis_mm": 10.0, "short_axis_mm": 8.0,
            "recist_px": [[0, 0], [0, 0], [0, 0], [0, 0]], "segmented": false, "volume_mm3": 1.0, "slices": [4, 8]
        }]))
        .unwrap();
        event
    }

    fn picture(x: f64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.add_text_chunk("lesion".into(), keyimage::caption([x, 50.0, x + 40.0, 90.0], [4, 8])).unwrap();
        encoder.add_text_chunk("scale".into(), "0.5".into()).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[x as u8]).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn a_picture_is_shown_under_its_own_lesion_only() {
        let mut reading = ReadingList::default();
        reading.image("a", 1, picture(10.0));
        reading.event(with_lesion(event("e1", "a", "opened", 1, 1, "high"), 10.0));
        assert_eq!(reading.png("a", 1, 1), Some(picture(10.0).as_slice()));
        assert_eq!(reading.view()["images"]["a/1/1"], 0.5);
        // Another lesion has number 1 now; its picture is not here yet.
        reading.event(with_lesion(event("e2", "a", "updated", 2, 2, "high"), 200.0));
        assert_eq!((reading.png("a", 1, 1), reading.png("a", 2, 1)), (None, None));
        reading.image("a", 1, picture(200.0));
        // A late repeat of the old one.
        reading.image("a", 1, picture(10.0));
        reading.image("a", 1, b"\x89PNG\r\n\x1a\n".to_vec());
        assert_eq!(reading.png("a", 2, 1), Some(picture(200.0).as_slice()));
        assert_eq!(reading.view()["images"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn health_is_the_appliances_own_while_it_can_be_heard() {
        let mut reading = ReadingList { connected: true, ..ReadingList::default() };
        assert_eq!(reading.health().0, "failing");
        let status = |availability: &str, health: &str| Status {
            schema: "lesionwatch/1".into(),
            availability: availability.into(),
            boot_id: "b".into(),
            version: "1".into(),
            engine: "e".into(),
            model: "m".into(),
            health: health.into(),
            reasons: Vec::new(),
            outbox_depth: 0,
            time: BEFORE.into(),
        };
        reading.status(status("online", "degraded"));
        assert_eq!((reading.health().0.as_str(), reading.lost(), reading.reachable()), ("degraded", None, Some("b")));
        reading.status(status("offline", "ok"));
        assert_eq!((reading.health().0.as_str(), reading.reachable()), ("failing", None));
        reading.status(status("online", "ok"));
        reading.connected = false;
        assert!(reading.lost().unwrap().contains("broker"));
    }
}
