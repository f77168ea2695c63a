//! `lesionlab synthesize`.

use std::path::PathBuf;

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Source, backgrounds_of, sampler_of};
use crate::error::Failure;
use crate::lab::synthesize::{preview, studies};

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").args(["preview", "studies"]).required(true).multiple(true)))]
pub struct SynthesizeArgs {
    #[command(flatten)]
    source: Source,
    /// Contact sheet of training samples to write
    #[arg(long, value_name = "FILE.png")]
    preview: Option<PathBuf>,
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

/// Writes studies, a contact sheet, or both.
pub fn run(args: &SynthesizeArgs) -> Result<(), Failure> {
    if let Some(out) = &args.studies {
        let request = studies::Request {
            out: out.clone(),
            patients: args.patients,
            first: args.first,
            seed: args.seed,
            lesions: args.lesions_each,
            kinds: args.kinds.clone(),
        };
        let written = studies::run(&backgrounds_of(&args.source, args.seed)?, &request)?;
        println!("{} patients, {} images, {} lesions in {}", written.patients, written.images, written.lesions, out.display());
    }
    let Some(preview) = &args.preview else { return Ok(()) };
    let sampler = sampler_of(backgrounds_of(&args.source, args.seed)?, &args.source)?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let start = std::time::Instant::now();
    let samples: Vec<_> = (0..args.count).map(|_| sampler.sample(&mut rng, args.slots)).collect();
    println!("{} samples, {:.0} a second on one core", samples.len(), samples.len() as f64 / start.elapsed().as_secs_f64());
    preview::write(preview, &samples, 8)
}
