//! The workbench's verbs and their help text.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::synthesize::{Sampler, preview, real};
use super::{dataset, train};
use crate::detect::network::NetworkSpec;
use crate::error::{Class, Failure};

/// Makes lesionwatch's detector: synthesizes lesions into real CT, trains, evaluates, writes the model bundle.
#[derive(Debug, Parser)]
#[command(name = "lesionlab", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Paint lesions into CT and show them on a contact sheet
    Synthesize(SynthesizeArgs),
    /// Train the network on synthesized samples; resumes where it stopped
    Train(TrainArgs),
}

/// Where samples come from.
#[derive(Debug, Args)]
struct Source {
    /// Folder with one folder of DICOM a CT series, and REAL-DISEASE.csv
    #[arg(long, value_name = "DIR")]
    ct: PathBuf,
    /// Folder of real, outlined lesions (LIDC/, STS/) to transplant
    #[arg(long, value_name = "DIR")]
    lesions: Option<PathBuf>,
    /// Series (folder names) that are not to be used; repeat for several
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Share of lung, fat and muscle lesions that are real ones
    #[arg(long, value_name = "X", default_value_t = 0.4)]
    real_share: f64,
}

#[derive(Debug, Args)]
struct SynthesizeArgs {
    #[command(flatten)]
    source: Source,
    /// Contact sheet to write
    #[arg(long, value_name = "FILE.png")]
    preview: PathBuf,
    /// Samples on the sheet
    #[arg(long, default_value_t = 40)]
    count: usize,
    /// Planes a sample
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// The same seed gives the same samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct TrainArgs {
    #[command(flatten)]
    source: Source,
    /// Minutes of the whole schedule
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Seed of weights and samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of checkpoints; an existing one is resumed
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Threads (default: one a core)
    #[arg(long)]
    threads: Option<usize>,
}

/// Parses the command line, runs the verb, reports a failure in one place.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let asked = !e.use_stderr();
            // The message is for a terminal that may be gone: nothing is left to tell then.
            let _ = e.print();
            return ExitCode::from(if asked { 0 } else { Class::Usage.exit_code() });
        }
    };
    let done = match cli.verb {
        Verb::Synthesize(args) => synthesize(&args),
        Verb::Train(args) => train(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lesionlab: {failure}");
            ExitCode::from(failure.class.exit_code())
        }
    }
}

fn sampler(source: &Source) -> Result<Sampler, Failure> {
    let scans = dataset::read(&source.ct, &source.skip)?;
    let lesions = source.lesions.as_deref().map(real::read).transpose()?.unwrap_or_default();
    let slices: usize = scans.iter().map(|s| s.slices.len()).sum();
    eprintln!("{} scans, {slices} slices, {} real lesions", scans.len(), lesions.len());
    Sampler::new(scans, lesions, source.real_share).map_err(|e| Failure::new(Class::Internal, format!("table.toml: {e}")))
}

fn synthesize(args: &SynthesizeArgs) -> Result<(), Failure> {
    let sampler = sampler(&args.source)?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let start = std::time::Instant::now();
    let samples: Vec<_> = (0..args.count).map(|_| sampler.sample(&mut rng, args.slots)).collect();
    println!("{} samples, {:.0} a second on one core", samples.len(), samples.len() as f64 / start.elapsed().as_secs_f64());
    preview::write(&args.preview, &samples, 8)
}

fn train(args: &TrainArgs) -> Result<(), Failure> {
    if let Some(threads) = args.threads {
        // Fails only where a pool exists already, which then is the caller's choice.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    let sampler = sampler(&args.source)?;
    let options = train::Options { spec: NetworkSpec::cpu(), minutes: args.minutes, seed: args.seed, out: args.out.clone() };
    train::run(sampler, &options)
}
