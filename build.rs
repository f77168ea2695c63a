//! Packs the sample CT and the shipped bundle into one tar each, the bundle's gzipped, so that the binary carries both and needs no file beside it. The bundle's ONNX graphs
//! stay out: its description and weights, which are in, say the same (4 MB less). `LESIONWATCH_SAMPLE_SLICES=N` takes the N slices in the sample's
//! middle only, where its nodule is (0.2 MB a slice; board/build).

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzEncoder;

/// How many slices of the sample go into the binary; all where it is not set.
const SAMPLE_SLICES: &str = "LESIONWATCH_SAMPLE_SLICES";
/// Fewer are no scan, and no demo.
const LEAST_SLICES: usize = 6;

fn main() {
    println!("cargo::rerun-if-env-changed={SAMPLE_SLICES}");
    let slices = match std::env::var(SAMPLE_SLICES).map(|n| n.parse::<usize>()) {
        Ok(Ok(n)) if n >= LEAST_SLICES => n,
        Err(_) => usize::MAX,
        Ok(_) => {
            println!("cargo::error={SAMPLE_SLICES} is no number of slices from {LEAST_SLICES} up");
            return;
        }
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for (folder, tar, most) in [("sample/LIDC-IDRI-0314", "sample.tar", slices), ("models/lesionwatch", "bundle.tar.gz", usize::MAX)] {
        println!("cargo::rerun-if-changed={folder}");
        if let Err(error) = pack(Path::new(folder), most, &out.join(tar)) {
            println!("cargo::error=cannot pack {folder}: {error}");
        }
    }
}

/// The `most` files in the middle of `folder`, sorted by name, without times or owners: the same input gives the same bytes.
fn pack(folder: &Path, most: usize, tar: &Path) -> std::io::Result<()> {
    let mut names = fs::read_dir(folder)?.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?;
    names.retain(|n| Path::new(n).extension().is_none_or(|e| e != "onnx"));
    names.sort();
    let most = most.min(names.len());
    let first = (names.len() - most) / 2;
    let mut builder = tar::Builder::new(Vec::new());
    for name in names.into_iter().skip(first).take(most) {
        let bytes = fs::read(folder.join(&name))?;
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, &name, bytes.as_slice())?;
    }
    let bytes = builder.into_inner()?;
    // The sample's slices are compressed already.
    let packed = match tar.extension().is_some_and(|e| e == "gz") {
        true => gzipped(&bytes)?,
        false => bytes,
    };
    fs::write(tar, packed)
}

fn gzipped(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    GzEncoder::new(bytes, Compression::best()).read_to_end(&mut packed)?;
    Ok(packed)
}
