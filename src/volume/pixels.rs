//! Stored pixels of one file → HU. The only file I/O of the room.
//!
//! Everything a file says of itself is checked before it sizes an allocation; decoders of others run behind `catch_unwind`, so that a hostile
//! object is an error of its own series and of nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dicom_core::value::PixelFragmentSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::DefaultDicomObject;
use dicom_pixeldata::PixelDecoder;

use super::HuImage;
use super::jpeg_extended::{self, JpegError};
use super::multiframe::{self, Stored, Wanted};
use crate::series::{FrameOf, SliceHeader, part10};

/// Rows and columns above this are a damaged header, not a CT image (the largest in clinical use is 2048).
pub const MOST_SIDE: u16 = 4096;
/// What is below air or outside the reconstruction circle.
pub const AIR_HU: i16 = -1024;
/// Top of the 12-bit HU scale.
pub const MOST_HU: i16 = 3071;

/// Transfer syntaxes whose pixels can be decoded here; the receiver accepts these.
pub const DECODABLE: [&str; 13] = [
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    uids::IMPLICIT_VR_LITTLE_ENDIAN,
    "1.2.840.10008.1.2.2", // Explicit VR Big Endian, retired
    uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    uids::RLE_LOSSLESS,
    uids::JPEG_BASELINE8_BIT,
    uids::JPEG_EXTENDED12_BIT,
    uids::JPEG_LOSSLESS,
    uids::JPEG_LOSSLESS_SV1,
    uids::JPEGLS_LOSSLESS,
    uids::JPEGLS_NEAR_LOSSLESS,
    uids::JPEG2000_LOSSLESS,
    uids::JPEG2000,
];

/// Why a file gave no image.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not readable as DICOM.
    #[error("not readable as DICOM: {0}")]
    Unreadable(String),
    /// An element that HU need is missing or not a number.
    #[error("{name} {tag} is missing or not usable")]
    Missing {
        /// Attribute name.
        name: &'static str,
        /// Its tag.
        tag: Tag,
    },
    /// Rows, columns or bits out of any CT's range.
    #[error("{what} is {value}: {allowed} is supported")]
    Absurd {
        /// Which value.
        what: &'static str,
        /// As found.
        value: u32,
        /// What would do.
        allowed: &'static str,
    },
    /// Not in [`DECODABLE`].
    #[error("transfer syntax {0} cannot be decoded; send the series in a lossless or uncompressed one")]
    TransferSyntax(String),
    /// The decoder gave up.
    #[error("pixel data damaged: {0}")]
    Damaged(String),
    /// The JPEG Extended codestream is damaged, or not one that is decoded here.
    #[error("JPEG codestream: {0}")]
    JpegExtended(#[from] JpegError),
    /// Fewer pixels than rows and columns say.
    #[error("pixel data holds {found} bytes, {expected} are needed")]
    Short {
        /// Bytes there.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
}

/// Reads and decodes the first frame of a CT image.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(path: &Path) -> Result<HuImage, DecodeError> {
    let guarded = catch_unwind(AssertUnwindSafe(|| {
        let syntax = part10::transfer_syntax(path).map_err(DecodeError::Unreadable)?;
        if !DECODABLE.contains(&syntax.as_str()) {
            return Err(DecodeError::TransferSyntax(syntax));
        }
        let object = part10::open(path, None).map_err(DecodeError::Unreadable)?;
        decode_object(&object, &syntax)
    }));
    guarded.unwrap_or_else(|_| Err(DecodeError::Damaged("the decoder failed on it".into())))
}

/// Reads and decodes one slice: a single-frame file, or one frame of a file with many.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_slice(slice: &SliceHeader) -> Result<HuImage, DecodeError> {
    let Some(frame) = slice.frame else { return decode(&slice.path) };
    let guarded = catch_unwind(AssertUnwindSafe(|| decode_frame(&slice.path, frame)));
    guarded.unwrap_or_else(|_| Err(DecodeError::Damaged("the decoder failed on it".into())))
}

/// Shared Functional Groups Sequence: the description of pixels stands before it, what is large behind it.
const SHARED_GROUPS: Tag = tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE;

