//! Where a whole object is: `<study>/<series>/<n>.dcm`, names of hashes, and how it comes there once it is synced.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::spare::PREAMBLE_BYTES;

/// What whole objects end in.
pub const SUFFIX: &str = "dcm";

/// What came of an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// Stored under this path.
    New(PathBuf),
    /// The same object, byte by byte, was there already.
    Repeat,
    /// Another object has this UID already; the new one is kept beside it and not analysed.
    Conflict(PathBuf),
}

/// Where an object is below `dir`, or will be.
#[must_use]
pub fn place(dir: &Path, study: &str, series: &str, sop_instance: &str) -> PathBuf {
    dir.join(name(study)).join(name(series)).join(format!("{}.{SUFFIX}", name(sop_instance)))
}

/// Renames a synced object to `to`, unless it is there already.
///
/// # Errors
/// The system's.
pub fn put_in_place(from: &Path, mut to: PathBuf) -> io::Result<Kept> {
    match rename_new(from, &to) {
        Ok(()) => return Ok(Kept::New(to)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    if same_object(&to, from)? {
        return Ok(Kept::Repeat);
    }
    let stem = to.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    to.set_file_name(format!("{stem}~{}.{SUFFIX}", digest(from)?));
    fs::rename(from, &to)?;
    Ok(Kept::Conflict(to))
}

/// Renames without replacing, in one step where the file system can: of two objects of one UID that come at once, neither is lost. Folders are made
/// where they are not there, which they are for all objects of a series but the first.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let rename = || match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if to.exists() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        other => other.map_err(io::Error::from),
    };
    match rename() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            to.parent().map_or(Ok(()), fs::create_dir_all)?;
            rename()
        }
        other => other,
    }
}

/// 16 hex digits of the SHA-256 of a UID.
#[must_use]
pub fn name(uid: &str) -> String {
    Sha256::digest(uid.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Whether two objects have the same data set in the same transfer syntax: who sent them, which the file meta information says, makes no other object.
fn same_object(a: &Path, b: &Path) -> io::Result<bool> {
    let parts = |path: &Path| {
        let mut reader = BufReader::new(File::open(path)?);
        reader.read_exact(&mut [0; PREAMBLE_BYTES])?;
        let meta = dicom_object::FileMetaTable::from_reader(&mut reader).map_err(io::Error::other)?;
        let mut hash = Sha256::new();
        let length = io::copy(&mut reader, &mut hash)?;
        Ok::<_, io::Error>((meta.transfer_syntax, length, hash.finalize()))
    };
    // What lies there may be damaged: then it is another object.
    Ok(parts(a).ok().is_some_and(|there| parts(b).is_ok_and(|new| new == there)))
}

/// 16 hex digits of the SHA-256 of what follows the preamble.
fn digest(path: &Path) -> io::Result<String> {
    let (mut hash, mut file) = (Sha256::new(), File::open(path)?);
    file.seek(SeekFrom::Start(PREAMBLE_BYTES as u64))?;
    io::copy(&mut file, &mut hash)?;
    Ok(hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}
