//! Part 10 files as they really are: the file meta information is read leniently (values longer than their VR allows, odd group lengths), the data set is
//! left to the library. Used for headers and for pixels.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;

use dicom_core::Tag;
use dicom_object::meta::FileMetaTableBuilder;
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use flate2::read::DeflateDecoder;

use super::nesting::{Guard, TOO_LONG};

/// No element of the file meta information is as long as this (0002,0102 aside, which is private to its writer).
const MOST_META_VALUE: u32 = 64 * 1024;

/// What stands before the pixels is at most this: the functional groups of some thousand frames are a tenth of it. Headers are held in memory.
const MOST_HEADER_BYTES: u64 = 64 << 20;

/// What the library would inflate as a whole: Deflated Explicit VR Little Endian, JPIP Referenced Deflate, JPIP HTJ2K Referenced Deflate. And what is inside.
const DEFLATED: [&str; 3] = ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"];
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";

/// No bytes deflate to less than their thousandth part (zlib's own figure).
const MOST_DEFLATION: u64 = 1032;
/// An object read whole is at most this large, inflated: 4096 frames of 512 × 512 are half of it.
const MOST_OBJECT_BYTES: u64 = 4 << 30;

/// Opens `path`; with `until`, reading stops before that element, which must come early.
///
/// # Errors
/// A sentence saying what is wrong with the file.
pub fn open(path: &Path, until: Option<Tag>) -> Result<DefaultDicomObject, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let file_length = file.metadata().map_err(|e| e.to_string())?.len();
    let mut reader = BufReader::new(file);
    let mut meta = read_meta(&mut reader)?;
    let read = reader.stream_position().map_err(|e| e.to_string())?;
    let length = file_length.saturating_sub(read) + meta.ahead.len() as u64;
    let stored = Cursor::new(std::mem::take(&mut meta.ahead)).chain(reader);
    // Inflated here and not by the library, so that what is inside is guarded, too.
    let deflated = DEFLATED.contains(&meta.transfer_syntax.as_str());
    let (syntax, length, data_set): (&str, u64, Box<dyn Read>) = if deflated {
        (EXPLICIT_LITTLE, length.saturating_mul(MOST_DEFLATION), Box::new(DeflateDecoder::new(stored)))
    } else {
        (&meta.transfer_syntax, length, Box::new(stored))
    };
    let (most, what) = if until.is_some() { (MOST_HEADER_BYTES, TOO_LONG) } else { (MOST_OBJECT_BYTES, "data set longer than") };
    // What the library reads is a clean meta group with the identifiers that count, and the data set as it stands in the file.
    let mut clean = vec![0; 128];
    clean.extend_from_slice(b"DICM");
    FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(&meta.sop_class)
        .media_storage_sop_instance_uid(&meta.sop_instance)
        .transfer_syntax(syntax)
        .build()
        .and_then(|table| table.write(&mut clean))
        .map_err(|e| e.to_string())?;
    let stream = Cursor::new(clean).chain(Guard::new(Limited { inner: data_set, most, left: most, what }, syntax, length, until));
    let options = match until {
        Some(tag) => OpenFileOptions::new().read_until(tag),
        None => OpenFileOptions::new(),
    };
    let mut object = options.from_reader(stream).map_err(|e| chain(&e))?;
    if deflated {
        object.meta_mut().transfer_syntax = meta.transfer_syntax;
    }
    Ok(object)
}

/// Transfer Syntax UID of `path`, without reading its data set.
///
/// # Errors
/// As [`open`].
pub fn transfer_syntax(path: &Path) -> Result<String, String> {
    Ok(read_meta(&mut BufReader::new(File::open(path).map_err(|e| e.to_string())?))?.transfer_syntax)
}

/// The data set of `path` and its transfer syntax.
///
/// # Errors
/// As [`open`].
pub fn data_set(path: &Path) -> Result<(BufReader<File>, String), String> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let meta = read_meta(&mut reader)?;
    let ahead = i64::try_from(meta.ahead.len()).unwrap_or(0);
    reader.seek_relative(-ahead).map_err(|e| e.to_string())?;
    Ok((reader, meta.transfer_syntax))
}

/// Fails where more is read than `most`.
struct Limited<R> {
    inner: R,
    most: u64,
    left: u64,
    what: &'static str,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} {} MiB", self.what, self.most >> 20)));
        }
        let n = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }
}

/// An error and its causes on one line of bounded length.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

struct Meta {
    sop_class: String,
    sop_instance: String,
    transfer_syntax: String,
    /// Bytes of the data set that were read while looking for the end of the group.
    ahead: Vec<u8>,
}

fn read_meta(reader: &mut impl Read) -> Result<Meta, String> {
    let cut = |e: io::Error| if e.kind() == io::ErrorKind::UnexpectedEof { "not a DICOM file, or cut".to_owned() } else { e.to_string() };
    let mut preamble = [0; 132];
    reader.read_exact(&mut preamble).map_err(cut)?;
    if &preamble[128..] != b"DICM" {
        return Err("not a DICOM Part 10 file (no DICM after the preamble)".into());
    }
    let mut meta = Meta { sop_class: String::new(), sop_instance: String::new(), transfer_syntax: String::new(), ahead: Vec::new() };
    loop {
        let mut head = [0; 8];
        reader.read_exact(&mut head).map_err(cut)?;
        if u16::from_le_bytes([head[0], head[1]]) != 0x0002 {
            meta.ahead = head.to_vec();
            break;
        }
        let long = matches!(&head[4..6], b"OB" | b"OW" | b"UN" | b"SQ" | b"UT" | b"OF");
        let length = if long {
            let mut bytes = [0; 4];
            reader.read_exact(&mut bytes).map_err(cut)?;
            u32::from_le_bytes(bytes)
        } else {
            u16::from_le_bytes([head[6], head[7]]).into()
        };
        if length > MOST_META_VALUE {
            return Err(format!("file meta information holds an element of {length} bytes"));
        }
        let mut value = vec![0; length as usize];
        reader.read_exact(&mut value).map_err(cut)?;
        // The library trims any white space of a transfer syntax, and the guard has to name the same one.
        let text = || String::from_utf8_lossy(&value).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
        match u16::from_le_bytes([head[2], head[3]]) {
            0x0002 => meta.sop_class = text(),
            0x0003 => meta.sop_instance = text(),
            0x0010 => meta.transfer_syntax = text(),
            _ => {}
        }
    }
    if meta.transfer_syntax.is_empty() {
        return Err("Transfer Syntax UID (0002,0010) is missing".into());
    }
    Ok(meta)
}
