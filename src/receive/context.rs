//! What an association works with: policy and limits, counters, and where objects and events go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::ReceiveEvent;
use super::backlog::Backlog;
use super::latency::Latency;
use super::ledger::Ledger;
use super::peers::{Admission, Refusal};
use super::spool::Spool;

/// Policy and limits of the receiving side.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whom we answer.
    pub admission: Admission,
    /// Associations at once.
    pub max_associations: usize,
    /// Associations at once from one address, where no peers are configured.
    pub max_associations_per_peer: usize,
    /// A silent association ends after this.
    pub idle_timeout: Duration,
    /// Larger objects are refused.
    pub max_object_bytes: u64,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct ReceiveStats {
    /// Associations accepted.
    pub associations: AtomicU64,
    /// Associations rejected, in the order of [`Refusal::ALL`].
    pub rejected: [AtomicU64; Refusal::ALL.len()],
    /// Connections whose TLS handshake failed.
    pub handshakes_failed: AtomicU64,
    /// Objects answered with Success.
    pub objects: AtomicU64,
    /// Objects answered with a failure.
    pub refused: AtomicU64,
    /// Bytes of data sets stored.
    pub bytes: AtomicU64,
    /// From the command of a C-STORE to its response.
    pub store_time: Latency,
}

impl ReceiveStats {
    /// Counts a refused association.
    pub fn refused_association(&self, refusal: Refusal) {
        for (counter, _) in self.rejected.iter().zip(Refusal::ALL).filter(|(_, r)| *r == refusal) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What an association works with.
pub struct Context<'a> {
    /// Policy and limits.
    pub options: &'a ReceiveOptions,
    /// Where objects go.
    pub spool: &'a Spool,
    /// Who is told.
    pub events: &'a Sender<ReceiveEvent>,
    /// Where requests for storage commitment go.
    pub ledger: &'a Ledger,
    /// What peers hold of the spool.
    pub backlog: &'a Backlog,
    /// Counters.
    pub stats: &'a ReceiveStats,
    /// Number of this association.
    pub number: u64,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
}

/// How it went, for the log line.
#[derive(Debug, Default)]
pub struct Tally {
    /// AE title of the peer.
    pub calling: String,
    /// Objects answered with Success.
    pub objects: usize,
    /// Objects answered with a failure.
    pub refused: usize,
    /// Bytes of data sets stored.
    pub bytes: u64,
}
