//! `lesionlab bench`: one verb a benchmark.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::error::{Class, Failure};
use crate::lab::bench::{layers, step, torch::Torch};

#[derive(Debug, Subcommand)]
pub enum BenchVerb {
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

/// Runs a benchmark and prints its table.
pub fn run(verb: &BenchVerb) -> Result<(), Failure> {
    let (BenchVerb::Conv(args) | BenchVerb::Train(args)) = verb;
    if args.rounds == 0 || args.threads == 0 {
        return Err(Failure::new(Class::Usage, "--rounds and --threads start at 1"));
    }
    // Fails only where a pool exists already; none does in a process that has just started.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    let torch = args.torch.as_deref().map(|python| Torch::start(python, args.threads)).transpose()?;
    let (text, json) = match verb {
        BenchVerb::Conv(_) => {
            let table = layers::measure(args.rounds, args.threads, torch)?;
            (table.text(), serde_json::to_string_pretty(&table))
        }
        BenchVerb::Train(_) => {
            let table = step::measure(args.rounds, args.threads, torch)?;
            (table.text(), serde_json::to_string_pretty(&table))
        }
    };
    print!("{text}");
    args.json.as_deref().map_or(Ok(()), |path| write(path, json))
}

fn write(path: &Path, json: serde_json::Result<String>) -> Result<(), Failure> {
    let text = json.map_err(|e| Failure::new(Class::Internal, e.to_string()))? + "\n";
    std::fs::write(path, text).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))
}
