//! An object under way: written into a spare, and kept once it is whole.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::Crc;

use super::blocks::Blocks;
use super::peek::PREFIX_BYTES;
use super::place::{self, Kept};
use super::spare::{self, PREAMBLE_BYTES, Spare};
use super::traffic::Traffic;

/// An object under way; dropped before [`Incoming::keep`] it leaves nothing.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Of whole objects.
    dir: &'a Path,
    traffic: &'a Traffic,
    /// Empty once it was renamed.
    path: PathBuf,
    file: Option<Blocks<File>>,
    /// Bytes that the file had before.
    filled: u64,
    /// Of what follows the preamble.
    crc: Crc,
    prefix: Vec<u8>,
    /// Of the file.
    length: u64,
    /// Of the data set.
    bytes: u64,
}

impl<'a> Incoming<'a> {
    /// Begins an object of `dir` in a spare, with what stands before its data set (from `DICM` on).
    ///
    /// # Errors
    /// The system's.
    pub fn begin(dir: &'a Path, traffic: &'a Traffic, spare: Spare, head: &[u8]) -> io::Result<Self> {
        let Spare { path, file, length: filled } = spare;
        traffic.begin();
        let file = Some(Blocks::new(file));
        let mut object = Self { dir, traffic, path, file, filled, crc: Crc::new(), prefix: Vec::new(), length: 0, bytes: 0 };
        // Stamped at the end.
        object.put(&[0; PREAMBLE_BYTES])?;
        object.crc = Crc::new();
        object.put(head)?;
        Ok(object)
    }

    /// Appends to the data set.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let room = PREFIX_BYTES.saturating_sub(self.prefix.len()).min(data.len());
        self.prefix.extend_from_slice(&data[..room]);
        self.bytes += data.len() as u64;
        self.put(data)
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        self.length += data.len() as u64;
        self.crc.update(data);
        match &mut self.file {
            Some(file) => file.write(data),
            None => Err(io::Error::other("object already closed")),
        }
    }

    /// Bytes of the file so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of the data set so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Beginning of the data set.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Stamps and syncs the object, then gives it its name: a crash at any instant leaves either nothing of it or all of it, after Success always all.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(mut self, study: &str, series: &str, sop_instance: &str) -> io::Result<Kept> {
        let Some(file) = self.file.take() else { return Err(io::Error::other("object already closed")) };
        let file = file.finish()?;
        file.write_all_at(&spare::stamp(&self.crc, self.length, SystemTime::now()), 0)?;
        if self.filled > self.length {
            file.set_len(self.length)?;
        }
        // And its length where that changed; its time is in the stamp.
        file.sync_data()?;
        self.traffic.kept(self.length);
        let kept = place::put_in_place(&self.path, place::place(self.dir, study, series, sop_instance))?;
        if kept != Kept::Repeat {
            // It has another name now.
            self.path = PathBuf::new();
        }
        Ok(kept)
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.traffic.end();
        if !self.path.as_os_str().is_empty() {
            // Not wanted, or not kept: nothing may stay here.
            let _ = fs::remove_file(&self.path);
        }
    }
}
