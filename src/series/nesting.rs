//! A reader that refuses sequences nested deeper than any real object's. The data set library descends by recursion: without this a file of a few hundred
//! kilobytes ends the process by overflowing its stack, and no `catch_unwind` helps against that. Pure.
//!
//! It follows element headers as bytes pass by and never changes them. What it cannot follow it lets pass, for the parser to refuse.

use std::io::{self, Read};

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

/// Deeper is no object of any modality (reports with their content trees stay below 20).
pub const MOST_DEPTH: usize = 64;
const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// A sequence or item that is open.
struct Level {
    /// Position of its end; `None` where a delimiter ends it.
    end: Option<u64>,
    /// How the level outside is written.
    explicit_outside: bool,
    /// Items are fragments of pixel data, not data sets.
    fragments: bool,
}

/// Passes bytes on while it follows them.
pub struct Guard<R> {
    inner: R,
    explicit: bool,
    big: bool,
    on: bool,
    at: u64,
    skip: u64,
    head: [u8; 12],
    held: usize,
    open: Vec<Level>,
}

impl<R> Guard<R> {
    /// Guards a data set in `transfer_syntax`; a deflated one passes unseen.
    pub fn new(inner: R, transfer_syntax: &str) -> Self {
        let explicit = transfer_syntax != "1.2.840.10008.1.2";
        let big = transfer_syntax == "1.2.840.10008.1.2.2";
        let on = transfer_syntax != "1.2.840.10008.1.2.1.99";
        Self { inner, explicit, big, on, at: 0, skip: 0, head: [0; 12], held: 0, open: Vec::new() }
    }

    fn u16(&self, i: usize) -> u16 {
        let b = [self.head[i], self.head[i + 1]];
        if self.big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }
    }

    fn u32(&self, i: usize) -> u32 {
        let b = [self.head[i], self.head[i + 1], self.head[i + 2], self.head[i + 3]];
        if self.big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.on && !bytes.is_empty() {
            let taken = if self.skip > 0 {
                let taken = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= taken as u64;
                taken
            } else {
                let taken = (self.needed() - self.held).min(bytes.len());
                self.head[self.held..self.held + taken].copy_from_slice(&bytes[..taken]);
                self.held += taken;
                taken
            };
            self.at += taken as u64;
            bytes = &bytes[taken..];
            if self.skip == 0 && self.held > 0 && self.held == self.needed() {
                self.held = 0;
                self.element()?;
            }
            if self.skip == 0 && self.held == 0 {
                self.close();
            }
        }
        Ok(())
    }

    /// Bytes of the header that is being gathered, as far as it can be told.
    fn needed(&self) -> usize {
        if self.held >= 8 && self.is_long() { 12 } else { 8 }
    }

    /// PS3.5 7.1.2: these have a length of four bytes after two reserved ones.
    fn is_long(&self) -> bool {
        let long = matches!(
            &self.head[4..6],
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV"
        );
        self.explicit && self.u16(0) != ITEM.0 && long
    }

    fn element(&mut self) -> io::Result<()> {
        let tag = Tag(self.u16(0), self.u16(2));
        let delimiter = tag.0 == ITEM.0;
        let length = match () {
            () if self.is_long() => self.u32(8),
            () if self.explicit && !delimiter => self.u16(6).into(),
            () => self.u32(4),
        };
        match tag {
            ITEM_END | SEQUENCE_END => {
                if let Some(level) = self.open.pop() {
                    self.explicit = level.explicit_outside;
                }
                return Ok(());
            }
            ITEM if self.open.last().is_some_and(|l| l.fragments) => {
                self.skip = length.into();
                return Ok(());
            }
            ITEM => return self.descend(length, false, self.explicit),
            _ => {}
        }
        let unknown = self.explicit && &self.head[4..6] == b"UN";
        let sequence = if self.explicit { &self.head[4..6] == b"SQ" } else { is_sequence(tag) };
        if length == UNDEFINED || sequence {
            // An UN of undefined length is written implicitly inside (PS3.5 6.2.2).
            let explicit = self.explicit && !unknown;
            return self.descend(length, tag == tags::PIXEL_DATA, explicit);
        }
        self.skip = length.into();
        Ok(())
    }

    fn descend(&mut self, length: u32, fragments: bool, explicit: bool) -> io::Result<()> {
        let end = (length != UNDEFINED).then(|| self.at + u64::from(length));
        self.open.push(Level { end, explicit_outside: self.explicit, fragments });
        self.explicit = explicit;
        // A sequence and its item are two levels here and one of nesting.
        if self.open.len() > 2 * MOST_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("sequences nested deeper than {MOST_DEPTH}")));
        }
        Ok(())
    }

    /// Leaves what ends here.
    fn close(&mut self) {
        while let Some(level) = self.open.last().filter(|l| l.end.is_some_and(|end| end <= self.at)) {
            self.explicit = level.explicit_outside;
            self.open.pop();
        }
    }
}

