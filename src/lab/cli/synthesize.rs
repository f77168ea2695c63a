//! `lesionlab synthesize`.

use std::path::PathBuf;

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Source, backgrounds_of, sampler_of};
use crate::detect::TYPE_NAMES;
use crate::error::Failure;
use crate::lab::synthesize::recipe::Recipe;
use crate::lab::synthesize::{Sample, preview, studies};

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").args(["preview", "places", "studies"]).required(true).multiple(true)))]
pub struct SynthesizeArgs {
    #[command(flatten)]
    source: Source,
    /// Contact sheet of training samples to write
    #[arg(long, value_name = "FILE.png")]
    preview: Option<PathBuf>,
    /// Contact sheet of slices with the places where lesions may lie, by tissue: look at it before you train on scans of your own
    #[arg(long, value_name = "FILE.png")]
    places: Option<PathBuf>,
    /// Samples on the sheet
    #[arg(long, default_value_t = 40)]
    count: usize,
    /// Planes a sample
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// Folder of whole studies to write: CT/SYN-0001/*.dcm …, bookmarks.csv for `mine`, truth.csv and images.csv for `evaluate`
    #[arg(long, value_name = "DIR")]
    studies: Option<PathBuf>,
    /// Patients to write, each a series of --ct altered as another patient's would be
    #[arg(long, value_name = "N", default_value_t = 10, requires = "studies")]
    patients: usize,
    /// Number of the first patient; other numbers are other patients
    #[arg(long, value_name = "N", default_value_t = 1, requires = "studies")]
    first: usize,
    /// Fewest and most lesions of a patient
    #[arg(long, value_name = "LOW..HIGH", default_value = "2..6", value_parser = range, requires = "studies")]
    lesions_each: [usize; 2],
    /// Kinds of lesions, as the built-in table names them [default: all]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', requires = "studies")]
    kinds: Vec<String>,
    /// The same seed gives the same samples and patients
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// `LOW..HIGH`, both included.
fn range(text: &str) -> Result<[usize; 2], String> {
    let numbers: Option<Vec<usize>> = text.split("..").map(|n| n.parse().ok()).collect();
    match numbers.as_deref() {
        Some([low, high]) => Ok([*low, *high]),
        Some([both]) => Ok([*both, *both]),
        _ => Err("a number or a range as 2..6".into()),
    }
}

/// Writes studies, contact sheets, or both.
pub fn run(args: &SynthesizeArgs) -> Result<(), Failure> {
    let scans = backgrounds_of(&args.source, args.seed)?;
    if let Some(out) = &args.studies {
        let request = studies::Request {
            out: out.clone(),
            patients: args.patients,
            first: args.first,
            seed: args.seed,
            lesions: args.lesions_each,
            kinds: args.kinds.clone(),
        };
        let written = studies::run(&scans, &request)?;
        println!("{} patients, {} images, {} lesions in {}", written.patients, written.images, written.lesions, out.display());
    }
    if let Some(path) = &args.places {
        println!("{}", preview::places(path, &scans)?);
    }
    let Some(path) = &args.preview else { return Ok(()) };
    let sampler = sampler_of(scans, &args.source, Recipe::default())?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let start = std::time::Instant::now();
    let samples: Vec<_> = (0..args.count).map(|_| sampler.sample(&mut rng, args.slots)).collect();
    println!("{} samples, {:.0} a second on one core", samples.len(), samples.len() as f64 / start.elapsed().as_secs_f64());
    println!("{}", types(&samples));
    preview::samples(path, &samples)
}

/// How many lesions of which type, most first.
fn types(samples: &[Sample]) -> String {
    let all: Vec<usize> = samples.iter().flat_map(|s| s.truths.iter().map(|t| t.lesion_type)).collect();
    let mut counts: Vec<(usize, &str)> =
        TYPE_NAMES.iter().enumerate().map(|(i, name)| (all.iter().filter(|t| **t == i).count(), *name)).collect();
    counts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let share = |n: usize| 100.0 * n as f64 / all.len().max(1) as f64;
    let list: Vec<String> = counts.iter().map(|(n, name)| format!("{name} {:.0} %", share(*n))).collect();
    format!("{} lesions: {}", all.len(), list.join(", "))
}
