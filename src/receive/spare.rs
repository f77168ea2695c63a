//! Objects under way: spare files that are made and synced ahead, and the stamp that tells a whole one from what a power cut left.
//!
//! A *spare* is a file in `incoming/` whose name is durable already. An object is written into one, *stamped* in its preamble (128 bytes that
//! PS3.10 7.1 leaves to the application) with length, CRC-32 and time, synced, and renamed. One sync an object is enough for Success: should the rename be lost
//! with the power, the next start finds the object whole under the spare's name and moves it to where it belongs.
//!
//! A spare is empty, or *filled*: with zeros, written and synced while nothing was received ([`super::prewriter`]). Over blocks that are there already a
//! sync has no new ones to make durable, and where the length is the same, too, nothing but the data: three fifths of the time (`docs/receive-benchmark.md`).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A file to write an object into, from its beginning.
#[derive(Debug)]
pub struct Spare {
    /// Its durable name.
    pub path: PathBuf,
    /// Open for writing, at its beginning.
    pub file: File,
    /// Bytes that are in it already, zeros all.
    pub length: u64,
}

#[derive(Debug, Default)]
struct Ready {
    paths: Vec<PathBuf>,
    /// With zeros in them, so many each.
    filled: Vec<(PathBuf, u64)>,
    /// Somebody makes more.
    making: bool,
}

impl Spares {
    /// Of a folder that is there and empty.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, ready: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// A file to write to, under a name that is durable; a filled one while there are any.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self) -> io::Result<Spare> {
        let filled = self.ready().filled.pop();
        let (path, length) = filled.map_or_else(|| Ok((self.next_ready()?, 0)), Ok::<_, io::Error>)?;
        // Not truncated: that would have ext4 write its inode, a tenth of an association's processor time.
        let file = File::options().write(true).open(&path)?;
        Ok(Spare { path, file, length })
    }

    /// Bytes in filled spares.
    #[must_use]
    pub fn filled_bytes(&self) -> u64 {
        self.ready().filled.iter().map(|(_, length)| length).sum()
    }

    /// Fills one more, with `length` zeros, and syncs it.
    ///
    /// # Errors
    /// The system's; nothing is left then of what was written.
    pub fn fill(&self, length: u64) -> io::Result<()> {
        let path = self.next_ready()?;
        let zeros = || {
            let mut file = File::options().write(true).open(&path)?;
            let piece = [0; 64 * 1024];
            let mut left = length;
            while left > 0 {
                let n = left.min(piece.len() as u64);
                file.write_all(&piece[..n as usize])?;
                left -= n;
            }
            file.sync_all()
        };
        zeros().inspect_err(|_| drop(fs::remove_file(&path)))?;
        self.ready().filled.push((path, length));
        Ok(())
    }

    /// Removes filled spares, all of them or those whose length is not as `keep` wants it, and says how many bytes that gave back.
    pub fn give_back(&self, keep: impl Fn(u64) -> bool) -> u64 {
        let (kept, unwanted) = std::mem::take(&mut self.ready().filled).into_iter().partition(|(_, length)| keep(*length));
        self.ready().filled.extend::<Vec<_>>(kept);
        unwanted.iter().map(|(path, length): &(PathBuf, u64)| fs::remove_file(path).map_or(0, |()| *length)).sum()
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

/// The preamble of an object whose bytes after it are those that went into `crc`. Its time is here, too: a sync of data only need not keep the file's.
#[must_use]
pub fn stamp(crc: &Crc, length: u64, received_at: SystemTime) -> [u8; PREAMBLE_BYTES] {
    let millis = received_at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let mut preamble = [0; PREAMBLE_BYTES];
    preamble[..20].copy_from_slice(MAGIC);
    preamble[20..28].copy_from_slice(&length.to_le_bytes());
    preamble[28..32].copy_from_slice(&crc.sum().to_le_bytes());
    preamble[32..40].copy_from_slice(&millis.to_le_bytes());
    preamble
}

/// When an object was received, by its stamp; `None` where there is none, or one of versions that did not write the time.
#[must_use]
pub fn received_at(preamble: &[u8; PREAMBLE_BYTES]) -> Option<SystemTime> {
    let mut millis = [0; 8];
    millis.copy_from_slice(&preamble[32..40]);
    let millis = Some(u64::from_le_bytes(millis)).filter(|ms| *ms > 0 && preamble.starts_with(MAGIC))?;
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Whether the file is stamped, and holds what its stamp says.
#[must_use]
pub fn is_whole(path: &Path) -> bool {
    let read = || -> io::Result<bool> {
        let (mut file, mut preamble) = (File::open(path)?, [0; PREAMBLE_BYTES]);
        let length = file.metadata()?.len();
        file.read_exact(&mut preamble)?;
        // A filled spare, of which there may be a thousand, or a torn object.
        if !preamble.starts_with(MAGIC) {
            return Ok(false);
        }
        let mut crc = Crc::new();
        let mut piece = vec![0; 256 * 1024];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                n => crc.update(&piece[..n]),
            }
        }
        Ok(preamble == stamp(&crc, length, received_at(&preamble).unwrap_or(UNIX_EPOCH)))
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
