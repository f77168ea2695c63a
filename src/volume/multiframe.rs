//! One frame's stored bytes out of a multi-frame file, without reading the others (PS3.5 8.2, A.4): memory is that of one frame, whatever the file holds.
//! Lengths and offsets are the writer's word and are held against what is there.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use flate2::read::DeflateDecoder;

use crate::elements::{Encoding, UNDEFINED, has_long_length};
use crate::series::nesting::MOST_DEPTH;
use crate::series::part10;

/// Twice the largest native frame (4096 × 4096 × 16 bit): no codestream of one is longer.
const MOST_FRAME_BYTES: u64 = 64 << 20;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// Which frame is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// 1-based.
    pub number: u32,
    /// How many the file says it has.
    pub frames: u32,
    /// Bytes of a native frame.
    pub native_bytes: usize,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// Pixels, in the byte order of the data set.
    Native(Vec<u8>),
    /// A codestream.
    Encapsulated(Vec<u8>),
}

/// A source that can be passed over; a file without reading it.
trait Source: Read {
    fn pass(&mut self, bytes: u64) -> io::Result<()>;
}

impl Source for BufReader<File> {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)
    }
}

impl<R: Read> Source for DeflateDecoder<R> {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut self.take(bytes), &mut io::sink()).map(drop)
    }
}

/// Reads the wanted frame of `path`.
///
/// # Errors
/// A sentence saying what does not fit.
pub fn read(path: &Path, wanted: Wanted) -> Result<Stored, String> {
    let (file, syntax) = part10::data_set(path)?;
    let source: Box<dyn Source> = if syntax == "1.2.840.10008.1.2.1.99" { Box::new(DeflateDecoder::new(file)) } else { Box::new(file) };
    let Encoding { explicit, big } = Encoding::of(&syntax);
    let mut walk = Walk { source, explicit, big };
    walk.frame(wanted).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => "the file ends before the frame does".to_owned(),
        _ => e.to_string(),
    })
}

