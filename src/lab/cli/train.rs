//! `lesionlab train`.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::{Args, ValueEnum};

use super::{Source, backgrounds_of, sampler_of, share};
use crate::detect::bundle::Bundle;
use crate::detect::cuda;
use crate::detect::network::NetworkSpec;
use crate::detect::weights::FoldedWeights;
use crate::error::{Class, Failure};
use crate::lab::dataset::Scan;
use crate::lab::dataset::marked::{MarkedSlices, Split};
use crate::lab::synthesize::Sampler;
use crate::lab::synthesize::recipe::{Ingredient, Recipe};
use crate::lab::train::mixture::Mixture;
use crate::lab::train::validation::Validation;
use crate::lab::train::{self, Length, growth};

/// Share of the harvest where none is named.
const HARVEST_SHARE: f64 = 0.5;

#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    source: Source,
    /// Marked lesions to train on: a harvest of `mine`, the DeepLesion release, or any other path that `dataset` reads; of it the train split (or all: --harvest-all)
    #[arg(long, value_name = "DIR")]
    harvest: Option<PathBuf>,
    /// Share of samples from the harvest; with 1 no --ct is needed [default: 0.5]
    #[arg(long, value_name = "X", value_parser = share::<f64>, requires = "harvest")]
    harvest_share: Option<f64>,
    /// Train on every part of the harvest, validation and test as well: for a last training after its worth is known, for then nothing is left to judge by
    #[arg(long, requires = "harvest", conflicts_with = "validate")]
    harvest_all: bool,
    /// Print FROC every so many minutes (10 where none are named) and at the end, and append it to OUT/validation.csv: on the harvest's validation split,
    /// or on synthetic lesions in the --validation-series
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "10")]
    validate: Option<f64>,
    /// Series (folder name) of --ct to validate on, kept out of training; repeat for several
    #[arg(long, value_name = "NAME", requires = "validate", conflicts_with = "harvest")]
    validation_series: Vec<String>,
    /// Minutes of the whole schedule
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Samples of the whole schedule, instead of minutes: the same on any machine
    #[arg(long, value_name = "N", conflicts_with = "minutes", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Samples of one slot a step, and five twelfths as many where a sample is several slots
    #[arg(long, value_name = "N", default_value_t = train::BATCH as u32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Parts of the recipe to leave out, to know what they buy: plane-noise, bends, lung-grain, contrast-phases, organs, tubes,
    /// veins, touches, room, surroundings, grafts, exports, jpeg, context
    #[arg(long, value_name = "PART,PART", value_delimiter = ',', hide_possible_values = true)]
    without: Vec<Ingredient>,
    /// Sizes of the network, as the `network.toml` beside a checkpoint has them; with --init a wider one than the bundle's, into which its weights grow
    /// [default: the shipped network's, with --init the bundle's]
    #[arg(long, value_name = "FILE.toml")]
    network: Option<PathBuf>,
    /// Seed of weights and samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of checkpoints; an existing one is resumed
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Start from the weights of this bundle (folder or .tar) instead of from nothing
    #[arg(long, value_name = "BUNDLE")]
    init: Option<PathBuf>,
    /// Learning rate after the warm-up [default: 2e-3, with --init 6e-4]
    #[arg(long, value_name = "X")]
    rate: Option<f64>,
    /// Where to compute: the GPU where this build and this machine have one, else the CPU; or which of the two
    #[arg(long, value_enum, default_value_t = Place::Auto)]
    device: Place,
    /// Threads (default: one a core)
    #[arg(long)]
    threads: Option<usize>,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    Auto,
    Cpu,
    Cuda,
}

impl Place {
    /// The device, and a line that says which.
    fn device(self) -> Result<(Device, String), Failure> {
        let gpu = if self == Self::Cpu { Err(None) } else { cuda::device().map_err(Some) };
        match (gpu, self) {
            (Ok(gpu), _) => Ok((gpu, format!("training on {}", cuda::named()))),
            (Err(Some(reason)), Self::Cuda) => Err(Failure::new(Class::Unavailable, format!("--device cuda: {reason}"))),
            (Err(Some(reason)), _) if cuda::IN_THIS_BUILD => Ok((Device::Cpu, format!("training on the CPU: {reason}"))),
            (Err(_), _) => Ok((Device::Cpu, "training on the CPU".into())),
        }
    }
}

