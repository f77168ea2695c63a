//! Promise: Enhanced CT is read frame by frame: the same pixels as single slices, one frame in memory, and no damage passed off as an image.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, Subscriber, check_schema, free_port, mosquitto, peer_script, run, series, store, tool, wait_for};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use lesionwatch::series::{FrameOf, SliceHeader, header};
use lesionwatch::volume::pixels::{decode, decode_slice};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const ENHANCED_CT: &str = "1.2.840.10008.5.1.4.1.1.2.1";

/// What must not depend on the way of storing: boxes, scores, axes, places.
fn findings(document: &Value) -> Value {
    let lesions = document["lesions"].as_array().unwrap();
    lesions
        .iter()
        .map(|l| json!([l["box_px"], l["score"], l["long_axis_mm"], l["type"], l["slices"], l["center_lps_mm"], l["volume_mm3"]]))
        .collect()
}

/// highdicom's conversions of `files`: name → series UID, as `<name>.dcm` in `out`.
fn convert(out: &Path, files: &[PathBuf]) -> Vec<(String, String)> {
    let output = peer_script("enhanced.py").arg(out).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names: std::collections::BTreeMap<String, String> = serde_json::from_slice(&output.stdout).unwrap();
    names.into_iter().collect()
}

#[test]
fn enhanced_ct_gives_what_single_slices_give() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::without_page(port, "");
    let (files, uid) = series(dir.path(), "single", 4);
    assert!(store(rig.dicom, &files).0);
    let single = wait_for("the result of the slices", || subscriber.results(&uid).pop());
    assert!(!single["lesions"].as_array().unwrap().is_empty(), "{single:#}");
    let slices: Vec<SliceHeader> = files.iter().map(|f| header::read(f).unwrap()).collect();

    let converted = convert(dir.path(), &files);
    assert_eq!(converted.len(), 5);
    for (name, uid) in &converted {
        let file = dir.path().join(format!("{name}.dcm"));
        // Pixel for pixel, whatever order the frames are in.
        let frames = header::slices(&file).unwrap();
        assert_eq!(frames.len(), slices.len());
        for slice in &slices {
            let frame = frames.iter().find(|f| f.position_mm == slice.position_mm).unwrap();
            assert!(decode_slice(frame).unwrap() == decode(&slice.path).unwrap(), "{name} {}", frame.label());
        }
        let (ok, text) = run(tool("dcmsend").args(["-v", "-nuc", "127.0.0.1", &rig.dicom.to_string()]).arg(&file));
        assert!(ok && text.contains("with status SUCCESS  : 1"), "{name}: {text}\n{}", rig.log());
        let whole = wait_for(&format!("the result of {name}; log:\n{}", rig.log()), || subscriber.results(uid).pop());
        check_schema("result", &whole);
        assert_eq!((whole["outcome"].as_str(), findings(&whole)), (Some("analysed"), findings(&single)), "{name}: {whole:#}");
        assert_eq!(whole["series"]["slices"], files.len());
        for lesion in whole["lesions"].as_array().unwrap() {
            let key = &lesion["key_image"];
            let frame = frames.iter().find(|f| f.frame.is_some_and(|f| key["frame_number"] == f.number)).unwrap();
            assert_eq!(key["sop_instance_uid"], frame.sop_instance_uid);
            // The same slice that the other series names by its UID.
            let other = single["lesions"].as_array().unwrap().iter().find(|l| l["number"] == lesion["number"]).unwrap();
            let slice = slices.iter().find(|s| other["key_image"]["sop_instance_uid"] == s.sop_instance_uid).unwrap();
            assert_eq!(frame.position_mm, slice.position_mm);
        }
    }
    assert!(single["lesions"][0]["key_image"].get("frame_number").is_none());
}

fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) {
    object.put(DataElement::new(tag, vr, value.into()));
}

