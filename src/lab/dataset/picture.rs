//! One image file of a dataset → HU: 16-bit PNG as the DeepLesion release holds it (HU + 32768), or DICOM.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::volume::{HuImage, pixels};

/// Stored value of 0 HU.
const ZERO_HU: i32 = 32768;
/// What an image is clamped to, HU: air outside the scanner's field is stored as anything.
const HU: [i32; 2] = [-1024, 3071];
/// A side beyond this is a damaged header, no CT image, pixels.
const MOST_SIDE_PX: u32 = 4096;

/// An image that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct Unreadable {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Unreadable {
    /// Of `path`.
    pub fn new(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))
}

/// Decodes the whole image.
///
/// # Errors
/// Missing, truncated, not 16-bit grey.
pub fn read(path: &Path) -> Result<HuImage, Unreadable> {
    if !is_png(path) {
        return pixels::decode(path).map_err(|e| Unreadable::new(path, e));
    }
    let mut reader = open(path)?;
    let size = reader.output_buffer_size().ok_or_else(|| Unreadable::new(path, "too large"))?;
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(|e| Unreadable::new(path, format!("damaged or cut short: {e}")))?;
    let hu = bytes[..frame.buffer_size()]
        .chunks_exact(2)
        .map(|b| (i32::from(u16::from_be_bytes([b[0], b[1]])) - ZERO_HU).clamp(HU[0], HU[1]) as i16)
        .collect();
    Ok(HuImage { rows: frame.height as usize, cols: frame.width as usize, hu })
}

/// Rows and columns of a PNG out of its header.
///
/// # Errors
/// As [`read`], but for what lies behind the header.
pub fn png_size(path: &Path) -> Result<[usize; 2], Unreadable> {
    let reader = open(path)?;
    Ok([reader.info().height as usize, reader.info().width as usize])
}

fn open(path: &Path) -> Result<png::Reader<BufReader<File>>, Unreadable> {
    let file = File::open(path).map_err(|e| Unreadable::new(path, e))?;
    let reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(|e| Unreadable::new(path, format!("no PNG: {e}")))?;
    let info = reader.info();
    if (info.color_type, info.bit_depth) != (png::ColorType::Grayscale, png::BitDepth::Sixteen) {
        let found = format!("{:?} of {:?} bits", info.color_type, info.bit_depth);
        return Err(Unreadable::new(path, format!("is {found}: 16-bit grey with HU + 32768 is needed, as the release has it")));
    }
    if info.width > MOST_SIDE_PX || info.height > MOST_SIDE_PX {
        return Err(Unreadable::new(
            path,
            format!("claims {} x {} pixels: at most {MOST_SIDE_PX} a side are read", info.width, info.height),
        ));
    }
    Ok(reader)
}
