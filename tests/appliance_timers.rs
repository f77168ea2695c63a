//! Promise: who says nothing holds nothing: before an association (ARTIM, PS3.8 9.1.5), within one, or in the middle of a PDU.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{PATIENCE, Rig, associate_request, free_port, mosquitto, series, store, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

fn connect(rig: &Rig) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", rig.dicom)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes until the end, and how many seconds that takes.
fn until_the_end(mut stream: TcpStream) -> (Vec<u8>, u64) {
    let (begin, mut all) = (Instant::now(), Vec::new());
    stream.read_to_end(&mut all).unwrap();
    (all, begin.elapsed().as_secs())
}

#[test]
fn silence_ends_every_state_of_an_association() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let mut rig = Rig::new(port, "");
    rig.terminate();
    rig.configure("[dicom]\n", "[dicom]\nidle_timeout_s = 5\n");
    rig.start();

    let mut silent = connect(&rig);
    silent.write_all(&associate_request("CT1", "LESIONWATCH", "1.2.840.10008.1.1")).unwrap();
    let mut head = [0; 6];
    silent.read_exact(&mut head).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]]))];
    silent.read_exact(&mut rest).unwrap();
    let (said, seconds) = until_the_end(silent);
    assert!(said.first() == Some(&7) && (4..20).contains(&seconds), "A-ABORT after 5 s: {said:?} after {seconds} s");

    let nobody = connect(&rig);
    let mut half = connect(&rig);
    half.write_all(&[1, 0, 0, 0, 1, 0, 0, 1]).unwrap();
    let half = std::thread::spawn(move || until_the_end(half));
    // Slow loris: a whole request, a byte a second from the beginning on. What counts is when it is whole.
    let mut trickle = connect(&rig);
    let request = associate_request("CT1", "LESIONWATCH", "1.2.840.10008.1.1");
    assert!(request.len() > 100);
    let trickle = std::thread::spawn(move || {
        let begin = Instant::now();
        for byte in request {
            // Once it is closed, what is written is answered by a reset.
            if trickle.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        begin.elapsed().as_secs()
    });
    let (said, seconds) = until_the_end(nobody);
    assert!(said.is_empty() && (28..60).contains(&seconds), "closed without a word after 30 s: {said:?} after {seconds} s");
    let (_, seconds) = half.join().unwrap();
    assert!((28..60).contains(&seconds), "half a PDU: {seconds} s");
    let seconds = trickle.join().unwrap();
    assert!((28..45).contains(&seconds), "a request that trickles: {seconds} s");
    wait_for("all ends in the log", || (rig.log().matches("nothing received for").count() >= 2).then_some(()));

    // The times of stores are told.
    let (files, _) = series(dir.path(), "timed", 10);
    assert!(store(rig.dicom, &files).0);
    assert_eq!(rig.metric("store_seconds_count"), files.len() as f64);
    assert_eq!(rig.metric("store_seconds_bucket{le=\"+Inf\"}"), files.len() as f64);
    assert!(rig.metric("store_seconds_sum") > 0.0);
}