fn decode_frame(path: &Path, frame: FrameOf) -> Result<HuImage, DecodeError> {
    let mut object = part10::open(path, Some(SHARED_GROUPS)).map_err(DecodeError::Unreadable)?;
    let syntax = object.meta().transfer_syntax().trim_end_matches(['\0', ' ']).to_owned();
    if !DECODABLE.contains(&syntax.as_str()) {
        return Err(DecodeError::TransferSyntax(syntax));
    }
    let layout = Layout::read(&object, Some((frame.slope, frame.intercept)))?;
    let frames = object.element(tags::NUMBER_OF_FRAMES).ok().and_then(|e| e.to_int::<u32>().ok()).unwrap_or(1);
    let native_bytes = layout.pixels() * usize::from(layout.allocated / 8);
    let stored = multiframe::read(path, Wanted { number: frame.number, frames, native_bytes }).map_err(DecodeError::Damaged)?;
    let samples = match stored {
        Stored::Native(bytes) if layout.allocated == 8 => bytes.into_iter().map(u16::from).collect(),
        Stored::Native(bytes) => {
            let number = if syntax == "1.2.840.10008.1.2.2" { u16::from_be_bytes } else { u16::from_le_bytes };
            bytes.chunks_exact(2).map(|b| number([b[0], b[1]])).collect()
        }
        Stored::Encapsulated(codestream) => {
            // From here on it is a file of one frame.
            object.put(DataElement::new(tags::NUMBER_OF_FRAMES, VR::IS, PrimitiveValue::from("1")));
            object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PixelFragmentSequence::new(Vec::new(), vec![codestream])));
            samples(&object, &layout, &syntax)?
        }
    };
    Ok(HuImage { rows: layout.rows.into(), cols: layout.cols.into(), hu: layout.to_hu(&samples) })
}

fn decode_object(object: &DefaultDicomObject, syntax: &str) -> Result<HuImage, DecodeError> {
    let layout = Layout::read(object, None)?;
    let samples = samples(object, &layout, syntax)?;
    Ok(HuImage { rows: layout.rows.into(), cols: layout.cols.into(), hu: layout.to_hu(&samples) })
}

fn samples(object: &DefaultDicomObject, layout: &Layout, syntax: &str) -> Result<Vec<u16>, DecodeError> {
    let samples = match syntax {
        uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS => jpeg_ls(object, layout)?,
        uids::JPEG_EXTENDED12_BIT => jpeg_extended::decode(&codestream(object)?, layout.rows, layout.cols, layout.stored)?,
        _ => native(object, layout)?,
    };
    Ok(samples)
}

/// Image Pixel and Modality LUT attributes (PS3.3 C.7.6.3, C.11.1).
struct Layout {
    rows: u16,
    cols: u16,
    allocated: u16,
    stored: u16,
    high_bit: u16,
    signed: bool,
    slope: f64,
    intercept: f64,
    /// Stored values of padding, inclusive.
    padding: Option<(i32, i32)>,
}

impl Layout {
    /// `rescale` is slope and intercept of a frame, which stand elsewhere.
    fn read(object: &DefaultDicomObject, rescale: Option<(f64, f64)>) -> Result<Self, DecodeError> {
        let int = |tag: Tag| object.element(tag).ok().and_then(|e| e.to_int::<i64>().ok());
        let float = |tag: Tag| object.element(tag).ok().and_then(|e| e.to_float64().ok()).filter(|v| v.is_finite());
        let need = |name: &'static str, tag: Tag| int(tag).and_then(|v| u16::try_from(v).ok()).ok_or(DecodeError::Missing { name, tag });
        let rows = need("Rows", tags::ROWS)?;
        let cols = need("Columns", tags::COLUMNS)?;
        for (what, side) in [("Rows", rows), ("Columns", cols)] {
            if side == 0 || side > MOST_SIDE {
                return Err(DecodeError::Absurd { what, value: side.into(), allowed: "1 to 4096" });
            }
        }
        let allocated = need("Bits Allocated", tags::BITS_ALLOCATED)?;
        if allocated != 8 && allocated != 16 {
            return Err(DecodeError::Absurd { what: "Bits Allocated", value: allocated.into(), allowed: "8 or 16" });
        }
        let stored = need("Bits Stored", tags::BITS_STORED)?;
        let high_bit = int(tags::HIGH_BIT).and_then(|v| u16::try_from(v).ok()).unwrap_or(stored.saturating_sub(1));
        if stored == 0 || stored > allocated || high_bit >= allocated || high_bit + 1 < stored {
            return Err(DecodeError::Absurd { what: "Bits Stored", value: stored.into(), allowed: "1 to Bits Allocated" });
        }
        let samples = int(tags::SAMPLES_PER_PIXEL).unwrap_or(1);
        if samples != 1 {
            return Err(DecodeError::Absurd { what: "Samples per Pixel", value: u32::try_from(samples).unwrap_or(0), allowed: "1" });
        }
        let (slope, intercept) =
            (rescale.map(|r| r.0).or_else(|| float(tags::RESCALE_SLOPE)), rescale.map(|r| r.1).or_else(|| float(tags::RESCALE_INTERCEPT)));
        let slope = slope.ok_or(DecodeError::Missing { name: "Rescale Slope", tag: tags::RESCALE_SLOPE })?;
        let intercept = intercept.ok_or(DecodeError::Missing { name: "Rescale Intercept", tag: tags::RESCALE_INTERCEPT })?;
        let signed = int(tags::PIXEL_REPRESENTATION).unwrap_or(0) == 1;
        // US or SS by Pixel Representation; implicit VR readers may give either: take the 16 bits as ours.
        let stored_value = |tag: Tag| int(tag).map(|v| if signed { i32::from(v as i16) } else { i32::from(v as u16) });
        let padding = stored_value(tags::PIXEL_PADDING_VALUE).map(|value| {
            let limit = stored_value(tags::PIXEL_PADDING_RANGE_LIMIT).unwrap_or(value);
            (value.min(limit), value.max(limit))
        });
        Ok(Self { rows, cols, allocated, stored, high_bit, signed, slope, intercept, padding })
    }