fn damaged(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

struct Element {
    tag: Tag,
    unknown: bool,
    length: u32,
}

struct Walk {
    source: Box<dyn Source>,
    explicit: bool,
    big: bool,
}

impl Walk {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        let bytes = self.bytes()?;
        Ok(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.bytes()?;
        Ok(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn element(&mut self) -> io::Result<Element> {
        let tag = Tag(self.u16()?, self.u16()?);
        if tag.0 == ITEM.0 || !self.explicit {
            return Ok(Element { tag, unknown: false, length: self.u32()? });
        }
        let vr: [u8; 2] = self.bytes()?;
        let length = if has_long_length(vr) {
            self.u16()?;
            self.u32()?
        } else {
            self.u16()?.into()
        };
        Ok(Element { tag, unknown: &vr == b"UN", length })
    }

    /// Passes over a value, whatever it holds.
    fn pass(&mut self, element: &Element) -> io::Result<()> {
        if element.length != UNDEFINED {
            return self.source.pass(element.length.into());
        }
        // An UN of undefined length is written implicitly inside (PS3.5 6.2.2); so is all below it.
        let mut outside = vec![self.explicit];
        self.explicit &= !element.unknown;
        while let Some(&explicit) = outside.last() {
            let inner = self.element()?;
            match inner.tag {
                ITEM_END | SEQUENCE_END => {
                    self.explicit = explicit;
                    outside.pop();
                }
                _ if inner.length != UNDEFINED => self.source.pass(inner.length.into())?,
                // A sequence and its item are two levels here and one of nesting.
                _ if outside.len() >= 2 * MOST_DEPTH => return Err(damaged(format!("sequences nested deeper than {MOST_DEPTH}"))),
                _ => {
                    outside.push(self.explicit);
                    self.explicit &= !inner.unknown;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, wanted: Wanted) -> io::Result<Stored> {
        let mut table = None;
        loop {
            let element = self.element()?;
            match element.tag {
                tags::PIXEL_DATA if element.length == UNDEFINED => return self.encapsulated(wanted, table),
                tags::PIXEL_DATA => return self.native(wanted, element.length),
                tags::EXTENDED_OFFSET_TABLE if element.length != UNDEFINED => table = Some(self.offsets::<8>(wanted, element.length)?),
                tag if tag > tags::PIXEL_DATA => return Err(damaged("there is no Pixel Data")),
                _ => self.pass(&element)?,
            }
        }
    }

    fn native(&mut self, wanted: Wanted, length: u32) -> io::Result<Stored> {
        let size = wanted.native_bytes as u64;
        let start = u64::from(wanted.number.saturating_sub(1)) * size;
        if start + size > length.into() {
            return Err(damaged(format!("Pixel Data holds {length} bytes, frame {} ends at {}", wanted.number, start + size)));
        }
        self.source.pass(start)?;
        Ok(Stored::Native(self.take(size)?))
    }

    /// Grows with what is there, not with what is said.
    fn take(&mut self, bytes: u64) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.source.as_mut().take(bytes).read_to_end(&mut all)?;
        if (all.len() as u64) < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(all) }
    }

    /// Where the wanted frame begins and the next one does, out of an offset table of `N`-byte numbers.
    fn offsets<const N: usize>(&mut self, wanted: Wanted, length: u32) -> io::Result<(u64, Option<u64>)> {
        if u64::from(length) != u64::from(wanted.frames) * N as u64 {
            return Err(damaged(format!("the offset table holds {} entries for {} frames", length as usize / N, wanted.frames)));
        }
        let mut number = || {
            let mut wide = [0; 8];
            self.source.read_exact(&mut wide[..N])?;
            Ok::<_, io::Error>(u64::from_le_bytes(wide))
        };
        let (mut start, mut next) = (0, None);
        for i in 1..=wanted.frames {
            let offset = number()?;
            if i == wanted.number {
                start = offset;
            } else if i == wanted.number + 1 {
                next = Some(offset);
            }
        }
        if next.is_some_and(|next| next <= start) {
            return Err(damaged("the offset table does not rise"));
        }
        Ok((start, next))
    }

    fn encapsulated(&mut self, wanted: Wanted, extended: Option<(u64, Option<u64>)>) -> io::Result<Stored> {
        let basic = self.element()?;
        if basic.tag != ITEM || basic.length == UNDEFINED {
            return Err(damaged("Pixel Data does not begin with an offset table"));
        }
        let table = match basic.length {
            0 => extended,
            length => Some(self.offsets::<4>(wanted, length)?),
        };
        let Some((start, next)) = table else { return self.by_count(wanted) };
        self.source.pass(start)?;
        let (mut at, mut all) = (start, Vec::new());
        while next.is_none_or(|next| at < next) {
            let fragment = self.element()?;
            match fragment.tag {
                SEQUENCE_END => break,
                ITEM if fragment.length != UNDEFINED && all.len() as u64 + u64::from(fragment.length) <= MOST_FRAME_BYTES => {}
                ITEM => return Err(damaged(format!("frame {} is longer than {} MiB", wanted.number, MOST_FRAME_BYTES >> 20))),
                _ => return Err(damaged("the offset table points into the middle of something")),
            }
            all.extend(self.take(fragment.length.into())?);
            at += 8 + u64::from(fragment.length);
        }
        if all.is_empty() { Err(damaged(format!("frame {} is empty", wanted.number))) } else { Ok(Stored::Encapsulated(all)) }
    }

    /// Without a table a frame is one fragment, or nobody knows which are its own.
    fn by_count(&mut self, wanted: Wanted) -> io::Result<Stored> {
        let (mut fragments, mut found) = (0, None);
        loop {
            let fragment = self.element()?;
            match fragment.tag {
                SEQUENCE_END => break,
                ITEM if fragment.length != UNDEFINED => {}
                _ => return Err(damaged("Pixel Data holds something else than fragments")),
            }
            fragments += 1;
            if fragments == wanted.number && u64::from(fragment.length) <= MOST_FRAME_BYTES {
                found = Some(self.take(fragment.length.into())?);
            } else {
                self.source.pass(fragment.length.into())?;
            }
        }
        match found {
            _ if fragments != wanted.frames => {
                Err(damaged(format!("{fragments} fragments, {} frames and no offset table: which is whose is not known", wanted.frames)))
            }
            Some(found) => Ok(Stored::Encapsulated(found)),
            None => Err(damaged(format!("frame {} is longer than {} MiB", wanted.number, MOST_FRAME_BYTES >> 20))),
        }
    }
}
