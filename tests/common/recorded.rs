//! The receiver driven from bytes: a connection that was recorded, and everything an association works with, in a folder of its own. Used by the test of
//! hostile input and by the fuzz targets.
//!
//! Vocabulary. A *recording* is what a peer sends over one connection, from the first byte to the last. Its *end* is how the connection is found there:
//! closed by the peer, or silent.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use lesionwatch::receive::association::serve;
use lesionwatch::receive::backlog::Backlog;
use lesionwatch::receive::context::{Context, ReceiveOptions, ReceiveStats};
use lesionwatch::receive::ledger::Ledger;
use lesionwatch::receive::peers::{Admission, Peer};
use lesionwatch::receive::roster::Seat;
use lesionwatch::receive::spool::Spool;
use lesionwatch::receive::stream::Link;
use lesionwatch::receive::{ReceiveEvent, StoredObject};

/// Reads at the end of a recording: more of them is a loop that does not end.
const MOST_READS_AT_END: usize = 1000;
/// Larger objects are refused: small, so that this refusal is met too.
const MOST_OBJECT_BYTES: u64 = 8 * 1024;

/// How a connection is found at the end of its recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Closed,
    Silent,
}

/// A connection out of a recording.
pub struct Recorded<'a> {
    input: &'a [u8],
    /// Bytes a read gives at most: TCP keeps no PDU together.
    most: usize,
    end: End,
    /// Before this byte nothing comes for as long as a read waits, once.
    quiet: Option<usize>,
    taken: usize,
    reads_at_end: usize,
    /// What was answered.
    pub said: Vec<u8>,
}

impl<'a> Recorded<'a> {
    pub fn new(input: &'a [u8], most: usize, end: End) -> Self {
        Self { input, most: most.max(1), end, quiet: None, taken: 0, reads_at_end: 0, said: Vec::new() }
    }

    /// The peer waits before it sends the byte at `at`.
    pub fn quiet(self, at: Option<usize>) -> Self {
        Self { quiet: at, ..self }
    }
}

impl Read for Recorded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !buffer.is_empty() {
            self.reads_at_end += 1;
            assert!(self.reads_at_end < MOST_READS_AT_END, "the end of the connection is not seen");
            return if self.end == End::Closed { Ok(0) } else { Err(io::ErrorKind::TimedOut.into()) };
        }
        if self.quiet.is_some_and(|at| at <= self.taken) {
            self.quiet = None;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let ahead = self.quiet.map_or(usize::MAX, |at| at - self.taken);
        let n = self.most.min(buffer.len()).min(self.input.len()).min(ahead);
        self.taken += n;
        buffer[..n].copy_from_slice(&self.input[..n]);
        self.input = &self.input[n..];
        Ok(n)
    }
}

impl Write for Recorded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.said.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for Recorded<'_> {
    fn read_by(&mut self, _: Instant) {}

    fn transport(&self) -> &'static str {
        "recorded"
    }

    fn close(&mut self) {}
}

/// What came of a connection.
pub struct Answered {
    /// What was answered, PDU by PDU: type and body.
    pub pdus: Vec<(u8, Vec<u8>)>,
    /// Objects handed on to the analysis.
    pub stored: Vec<StoredObject>,
}

/// Everything an association works with.
pub struct Door {
    dir: tempfile::TempDir,
    spool: Spool,
    ledger: Ledger,
    backlog: Backlog,
    options: ReceiveOptions,
    stats: Arc<ReceiveStats>,
    events: (Sender<ReceiveEvent>, Receiver<ReceiveEvent>),
    numbers: AtomicU64,
}

