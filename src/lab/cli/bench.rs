//! `lesionlab bench`: one verb a benchmark.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::error::{Class, Failure};
use crate::lab::bench::{engines, exports, layers, receive, step, torch::Torch};

#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Our DICOM receiver beside those of DCMTK, dicom-rs, Orthanc and pynetdicom, with the same senders, turn about
    Receive(ReceiveArgs),
    /// Every engine on the same slots, and onnxruntime turn about where a Python has it
    Engines(engines::Request),
    /// One engine that answers on stdin and stdout what `engines` asks
    #[command(hide = true)]
    Worker(engines::worker::Request),
    /// Candidates in CT images as they are and as 8-bit exports, JPEG and not: what an archive costs in false alarms
    Exports(exports::Request),
    /// Convolution layers, forward and backward: ours, candle's own and PyTorch's
    Conv(TrainingArgs),
    /// A whole training step of the shipped network: with our convolution, with candle's own, and in PyTorch
    Train(TrainingArgs),
}

#[derive(Debug, Args)]
pub struct TrainingArgs {
    /// Rounds; each times every path once, and medians are taken over them
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// Threads of every path
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Python with torch, the peer; without it the columns are left out
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,
    /// Write the table as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How the peers get there.
const RECEIVE_HELP: &str = "\
Senders are DCMTK's storescu, one an association, with TCP_NODELAY; one more row is a storescu as it ships. Receivers are \
taken from the search path (dcmtk, orthanc) and from the folder of --peers, which is filled with
  cargo install --root DIR dicom-storescp@0.10.1
  python3 -m venv DIR/venv && DIR/venv/bin/pip install pynetdicom==3.0.4
A receiver that is not there is named in the table. Ours is the lesionwatch beside this program.";

#[derive(Debug, Args)]
#[command(after_help = RECEIVE_HELP)]
pub struct ReceiveArgs {
    /// Slices of 512 x 512 x 16 bit a run
    #[arg(long, value_name = "N", default_value_t = 480, value_parser = clap::value_parser!(u16).range(20..))]
    slices: u16,
    /// Rounds; medians are told, and one before them is not counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Associations at once, a case each
    #[arg(long, value_name = "A,B", value_delimiter = ',', default_value = "1,4,16", value_parser = clap::value_parser!(u16).range(1..=48))]
    associations: Vec<u16>,
    /// Folder to make for the work, on the disk to measure; it must not be there, and is removed at the end
    #[arg(long, value_name = "DIR", default_value = "bench-receive")]
    dir: PathBuf,
    /// Folder of peers that were installed for the benchmark
    #[arg(long, value_name = "DIR", default_value = "target/bench-peers")]
    peers: PathBuf,
    /// Write every run as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs a benchmark and prints its table.
pub fn run(verb: &BenchVerb) -> Result<(), Failure> {
    match verb {
        BenchVerb::Receive(args) => receive(args),
        BenchVerb::Engines(request) => {
            let report = engines::run(request)?;
            print!("{}", report.text());
            write(request.json.as_deref(), &report)
        }
        BenchVerb::Exports(request) => {
            let table = exports::run(request)?;
            print!("{}", table.text());
            write(request.json.as_deref(), &table)
        }
        BenchVerb::Worker(request) => engines::worker::run(request),
        BenchVerb::Conv(args) => {
            let table = layers::measure(args.rounds, args.threads, torch(args)?)?;
            print!("{}", table.text());
            write(args.json.as_deref(), &table)
        }
        BenchVerb::Train(args) => {
            super::surroundings::settle();
            let table = step::measure(args.rounds, args.threads, torch(args)?)?;
            print!("{}", table.text());
            write(args.json.as_deref(), &table)
        }
    }
}

/// Sets the threads, and starts the peer if one was asked for.
fn torch(args: &TrainingArgs) -> Result<Option<Torch>, Failure> {
    if args.rounds == 0 || args.threads == 0 {
        return Err(Failure::new(Class::Usage, "--rounds and --threads start at 1"));
    }
    // Fails only where a pool exists already; none does in a process that has just started.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    args.torch.as_deref().map(|python| Torch::start(python, args.threads)).transpose()
}

fn receive(args: &ReceiveArgs) -> Result<(), Failure> {
    if args.dir.exists() {
        return Err(Failure::new(
            Class::Usage,
            format!("{} is there already: name a folder that can be made and removed", args.dir.display()),
        ));
    }
    let request = receive::Request {
        slices: args.slices.into(),
        rounds: args.rounds.into(),
        associations: args.associations.iter().map(|n| usize::from(*n)).collect(),
        dir: std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone()),
        peers: args.peers.clone(),
    };
    let measured = receive::run(&request, |line| eprintln!("{line}"))?;
    print!("{}", measured.text());
    write(args.json.as_deref(), &measured.json())
}

/// Writes what was measured where it was asked for.
fn write(path: Option<&Path>, measured: &impl serde::Serialize) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(measured).map_err(|e| Failure::new(Class::Internal, e.to_string()))? + "\n";
    std::fs::write(path, text).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))
}
