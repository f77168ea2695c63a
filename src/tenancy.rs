//! One process at a time on a state folder: the lock that is taken before anything in it is touched. The system lets it go when the process ends,
//! however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Class, Failure};

const FILE: &str = "lock";

/// Held as long as this value lives.
#[derive(Debug)]
pub struct Tenancy {
    _file: File,
}

impl Tenancy {
    /// Makes `dir` where it is not there, and takes it.
    ///
    /// # Errors
    /// [`Class::Unavailable`] naming the process that has it, [`Class::Io`] where it cannot be written.
    pub fn take(dir: &Path) -> Result<Self, Failure> {
        let io = |path: &Path, e: &dyn std::fmt::Display| {
            Failure::new(Class::Io, format!("{}: {e}; check [state] dir and its owner", path.display()))
        };
        std::fs::create_dir_all(dir).map_err(|e| io(dir, &e))?;
        let path: PathBuf = dir.join(FILE);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(|e| io(&path, &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: an unreadable number leaves it out.
                let _ = file.read_to_string(&mut holder);
                let text = format!("{}: in use by process {}; stop it, or give this one another [state] dir", dir.display(), holder.trim());
                return Err(Failure::new(Class::Unavailable, text));
            }
            Err(TryLockError::Error(e)) => return Err(io(&path, &e)),
        }
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(|e| io(&path, &e))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_tenant_and_the_next_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let first = Tenancy::take(dir.path()).unwrap();
        let refused = Tenancy::take(dir.path()).unwrap_err();
        assert_eq!(refused.class, Class::Unavailable);
        assert!(refused.message.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        Tenancy::take(dir.path()).unwrap();
    }
}
