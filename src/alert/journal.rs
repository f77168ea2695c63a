//! What was decided and what still has to be said, in SQLite (`state.db`, WAL, synchronous = FULL): one transaction writes a result, its alert and the
//! messages, and only what is written is offered.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::SeriesResult;
use super::document::{Ack, Action, Body, Event, EventType, OpenAlert, OpenAlerts, ResultDocument, SCHEMA, clock_trusted, rfc3339};
use super::policy::{Known, decide, priority};

/// Layout of the database.
const LAYOUT: i64 = 1;
/// Delivered results are kept this long for `resend`.
const RESULTS_KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// SQLite's reason.
    #[error("state.db in {folder}: {source}; check [state] dir, its owner and the disk")]
    Database {
        /// State folder.
        folder: String,
        /// Why.
        source: rusqlite::Error,
    },
    /// Written by a newer program.
    #[error("state.db in {folder} has layout {found}, this program knows {LAYOUT}; use the program that wrote it or another [state] dir")]
    Newer {
        /// State folder.
        folder: String,
        /// As found.
        found: i64,
    },
}

/// What a message is, which decides when it is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Done when a subscriber's software answers `received`.
    Alert,
    /// Key image of an alert: done with its alert.
    Image,
    /// Result document or a note on an alert: done when the broker has it.
    Note,
}

impl Kind {
    const fn code(self) -> i64 {
        match self {
            Self::Alert => 0,
            Self::Image => 1,
            Self::Note => 2,
        }
    }
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Order.
    pub seq: i64,
    /// Below the base topic.
    pub topic: String,
    /// What it is.
    pub kind: Kind,
    /// What to send.
    pub payload: Vec<u8>,
    /// Wall-clock milliseconds of the first slice, where `timing_ms.offered` is still to be filled in.
    pub first_slice_ms: Option<i64>,
}

/// What came of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// It answers the present version.
    Taken,
    /// It answers an earlier version than this one: that one is delivered, the alert stays as it is.
    Stale(u32),
    /// It answers a version that was never made; this is the present one. Nothing changes.
    NoSuchVersion(u32),
    /// No alert has this id.
    Unknown,
}

