//! `lesionlab retrieve`.

use std::path::PathBuf;

use clap::Args;

use crate::error::{Class, Failure};
use crate::lab::retrieve::{self, Request};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct RetrieveArgs {
    /// The PACS
    #[arg(value_name = "AE@HOST:PORT")]
    peer: String,
    /// Folder to write; a second run into it asks for what is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Our AE title, as the PACS knows it
    #[arg(long, value_name = "AE", default_value = "LESIONLAB")]
    calling_ae: String,
    /// Modalities of the objects that hold marks
    #[arg(long, value_name = "A,B", value_delimiter = ',', default_value = "SR,PR")]
    modality: Vec<String>,
    /// Only studies of this day and later
    #[arg(long, value_name = "YYYYMMDD")]
    since: Option<String>,
    /// Only studies of this day and earlier
    #[arg(long, value_name = "YYYYMMDD")]
    until: Option<String>,
    /// All slices of a series that holds a marked one: many times the data
    #[arg(long)]
    whole_series: bool,
}

const HELP: &str = "\
C-FIND and C-GET of the Study Root model, without TLS: the PACS must allow both for the AE title. Measurement objects go to DIR/objects, CT images \
within 36 mm of a marked one to DIR/images; where the PACS does not tell positions, the whole series. Of a series in part, slice numbers and normalised heights \
of the harvest count what is there; --whole-series has them as the PACS has. Then:
  lesionlab mine DIR/objects --images DIR/images --out HARVEST
The files are as the PACS sent them, with names and dates: keep them where the PACS' own data may be.";

/// Retrieves and tells.
pub fn run(args: &RetrieveArgs) -> Result<(), Failure> {
    if !args.peer.split_once('@').is_some_and(|(ae, address)| (1..=16).contains(&ae.len()) && address.contains(':')) {
        return Err(Failure::new(Class::Usage, format!("{:?} is no AE@HOST:PORT, for example PACS@10.0.0.2:104", args.peer)));
    }
    for day in args.since.iter().chain(&args.until) {
        if day.len() != 8 || !day.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Failure::new(Class::Usage, format!("{day:?} is no day: YYYYMMDD, for example 20260131")));
        }
    }
    let dates = match (&args.since, &args.until) {
        (None, None) => String::new(),
        (since, until) => format!("{}-{}", since.as_deref().unwrap_or_default(), until.as_deref().unwrap_or_default()),
    };
    let request = Request {
        peer: args.peer.clone(),
        calling_ae: args.calling_ae.clone(),
        modalities: args.modality.clone(),
        dates,
        whole_series: args.whole_series,
        out: args.out.clone(),
    };
    let summary = retrieve::run(&request)?;
    print!("{}", summary.text());
    if !summary.faults.is_empty() {
        return Err(Failure::new(Class::Unavailable, "not everything came; the same command asks for the rest"));
    }
    if summary.objects == [0, 0] {
        return Err(Failure::new(Class::Data, format!("the PACS lists no objects of {} in these days", args.modality.join(", "))));
    }
    Ok(())
}
