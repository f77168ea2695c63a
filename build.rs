//! Packs the sample CT and the shipped bundle into one tar each, so that the binary carries both and needs no file beside it. The bundle's ONNX graphs
//! stay out: its description and weights, which are in, say the same (4 MB less).

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for (folder, tar) in [("sample/LIDC-IDRI-0314", "sample.tar"), ("models/lesionwatch", "bundle.tar")] {
        println!("cargo::rerun-if-changed={folder}");
        if let Err(error) = pack(Path::new(folder), &out.join(tar)) {
            println!("cargo::error=cannot pack {folder}: {error}");
        }
    }
}

/// The files of `folder`, sorted by name, without times or owners: the same input gives the same bytes.
fn pack(folder: &Path, tar: &Path) -> std::io::Result<()> {
    let mut names = fs::read_dir(folder)?.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?;
    names.retain(|n| Path::new(n).extension().is_none_or(|e| e != "onnx"));
    names.sort();
    let mut builder = tar::Builder::new(fs::File::create(tar)?);
    for name in names {
        let bytes = fs::read(folder.join(&name))?;
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, &name, bytes.as_slice())?;
    }
    builder.finish()
}