/// The journal.
pub struct Journal {
    db: Connection,
    boot_id: String,
}

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES ('seq', 0);
CREATE TABLE series (uid TEXT PRIMARY KEY, study TEXT NOT NULL, version INTEGER NOT NULL, set_key TEXT NOT NULL, outcome TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE alerts (alert_id TEXT PRIMARY KEY, series_uid TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, priority TEXT NOT NULL, state TEXT NOT NULL,
                     opened_ms INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE outbox (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, kind INTEGER NOT NULL, alert_id TEXT, version INTEGER NOT NULL, payload BLOB NOT NULL,
                     first_slice_ms INTEGER, created_ms INTEGER NOT NULL, done_ms INTEGER) STRICT;
CREATE INDEX outbox_waiting ON outbox (seq) WHERE done_ms IS NULL;
";

type Sql<T> = rusqlite::Result<T>;

impl Journal {
    /// Opens or makes `state.db` in `folder`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let named = folder.display().to_string();
        let fault = |source| JournalError::Database { folder: named.clone(), source };
        let mut db = Connection::open(folder.join("state.db")).map_err(fault)?;
        // Storage commitments are written through a connection of their own: a transaction that reads first and writes later would fail on them at once.
        db.set_transaction_behavior(TransactionBehavior::Immediate);
        let set_up = || -> Sql<i64> {
            db.busy_timeout(Duration::from_secs(5))?;
            db.pragma_update(None, "journal_mode", "WAL")?;
            db.pragma_update(None, "synchronous", "FULL")?;
            let layout: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
            if layout == 0 {
                db.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;"))?;
            }
            Ok(layout)
        };
        let found = set_up().map_err(fault)?;
        if found > LAYOUT {
            return Err(JournalError::Newer { folder: named, found });
        }
        Ok(Self { db, boot_id: uuid::Uuid::now_v7().to_string() })
    }

    /// Of this process.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Series whose result is written: UID → key of the set it was computed from.
    ///
    /// # Errors
    /// SQLite's.
    pub fn known_series(&self) -> Sql<HashMap<String, String>> {
        let mut rows = self.db.prepare("SELECT uid, set_key FROM series")?;
        rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
    }

    /// Analysed series, oldest result first: study and series UID. What the spool may drop when it is full.
    ///
    /// # Errors
    /// SQLite's.
    pub fn oldest_series(&self) -> Sql<Vec<(String, String)>> {
        let mut rows = self.db.prepare("SELECT study, uid FROM series ORDER BY at_ms")?;
        rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
    }

    /// Writes a result, its alert and their messages in one transaction. The same set a second time writes nothing. `first_slice` is the wall-clock time
    /// of the first slice.
    ///
    /// # Errors
    /// SQLite's; nothing is written then.
    pub fn record(&mut self, result: &SeriesResult, first_slice: Timestamp, now: Timestamp) -> Sql<bool> {
        let boot_id = self.boot_id.clone();
        let tx = self.db.transaction()?;
        let uid = &result.series.series_instance_uid;
        let before: Option<(u32, String)> =
            tx.query_row("SELECT version, set_key FROM series WHERE uid = ?1", [uid], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        if before.as_ref().is_some_and(|(_, key)| *key == result.set_key) {
            return Ok(false);
        }
        let version = before.map_or(1, |(v, _)| v + 1);
        let body = Body::from(result);
        tx.execute(
            "INSERT OR REPLACE INTO series (uid, study, version, set_key, outcome, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![uid, result.series.study_instance_uid, version, result.set_key, body.outcome, now.as_millisecond()],
        )?;
        let alert: Option<(String, String)> =
            tx.query_row("SELECT alert_id, state FROM alerts WHERE series_uid = ?1", [uid], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        let known = match alert.as_ref().map(|(_, state)| state.as_str()) {
            None | Some("retracted") => Known::None,
            Some("open") => Known::Open,
            Some(_) => Known::Closed,
        };
        let event_type = decide(result, known);
        let alert_id = match (alert, event_type) {
            (Some((id, _)), _) => Some(id),
            (None, Some(_)) => Some(uuid::Uuid::now_v7().to_string()),
            (None, None) => None,
        };
        let mut put = Outbox { tx: &tx, now, boot_id: &boot_id, first_slice_ms: Some(first_slice.as_millisecond()) };
        let seq = put.next_seq()?;
        let document = ResultDocument::new(result, now, seq, &boot_id, alert_id.clone(), version);
        put.message(seq, "results", Kind::Note, None, version, &json(&document)?)?;
        if let (Some(event_type), Some(id)) = (event_type, alert_id) {
            let state = if event_type == EventType::Retracted { "retracted" } else { "open" };
            // What was not delivered of earlier versions is void: the new version says it all.
            tx.execute("DELETE FROM outbox WHERE alert_id = ?1 AND done_ms IS NULL", [&id])?;
            tx.execute(
                "INSERT INTO alerts (alert_id, series_uid, version, priority, state, opened_ms, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (alert_id) DO UPDATE SET version = ?3, priority = ?4, state = ?5, body = ?7",
                params![id, uid, version, priority(result), state, now.as_millisecond(), json(&body)?],
            )?;
            for lesion in &result.lesions {
                if let Some(png) = &lesion.key_image_png {
                    let topic = format!("images/{id}/{}", lesion.lesion.number);
                    let seq = put.next_seq()?;
                    put.message(seq, &topic, Kind::Image, Some(&id), version, png)?;
                }
            }
            put.event(event_type, &id, version, priority(result), body, None)?;
        }
        tx.commit()?;
        Ok(true)
    }

    /// Messages that wait, in order, after `seq`; at most `most`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn waiting(&self, after: i64, most: usize) -> Sql<Vec<Message>> {
        let mut rows = self.db.prepare(
            "SELECT seq, topic, kind, payload, first_slice_ms FROM outbox WHERE done_ms IS NULL AND seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        rows.query_map(params![after, most as i64], message)?.collect()
    }

    /// How many messages wait, images aside.
    ///
    /// # Errors
    /// SQLite's.
    pub fn depth(&self) -> Sql<usize> {
        self.db
            .query_row("SELECT count(*) FROM outbox WHERE done_ms IS NULL AND kind <> 1", [], |r| r.get::<_, i64>(0))
            .map(|n| usize::try_from(n).unwrap_or(0))
    }

    /// Fills in `timing_ms.offered` of a message that is offered for the first time; returns what to send from now on.
    ///
    /// # Errors
    /// SQLite's.
    pub fn offered(&mut self, message: &Message, now: Timestamp) -> Sql<Vec<u8>> {
        let Some(first) = message.first_slice_ms else { return Ok(message.payload.clone()) };
        let mut payload = message.payload.clone();
        if let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&payload) {
            value["timing_ms"]["offered"] = (now.as_millisecond() - first).max(0).into();
            payload = serde_json::to_vec(&value).unwrap_or(payload);
        }
        self.db.execute("UPDATE outbox SET payload = ?2, first_slice_ms = NULL WHERE seq = ?1", params![message.seq, payload])?;
        Ok(payload)
    }

    /// The broker has a message; true where that was all it waited for.
    ///
    /// # Errors
    /// SQLite's.
    pub fn delivered(&mut self, seq: i64, now: Timestamp) -> Sql<bool> {
        let done = self.db.execute(
            "UPDATE outbox SET done_ms = ?2 WHERE seq = ?1 AND kind = ?3 AND done_ms IS NULL",
            params![seq, now.as_millisecond(), Kind::Note.code()],
        )?;
        Ok(done > 0)
    }

    /// Takes in an acknowledgement.
    ///
    /// # Errors
    /// SQLite's.
    pub fn acknowledge(&mut self, ack: &Ack, now: Timestamp) -> Sql<Acknowledged> {
        let boot_id = self.boot_id.clone();
        let tx = self.db.transaction()?;
        let found = alert(&tx, &ack.alert_id)?;
        let Some((version, priority, state, body)) = found else { return Ok(Acknowledged::Unknown) };
        if ack.version > version || ack.version == 0 {
            return Ok(Acknowledged::NoSuchVersion(version));
        }
        // Whatever a person or a program answers, it has the alert.
        tx.execute(
            "UPDATE outbox SET done_ms = ?3 WHERE alert_id = ?1 AND version <= ?2 AND kind IN (0, 1) AND done_ms IS NULL",
            params![ack.alert_id, ack.version, now.as_millisecond()],
        )?;
        if ack.action != Action::Received && state == "open" && ack.version == version {
            tx.execute("UPDATE alerts SET state = 'acknowledged' WHERE alert_id = ?1", [&ack.alert_id])?;
            let mut put = Outbox { tx: &tx, now, boot_id: &boot_id, first_slice_ms: None };
            put.event(EventType::Acknowledged, &ack.alert_id, version, &priority, body, Some(ack.clone()))?;
        }
        tx.commit()?;
        Ok(if ack.version < version { Acknowledged::Stale(version) } else { Acknowledged::Taken })
    }

    /// Closes alerts opened before `before` that nobody acknowledged, and forgets delivered messages that are too old to be asked for.
    ///
    /// # Errors
    /// SQLite's.
    pub fn expire(&mut self, before: Timestamp, now: Timestamp) -> Sql<usize> {
        let boot_id = self.boot_id.clone();
        let tx = self.db.transaction()?;
        let old: Vec<String> = {
            let mut rows = tx.prepare("SELECT alert_id FROM alerts WHERE state = 'open' AND opened_ms < ?1")?;
            rows.query_map([before.as_millisecond()], |r| r.get(0))?.collect::<Sql<_>>()?
        };
        for id in &old {
            let Some((version, priority, _, body)) = alert(&tx, id)? else { continue };
            tx.execute("UPDATE alerts SET state = 'expired' WHERE alert_id = ?1", [id])?;
            tx.execute("UPDATE outbox SET done_ms = ?2 WHERE alert_id = ?1 AND done_ms IS NULL", params![id, now.as_millisecond()])?;
            let mut put = Outbox { tx: &tx, now, boot_id: &boot_id, first_slice_ms: None };
            put.event(EventType::Expired, id, version, &priority, body, None)?;
            log::warn!("alert expired alert_id={id} opened_before={before}");
        }
        let kept = now.as_millisecond() - i64::try_from(RESULTS_KEPT.as_millis()).unwrap_or(i64::MAX);
        tx.execute("DELETE FROM outbox WHERE done_ms < ?1", [kept])?;
        tx.commit()?;
        Ok(old.len())
    }

    /// How many messages there are from `since` on, delivered or not, and the number of the last.
    ///
    /// # Errors
    /// SQLite's.
    pub fn count_from(&self, since: i64) -> Sql<(usize, i64)> {
        self.db.query_row("SELECT count(*), coalesce(max(seq), 0) FROM outbox WHERE seq >= ?1", [since], |r| {
            Ok((usize::try_from(r.get::<_, i64>(0)?).unwrap_or(0), r.get(1)?))
        })
    }

    /// Messages `from ..= to` that are done with, in order, at most `most`: to be said again.
    ///
    /// # Errors
    /// SQLite's.
    pub fn delivered_between(&self, from: i64, to: i64, most: usize) -> Sql<Vec<Message>> {
        let mut rows = self.db.prepare(
            "SELECT seq, topic, kind, payload, first_slice_ms FROM outbox WHERE done_ms IS NOT NULL AND seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?3",
        )?;
        rows.query_map(params![from, to, most as i64], message)?.collect()
    }

    /// Key of the set that a series' result was computed from.
    ///
    /// # Errors
    /// SQLite's.
    pub fn known_set(&self, series_uid: &str) -> Sql<Option<String>> {
        self.db.query_row("SELECT set_key FROM series WHERE uid = ?1", [series_uid], |r| r.get(0)).optional()
    }

    /// The list for `…/alerts/open`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open_alerts(&self, now: Timestamp) -> Sql<OpenAlerts> {
        let mut rows =
            self.db.prepare("SELECT alert_id, version, priority, opened_ms FROM alerts WHERE state = 'open' ORDER BY opened_ms")?;
        let open = rows.query_map([], |r| {
            let opened_at = Timestamp::from_millisecond(r.get(3)?).unwrap_or_default();
            Ok(OpenAlert { alert_id: r.get(0)?, version: r.get(1)?, priority: r.get(2)?, opened_at: rfc3339(opened_at) })
        })?;
        Ok(OpenAlerts { schema: SCHEMA.into(), at: rfc3339(now), open: open.collect::<Sql<_>>()? })
    }
}

fn message(r: &rusqlite::Row<'_>) -> Sql<Message> {
    let kind = match r.get::<_, i64>(2)? {
        0 => Kind::Alert,
        1 => Kind::Image,
        _ => Kind::Note,
    };
    Ok(Message { seq: r.get(0)?, topic: r.get(1)?, kind, payload: r.get(3)?, first_slice_ms: r.get(4)? })
}

type AlertRow = (u32, String, String, Body);

fn alert(tx: &Transaction<'_>, id: &str) -> Sql<Option<AlertRow>> {
    let row = tx
        .query_row("SELECT version, priority, state, body FROM alerts WHERE alert_id = ?1", [id], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get::<_, Vec<u8>>(3).or_else(|_| r.get::<_, String>(3).map(String::into_bytes))?))
        })
        .optional()?;
    row.map(|(version, priority, state, body)| Ok((version, priority, state, serde_json::from_slice(&body).map_err(convert)?))).transpose()
}

