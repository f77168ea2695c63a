//! Promise: the receiver's memory does not grow with what it receives, and a small request is answered soon while four associations push all they can.
//!
//! Objects are small (64 × 64) unless `LESIONWATCH_LOAD=full`: then memory is measured with 512 × 512 slices, over ten rounds instead of two (32 GB go through the disk).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::objects::ct;
use common::{Rig, free_port, mosquitto, run, tool};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SENDERS: usize = 4;
/// Slices each sender pushes in all, in two rounds.
const SLICES: usize = 3000;
const MOST_GROWTH_MIB: f64 = 64.0;
/// Of the second and later rounds, each.
const MOST_GROWTH_A_ROUND_MIB: f64 = 16.0;
const MOST_ECHO_MS: f64 = 20.0;

fn full() -> bool {
    std::env::var("LESIONWATCH_LOAD").is_ok_and(|v| v == "full")
}

fn resident_mib(rig: &Rig) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    let kib: f64 = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}

/// One association a part, all at once; every object is accepted.
fn push(rig: &Rig, parts: &[Vec<PathBuf>]) {
    std::thread::scope(|scope| {
        let pushes: Vec<_> = parts
            .iter()
            .map(|files| scope.spawn(move || run(tool("storescu").args(["127.0.0.1", &rig.dicom.to_string()]).args(files))))
            .collect();
        for push in pushes {
            let (ok, text) = push.join().unwrap();
            assert!(ok && !text.contains("E:"), "{text}");
        }
    });
}

#[test]
fn memory_does_not_grow_with_what_is_received() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "");
    let (side, rounds) = if full() { (512, 10) } else { (64, 2) };
    let series = |round: usize, count: usize| -> Vec<Vec<PathBuf>> {
        (0..SENDERS).map(|s| ct(dir.path(), &format!("1.2.826.0.1.3680043.2.8.{round}.{s}"), count, side)).collect()
    };
    // Buffers, threads' stacks and the allocator's arenas are there after this.
    push(&rig, &series(1000, 50));
    let begin = resident_mib(&rig);
    let mut after = Vec::new();
    for round in 0..rounds {
        let files = series(round, SLICES / 2);
        let begun = Instant::now();
        push(&rig, &files);
        after.push(resident_mib(&rig));
        println!(
            "round {round}: {} slices of {side} x {side}, {:.0} a second, {:.1} MiB resident, {begin:.1} at the start",
            SENDERS * SLICES / 2,
            (SENDERS * SLICES / 2) as f64 / begun.elapsed().as_secs_f64(),
            after[round]
        );
        files.iter().flatten().for_each(|f| std::fs::remove_file(f).unwrap());
    }
    assert!(after[1] - begin <= MOST_GROWTH_MIB, "{begin:.1} MiB grew to {after:.1?}");
    for pair in after.windows(2) {
        assert!(pair[1] - pair[0] <= MOST_GROWTH_A_ROUND_MIB, "{begin:.1} MiB grew to {after:.1?}");
    }
}

/// Sends `request` again and again until `stop`; times from a request to `answer` bytes, ms.
fn ask(stream: &mut TcpStream, request: &[u8], answer: usize, stop: &AtomicBool) -> Vec<f64> {
    let (mut took, mut buffer) = (Vec::new(), vec![0; answer]);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        stream.write_all(request).unwrap();
        stream.read_exact(&mut buffer).unwrap();
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(2));
    }
    took
}

/// The 99th of a hundred.
fn p99(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * 99).div_ceil(100) - 1]
}

/// An association for Verification, and the bytes of a C-ECHO-RQ and the length of its response.
fn verification(rig: &Rig) -> (TcpStream, Vec<u8>, usize) {
    let class = "1.2.840.10008.1.1";
    let mut stream = TcpStream::connect(("127.0.0.1", rig.dicom)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&common::associate_request("ECHO", "LESIONWATCH", class)).unwrap();
    let mut head = [0; 6];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 2, "A-ASSOCIATE-AC");
    let mut rest = vec![0; u32::from_be_bytes(head[2..].try_into().unwrap()) as usize];
    stream.read_exact(&mut rest).unwrap();
    let mut set = Vec::new();
    for (element, value) in [(2u16, format!("{class}\0").as_bytes()), (0x100, &[0x30, 0]), (0x110, &[1, 0]), (0x800, &[1, 1])] {
        set.extend([0, 0].into_iter().chain(element.to_le_bytes()).chain((value.len() as u32).to_le_bytes()));
        set.extend(value);
    }
    let group: Vec<u8> = [0, 0, 0, 0, 4, 0, 0, 0].into_iter().chain((set.len() as u32).to_le_bytes()).chain(set).collect();
    let length = group.len() as u32;
    let head = [4, 0].into_iter().chain((length + 6).to_be_bytes()).chain((length + 2).to_be_bytes()).chain([1, 3]);
    let request: Vec<u8> = head.chain(group).collect();
    stream.write_all(&request).unwrap();
    let mut head = [0; 6];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 4, "P-DATA-TF");
    let length = u32::from_be_bytes(head[2..].try_into().unwrap()) as usize;
    stream.read_exact(&mut vec![0; length]).unwrap();
    (stream, request, length + 6)
}

#[test]
fn an_echo_is_answered_soon_while_four_associations_push() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "");
    let files: Vec<Vec<PathBuf>> = (0..SENDERS).map(|s| ct(dir.path(), &format!("1.2.826.0.1.3680043.2.9.{s}"), 150, 512)).collect();
    let (mut stream, request, answer) = verification(&rig);
    // What the machine itself adds: the same conversation, at the same time, with a thread that does nothing else.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut control = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut other, _) = listener.accept().unwrap();
    for end in [&control, &other] {
        end.set_nodelay(true).unwrap();
    }
    let length = request.len();
    std::thread::spawn(move || {
        let (mut question, reply) = (vec![0; length], vec![0; answer]);
        while other.read_exact(&mut question).is_ok() && other.write_all(&reply).is_ok() {}
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (echoes, machine) = std::thread::scope(|scope| {
        let echoes = scope.spawn(|| ask(&mut stream, &request, answer, &stop));
        let machine = scope.spawn(|| ask(&mut control, &request, answer, &stop));
        push(&rig, &files);
        stop.store(true, Ordering::Relaxed);
        (echoes.join().unwrap(), machine.join().unwrap())
    });
    println!("{} C-ECHOs: p99 {:.1} ms; the machine alone: p99 {:.1} ms of {}", echoes.len(), p99(&echoes), p99(&machine), machine.len());
    assert!(echoes.len() >= 100, "{} echoes", echoes.len());
    assert!(p99(&echoes) <= MOST_ECHO_MS + p99(&machine), "p99 {:.1} ms, the machine alone {:.1} ms", p99(&echoes), p99(&machine));
}
