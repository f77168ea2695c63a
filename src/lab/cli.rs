//! The workbench's verbs and their help text.

mod bench;
mod dataset;
mod prior;
mod quantize;
mod retrieve;
mod surroundings;
mod synthesize;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::dataset::{Scan, backgrounds};
use super::synthesize::recipe::{Ingredient, Recipe};
use super::synthesize::{Sampler, hard, phantom, real};
use super::{evaluate, export, mine};
use crate::error::{Class, Failure};

/// Makes lesionwatch's detector: mines bookmarks, synthesizes lesions into real CT, trains, evaluates, writes the model bundle.
#[derive(Debug, Parser)]
#[command(name = "lesionlab", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measurement objects, and the CT round what they mark, from a PACS into folders for `mine`
    Retrieve(retrieve::RetrieveArgs),
    /// Bookmarks that radiologists left in SR, GSPS, AIM or a vendor's export, with their CT, into a dataset laid out as DeepLesion is
    Mine(MineArgs),
    /// What is in a dataset of marked lesions (DeepLesion's release, a harvest of `mine`, DICOM with truth tables), and what is wrong with it
    Dataset(dataset::DatasetArgs),
    /// Paint lesions into CT: a contact sheet of training samples, or whole studies with bookmarks and truth
    Synthesize(synthesize::SynthesizeArgs),
    /// Train the network on synthesized samples, a harvest's marked lesions, or both; resumes where it stopped
    Train(train::TrainArgs),
    /// FROC of candidates (`lesionwatch scan --candidates`) against a truth table
    Evaluate(EvaluateArgs),
    /// Write the model bundle from a checkpoint, with calibration and operating points measured on a series kept out of training
    Export(ExportArgs),
    /// Where and as what radiologists mark lesions, against where this network finds something in healthy CT, into a bundle: finds are ranked by both
    Prior(prior::PriorArgs),
    /// Ranges and f32 layers of int8 engines into a bundle, with what every layer loses and what the whole costs
    Quantize(quantize::QuantizeArgs),
    /// Time parts of the product side by side with their peers, turn about in one run
    #[command(subcommand)]
    Bench(bench::BenchVerb),
}

#[derive(Debug, Args)]
#[command(after_help = MINE_HELP)]
struct MineArgs {
    /// Files and folders of measurement objects: DICOM SR and GSPS, AIM v4 XML, CSV or JSON
    #[arg(value_name = "PATH", required = true)]
    objects: Vec<PathBuf>,
    /// Folders of the CT that the objects refer to; of it, series without a mark are passed over
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    images: Vec<PathBuf>,
    /// Folder to write: DL_info.csv and Images_png
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// List of all that was left out, merged or looks suspicious, with reasons [default: OUT-review.csv]
    #[arg(long, value_name = "FILE.csv")]
    review: Option<PathBuf>,
    /// Write the counts as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write truth.csv and images.csv of the same lesions, to `evaluate` a detector on the images themselves (sets train, validation,
    /// test); they name files and images, so keep them out of the dataset
    #[arg(long, value_name = "DIR")]
    truth: Option<PathBuf>,
}

/// What `mine` reads of a vendor's export.
const MINE_HELP: &str = "\
A CSV or JSON export (an array of objects) has one row a mark with the columns sop_instance_uid, long_x1, long_y1, \
long_x2, long_y2, short_x1, short_y1, short_x2, short_y2: pixels of the stored image, 0 at the centre of the first \
pixel. Where known also long_mm, short_mm, unit (mm or cm), patient, tracking_uid (names the lesion in every revision), \
date (digits that sort), type (DeepLesion's 1 bone, 2 abdomen, 3 mediastinum, 4 liver, 5 lung, 6 kidney, 7 soft tissue, \
8 pelvis).

Suspicious marks (outside the body, mean below -900 HU, aspect over 4, under 2 px) are in DL_info.csv with \
Possibly_noisy = 1 and in the review list. The review list names files and images, the dataset nobody.";