/// Whether the dictionary says that an element, written without its VR, is a sequence.
fn is_sequence(tag: Tag) -> bool {
    StandardDataDictionary.by_tag(tag).is_some_and(|entry| entry.vr().relaxed() == VR::SQ)
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.follow(&buffer[..n])?;
        Ok(n)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPLICIT: &str = "1.2.840.10008.1.2.1";
    const IMPLICIT: &str = "1.2.840.10008.1.2";

    /// Content Sequence in Content Sequence, `depth` times; of undefined or of defined length.
    fn nested(depth: usize, explicit: bool, defined: bool) -> Vec<u8> {
        let mut inner: Vec<u8> = Vec::new();
        for _ in 0..depth {
            let length = |n: usize| if defined { (n as u32).to_le_bytes() } else { [0xff; 4] };
            let end = |low: u8| if defined { vec![] } else { vec![0xfe, 0xff, low, 0xe0, 0, 0, 0, 0] };
            let item = [&[0xfe, 0xff, 0, 0xe0][..], &length(inner.len()), &inner, &end(0x0d)].concat();
            let vr: &[u8] = if explicit { b"SQ\0\0" } else { b"" };
            inner = [&[0x40, 0, 0x30, 0xa7][..], vr, &length(item.len()), &item, &end(0xdd)].concat();
        }
        inner
    }

    fn pass(bytes: &[u8], syntax: &str) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Guard::new(bytes, syntax).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused_however_it_is_written() {
        for (syntax, explicit) in [(EXPLICIT, true), (IMPLICIT, false)] {
            for defined in [false, true] {
                let fits = nested(MOST_DEPTH, explicit, defined);
                assert_eq!(pass(&fits, syntax).unwrap(), fits);
                assert!(pass(&nested(MOST_DEPTH + 1, explicit, defined), syntax).is_err(), "{syntax} {defined}");
            }
        }
    }

    #[test]
    fn sequences_side_by_side_do_not_add_up() {
        for defined in [false, true] {
            let many: Vec<u8> = (0..500).flat_map(|_| nested(3, true, defined)).collect();
            assert!(pass(&many, EXPLICIT).is_ok());
        }
    }

    #[test]
    fn a_file_that_would_overflow_the_stack_is_an_error() {
        let mut bytes = vec![0; 128];
        bytes.extend_from_slice(b"DICM\x02\0\x10\0UI\x14\0");
        bytes.extend_from_slice(b"1.2.840.10008.1.2.1\0");
        let level = [&[0x40, 0, 0x30, 0xa7][..], b"SQ\0\0", &[0xff; 4], &[0xfe, 0xff, 0, 0xe0], &[0xff; 4]].concat();
        bytes.extend(level.repeat(50_000));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let refused = crate::series::part10::open(file.path(), None).unwrap_err();
        assert!(refused.contains("nested deeper"), "{refused}");
    }

    proptest! {
        #[test]
        fn any_bytes_pass_unchanged_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), which in 0usize..4) {
            let syntax = [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"][which];
            if let Ok(out) = pass(&bytes, syntax) {
                prop_assert_eq!(out, bytes);
            }
        }

        #[test]
        fn reading_in_pieces_sees_the_same(depth in 0usize..100, piece in 1usize..40, explicit in any::<bool>(), defined in any::<bool>()) {
            let bytes = nested(depth, explicit, defined);
            let mut guard = Guard::new(&bytes[..], if explicit { EXPLICIT } else { IMPLICIT });
            let mut buffer = vec![0; piece];
            let outcome = loop {
                match guard.read(&mut buffer) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            prop_assert_eq!(outcome, depth <= MOST_DEPTH);
        }
    }
}