fn convert(e: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(e))
}

fn json(value: &impl serde::Serialize) -> Sql<String> {
    serde_json::to_string(value).map_err(convert)
}

/// Writes messages of one transaction.
struct Outbox<'a> {
    tx: &'a Transaction<'a>,
    now: Timestamp,
    boot_id: &'a str,
    first_slice_ms: Option<i64>,
}

impl Outbox<'_> {
    fn next_seq(&self) -> Sql<i64> {
        self.tx.query_row("UPDATE meta SET value = value + 1 WHERE key = 'seq' RETURNING value", [], |r| r.get(0))
    }

    fn message(
        &self,
        seq: i64,
        topic: &str,
        kind: Kind,
        alert_id: Option<&str>,
        version: u32,
        payload: &(impl AsRef<[u8]> + ?Sized),
    ) -> Sql<()> {
        let first = self.first_slice_ms.filter(|_| kind != Kind::Image);
        self.tx.execute(
            "INSERT INTO outbox (seq, topic, kind, alert_id, version, payload, first_slice_ms, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![seq, topic, kind.code(), alert_id, version, payload.as_ref(), first, self.now.as_millisecond()],
        )?;
        Ok(())
    }

    fn event(
        &mut self,
        event_type: EventType,
        id: &str,
        version: u32,
        priority: &str,
        body: Body,
        acknowledgement: Option<Ack>,
    ) -> Sql<()> {
        let seq = self.next_seq()?;
        let event = Event {
            schema: SCHEMA.into(),
            event_id: uuid::Uuid::now_v7().to_string(),
            seq,
            boot_id: self.boot_id.to_owned(),
            event_type,
            at: rfc3339(self.now),
            clock_trusted: clock_trusted(self.now),
            alert_id: id.to_owned(),
            version,
            priority: priority.to_owned(),
            body,
            acknowledgement,
        };
        // Notes on an alert need no `received`: the person who acknowledged is not asked to acknowledge that.
        let kind = if matches!(event_type, EventType::Acknowledged | EventType::Expired) { Kind::Note } else { Kind::Alert };
        self.message(seq, "alerts", kind, Some(id), version, &json(&event)?)
    }
}