/// Where samples come from.
#[derive(Debug, Args)]
struct Source {
    /// Folder with one folder of DICOM a CT series, and REAL-DISEASE.csv
    #[arg(long, value_name = "DIR")]
    ct: Option<PathBuf>,
    /// Bodies made up from the seed to add to the backgrounds
    #[arg(long, value_name = "N", default_value_t = 0)]
    phantoms: usize,
    /// Share of samples painted into them, where there is CT, too
    #[arg(long, value_name = "X", default_value_t = 0.2, value_parser = part, requires = "phantoms")]
    phantom_share: f32,
    /// Folder of real, outlined lesions (LIDC/, STS/) to transplant
    #[arg(long, value_name = "DIR")]
    lesions: Option<PathBuf>,
    /// Series (folder names) that are not to be used; repeat for several
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Share of lung, fat and muscle lesions that are real ones
    #[arg(long, value_name = "X", default_value_t = 0.4, value_parser = share::<f64>)]
    real_share: f64,
    /// Places that a detector took for lesions, shown more often: CSV of `lesionwatch scan --force --candidates` over the folder of --ct
    #[arg(long, value_name = "FILE.csv")]
    hard: Option<PathBuf>,
}

/// A share, the whole included.
fn share<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    text.parse().ok().filter(|s| (T::from(0)..=T::from(1)).contains(s)).ok_or_else(|| format!("{text} is no share; 0 to 1 is"))
}

/// A share that leaves something.
fn part(text: &str) -> Result<f32, String> {
    share(text).ok().filter(|s| *s < 1.0).ok_or_else(|| format!("{text} is no share below the whole; 0 to under 1 is"))
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// CSV of `lesionwatch scan --candidates`
    #[arg(long, value_name = "FILE.csv")]
    candidates: PathBuf,
    /// Truth table: sop_uid,x1,y1,x2,y2,box_kind,lesion_id,type and, where known, long_axis_mm
    #[arg(long, value_name = "FILE.csv")]
    truth: PathBuf,
    /// Image table: set,case,patient,sop_uid and, for pictures, path
    #[arg(long, value_name = "FILE.csv")]
    images: PathBuf,
    /// Grow truth boxes of kind `mask` by this many pixels on each side (DeepLesion's convention)
    #[arg(long, value_name = "PX", default_value_t = 5.0)]
    pad: f64,
    /// Only these sets of the image table
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    sets: Vec<String>,
    /// Draws of patients for the 95 % intervals; the same tables give the same intervals. 0 switches them off
    #[arg(long, value_name = "N", default_value_t = 500)]
    bootstrap: usize,
    /// JSON of `lesionwatch scan --json` (best with --min-score 0): adds the error of long axes and the calibration curve
    #[arg(long, value_name = "FILE.json")]
    results: Option<PathBuf>,
    /// Write every row as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one self-contained page: FROC curves, and hits, misses and false alarms, best first
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Folder that the image table's paths start from, for the page's pictures
    #[arg(long, value_name = "DIR", requires = "html")]
    dicom: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Folder of checkpoints; of several runs that began from the same weights (repeat it) the mean is taken, which usually finds more than any of them
    #[arg(long, value_name = "DIR", required = true)]
    checkpoint: Vec<PathBuf>,
    /// Folder with one folder of DICOM a CT series, and REAL-DISEASE.csv
    #[arg(long, value_name = "DIR")]
    ct: PathBuf,
    /// Series (folder name) kept out of training
    #[arg(long, value_name = "NAME")]
    validation: String,
    /// Description of the bundle: TOML with name, version, training_data, licence, card (a file beside it)
    #[arg(long, value_name = "FILE.toml")]
    about: PathBuf,
    /// Average the checkpoint's weights with this bundle's (folder or .tar), the one that it was trained on from: keeps most of what either finds
    #[arg(long, value_name = "BUNDLE")]
    blend: Option<PathBuf>,
    /// The bundle's share of the average
    #[arg(long, value_name = "X", default_value_t = 0.5, value_parser = share::<f32>, requires = "blend")]
    blend_share: f32,
    /// Rank finds by where and as what radiologists mark, too, as this bundle (folder or .tar) does; `lesionlab prior` measures it anew for another network
    #[arg(long, value_name = "BUNDLE")]
    prior: Option<PathBuf>,
    /// Bundle folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
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
        Verb::Retrieve(args) => retrieve::run(&args),
        Verb::Mine(args) => mine(args),
        Verb::Synthesize(args) => synthesize::run(&args),
        Verb::Train(args) => {
            surroundings::settle();
            train::run(&args)
        }
        Verb::Dataset(args) => dataset::run(&args),
        Verb::Evaluate(args) => evaluate(args),
        Verb::Export(args) => export(&args),
        Verb::Prior(args) => prior::run(args),
        Verb::Quantize(args) => quantize::run(&args),
        Verb::Bench(verb) => bench::run(&verb),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lesionlab: {failure}");
            ExitCode::from(failure.class.exit_code())
        }
    }
}

