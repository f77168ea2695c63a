//! `lesionwatch demo`: the whole path on one machine, with nothing faked: the appliance with its embedded broker and dashboard on free loopback
//! ports, the sample CT pushed over C-STORE ([`sender`]), the alert received by an MQTT subscriber of its own.

pub mod sender;

use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::alert::document::{Event, ResultDocument};
use crate::alert::mqtt::{Subscriber, SubscriberOptions};
use crate::appliance::Appliance;
use crate::cli::DemoArgs;
use crate::config::Config;
use crate::error::{Class, Failure};

/// The sample CT, packed by the build script. See `sample/ATTRIBUTION.md`.
static SAMPLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sample.tar"));
/// Names whose data the sample is, as its licence asks.
const ATTRIBUTION: &str = "Armato III et al. (2015), Data From LIDC-IDRI, The Cancer Imaging Archive, doi.org/10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0";
/// How long the appliance may take to hand over what it has when it is stopped.
const DRAIN: Duration = Duration::from_secs(10);

/// The sample's files: name, Part 10 bytes.
///
/// # Errors
/// An I/O error where the packed sample cannot be read (a broken build).
pub fn sample() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(Cursor::new(SAMPLE)).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.push((name, bytes));
    }
    Ok(files)
}
