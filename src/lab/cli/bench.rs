//! `lesionlab bench`.

use clap::{Args, Subcommand};

use crate::error::Failure;
use crate::lab::bench::engines;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every engine on the same slots, and onnxruntime turn about where a Python has it
    Engines(engines::Request),
    /// One engine that answers on stdin and stdout what `engines` asks
    #[command(hide = true)]
    Worker(engines::worker::Request),
}

/// Runs one benchmark.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    match &args.what {
        What::Engines(request) => engines::run(request),
        What::Worker(request) => engines::worker::run(request),
    }
}
