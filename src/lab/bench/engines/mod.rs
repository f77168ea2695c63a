//! `lesionlab bench engines`: every engine on the same slots, and onnxruntime as the peer, each in a process of its own that answers questions in turn.
//!
//! Asked of each: milliseconds a slot when 1, 4 or 16 slots are handed over at once (encoder and heads, all cores), slots a second over a series as the
//! appliance goes through it, the energy that this takes where the board measures it, and the process's peak memory in the end. Slots are made before; decoding DICOM is no part of it.

mod peer;
mod table;
pub mod worker;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::peer::Contestant;
use super::machine::{self, Machine};
use super::median::median;
use super::rail::Rail;
use crate::detect::{bundle::Bundle, onnx, select};
use crate::error::{Class, Failure};
use crate::lab::slots::SeriesSlots;

/// What joules are kept under.
const ENERGY: &str = "energy";
/// Slots handed over at once.
const BATCHES: [usize; 3] = [1, 4, 16];

/// What is asked for.
#[derive(Debug, Args)]
pub struct Request {
    /// Folder of DICOM, one CT series
    #[arg(long, value_name = "DIR")]
    series: PathBuf,
    /// Bundle (folder or .tar) [default: the one built in]
    #[arg(long, value_name = "BUNDLE")]
    model: Option<PathBuf>,
    /// Only these engines [default: all that can start]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    engines: Vec<String>,
    /// Python that has onnxruntime and numpy (of a virtual environment); left out, there is no peer
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Rounds; medians are reported
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Slots of the series that is gone through
    #[arg(long, value_name = "N", default_value_t = 138)]
    slots: usize,
    /// Where the board's sensors lie
    #[arg(long, value_name = "DIR", default_value = "/sys", hide = true)]
    sysfs: PathBuf,
    /// Write the table as JSON
    #[arg(long, value_name = "FILE")]
    pub(in crate::lab) json: Option<PathBuf>,
}

/// One engine's medians.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Engine and format.
    pub engine: String,
    /// Why there are no figures.
    pub absent: Option<String>,
    /// Milliseconds a slot at batches of 1, 4 and 16.
    pub batch_ms: Vec<f64>,
    /// Slots a second over the series.
    pub slots_a_second: Option<f64>,
    /// Processor time a slot over the series, milliseconds on all cores together: what a busy machine does to it is little.
    pub cpu_ms: Option<f64>,
    /// Energy of the whole board a slot over the series, joules; `None` where no rail measures it.
    pub joules: Option<f64>,
    /// Peak resident memory, MiB.
    pub peak_mib: Option<f64>,
    /// onnxruntime f32's series time over this engine's: 1 is as fast, less is slower.
    pub of_peer: Option<f64>,
    /// The same of processor time.
    pub of_peer_cpu: Option<f64>,
}

/// The whole.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    series: String,
    slot: [usize; 2],
    series_slots: usize,
    rounds: usize,
    engines: Vec<Row>,
}

/// Measures.
///
/// # Errors
/// A series or bundle that cannot be used, I/O. An engine that cannot start is a row that says why.
pub fn run(request: &Request) -> Result<Report, Failure> {
    let here = Machine::here();
    let bundle = crate::shipped::open(request.model.as_deref())?;
    let series = SeriesSlots::open(&request.series)?;
    let folder = Scratch::new()?;
    let size = write_slots(&series, &folder.0)?;
    let mut contestants = contestants(request, &bundle, &folder.0, size)?;
    let rail = Rail::find(&request.sysfs);
    for round in 0..request.rounds.max(1) {
        eprintln!("round {} of {}", round + 1, request.rounds.max(1));
        for question in BATCHES.map(|n| format!("batch {n}")) {
            contestants.iter_mut().for_each(|c| c.ask(&question));
        }
        let question = format!("series {}", request.slots);
        for c in &mut contestants {
            let mut ask = || c.ask_with_cpu(&question);
            let ((), joules) = match &rail {
                Some(rail) => rail.during(ask),
                None => (ask(), None),
            };
            c.keep(ENERGY, joules);
        }
    }
    let mut rows: Vec<Row> = contestants.iter_mut().map(|c| row(c, request.slots)).collect();
    let peer = rows.iter().find(|r| r.engine == peer::ONNXRUNTIME).cloned();
    for r in &mut rows {
        r.of_peer = r.slots_a_second.zip(peer.as_ref().and_then(|p| p.slots_a_second)).map(|(own, peer)| own / peer);
        r.of_peer_cpu = r.cpu_ms.zip(peer.as_ref().and_then(|p| p.cpu_ms)).map(|(own, peer)| peer / own);
    }
    Ok(Report {
        machine: here,
        series: request.series.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        slot: size,
        series_slots: request.slots,
        rounds: request.rounds.max(1),
        engines: rows,
    })
}