/// An Enhanced CT header of `frames` frames of `side` × `side` pixels of 16 bit, without pixel data; says that there are `said`.
fn without_pixels(path: &Path, frames: usize, said: &str, side: u16, series: &str) {
    let item = |pairs: &[(Tag, &str)]| {
        let mut item = InMemDicomObject::new_empty();
        pairs.iter().for_each(|(tag, value)| put(&mut item, *tag, VR::DS, *value));
        DataSetSequence::from(vec![item])
    };
    let mut object = InMemDicomObject::new_empty();
    for (tag, value) in [
        (tags::SOP_CLASS_UID, ENHANCED_CT),
        (tags::SOP_INSTANCE_UID, &format!("{series}.1")),
        (tags::STUDY_INSTANCE_UID, "1.2.826.0.1.3680043.2.9"),
        (tags::SERIES_INSTANCE_UID, series),
    ] {
        put(&mut object, tag, VR::UI, value);
    }
    put(&mut object, tags::MODALITY, VR::CS, "CT");
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, said);
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, side),
        (tags::COLUMNS, side),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(&mut object, tag, VR::US, value);
    }
    put(&mut object, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
    let mut shared = InMemDicomObject::new_empty();
    for (group, pairs) in [
        (tags::PLANE_ORIENTATION_SEQUENCE, vec![(tags::IMAGE_ORIENTATION_PATIENT, "1\\0\\0\\0\\1\\0")]),
        (tags::PIXEL_MEASURES_SEQUENCE, vec![(tags::PIXEL_SPACING, "0.8\\0.8")]),
        (tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, vec![(tags::RESCALE_SLOPE, "1"), (tags::RESCALE_INTERCEPT, "-1024")]),
    ] {
        shared.put(DataElement::new(group, VR::SQ, item(&pairs)));
    }
    let own = (0..frames).map(|i| {
        let mut own = InMemDicomObject::new_empty();
        let place = format!("0\\0\\{}", 2 * i);
        own.put(DataElement::new(tags::PLANE_POSITION_SEQUENCE, VR::SQ, item(&[(tags::IMAGE_POSITION_PATIENT, &place)])));
        own
    });
    let own: Vec<_> = own.collect();
    object.put(DataElement::new(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, VR::SQ, DataSetSequence::from(vec![shared])));
    object.put(DataElement::new(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, VR::SQ, DataSetSequence::from(own)));
    let meta = FileMetaTableBuilder::new().transfer_syntax("1.2.840.10008.1.2.1");
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// Header of native pixel data.
fn native(bytes: u32) -> Vec<u8> {
    [&[0xe0, 0x7f, 0x10, 0, b'O', b'W', 0, 0][..], &bytes.to_le_bytes()].concat()
}

fn peak_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn one_frame_of_a_thousand_costs_the_memory_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("thousand.dcm");
    without_pixels(&file, 1000, "1000", 512, "1.2.3");
    let frame_bytes = 512 * 512 * 2;
    append(&file, &native(1000 * frame_bytes));
    let begin = std::fs::metadata(&file).unwrap().len();
    // Half a gigabyte of holes, and a mark in the last frame.
    let open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    open.set_len(begin + u64::from(1000 * frame_bytes)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, &1030u16.to_le_bytes(), begin + u64::from(999 * frame_bytes) + 2).unwrap();
    let slices = header::slices(&file).unwrap();
    assert_eq!((slices.len(), slices[999].position_mm), (1000, Some([0.0, 0.0, 1998.0])));
    let before = peak_kib();
    let image = decode_slice(&slices[999]).unwrap();
    assert_eq!(image.hu[..3], [-1024, 6, -1024]);
    assert!(decode_slice(&slices[0]).unwrap().hu.iter().all(|v| *v == -1024));
    let grown = peak_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "one frame of 512 KiB took {grown} KiB");
}

#[test]
fn damage_is_an_error_of_its_own_frame() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.dcm");
    let decode_frame = |number| {
        let whole = header::read(&file).unwrap();
        let frame = Some(FrameOf { number, slope: 1.0, intercept: 0.0 });
        decode_slice(&SliceHeader { frame, ..whole }).map(|_| ()).map_err(|e| e.to_string())
    };
    let frame = 16 * 16 * 2;
    let item = |bytes: &[u8]| [&[0xfe, 0xff, 0, 0xe0][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let encapsulated = |table: &[u32], fragments: usize| {
        let table: Vec<u8> = table.iter().flat_map(|o| o.to_le_bytes()).collect();
        let mut bytes = [&[0xe0, 0x7f, 0x10, 0, b'O', b'B', 0, 0, 0xff, 0xff, 0xff, 0xff][..], &item(&table)].concat();
        (0..fragments).for_each(|_| bytes.extend(item(&[0; 64])));
        bytes.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        bytes
    };
    for (pixels, number, words) in [
        (native(3 * frame), 4, "frame 4 ends at"),
        (native(4 * frame), 4, "the file ends before the frame does"),
        (native(u32::MAX - 1), 4, "the file ends before the frame does"),
        (Vec::new(), 1, "the file ends before the frame does"),
        (encapsulated(&[0, 72, 144], 4), 2, "3 entries for 4 frames"),
        (encapsulated(&[0, 144, 72, 216], 4), 2, "does not rise"),
        (encapsulated(&[0, 76, 144, 216], 4), 2, "points into the middle"),
        (encapsulated(&[0, 72, 144, u32::MAX - 9], 4), 4, "the file ends before the frame does"),
        (encapsulated(&[], 7), 2, "7 fragments, 4 frames and no offset table"),
    ] {
        without_pixels(&file, 4, "4", 16, "1.2.3");
        append(&file, &pixels);
        let found = decode_frame(number).unwrap_err();
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[test]
fn hostile_frame_counts_end_in_a_stated_outcome() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::without_page(port, "[series]\nquiet_min_s = 0.5");
    for (n, frames, said, outcome, code, words) in [
        (1, 4, "2000000000", "not_analysed", "multi_frame", "2000000000 frames; at most 4096"),
        (2, 12, "13", "failed", "header", "says 13"),
        (3, 12, "12", "failed", "decode", "frame"),
    ] {
        let uid = format!("1.2.826.0.1.3680043.2.7.{n}");
        let file = dir.path().join(format!("{n}.dcm"));
        without_pixels(&file, frames, said, 64, &uid);
        // Enough for one frame.
        append(&file, &[native(64 * 64 * 2), vec![0; 64 * 64 * 2]].concat());
        let (ok, text) = run(tool("dcmsend").args(["-v", "-nuc", "127.0.0.1", &rig.dicom.to_string()]).arg(&file));
        assert!(ok && text.contains("with status SUCCESS  : 1"), "{text}\n{}", rig.log());
        let result = wait_for(&format!("the outcome of {said}; log:\n{}", rig.log()), || subscriber.results(&uid).pop());
        check_schema("result", &result);
        assert_eq!((result["outcome"].as_str(), result["reason"]["code"].as_str()), (Some(outcome), Some(code)), "{result:#}");
        assert!(result["reason"]["text"].as_str().unwrap().contains(words), "{result:#}");
    }
}
