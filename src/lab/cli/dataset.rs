//! `lesionlab dataset`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Class, Failure};
use crate::lab::dataset::check;
use crate::lab::dataset::marked::Split;

#[derive(Debug, Args)]
pub struct DatasetArgs {
    /// Folder with DL_info.csv and Images_png (the DeepLesion release, a harvest of `mine`), the table DL_info.csv alone, or a folder with images.csv
    /// and truth.csv of `evaluate` beside DICOM
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Only this part of it
    #[arg(long, value_name = "SPLIT")]
    split: Option<Split>,
    /// Decode every key image to its end instead of reading headers: finds what is cut short
    #[arg(long)]
    decode: bool,
    /// Lines shown of each kind of problem; all are counted
    #[arg(long, value_name = "N", default_value_t = 10)]
    lines: usize,
    /// Write the report as JSON; `-` is stdout, and the text then goes to stderr
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Reports what is in a dataset and what is wrong with it.
pub fn run(args: &DatasetArgs) -> Result<(), Failure> {
    let request = check::Request { split: args.split, decode: args.decode, lines: args.lines };
    let report = check::report(&args.path, &request)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Failure::new(Class::Internal, e.to_string()))? + "\n";
        if path == Path::new("-") {
            eprint!("{}", report.text());
            print!("{text}");
        } else {
            print!("{}", report.text());
            std::fs::write(path, text).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
        }
    } else {
        print!("{}", report.text());
    }
    if report.rows_usable == 0 {
        let part = args.split.map_or_else(String::new, |s| format!(" of its {} split", s.name()));
        return Err(Failure::new(Class::Data, format!("{}: no row{part} can be used", args.path.display())));
    }
    Ok(())
}
