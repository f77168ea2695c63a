//! Promise: with the shipped bundle and tract on two cores, a series of 300 slices is analysed at five slots a second or better, and the daemon never
//! takes 600 MiB.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, Subscriber, free_port, mosquitto, run, sample_folder, store, tool, wait_for};
use std::path::{Path, PathBuf};

const SLICES: usize = 300;
/// Two millimetres: one slot a slice.
const SPACING_MM: f64 = 2.0;
const LEAST_SLOTS_A_SECOND: f64 = 5.0;
const MOST_MIB: u64 = 600;

/// The sample's slices over and over, each on a plane of its own.
fn long_series(dir: &Path) -> (Vec<PathBuf>, String) {
    let mut sources: Vec<PathBuf> = std::fs::read_dir(sample_folder()).unwrap().map(|e| e.unwrap().path()).collect();
    sources.sort();
    let origin = lesionwatch::series::header::read(&sources[0]).unwrap().position_mm.unwrap();
    let uid = "1.2.826.0.1.3680043.2.3.300".to_owned();
    let files = (0..SLICES)
        .map(|i| {
            let file = dir.join(format!("{i:04}.dcm"));
            std::fs::copy(&sources[i % sources.len()], &file).unwrap();
            let position = format!("ImagePositionPatient={}\\{}\\{}", origin[0], origin[1], origin[2] - SPACING_MM * i as f64);
            let changes =
                [position, format!("SeriesInstanceUID={uid}"), format!("SOPInstanceUID={uid}.{i}"), format!("InstanceNumber={i}")];
            let (ok, text) = run(tool("dcmodify").arg("-nb").args(changes.iter().flat_map(|c| ["-m", c.as_str()])).arg(&file));
            assert!(ok, "{text}");
            file
        })
        .collect();
    (files, uid)
}

fn peak_mib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib: u64 = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib >> 10
}

#[test]
fn three_hundred_slices_keep_to_time_and_memory() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let mut rig = Rig::without_page(port, "");
    rig.terminate();
    rig.configure(&format!("bundle = \"{}\"", rig.dir.path().join("bundle").display()), "bundle = \"\"");
    rig.configure("prefer = \"candle-cpu\"", "prefer = \"tract\"\nthreads = 2");
    rig.start();
    let (files, uid) = long_series(dir.path());
    let (ok, text) = store(rig.dicom, &files);
    assert!(ok, "{text}");
    let result = wait_for(&format!("the result; log:\n{}", rig.log()), || subscriber.results(&uid).pop());
    assert_eq!((result["outcome"].as_str(), result["series"]["slices"].as_u64()), (Some("analysed"), Some(SLICES as u64)), "{result:#}");
    let seconds = result["timing_ms"]["analysed"].as_f64().unwrap() / 1000.0;
    let (speed, peak) = (SLICES as f64 / seconds, peak_mib(rig.pid()));
    println!("{SLICES} slots in {seconds:.1} s: {speed:.1} a second; peak {peak} MiB; {}", result["timing_ms"]);
    assert!(speed >= LEAST_SLOTS_A_SECOND, "{speed:.1} slots a second");
    assert!(peak < MOST_MIB, "{peak} MiB at the peak");
}
