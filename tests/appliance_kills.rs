//! Promise: kill -9 at random moments while four senders push loses no acknowledged object, shows no partial one, and every series goes on where it was.
//!
//! 12 kills, or as many as `LESIONWATCH_KILLS` says (200 take about two minutes); `LESIONWATCH_SEED` repeats a run, and is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::objects::{ct, data_set, sop_uid};
use common::{Rig, Subscriber, free_port, mosquitto, run, tool, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SENDERS: usize = 4;
/// Objects of a series; a sender begins another when all were acknowledged.
const OBJECTS: usize = 60;
const SIDE: usize = 128;
/// From a push's chosen object to the kill, us: anywhere in the next one's writing, syncing, renaming or answering.
const INSIDE_US: std::ops::Range<u64> = 0..4000;
/// A push that is slower than this is cut where it is.
const LONGEST: Duration = Duration::from_secs(2);

fn from_env<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is \"{text}\"")))
}

/// One sender: the series under way, and which of its files were not acknowledged yet.
struct Sender {
    series: String,
    left: Vec<PathBuf>,
}

/// Files that were acknowledged, by the log of storescu -v.
fn acknowledged(log: &str) -> HashSet<PathBuf> {
    let (mut all, mut file) = (HashSet::new(), None);
    for line in log.lines() {
        if let Some((_, path)) = line.split_once("Sending file: ") {
            file = Some(PathBuf::from(path.trim()));
        } else if line.contains("Received Store Response (Success)") {
            all.extend(file.take());
        }
    }
    all
}

#[test]
fn random_kills_lose_nothing_that_was_acknowledged() {
    let kills: usize = from_env("LESIONWATCH_KILLS").unwrap_or(12);
    let seed: u64 = from_env("LESIONWATCH_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into());
    println!("LESIONWATCH_SEED={seed} LESIONWATCH_KILLS={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let mut rig = Rig::without_page(port, "[series]\nquiet_min_s = 0.5\nquiet_max_s = 2.0");
    let mut begun = Vec::new();
    let mut new_series = || {
        let series = format!("1.2.826.0.1.3680043.2.7.{}", begun.len() + 1);
        begun.push(series.clone());
        let left = ct(dir.path(), &series, OBJECTS, SIDE);
        Sender { series, left }
    };
    let mut senders: Vec<Sender> = (0..SENDERS).map(|_| new_series()).collect();
    // Of every object that was ever sent: its source. Of those acknowledged and of those seen whole in the spool: its UID.
    let source = |uid: &str| {
        let (series, n) = uid.rsplit_once('.').unwrap();
        dir.path().join(series).join(format!("{n}.dcm"))
    };
    let (mut acked, mut seen): (HashSet<String>, HashMap<PathBuf, String>) = Default::default();
    let (mut hit, mut pushed) = (0, 0);
    for _ in 0..kills {
        let dicom = rig.dicom;
        let pushes: Vec<_> = senders
            .iter()
            .map(|sender| {
                let files = sender.left.clone();
                std::thread::spawn(move || run(tool("storescu").args(["-v", "127.0.0.1", &dicom.to_string()]).args(&files)))
            })
            .collect();
        // A random moment of the push, counted in objects: a machine's speed does not move it.
        let (before, all) = (rig.spooled().len(), senders.iter().map(|s| s.left.len()).sum());
        let (object, start) = (random.random_range(0..all), Instant::now());
        while rig.spooled().len().saturating_sub(before) < object && start.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(random.random_range(INSIDE_US)));
        rig.kill();
        for (sender, push) in senders.iter_mut().zip(pushes) {
            let (ok, log) = push.join().unwrap();
            let files = acknowledged(&log);
            hit += usize::from(!ok && !files.is_empty());
            pushed += files.len();
            for n in (0..OBJECTS).filter(|n| files.contains(&source(&sop_uid(&sender.series, *n)))) {
                acked.insert(sop_uid(&sender.series, n));
            }
            sender.left.retain(|f| !files.contains(f));
        }
        // What is visible is whole, byte by byte, before anybody repairs anything.
        let new: Vec<PathBuf> = rig.spooled().into_iter().filter(|path| !seen.contains_key(path)).collect();
        for path in new {
            let header =
                lesionwatch::series::header::read(&path).unwrap_or_else(|e| panic!("partial object visible: {}: {e}", path.display()));
            assert!(data_set(&path) == data_set(&source(&header.sop_instance_uid)), "partial object visible: {}", path.display());
            seen.insert(path, header.sop_instance_uid);
        }
        let stored: HashSet<&String> = seen.iter().filter(|(path, _)| path.exists()).map(|(_, uid)| uid).collect();
        let lost: Vec<&String> = acked.iter().filter(|uid| !stored.contains(uid)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        for sender in senders.iter_mut().filter(|s| s.left.is_empty()) {
            *sender = new_series();
        }
        rig.start();
    }
    for sender in &senders {
        let (ok, log) = run(tool("storescu").args(["-v", "127.0.0.1", &rig.dicom.to_string()]).args(&sender.left));
        assert!(ok, "{log}");
    }
    println!(
        "{kills} kills, {hit} pushes cut, {pushed} objects acknowledged before a kill, 0 lost, {} visible and whole, {} series",
        seen.len(),
        begun.len()
    );
    assert!(hit >= kills, "{hit} pushes cut by {kills} kills: the moments are wrong");
    for uid in &begun {
        wait_for(&format!("all of {uid}; log:\n{}", rig.log()), || {
            subscriber.results(uid).into_iter().find(|r| r["series"]["slices"] == OBJECTS as u64 && r["outcome"] == "not_analysed")
        });
    }
}