impl Door {
    /// In memory where the system has a file system there: a disk would be synced for each object.
    pub fn new() -> Self {
        let dir = if std::path::Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap();
        // Anyone may ask for commitment, so that this service is met as well.
        let peer = Peer { max_associations: 1000, allow_commitment: true, ..Peer::default() };
        let options = ReceiveOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            admission: Admission { called_ae: None, peers: vec![peer] },
            max_associations: 1000,
            max_associations_per_peer: 1000,
            idle_timeout: Duration::from_secs(60),
            max_object_bytes: MOST_OBJECT_BYTES,
        };
        Self {
            spool: Spool::open(&dir.path().join("spool"), 0).unwrap(),
            ledger: Ledger::open(dir.path()).unwrap(),
            backlog: Backlog::new(&options.admission.peers),
            dir,
            options,
            stats: Arc::default(),
            events: crossbeam_channel::unbounded(),
            numbers: AtomicU64::new(0),
        }
    }

    /// Serves one recorded connection and holds the receiver to what must be true after any: its answer is whole PDUs, its end was told to the analysis,
    /// nothing half is left in the spool, and no name in there is the peer's.
    pub fn serve(&self, mut recorded: Recorded<'_>) -> Answered {
        let peer: SocketAddr = "127.0.0.1:4".parse().unwrap();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let context = Context {
            options: &self.options,
            spool: &self.spool,
            events: &self.events.0,
            ledger: &self.ledger,
            backlog: &self.backlog,
            stats: &self.stats,
            number,
            peer,
            since: Instant::now(),
        };
        serve(&mut recorded, &mut Seat::apart(peer), &context);
        let mut events: Vec<ReceiveEvent> = self.events.1.try_iter().collect();
        let ended = events.pop();
        assert!(matches!(ended, Some(ReceiveEvent::AssociationEnded { association, .. }) if association == number), "{ended:?}");
        let stored = events.into_iter().map(|e| match e {
            ReceiveEvent::Stored(object) => object,
            other => panic!("{other:?} before the end"),
        });
        let stored: Vec<StoredObject> = stored.collect();
        for object in &stored {
            let below = object.path.strip_prefix(self.dir.path()).expect("an object outside the spool").to_str().unwrap().to_owned();
            let ours = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            let parts: Vec<&str> = below.trim_end_matches(".dcm").split('/').collect();
            assert!(parts.len() == 4 && parts[0] == "spool" && parts[1..].iter().all(|p| p.len() == 16 && p.chars().all(ours)), "{below}");
        }
        // What lies there empty waits for the next object.
        let begun = |e: &std::fs::DirEntry| e.metadata().is_ok_and(|m| m.len() > 0);
        let half = std::fs::read_dir(self.dir.path().join("spool/incoming")).unwrap().flatten().filter(begun).count();
        assert_eq!(half, 0, "something half is left");
        Answered { pdus: pdus(&recorded.said), stored }
    }
}

impl Door {
    /// Lets objects go again, so that the next one with their identifiers is new.
    pub fn forget(&self, stored: &[StoredObject]) {
        for object in stored {
            // Gone with another object of its study.
            let _ = self.spool.remove_series(&object.study_instance_uid, &object.series_instance_uid);
        }
    }

    /// Everything below the folder.
    pub fn names(&self) -> Vec<String> {
        let (mut all, mut stack) = (Vec::new(), vec![self.dir.path().to_owned()]);
        while let Some(dir) = stack.pop() {
            for path in std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
                all.push(path.strip_prefix(self.dir.path()).unwrap().to_str().unwrap().to_owned());
                if path.is_dir() {
                    stack.push(path);
                }
            }
        }
        all
    }
}

/// Takes what was said apart.
fn pdus(mut said: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while !said.is_empty() {
        assert!(said.len() >= 6 && (2..=7).contains(&said[0]), "no PDU: {said:02x?}");
        let length = u32::from_be_bytes([said[2], said[3], said[4], said[5]]) as usize;
        assert!(said.len() >= 6 + length, "half a PDU: {said:02x?}");
        all.push((said[0], said[6..6 + length].to_vec()));
        said = &said[6 + length..];
    }
    all
}
