//! `lesionlab bench receive`: our receiver beside others, each a process of its own, fed by the same senders with the same objects, turn about.
//!
//! A *case* is a number of associations and a kind of sender, a *run* one receiver in one case: started anew on an empty folder, warmed up, fed. A *round*
//! is all runs once, in another order than the last. One round before them is not counted: memory that nobody has used since a virtual machine started costs
//! many times as much when it is first written. What a run left is emptied and the file systems are synced before the next begins, so that nobody pays for
//! what another one has not written yet. Files are removed at the very end: an ext4 without a journal passes over every inode that was freed in the last
//! minutes when it looks for a new one, which took up to 46 % of a receiver's time after a run whose 480 files had been removed.

mod echo;
mod objects;
mod peer;
mod receivers;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::echo::Echo;
use self::peer::Peer;
use self::receivers::{Receiver, installed};
use super::machine::Machine;
use crate::error::{Class, Failure};

/// Slices sent before the clock starts.
const WARM_UP: usize = 4;
/// Between those and the clock: a scanner pauses between two patients, too, and what a server does in a pause is no part of receiving.
const PAUSE: Duration = Duration::from_secs(4);
/// A server that works on after its last answer is waited for as long, for its processor time.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at it.
const SETTLE_STEP: Duration = Duration::from_millis(200);
/// Pixel bytes of one object; what is stored is longer by its header.
const PIXEL_BYTES: u64 = 512 * 512 * 2;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Objects a run.
    pub slices: usize,
    /// Rounds.
    pub rounds: usize,
    /// Numbers of associations, a case each.
    pub associations: Vec<usize>,
    /// Folder to work in; its disk is what is measured. Made, and removed at the end.
    pub dir: PathBuf,
    /// Folder of peers that no package manager installed: `bin/dicom-storescp`, `venv/bin/python` with pynetdicom.
    pub peers: PathBuf,
}

/// How the objects are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    associations: usize,
    /// DCMTK's storescu as it ships, without TCP_NODELAY.
    nagle: bool,
}

/// One receiver in one case.
#[derive(Debug, Clone, Default)]
struct Run {
    per_second: f64,
    peak_mib: f64,
    cpu_seconds_a_thousand: f64,
    /// Round trips of C-ECHO meanwhile, ms; or why there are none.
    echo_ms: Vec<f64>,
    echo_fault: Option<String>,
}

/// All runs of one receiver in one case, by round; a fault ends the series.
#[derive(Debug, Clone)]
struct Cell {
    case: Case,
    receiver: Receiver,
    runs: Vec<Run>,
    fault: Option<String>,
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    machine: Machine,
    versions: Vec<(&'static str, String)>,
    request: Request,
    cells: Vec<Cell>,
}

/// Runs the benchmark; `progress` is told of each run.
///
/// # Errors
/// Nothing to send with, or no receiver of ours: a peer that is not there is named in the result.
pub fn run(request: &Request, mut progress: impl FnMut(&str)) -> Result<Measured, Failure> {
    let Some(storescu) = installed("storescu") else {
        return Err(Failure::new(Class::Unavailable, "storescu is not installed: it sends to all of the receivers; install DCMTK (dcmtk)"));
    };
    let machine = Machine::with_disk(&request.dir);
    let most = request.associations.iter().copied().max().unwrap_or(1);
    let files: Vec<PathBuf> = objects::write_all(&request.dir.join("objects"), request.slices, most)?.concat();
    let cases = request.associations.iter().map(|n| Case { associations: *n, nagle: false });
    let mut cells: Vec<Cell> = cases
        .flat_map(|case| Receiver::ALL.map(|receiver| (case, receiver)))
        .chain([(Case { associations: 1, nagle: true }, Receiver::Ours)])
        .map(|(case, receiver)| Cell { case, receiver, runs: Vec::new(), fault: None })
        .collect();
    for round in 0..=request.rounds {
        let count = cells.len();
        for turn in 0..count {
            let cell = &mut cells[(turn + round * 2) % count];
            if cell.fault.is_some() {
                continue;
            }
            match one(request, cell, &request.dir.join(format!("run-{round}-{turn}")), &storescu, &files) {
                Ok(Some(run)) => {
                    let name = if round == 0 { "not counted,".to_owned() } else { format!("round {round}") };
                    progress(&format!("{name} {} {}: {:.0} slices/s", cell.case.name(), cell.receiver.name(), run.per_second));
                    if round > 0 {
                        cell.runs.push(run);
                    }
                }
                Ok(None) => cell.fault = Some("not installed".into()),
                Err(failure) if cell.receiver.is_ours() => return Err(failure),
                Err(failure) => cell.fault = Some(failure.message),
            }
            if let Some(fault) = &cell.fault {
                progress(&format!("{} {}: {fault}", cell.case.name(), cell.receiver.name()));
            }
        }
    }
    let versions = receivers::versions(request);
    std::fs::remove_dir_all(&request.dir).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", request.dir.display())))?;
    Ok(Measured { machine, versions, request: request.clone(), cells })
}

impl Case {
    fn name(self) -> String {
        format!("{}{}", self.associations, if self.nagle { ", sender as shipped" } else { "" })
    }
}

fn one(request: &Request, cell: &Cell, dir: &Path, storescu: &Path, files: &[PathBuf]) -> Result<Option<Run>, Failure> {
    let io = |e: std::io::Error| Failure::new(Class::Io, format!("{}: {e}", dir.display()));
    std::fs::create_dir_all(cell.receiver.objects(dir)).map_err(io)?;
    let run = fed(request, cell, storescu, files, dir);
    empty(dir).map_err(io)?;
    rustix::fs::sync();
    run
}

/// Empties every file below `dir`, which gives its blocks back and keeps its inode.
fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => empty(&entry.path())?,
            kind if kind.is_file() => std::fs::OpenOptions::new().write(true).open(entry.path())?.set_len(0)?,
            _ => {}
        }
    }
    Ok(())
}

