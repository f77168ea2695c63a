//! Promise: whatever bytes a peer sends, the receiver neither panics nor hangs, answers in whole PDUs, leaves nothing half in the spool and uses no name
//! of the peer's there.
//!
//! The bytes are mutations of recorded traffic of DCMTK and pynetdicom (`tests/data/wire`), driven through the code that serves a connection; headers of
//! what was stored are read as the analysis does. 50,000 mutations here; `HOSTILE=1000000` runs as many as it says, `HOSTILE_SEED=7` other ones. The
//! n-th mutation of a seed is always the same. An input that fails is written to `hostile-<seed>-<n>.bin` in the build folder, which the message names;
//! `HOSTILE_INPUT=file` runs that file alone.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "common/mutate.rs"]
mod mutate;
#[path = "common/recorded.rs"]
mod recorded;

use mutate::{Case, recordings};
use recorded::{Door, End, Recorded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Mutations where nothing else is said.
const MUTATIONS: u64 = 50_000;
/// A connection takes well under a millisecond; one that takes this long hangs, however busy the machine is.
const HANGS: Duration = Duration::from_secs(120);
/// Name of the threads that mutate.
const WORKER: &str = "hostile";
/// Of the stored objects one in so many has its headers read.
const A_HEADER: usize = 8;
/// A fresh spool after so many: folders stay small.
const A_DOOR: u64 = 2_000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |s| s.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn keep(case: &Case, seed: u64, n: u64) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let path = target.join(format!("hostile-{seed}-{n}.bin"));
    std::fs::write(&path, case.bytes()).unwrap();
    path
}

/// What was met, so that mutations that are all refused at the door do not pass for a test.
#[derive(Debug, Default)]
struct Met {
    accepted: AtomicU64,
    rejected: AtomicU64,
    aborted: AtomicU64,
    released: AtomicU64,
    answered: AtomicU64,
    stored: AtomicU64,
    headers: AtomicU64,
}

fn serve(door: &Door, case: &Case, met: &Met) {
    let answered = door.serve(Recorded::new(&case.input, case.most, case.end).quiet(case.quiet));
    let count = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
    for (counter, kind) in [(&met.accepted, 2), (&met.rejected, 3), (&met.answered, 4), (&met.released, 6), (&met.aborted, 7)] {
        count(counter, answered.pdus.iter().filter(|(k, _)| *k == kind).count());
    }
    count(&met.stored, answered.stored.len());
    let read = answered
        .stored
        .iter()
        .filter(|o| o.association % A_HEADER as u64 == 0)
        .filter(|o| lesionwatch::series::header::slices(&o.path).is_ok());
    count(&met.headers, read.count());
    door.forget(&answered.stored);
}

