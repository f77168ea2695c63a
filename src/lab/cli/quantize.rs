//! `lesionlab quantize`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Class, Failure};
use crate::lab::dataset::backgrounds;
use crate::lab::export::VALIDATION_CROPS;
use crate::lab::quantize::{self, ranges::Method};
use crate::lab::slots::SeriesSlots;
use crate::lab::synthesize::Sampler;

#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// Bundle folder; its bundle.toml gets the ranges that int8 engines need
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// Folders of DICOM, one CT series each, to measure ranges on
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    ct: Vec<PathBuf>,
    /// Windows of neighbouring slots taken of each series, evenly
    #[arg(long, value_name = "N", default_value_t = 8)]
    windows: usize,
    /// Where the range of a map ends
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = Method::Headroom)]
    method: Method,
    /// Series (a folder of DICOM) to measure the cost on, with painted lesions and as it is; one that was kept out of training
    #[arg(long, value_name = "DIR")]
    validation: Option<PathBuf>,
    /// Crops of each kind (one slot, with context) to measure the cost on
    #[arg(long, value_name = "N", default_value_t = VALIDATION_CROPS, requires = "validation")]
    crops: usize,
    /// Write the quantized weights and graphs too (detector.q8_0.gguf, encoder.int8.onnx, heads.int8.onnx), which engines else make of the master, and the f32
    /// graphs where they were left out (encoder.onnx, heads.onnx)
    #[arg(long)]
    files: bool,
    /// Measure and print, write nothing
    #[arg(long, conflicts_with = "files")]
    dry_run: bool,
    /// Write both tables as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures ranges and their cost, and puts them into the bundle.
pub fn run(args: &QuantizeArgs) -> Result<(), Failure> {
    let request = quantize::Request {
        bundle: args.bundle.clone(),
        ct: args.ct.clone(),
        windows: args.windows,
        method: args.method,
        crops: args.crops,
        files: args.files,
        write: !args.dry_run,
    };
    let validation = args.validation.as_deref().map(validation).transpose()?;
    let report = quantize::run(&request, validation.as_ref().map(|(sampler, series)| (sampler, series)))?;
    print!("{}", report.text());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Failure::new(Class::Internal, e.to_string()))? + "\n";
        std::fs::write(path, text).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
    }
    if let Some(reason) = report.refused {
        return Err(Failure::new(Class::Data, reason));
    }
    if request.write {
        println!("\nwrote {}", args.bundle.display());
    }
    Ok(())
}

fn validation(folder: &Path) -> Result<(Sampler, SeriesSlots), Failure> {
    let usage = || Failure::new(Class::Usage, format!("--validation: {} is no folder of a series", folder.display()));
    let name = folder.file_name().ok_or_else(usage)?.to_string_lossy().into_owned();
    let root = folder.parent().ok_or_else(usage)?;
    let scans = backgrounds::read_one(root, &name)?;
    let sampler = Sampler::new(scans, Vec::new(), 0.0).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    Ok((sampler, SeriesSlots::open(folder)?))
}
