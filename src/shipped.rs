//! The bundle built into the binary, and the choice between it and another.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::detect::bundle::{Bundle, BundleError};
use crate::error::{Class, Failure};

/// Opens the bundle at `path`, or the one built in.
///
/// # Errors
/// [`Class::Data`] with file and reason.
pub fn open(path: Option<&Path>) -> Result<Bundle, Failure> {
    let bundle = match path {
        Some(path) => Bundle::open(path),
        None => unpacked().and_then(|tar| Bundle::from_tar(&tar)),
    };
    bundle.map_err(|e| Failure::new(Class::Data, e.to_string()))
}

/// The tar that `build.rs` packed.
fn unpacked() -> Result<Vec<u8>, BundleError> {
    let mut tar = Vec::new();
    let packed: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bundle.tar.gz"));
    let fault = |e: std::io::Error| BundleError::File { file: "bundle.tar.gz".into(), reason: e.to_string() };
    GzDecoder::new(packed).read_to_end(&mut tar).map_err(fault)?;
    Ok(tar)
}