fn io(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(Class::Io, format!("{}: {e}", path.display()))
}

/// A folder that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("lesionlab-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).map_err(|e| io(&path, &e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind in the system's folder for temporary files at worst.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// As many slots as the largest batch takes, evenly over the series, channels last; their rows and columns.
fn write_slots(series: &SeriesSlots, folder: &Path) -> Result<[usize; 2], Failure> {
    let most = BATCHES[BATCHES.len() - 1];
    let (mut bytes, mut size) = (Vec::new(), [0; 2]);
    for n in 0..most {
        let slot = series.slot(n * series.count() / most)?;
        size = [slot.height, slot.width];
        bytes.extend(slot.data.iter().flat_map(|v| v.to_le_bytes()));
    }
    let path = folder.join(worker::SLOTS);
    std::fs::write(&path, bytes).map_err(|e| io(&path, &e))?;
    Ok(size)
}

fn contestants(request: &Request, bundle: &Bundle, folder: &Path, size: [usize; 2]) -> Result<Vec<Contestant>, Failure> {
    let wanted = |name: &&&str| **name != "auto" && (request.engines.is_empty() || request.engines.iter().any(|e| e == *name));
    let mut all: Vec<Contestant> =
        select::NAMES.iter().filter(wanted).map(|name| peer::ours(name, request.model.as_deref(), folder, size)).collect();
    let spec = &bundle.description.network;
    let failed = |reason: String| Failure::new(Class::Internal, reason);
    // Written anew: the bundle's own may be of a time when the batch was fixed at one.
    let f32 = (
        onnx::write("encoder", &spec.encoder(), &bundle.weights).map_err(failed)?,
        onnx::write("heads", &spec.heads(), &bundle.weights).map_err(failed)?,
    );
    for (name, graphs) in [(peer::ONNXRUNTIME, Ok(f32)), (peer::ONNXRUNTIME_INT8, bundle.int8_graphs())] {
        all.push(match (&request.python, graphs) {
            (None, _) => Contestant::absent(name, "no --python was named"),
            (_, Err(reason)) => Contestant::absent(name, &reason),
            (Some(python), Ok((encoder, heads))) => {
                let files =
                    [("encoder", encoder), ("heads", heads)].map(|(part, bytes)| (folder.join(format!("{name}-{part}.onnx")), bytes));
                for (path, bytes) in &files {
                    std::fs::write(path, bytes).map_err(|e| io(path, &e))?;
                }
                peer::python(name, python, folder, size, machine::cores(), [&files[0].0, &files[1].0])
            }
        });
    }
    Ok(all)
}

fn row(c: &mut Contestant, slots: usize) -> Row {
    let peak_mib = c.once("memory");
    let ms = |n: &usize| median(c.answers(&format!("batch {n}"))) * 1000.0 / *n as f64;
    let here = c.absent_because().is_none();
    Row {
        engine: c.name.clone(),
        absent: c.absent_because(),
        batch_ms: if here { BATCHES.iter().map(ms).collect() } else { Vec::new() },
        slots_a_second: here.then(|| slots as f64 / median(c.answers(&format!("series {slots}")))),
        cpu_ms: here.then(|| median(c.answers("cpu")) * 1000.0 / slots as f64),
        joules: Some(c.answers(ENERGY)).filter(|j| here && !j.is_empty()).map(|j| median(j) / slots as f64),
        peak_mib,
        of_peer: None,
        of_peer_cpu: None,
    }
}
