//! Promise: every transfer syntax that is accepted decodes, lossless ones to the very same HU; retired ones are refused with a reason.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use dicom_core::value::PixelFragmentSequence;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::tags;
use lesionwatch::series::part10;
use lesionwatch::volume::HuImage;
use lesionwatch::volume::pixels::{DecodeError, decode};
use std::path::PathBuf;

fn file(uid: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/syntaxes/CT_{uid}.dcm"))
}

fn image(uid: &str) -> HuImage {
    decode(&file(uid)).unwrap_or_else(|e| panic!("{uid}: {e}"))
}

/// Mean and largest difference to the lossless image, HU.
fn difference(uid: &str) -> (f64, i32) {
    let (a, b) = (image("1.2.840.10008.1.2.1"), image(uid));
    assert_eq!((a.rows, a.cols), (b.rows, b.cols));
    let all: Vec<i32> = a.hu.iter().zip(&b.hu).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs()).collect();
    (all.iter().map(|d| f64::from(*d)).sum::<f64>() / all.len() as f64, all.into_iter().max().unwrap())
}

#[test]
fn lossless_syntaxes_give_the_same_hu() {
    let reference = image("1.2.840.10008.1.2.1");
    assert_eq!((reference.rows, reference.cols), (512, 512));
    assert!(reference.hu.iter().any(|v| *v > 1000) && reference.hu.contains(&-1024));
    for uid in [
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
    ] {
        assert!(image(uid) == reference, "{uid} differs: {:?}", difference(uid));
    }
}

#[test]
fn lossy_syntaxes_stay_within_their_loss() {
    // Largest difference as the encodings were made: 1 and 5 stored units; 8 bits at 32 HU a step, and the loss on top.
    // 12 bits at 2 HU a step: 3.6 and 36 HU measured with our decoder, the same with libjpeg's; a tenth is left for rounding.
    for (uid, mean, most) in [
        ("1.2.840.10008.1.2.4.81", 1.0, 1),
        ("1.2.840.10008.1.2.4.91", 2.0, 5),
        ("1.2.840.10008.1.2.4.51", 4.0, 40),
        ("1.2.840.10008.1.2.4.50", 30.0, 700),
    ] {
        let (found_mean, found_most) = difference(uid);
        assert!(found_mean <= mean && found_most <= most, "{uid}: mean {found_mean}, most {found_most}");
    }
}

#[test]
fn a_frame_cut_into_fragments_is_one_image() {
    let uid = "1.2.840.10008.1.2.4.51";
    let mut object = part10::open(&file(uid), None).unwrap();
    let whole = object.element(tags::PIXEL_DATA).unwrap().value().fragments().unwrap().concat();
    // Even lengths, as PS3.5 A.4 has them; the first ends within the headers.
    let fragments: Vec<Vec<u8>> = [&whole[..100], &whole[100..30_000], &whole[30_000..]].map(<[u8]>::to_vec).into();
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PixelFragmentSequence::new(vec![0], fragments)));
    let temp = tempfile::NamedTempFile::new().unwrap();
    object.write_to_file(temp.path()).unwrap();
    assert!(decode(temp.path()).unwrap() == image(uid));
}

#[test]
fn syntaxes_without_a_decoder_are_refused_by_name() {
    for uid in ["1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"] {
        match decode(&file(uid)) {
            Err(DecodeError::TransferSyntax(named)) => assert_eq!(named, uid),
            other => panic!("{uid}: {:?}", other.map(|_| "decoded")),
        }
    }
}

#[test]
fn cut_and_mangled_files_are_errors() {
    for uid in [
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.4.51",
    ] {
        let bytes = std::fs::read(file(uid)).unwrap();
        for cut in [200, bytes.len() / 10, bytes.len() / 2] {
            let temp = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(temp.path(), &bytes[..cut]).unwrap();
            // Never a panic; a truncated image is never passed off as a whole one of an uncompressed syntax.
            let result = decode(temp.path());
            assert!(result.is_err() || uid.contains(".4."), "{uid} cut at {cut} was decoded");
        }
    }
}