fn mine(args: MineArgs) -> Result<(), Failure> {
    let request = mine::Request {
        objects: args.objects,
        images: args.images,
        out: args.out,
        review: args.review,
        json: args.json,
        truth: args.truth,
    };
    let summary = mine::run(&request)?;
    print!("{}", summary.text());
    let review = request.review_path();
    if summary.lesions == 0 {
        return Err(Failure::new(Class::Data, format!("no mark can be used; {} says why, line by line", review.display())));
    }
    println!("wrote {} and {}", request.out.display(), review.display());
    Ok(())
}

/// Backgrounds of `source`; `seed` decides about phantoms.
fn backgrounds_of(source: &Source, seed: u64) -> Result<Vec<Scan>, Failure> {
    let mut scans = source.ct.as_deref().map(|root| backgrounds::read(root, &source.skip)).transpose()?.unwrap_or_default();
    scans.extend(phantom::scans(seed, source.phantoms));
    if scans.is_empty() {
        let text = "there is nothing to synthesize into: name folders of CT with --ct DIR, or a number of made-up bodies with --phantoms N";
        return Err(Failure::new(Class::Usage, text));
    }
    Ok(scans)
}

/// Paints into `scans`, with the real lesions of `source`, by `recipe`.
fn sampler_of(scans: Vec<Scan>, source: &Source, recipe: Recipe) -> Result<Sampler, Failure> {
    let lesions = source.lesions.as_deref().map(real::read).transpose()?.unwrap_or_default();
    let slices: usize = scans.iter().map(|s| s.slices.len()).sum();
    eprintln!("{} scans, {slices} slices, {} real lesions", scans.len(), lesions.len());
    let hard = source.hard.as_deref().map(|path| hard::read(path, &scans)).transpose()?.unwrap_or_default();
    if source.hard.is_some() {
        eprintln!("{} false alarms", hard.len());
    }
    let limbs = if recipe.has(Ingredient::Surroundings) { real::limbs(&lesions) } else { Vec::new() };
    let sampler = Sampler::new(scans, lesions, source.real_share).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    Ok(sampler.with_limbs(limbs).with_phantom_share(source.phantom_share).with_false_alarms(hard).with_recipe(recipe))
}

fn evaluate(args: EvaluateArgs) -> Result<(), Failure> {
    let request = evaluate::Request {
        candidates: args.candidates,
        truth: args.truth,
        images: args.images,
        pad_px: args.pad,
        sets: args.sets,
        bootstrap: args.bootstrap,
        results: args.results,
        json: args.json,
        html: args.html,
        dicom: args.dicom,
    };
    print!("{}", evaluate::run(&request)?);
    Ok(())
}

/// The description file of `export`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    name: String,
    version: String,
    training_data: String,
    licence: String,
    card: PathBuf,
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    let read =
        |path: &std::path::Path| std::fs::read_to_string(path).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())));
    let about: About =
        toml::from_str(&read(&args.about)?).map_err(|e| Failure::new(Class::Config, format!("{}: {e}", args.about.display())))?;
    let card = read(&args.about.parent().unwrap_or(std::path::Path::new(".")).join(&about.card))?;
    let mut scans = backgrounds::read(&args.ct, &[])?;
    scans.retain(|s| s.name == args.validation);
    if scans.is_empty() {
        return Err(Failure::new(Class::Data, format!("{}: no series {}", args.ct.display(), args.validation)));
    }
    let about = export::About {
        name: about.name,
        version: about.version,
        training_data: about.training_data,
        licence: about.licence,
        validation: args.validation.clone(),
        card,
    };
    let open = |path: &PathBuf| crate::shipped::open(Some(path)).map(|bundle| export::Blend { bundle, share: args.blend_share });
    let blend = args.blend.as_ref().map(open).transpose()?;
    let prior_of = |path: &PathBuf| {
        let prior = crate::shipped::open(Some(path))?.prior;
        prior.ok_or_else(|| Failure::new(Class::Data, format!("--prior: {} has none; `lesionlab prior` puts one into it", path.display())))
    };
    let prior = args.prior.as_ref().map(prior_of).transpose()?;
    let series = args.ct.join(&args.validation);
    export::run(&args.checkpoint, &scans, &series, &about, (blend.as_ref(), prior.as_ref()), &args.out)?;
    println!("wrote {}", args.out.display());
    Ok(())
}
