//! The bundle built into the binary, and the choice between it and another.

use std::path::Path;

use crate::detect::bundle::Bundle;
use crate::error::{Class, Failure};

/// Opens the bundle at `path`, or the one built in.
///
/// # Errors
/// [`Class::Data`] with file and reason.
pub fn open(path: Option<&Path>) -> Result<Bundle, Failure> {
    let bundle = match path {
        Some(path) => Bundle::open(path),
        None => Bundle::from_tar(include_bytes!(concat!(env!("OUT_DIR"), "/bundle.tar"))),
    };
    bundle.map_err(|e| Failure::new(Class::Data, e.to_string()))
}