/// Trains.
pub fn run(args: &TrainArgs) -> Result<(), Failure> {
    if let Some(threads) = args.threads {
        // Fails only where a pool exists already, which then is the caller's choice.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    if let Some(every) = args.validate.filter(|m| !(m.is_finite() && *m > 0.0)) {
        return Err(Failure::new(Class::Usage, format!("--validate: {every} is no number of minutes")));
    }
    let init = args.init.as_deref().map(|path| crate::shipped::open(Some(path))).transpose()?;
    let (spec, init) = start(init, args)?;
    let rate = args.rate.unwrap_or(if init.is_some() { train::RATE * 0.3 } else { train::RATE });
    let (device, where_it_is) = args.device.device()?;
    eprintln!("{where_it_is}");
    let (source, validation) = sources(args)?;
    let options = train::Options {
        spec,
        length: args.samples.map_or(Length::Minutes(args.minutes), |n| Length::Samples(n as usize)),
        in_context: !args.without.contains(&Ingredient::Context),
        seed: args.seed,
        init,
        rate,
        batch: args.batch as usize,
        device,
        out: args.out.clone(),
        validation: validation.zip(args.validate),
    };
    train::run(source, &options)
}

/// Which network, and the weights it starts from.
fn start(init: Option<Bundle>, args: &TrainArgs) -> Result<(NetworkSpec, Option<FoldedWeights>), Failure> {
    let asked = args.network.as_deref().map(network).transpose()?;
    let Some(bundle) = init else {
        return Ok((asked.unwrap_or_else(NetworkSpec::cpu), None));
    };
    let (from, weights) = (bundle.description.network, bundle.weights);
    let Some(to) = asked.filter(|to| *to != from) else {
        return Ok((from, Some(weights)));
    };
    let grown = growth::grown(&weights, &from, &to).map_err(|e| Failure::new(Class::Usage, format!("--network: {e}")))?;
    Ok((to, Some(grown)))
}

/// Sizes of a network from a file.
fn network(path: &Path) -> Result<NetworkSpec, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
    let wrong = |reason: String| Failure::new(Class::Data, format!("{}: {reason}", path.display()));
    let spec: NetworkSpec = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    spec.check().map_err(wrong)?;
    Ok(spec)
}

/// What to draw from, and what to validate on.
fn sources(args: &TrainArgs) -> Result<(Mixture, Option<Validation>), Failure> {
    let wanted = |slices: MarkedSlices| if args.harvest_all { Ok(slices) } else { slices.only(Split::Train) };
    let marked = args.harvest.as_deref().map(|path| wanted(MarkedSlices::open(path)?)).transpose()?;
    let share = args.harvest_share.unwrap_or(if marked.is_some() { HARVEST_SHARE } else { 0.0 });
    if let Some(marked) = &marked {
        eprintln!("{}: {} key slices to train on", marked.root().display(), marked.keys().len());
    }
    let (mut synthetic, mut kept_out) = (None, Vec::new());
    if share < 1.0 {
        if args.source.ct.is_none() && args.source.phantoms == 0 {
            let text = "nothing to paint lesions into: name folders of CT with --ct DIR or made-up bodies with --phantoms N, or train on marked lesions alone with --harvest DIR --harvest-share 1";
            return Err(Failure::new(Class::Usage, text));
        }
        let (out, scans): (Vec<Scan>, Vec<Scan>) =
            backgrounds_of(&args.source, args.seed)?.into_iter().partition(|s| args.validation_series.contains(&s.name));
        if let Some(name) = args.validation_series.iter().find(|n| !out.iter().any(|s| s.name == **n)) {
            return Err(Failure::new(Class::Usage, format!("--validation-series: there is no series {name} among the backgrounds")));
        }
        if scans.is_empty() {
            return Err(Failure::new(Class::Usage, "--validation-series: nothing is left to train on"));
        }
        kept_out = out;
        synthetic = Some(sampler_of(scans, &args.source, Recipe::without(&args.without))?);
    }
    let validation = match (args.validate, &args.harvest) {
        (None, _) => None,
        (Some(_), Some(path)) => {
            let slices = MarkedSlices::open(path)?.only(Split::Validation)?;
            eprintln!("{}: {} key slices to validate on", path.display(), slices.keys().len());
            Some(Validation::Marked(slices))
        }
        (Some(_), None) if kept_out.is_empty() => {
            let text = "--validate: there is nothing to validate on: name series of --ct with --validation-series, or a --harvest";
            return Err(Failure::new(Class::Usage, text));
        }
        (Some(_), None) => {
            Some(Validation::Synthetic(Sampler::new(kept_out, Vec::new(), 0.0).map_err(|e| Failure::new(Class::Internal, e.to_string()))?))
        }
    };
    Ok((Mixture::new(synthetic, marked, share)?, validation))
}