    fn pixels(&self) -> usize {
        usize::from(self.rows) * usize::from(self.cols)
    }

    fn to_hu(&self, samples: &[u16]) -> Vec<i16> {
        let shift = self.high_bit + 1 - self.stored;
        let unused = 16 - self.stored;
        samples
            .iter()
            .map(|raw| {
                let aligned = (raw >> shift) << unused;
                let value = if self.signed { i32::from(aligned.cast_signed() >> unused) } else { i32::from(aligned >> unused) };
                if self.padding.is_some_and(|(low, high)| (low..=high).contains(&value)) {
                    return AIR_HU;
                }
                (f64::from(value) * self.slope + self.intercept).round().clamp(AIR_HU.into(), MOST_HU.into()) as i16
            })
            .collect()
    }
}

/// Everything that dicom-pixeldata decodes.
fn native(object: &DefaultDicomObject, layout: &Layout) -> Result<Vec<u16>, DecodeError> {
    if object.element(tags::PIXEL_DATA).is_err() {
        return Err(DecodeError::Missing { name: "Pixel Data", tag: tags::PIXEL_DATA });
    }
    let decoded = object.decode_pixel_data_frame(0).map_err(|e| DecodeError::Damaged(part10::chain(&e)))?;
    // A codestream may say another depth than the header; the bytes then are those of the codestream.
    let bytes = decoded.data();
    let width = usize::from(decoded.bits_allocated().div_ceil(8));
    let expected = layout.pixels() * width;
    if bytes.len() < expected || decoded.bits_allocated() != layout.allocated {
        return Err(DecodeError::Short { found: bytes.len(), expected });
    }
    Ok(match width {
        1 => bytes[..expected].iter().map(|b| u16::from(*b)).collect(),
        _ => bytes[..expected].chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
    })
}

/// All fragments behind the offset table, joined: a frame may be cut anywhere (PS3.5 A.4), and the first frame ends with its own codestream.
fn codestream(object: &DefaultDicomObject) -> Result<Vec<u8>, DecodeError> {
    let missing = DecodeError::Missing { name: "Pixel Data", tag: tags::PIXEL_DATA };
    let element = object.element(tags::PIXEL_DATA).map_err(|_| missing)?;
    let fragments = element.value().fragments().ok_or_else(|| DecodeError::Damaged("not encapsulated".into()))?;
    Ok(fragments.concat())
}

fn jpeg_ls(object: &DefaultDicomObject, layout: &Layout) -> Result<Vec<u16>, DecodeError> {
    let mut codestream = codestream(object)?;
    drop_fill_bytes(&mut codestream);
    // The decoder holds these against the codestream's own size before it allocates.
    let (samples, _, _) =
        jpegls::decode(&codestream, layout.cols.into(), layout.rows.into()).map_err(|e| DecodeError::Damaged(part10::chain(&e)))?;
    if samples.len() != layout.pixels() {
        return Err(DecodeError::Short { found: samples.len() * 2, expected: layout.pixels() * 2 });
    }
    Ok(samples)
}

/// Encoders pad to an even length with a fill byte (0xFF) before the end marker, as T.81 B.1.1.2 allows, or with zeros behind it; the decoder takes neither.
fn drop_fill_bytes(codestream: &mut Vec<u8>) {
    while codestream.last() == Some(&0) {
        codestream.pop();
    }
    while codestream.ends_with(&[0xff, 0xff, 0xd9]) {
        codestream.remove(codestream.len() - 2);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_dicom_is_an_error_that_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"GET / HTTP/1.1").unwrap();
        assert!(matches!(decode(file.path()), Err(DecodeError::Unreadable(_))));
    }

    #[test]
    fn fill_bytes_before_the_end_marker_are_dropped() {
        let mut stream = vec![1, 2, 0xff, 0xff, 0xff, 0xd9, 0, 0];
        drop_fill_bytes(&mut stream);
        assert_eq!(stream, [1, 2, 0xff, 0xd9]);
    }

    #[test]
    fn stored_bits_are_taken_from_where_the_header_says() {
        let layout = Layout {
            rows: 1,
            cols: 3,
            allocated: 16,
            stored: 12,
            high_bit: 11,
            signed: true,
            slope: 2.0,
            intercept: -10.0,
            padding: Some((-2048, -2000)),
        };
        // 5; -1 with rubbish above the high bit; padding
        assert_eq!(layout.to_hu(&[5, 0x7fff, 0x0801]), [0, -12, AIR_HU]);
        let high = Layout { stored: 8, high_bit: 15, signed: false, slope: 1.0, intercept: 0.0, padding: None, ..layout };
        assert_eq!(high.to_hu(&[0x1234, 0xff00, 0]), [0x12, 0xff, 0]);
    }
}
