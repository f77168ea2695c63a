//! Storage commitment requests that have not been reported yet, in `state.db`: written before they are answered, kept until the peer has the report or
//! its time is over.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use super::commitment::{Reference, Request};

/// Requests kept at once: each may hold megabytes.
pub const MOST_PENDING: i64 = 1000;
/// A request whose association is open is left to it for so long; then it is reported on a new one.
const HELD: Duration = Duration::from_secs(60);
/// Wait after the first failed report; doubled after each, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS commitments (id INTEGER PRIMARY KEY, calling_ae TEXT NOT NULL, address TEXT NOT NULL, transaction_uid TEXT NOT NULL,
    objects TEXT NOT NULL, created_ms INTEGER NOT NULL, attempts INTEGER NOT NULL, next_ms INTEGER NOT NULL, UNIQUE (calling_ae, transaction_uid)) STRICT;
    UPDATE commitments SET next_ms = 0;";

/// Why a request cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite's reason.
    #[error("commitments in state.db: {0}; check [state] dir, its owner and the disk")]
    Database(#[from] rusqlite::Error),
    /// As many as are kept.
    #[error("{MOST_PENDING} requests wait to be reported already")]
    Full,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// In the database.
    pub id: i64,
    /// AE title of who asked.
    pub calling_ae: String,
    /// Where it asked from.
    pub address: String,
    /// What it asked.
    pub request: Request,
    /// Reports that failed.
    pub attempts: u32,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct LedgerStats {
    /// Requests taken.
    pub requested: AtomicU64,
    /// Requests whose report the peer has.
    pub reported: AtomicU64,
    /// Requests given up.
    pub expired: AtomicU64,
}

/// All of them.
pub struct Ledger {
    db: Mutex<Connection>,
    changed: Condvar,
    /// Counters.
    pub stats: LedgerStats,
}

fn ms(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

impl Ledger {
    /// Opens the table in the `state.db` of `folder`; what waits there is due at once.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        let db = Connection::open(folder.join("state.db"))?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.execute_batch(TABLE)?;
        Ok(Self { db: Mutex::new(db), changed: Condvar::new(), stats: LedgerStats::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a request; it is durable when this returns. The same transaction of the same peer replaces what was there.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn take(&self, calling_ae: &str, address: &str, request: &Request, now: SystemTime) -> Result<i64, LedgerError> {
        let db = self.lock();
        let waiting: i64 = db.query_row("SELECT count(*) FROM commitments", [], |r| r.get(0))?;
        if waiting >= MOST_PENDING {
            return Err(LedgerError::Full);
        }
        let objects = serde_json::to_string(&request.references).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        let id = db.query_row(
            "INSERT INTO commitments (calling_ae, address, transaction_uid, objects, created_ms, attempts, next_ms) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)
             ON CONFLICT (calling_ae, transaction_uid) DO UPDATE SET address = ?2, objects = ?4, created_ms = ?5, attempts = 0, next_ms = ?6 RETURNING id",
            params![calling_ae, address, request.transaction, objects, ms(now), ms(now + HELD)],
            |r| r.get(0),
        )?;
        self.stats.requested.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    /// One request.
    ///
    /// # Errors
    /// SQLite's.
    pub fn get(&self, id: i64) -> Result<Option<Pending>, LedgerError> {
        self.one("SELECT id, calling_ae, address, transaction_uid, objects, attempts FROM commitments WHERE id = ?1", id)
    }

    /// The request that has been due longest.
    ///
    /// # Errors
    /// SQLite's.
    pub fn due(&self, now: SystemTime) -> Result<Option<Pending>, LedgerError> {
        let query = "SELECT id, calling_ae, address, transaction_uid, objects, attempts FROM commitments WHERE next_ms <= ?1 ORDER BY next_ms, id LIMIT 1";
        self.one(query, ms(now))
    }

    fn one(&self, query: &str, key: i64) -> Result<Option<Pending>, LedgerError> {
        let row = |r: &rusqlite::Row<'_>| {
            let references: Vec<Reference> = serde_json::from_str(&r.get::<_, String>(4)?)
                .map_err(|e| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, e.into()))?;
            let request = Request { transaction: r.get(3)?, references };
            Ok(Pending { id: r.get(0)?, calling_ae: r.get(1)?, address: r.get(2)?, request, attempts: r.get(5)? })
        };
        Ok(self.lock().query_row(query, [key], row).optional()?)
    }

    /// Its association has ended without the report: due at once.
    pub fn let_go(&self, id: i64) {
        self.change("UPDATE commitments SET next_ms = 0 WHERE id = ?1", id);
        self.changed.notify_all();
    }

    /// The peer has the report.
    pub fn reported(&self, id: i64) {
        self.change("DELETE FROM commitments WHERE id = ?1", id);
        self.stats.reported.fetch_add(1, Ordering::Relaxed);
    }

    /// A report failed: tried again later. Returns how long that is.
    pub fn put_off(&self, pending: &Pending, now: SystemTime) -> Duration {
        let wait = FIRST_WAIT.saturating_mul(1u32.checked_shl(pending.attempts).unwrap_or(u32::MAX)).min(LONGEST_WAIT);
        let done = self
            .lock()
            .execute("UPDATE commitments SET attempts = attempts + 1, next_ms = ?2 WHERE id = ?1", params![pending.id, ms(now + wait)]);
        if let Err(e) = done {
            log::error!("commitments in state.db: {e}");
        }
        wait
    }

    /// What a failure of the database leaves as it was is reported twice rather than never.
    fn change(&self, sql: &str, id: i64) {
        if let Err(e) = self.lock().execute(sql, [id]) {
            log::error!("commitments in state.db: {e}");
        }
    }

    /// Gives up requests taken before `before`; their transactions.
    ///
    /// # Errors
    /// SQLite's.
    pub fn expire(&self, before: SystemTime) -> Result<Vec<String>, LedgerError> {
        let db = self.lock();
        let mut rows = db.prepare("DELETE FROM commitments WHERE created_ms < ?1 RETURNING transaction_uid")?;
        let gone: Vec<String> = rows.query_map([ms(before)], |r| r.get(0))?.collect::<Result<_, _>>()?;
        self.stats.expired.fetch_add(gone.len() as u64, Ordering::Relaxed);
        Ok(gone)
    }

    /// How many wait.
    #[must_use]
    pub fn depth(&self) -> u64 {
        let count = self.lock().query_row("SELECT count(*) FROM commitments", [], |r| r.get::<_, i64>(0));
        count.ok().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
    }

    /// Sleeps until something may be due, at most `longest`.
    pub fn wait(&self, now: SystemTime, longest: Duration) {
        let db = self.lock();
        let next: Option<i64> = db.query_row("SELECT min(next_ms) FROM commitments", [], |r| r.get(0)).ok().flatten();
        let until = next.map_or(longest, |next| Duration::from_millis(u64::try_from(next - ms(now)).unwrap_or(0)).min(longest));
        if !until.is_zero() {
            // Woken early or late: the caller looks what is due.
            drop(self.changed.wait_timeout(db, until));
        }
    }

    /// Ends a [`Ledger::wait`].
    pub fn wake(&self) {
        self.changed.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn request(n: u32) -> Request {
        let reference = Reference { class: "1.2.840.10008.5.1.4.1.1.2".into(), instance: "1.2.3".into() };
        Request { transaction: format!("1.2.{n}"), references: vec![reference] }
    }

    #[test]
    fn a_request_survives_a_restart_and_is_kept_until_it_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ledger = Ledger::open(dir.path()).unwrap();
        let id = ledger.take("CT1", "10.0.0.1", &request(1), now).unwrap();
        assert_eq!(ledger.due(now).unwrap(), None, "its association has it first");
        drop(ledger);
        let ledger = Ledger::open(dir.path()).unwrap();
        let pending = ledger.due(now).unwrap().unwrap();
        assert_eq!((pending.id, pending.request.clone(), pending.calling_ae.as_str()), (id, request(1), "CT1"));
        assert_eq!(ledger.put_off(&pending, now), FIRST_WAIT);
        assert_eq!(ledger.due(now).unwrap(), None);
        let again = ledger.due(now + FIRST_WAIT).unwrap().unwrap();
        assert_eq!(ledger.put_off(&again, now), FIRST_WAIT * 2);
        assert_eq!(ledger.put_off(&Pending { attempts: 40, ..again }, now), LONGEST_WAIT);
        ledger.reported(id);
        assert_eq!((ledger.get(id).unwrap(), ledger.depth()), (None, 0));
    }

    #[test]
    fn the_same_transaction_is_one_request_and_old_ones_are_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ledger = Ledger::open(dir.path()).unwrap();
        let first = ledger.take("CT1", "10.0.0.1", &request(1), now).unwrap();
        assert_eq!(ledger.take("CT1", "10.0.0.1", &request(1), now).unwrap(), first);
        assert_ne!(ledger.take("CT2", "10.0.0.1", &request(1), now).unwrap(), first);
        assert!(ledger.expire(now - Duration::from_secs(1)).unwrap().is_empty());
        assert_eq!(ledger.expire(now + Duration::from_secs(1)).unwrap(), ["1.2.1", "1.2.1"]);
        for n in 0..MOST_PENDING {
            ledger.take("CT1", "10.0.0.1", &request(n as u32), now).unwrap();
        }
        assert!(matches!(ledger.take("CT1", "10.0.0.1", &request(9999), now), Err(LedgerError::Full)));
    }
}