fn fed(request: &Request, cell: &Cell, storescu: &Path, files: &[PathBuf], dir: &Path) -> Result<Option<Run>, Failure> {
    let Some((server, port)) = cell.receiver.start(request, dir)? else { return Ok(None) };
    let (first, rest) = files.split_at(WARM_UP.min(files.len()));
    send(storescu, port, cell.case.nagle, &[first])?;
    let parts: Vec<&[PathBuf]> = rest.chunks(rest.len().div_ceil(cell.case.associations).max(1)).collect();
    std::thread::sleep(PAUSE);
    // What a server does when it has just started (ours measures its engines) is no part of receiving.
    let cpu_before = settled(&server);
    let echo = Echo::start(([127, 0, 0, 1], port).into());
    let begun = Instant::now();
    let sent = send(storescu, port, cell.case.nagle, &parts);
    let seconds = begun.elapsed().as_secs_f64();
    let echoed = echo.stop();
    sent?;
    let cpu = settled(&server) - cpu_before;
    let stored = whole_objects(&cell.receiver.objects(dir));
    if stored != files.len() {
        return Err(Failure::new(Class::Data, format!("{} objects were answered with Success, {stored} are there", files.len())));
    }
    let (echo_ms, echo_fault) = echoed.map_or_else(|e| (Vec::new(), Some(e)), |ms| (ms, None));
    Ok(Some(Run {
        per_second: rest.len() as f64 / seconds,
        peak_mib: server.peak_mib(),
        cpu_seconds_a_thousand: cpu * 1000.0 / rest.len() as f64,
        echo_ms,
        echo_fault,
    }))
}

/// One storescu a part, all at once; fails where one of them does.
fn send(storescu: &Path, port: u16, nagle: bool, parts: &[&[PathBuf]]) -> Result<(), Failure> {
    let spawn = |part: &&[PathBuf]| {
        let mut command = Command::new(storescu);
        command
            .args(["-aec", "ANY-SCP", "127.0.0.1", &port.to_string()])
            .args(*part)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if nagle {
            command.env_remove("TCP_NODELAY")
        } else {
            command.env("TCP_NODELAY", "1")
        };
        command.spawn()
    };
    let senders: Vec<_> = parts.iter().map(spawn).collect();
    let mut fault = None;
    for sender in senders {
        let output = sender.and_then(std::process::Child::wait_with_output);
        let output = output.map_err(|e| Failure::new(Class::Unavailable, format!("{}: {e}", storescu.display())))?;
        let text = String::from_utf8_lossy(&output.stderr);
        // storescu ends well where objects were refused; its log does not.
        if !output.status.success() || text.lines().any(|l| l.starts_with("E:") || l.starts_with("F:")) {
            let line = text.lines().find(|l| l.starts_with("E:") || l.starts_with("F:")).unwrap_or("storescu failed").to_owned();
            fault.get_or_insert(line);
        }
    }
    fault.map_or(Ok(()), |line| Err(Failure::new(Class::Unavailable, format!("not all was taken: {line}"))))
}

/// Processor seconds of a server once it has done what it does after the last answer.
fn settled(server: &Peer) -> f64 {
    let deadline = Instant::now() + SETTLE_WITHIN;
    let mut last = server.cpu_seconds();
    while Instant::now() < deadline {
        std::thread::sleep(SETTLE_STEP);
        let now = server.cpu_seconds();
        // A hundredth of a second is one tick: timers of an idle server.
        if now - last < 0.015 {
            return now;
        }
        last = now;
    }
    last
}

/// Files below `dir` that are long enough to be one of the objects.
fn whole_objects(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            // What ours wrote ahead is no object.
            Ok(m) if m.is_dir() && e.file_name() == "incoming" => 0,
            Ok(m) if m.is_dir() => whole_objects(&e.path()),
            Ok(m) => usize::from(m.len() > PIXEL_BYTES && m.len() < 2 * PIXEL_BYTES),
            Err(_) => 0,
        })
        .sum()
}
