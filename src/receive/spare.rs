//! Objects under way: spare files that are made and synced ahead, and the stamp that tells a whole one from what a power cut left.
//!
//! A *spare* is an empty file in `incoming/` whose name is durable already. An object is written into one, *stamped* in its preamble (128 bytes that
//! PS3.10 7.1 leaves to the application) with length and CRC-32, synced, and renamed. One sync an object is enough for Success: should the rename be lost
//! with the power, the next start finds the object whole under the spare's name and moves it to where it belongs.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flate2::Crc;

/// Made and synced at once: one sync of the folder for so many objects. More than the associations of a busy hospital.
const MADE_AT_ONCE: usize = 128;
/// Who takes one of so few makes more, while the others take what is left.
const FEW: usize = 64;
/// PS3.10 7.1.
pub const PREAMBLE_BYTES: usize = 128;
const MAGIC: &[u8; 20] = b"lesionwatch spool 1\0";
const SUFFIX: &str = "part";

/// The folder of spares.
#[derive(Debug)]
pub struct Spares {
    dir: PathBuf,
    ready: Mutex<Ready>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Ready {
    paths: Vec<PathBuf>,
    /// Somebody makes more.
    making: bool,
}

impl Spares {
    /// Of a folder that is there and empty.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, ready: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// A file to write to, empty, under a name that is durable.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self) -> io::Result<(PathBuf, File)> {
        let path = self.next_ready()?;
        // It is empty: to truncate it would have ext4 write its inode, a tenth of an association's processor time.
        let file = File::options().write(true).open(&path)?;
        Ok((path, file))
    }

    fn next_ready(&self) -> io::Result<PathBuf> {
        let mut ready = self.ready();
        let few = ready.paths.len() < FEW && !std::mem::replace(&mut ready.making, true);
        // Where none is left somebody else makes more at this moment: rather twice than waiting.
        if few || ready.paths.is_empty() {
            drop(ready);
            let made = self.make();
            ready = self.ready();
            ready.making &= !few;
            match made {
                Ok(made) => ready.paths.extend(made),
                Err(e) if ready.paths.is_empty() => return Err(e),
                // What is left is as good as it was.
                Err(_) => {}
            }
        }
        ready.paths.pop().ok_or_else(|| io::Error::other("no spare file"))
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> io::Result<Vec<PathBuf>> {
        let names = (0..MADE_AT_ONCE).map(|_| self.dir.join(format!("{}.{SUFFIX}", self.next.fetch_add(1, Ordering::Relaxed))));
        let made = names.map(|path| File::create(&path).map(|_| path)).collect::<io::Result<Vec<_>>>()?;
        File::open(&self.dir)?.sync_all()?;
        Ok(made)
    }
}

/// The preamble of an object whose bytes after it are those that went into `crc`.
#[must_use]
pub fn stamp(crc: &Crc, length: u64) -> [u8; PREAMBLE_BYTES] {
    let mut preamble = [0; PREAMBLE_BYTES];
    preamble[..20].copy_from_slice(MAGIC);
    preamble[20..28].copy_from_slice(&length.to_le_bytes());
    preamble[28..32].copy_from_slice(&crc.sum().to_le_bytes());
    preamble
}

/// Whether the file is stamped, and holds what its stamp says.
#[must_use]
pub fn is_whole(path: &Path) -> bool {
    let read = || -> io::Result<bool> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let (mut reader, mut preamble) = (BufReader::with_capacity(256 * 1024, file), [0; PREAMBLE_BYTES]);
        reader.read_exact(&mut preamble)?;
        let mut crc = Crc::new();
        let mut piece = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut piece)? {
                0 => break,
                n => crc.update(&piece[..n]),
            }
        }
        Ok(preamble == stamp(&crc, length))
    };
    read().unwrap_or(false)
}

/// What a former process left in `dir`: whole objects are handed to `adopt`, everything else is removed.
///
/// # Errors
/// The system's, with the path.
pub fn recover(dir: &Path, mut adopt: impl FnMut(&Path) -> io::Result<()>) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |e| (path, e)
    };
    for entry in fs::read_dir(dir).map_err(at(dir))?.flatten() {
        let path = entry.path();
        if is_whole(&path) {
            adopt(&path).map_err(at(&path))?;
        }
        if path.exists() {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}
