//! Promise: every transfer syntax that is accepted decodes, lossless ones to the very same HU; retired ones are refused with a reason.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

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
    for (uid, mean, most) in [("1.2.840.10008.1.2.4.81", 1.0, 1), ("1.2.840.10008.1.2.4.91", 2.0, 5), ("1.2.840.10008.1.2.4.50", 30.0, 700)]
    {
        let (found_mean, found_most) = difference(uid);
        assert!(found_mean <= mean && found_most <= most, "{uid}: mean {found_mean}, most {found_most}");
    }
}

#[test]
fn syntaxes_without_a_decoder_are_refused_by_name() {
    for uid in ["1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"] {
        match decode(&file(uid)) {
            Err(DecodeError::TransferSyntax(named)) => assert_eq!(named, uid),
            other => panic!("{uid}: {:?}", other.map(|_| "decoded")),
        }
    }
}

#[test]
fn cut_and_mangled_files_are_errors() {
    for uid in ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"]
    {
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
