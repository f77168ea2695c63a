//! `lesionlab prior`.

use std::path::PathBuf;

use clap::Args;

use crate::error::Failure;
use crate::lab::prior;

#[derive(Debug, Args)]
pub struct PriorArgs {
    /// Bundle folder; gets prior.toml, and calibration and operating points as they are with it
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// DeepLesion's DL_info.csv: types and places of marks (its validation and test rows; no image of it is needed)
    #[arg(long, value_name = "FILE.csv")]
    marks: PathBuf,
    /// Folder with one folder of DICOM a CT series, and REAL-DISEASE.csv: what the network finds there is held against the marks
    #[arg(long, value_name = "DIR")]
    ct: PathBuf,
    /// Series (folder names) that are not to be used; repeat for several
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Series (folder name) kept out of training, for calibration and operating points
    #[arg(long, value_name = "NAME")]
    validation: String,
    /// How far down the body the images lie, on DeepLesion's scale: series, number, level (0 to 1) of landmarks. Without it types are not held against
    /// each other, places are
    #[arg(long, value_name = "FILE.csv")]
    levels: Option<PathBuf>,
}

/// Measures the prior and puts it into the bundle.
pub fn run(args: PriorArgs) -> Result<(), Failure> {
    let request = prior::Request {
        bundle: args.bundle,
        marks: args.marks,
        ct: args.ct,
        skip: args.skip,
        validation: args.validation,
        levels: args.levels,
    };
    print!("{}", prior::run(&request)?.text());
    println!("\nwrote {}", request.bundle.display());
    Ok(())
}