#[test]
fn no_bytes_make_the_receiver_panic_or_hang() {
    let recordings = recordings();
    let (all, seed) = (number("HOSTILE", MUTATIONS), number("HOSTILE_SEED", 1));
    let met = Met::default();
    if let Some(file) = std::env::var_os("HOSTILE_INPUT") {
        return serve(&Door::new(), &Case::parse(&std::fs::read(file).unwrap()), &met);
    }
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let begin = Instant::now();
    let now = || begin.elapsed().as_millis() as u64 + 1;
    // Which mutation each worker is at, since when; 0 is none.
    let at: Vec<[AtomicU64; 2]> = (0..workers).map(|_| Default::default()).collect();
    // What the parsers of others do behind `catch_unwind` is counted too: it is contained, and still worth knowing.
    static PANICS: AtomicU64 = AtomicU64::new(0);
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Other tests may share the process.
        let ours = std::thread::current().name() == Some(WORKER);
        if !ours || PANICS.fetch_add(1, Ordering::Relaxed) < 20 {
            loud(info);
        }
    }));
    let failed: Vec<(u64, PathBuf)> = std::thread::scope(|scope| {
        let work = |worker: u64| {
            let (recordings, met, at, now) = (&recordings, &met, &at[worker as usize], &now);
            move || {
                let (mut door, mut failed) = (Door::new(), Vec::new());
                for (k, n) in (worker..all).step_by(workers as usize).enumerate() {
                    if k as u64 % A_DOOR == A_DOOR - 1 {
                        door = Door::new();
                    }
                    let case = Case::new(recordings, seed, n);
                    at[0].store(n, Ordering::SeqCst);
                    at[1].store(now(), Ordering::SeqCst);
                    let whole = catch_unwind(AssertUnwindSafe(|| serve(&door, &case, met)));
                    at[1].store(0, Ordering::SeqCst);
                    if whole.is_err() {
                        failed.push((n, keep(&case, seed, n)));
                        door = Door::new();
                    }
                }
                failed
            }
        };
        let running: Vec<_> =
            (0..workers).map(|w| std::thread::Builder::new().name(WORKER.into()).spawn_scoped(scope, work(w)).unwrap()).collect();
        while !running.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            for [n, since] in &at {
                let (n, since) = (n.load(Ordering::SeqCst), since.load(Ordering::SeqCst));
                if since > 0 && now().saturating_sub(since) > HANGS.as_millis() as u64 {
                    let path = keep(&Case::new(&recordings, seed, n), seed, n);
                    eprintln!("mutation {n} of seed {seed} hangs; its input is {}", path.display());
                    // A thread that hangs cannot be ended otherwise.
                    std::process::exit(1);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        running.into_iter().flat_map(|r| r.join().unwrap()).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let panics = PANICS.load(Ordering::Relaxed);
    println!(
        "{all} mutations of {} recordings, seed {seed}, in {seconds:.0} s: {} failed, {panics} panics, {met:?}",
        recordings.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "failed: {failed:?}");
    assert_eq!(panics, 0, "panics that were contained");
    let share = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / all as f64;
    for (name, counter, least) in [
        ("accepted associations", &met.accepted, 0.3),
        ("rejected associations", &met.rejected, 0.001),
        ("aborts", &met.aborted, 0.05),
        ("releases", &met.released, 0.05),
        ("answers", &met.answered, 0.3),
        ("stored objects", &met.stored, 0.05),
        ("headers read", &met.headers, 0.01),
    ] {
        assert!(share(counter) >= least, "too few {name} to prove anything: {met:?}");
    }
}

/// What reads like a path stays text, wherever it stands: study, series, object, AE titles.
#[test]
fn path_tricks_reach_no_path() {
    let recordings = recordings();
    let (_, bytes) = recordings.iter().find(|(name, _)| name == "store-implicit-dcmtk").unwrap();
    let replaced = |what: &str, with: &str| {
        let (what, mut all) = (what.as_bytes(), bytes.clone());
        // As long as what stood there.
        let with: Vec<u8> = with.bytes().chain(std::iter::repeat(b'x')).take(what.len()).collect();
        let places: Vec<usize> = (0..all.len() - what.len()).filter(|i| all[*i..].starts_with(what)).collect();
        assert!(!places.is_empty());
        places.iter().for_each(|at| all[*at..at + what.len()].copy_from_slice(&with));
        all
    };
    let study_and_series = ["1.2.826.0.1.3680043.2.8", "1.2.826.0.1.3680043.2.9"];
    let objects = ["1.2.826.0.1.3680043.2.9.1", "1.2.826.0.1.3680043.2.9.2"];
    for trick in ["../../../../tmp/hostile", "/tmp/hostile", "..\\..\\hostile", "....//....//hostile", "~/hostile", "%2e%2e%2fhostile"] {
        for uid in study_and_series.iter().chain(&objects) {
            let door = Door::new();
            let input = replaced(uid, trick);
            let answered = door.serve(Recorded::new(&input, 1 << 20, End::Closed));
            // The other object of the recording is good where only one was bent.
            let good = if objects.contains(uid) { 1 } else { 0 };
            assert_eq!(answered.stored.len(), good, "{uid} as {trick}");
            assert!(!door.names().iter().any(|n| n.contains("hostile")), "{:?}", door.names());
        }
        for title in ["STORESCU        ", "ANY-SCP         "] {
            let door = Door::new();
            let answered = door.serve(Recorded::new(&replaced(title, trick), 1 << 20, End::Closed));
            // A title is a title; it is written into the objects, and nowhere else.
            assert_eq!(answered.stored.len(), 2, "{title} as {trick}");
            assert!(!door.names().iter().any(|n| n.contains("hostile")), "{:?}", door.names());
        }
    }
    assert!(!Path::new("/tmp/hostile").exists());
}

/// Where the last `n` PDUs begin.
fn before_the_last(bytes: &[u8], n: usize) -> usize {
    let (mut at, mut begins) = (0, Vec::new());
    while at < bytes.len() {
        begins.push(at);
        at += 6 + u32::from_be_bytes(bytes[at + 2..at + 6].try_into().unwrap()) as usize;
    }
    begins[begins.len() - n]
}

/// The recordings themselves are served to their ends: what is mutated is valid.
#[test]
fn the_recordings_are_valid() {
    for (name, bytes) in recordings() {
        for most in [1, 7, 1 << 20] {
            // Who asked for commitment answers the report when it has it.
            let quiet = name.starts_with("commitment").then(|| before_the_last(&bytes, 2));
            let door = Door::new();
            let answered = door.serve(Recorded::new(&bytes, most, End::Closed).quiet(quiet));
            let kinds: Vec<u8> = answered.pdus.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(kinds[0], 2, "{name}: {kinds:?}");
            // An abort is not answered.
            let ended = if name.contains("abort") { 4 } else { 6 };
            assert_eq!(*kinds.last().unwrap(), ended, "{name}: {kinds:?}");
            let objects = if name.starts_with("store") { 2 } else { 0 };
            assert_eq!(answered.stored.len(), objects, "{name}");
            for object in &answered.stored {
                lesionwatch::series::header::slices(&object.path).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }
}
