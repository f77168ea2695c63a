//! Writes of whole blocks. What peers send comes in pieces of any length; written as they come they begin anywhere in the page cache, and Linux then takes
//! single pages where it would take 128 KiB at once: a file of 0.5 MB costs 0.16 ms so, and 0.12 ms in whole blocks (`docs/receive-benchmark.md`).

use std::io::{self, IoSlice, Write};

/// Every write but the last begins and ends at a multiple of this. Also what is held of an object at most.
const BLOCK_BYTES: usize = 128 * 1024;

/// A writer, from its beginning on, in whole blocks; what does not fill one is held until [`Blocks::finish`].
#[derive(Debug)]
pub struct Blocks<W> {
    inner: W,
    held: Vec<u8>,
}

impl<W: Write> Blocks<W> {
    /// Over what nothing was written to yet.
    pub fn new(inner: W) -> Self {
        Self { inner, held: Vec::new() }
    }

    /// Takes `data`; of long pieces only what is left over is copied.
    ///
    /// # Errors
    /// The writer's; what was written then is not known.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let all = self.held.len() + data.len();
        let (whole, rest) = data.split_at((all - all % BLOCK_BYTES).saturating_sub(self.held.len()));
        if !whole.is_empty() {
            write_both(&mut self.inner, &self.held, whole)?;
            self.held.clear();
        }
        self.held.extend_from_slice(rest);
        Ok(())
    }

    /// Writes what is held, and gives the writer back.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&self.held)?;
        Ok(self.inner)
    }
}

/// Both, one behind the other, in one call where the system takes them.
fn write_both(to: &mut impl Write, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
    while !first.is_empty() {
        match to.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                second = &second[n.saturating_sub(first.len())..];
                first = &first[n.min(first.len())..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    to.write_all(second)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keeps every write, each of at most `most` bytes.
    struct Slow {
        writes: Vec<Vec<u8>>,
        most: usize,
    }

    impl Write for Slow {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let n = data.len().min(self.most);
            self.writes.push(data[..n].to_vec());
            Ok(n)
        }

        fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
            self.write(&all)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(pieces: &[usize], most: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let data: Vec<u8> = (0..pieces.iter().sum()).map(|i: usize| (i % 251) as u8).collect();
        let mut blocks = Blocks::new(Slow { writes: Vec::new(), most });
        let mut at = 0;
        for n in pieces {
            blocks.write(&data[at..at + n]).unwrap();
            at += n;
        }
        (data, blocks.finish().unwrap().writes)
    }

    #[test]
    fn every_write_but_the_last_is_of_whole_blocks() {
        // The file meta information, then PDUs as DCMTK fills them.
        let (data, writes) = written(&[128, 338, 131_060, 131_060, 131_060, 131_060, 4_000], usize::MAX);
        assert_eq!(writes.concat(), data);
        let (last, whole) = writes.split_last().unwrap();
        assert!(whole.len() == 4 && whole.iter().all(|w| w.len() == BLOCK_BYTES), "{:?}", whole.iter().map(Vec::len).collect::<Vec<_>>());
        assert!(last.len() < BLOCK_BYTES);
    }

    #[test]
    fn a_writer_that_takes_nothing_is_an_error() {
        assert_eq!(Blocks::new(&mut [][..]).write(&[1; 200_000]).unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    proptest! {
        #[test]
        fn all_is_written_in_order(pieces in prop::collection::vec(0usize..300_000, 0..8), most in 1_000usize..400_000) {
            let (data, writes) = written(&pieces, most);
            prop_assert_eq!(writes.concat(), data);
        }
    }
}
