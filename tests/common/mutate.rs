//! Mutations of recorded traffic: the n-th of a seed is always the same. Most keep the lengths round the change true, so that they are followed into
//! the depth; some do not.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::recorded::End;

/// Numbers at which things break.
const EDGES: [u32; 16] = [0, 1, 2, 3, 4, 6, 7, 63, 64, 65, 127, 128, 255, 256, 65_535, u32::MAX];
/// Texts for identifiers and titles.
const TEXTS: [&[u8]; 12] = [
    b"../../../../etc/passwd",
    b"/dev/null",
    b"1.2.840.10008.5.1.4.1.1.2/../..",
    b"..",
    b".",
    b"",
    b"\0\0\0\0",
    b"1.2.3\0.4",
    b"%s%n%x",
    b"1..2",
    b"\xff\xfe\xfd",
    b"1.2.3\n2026-01-01 INFO forged",
];

/// What the peers sent, by name.
pub fn recordings() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wire");
    let mut all: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "bin"))
        .map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&p).unwrap()))
        .collect();
    all.sort();
    assert!(all.len() >= 8, "{} recordings", all.len());
    all
}

/// One connection to serve.
pub struct Case {
    pub input: Vec<u8>,
    /// Bytes a read gives at most.
    pub most: usize,
    pub end: End,
    /// Before this byte the peer waits.
    pub quiet: Option<usize>,
}

impl Case {
    /// The `n`th of `seed`.
    pub fn new(recordings: &[(String, Vec<u8>)], seed: u64, n: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n);
        let mut pdus = split(&recordings.choose(&mut rng).unwrap().1);
        for _ in 0..rng.random_range(1..=4) {
            mutate(&mut rng, &mut pdus, recordings);
        }
        // Waiting makes reports of commitment go out on the association.
        let quiet = rng.random_ratio(1, 3).then(|| pdus[..rng.random_range(0..=pdus.len())].iter().map(|p| p.body.len() + 6).sum());
        let mut input: Vec<u8> = pdus.iter().flat_map(Pdu::bytes).collect();
        if rng.random_ratio(1, 8) {
            overwrite(&mut rng, &mut input);
        }
        if rng.random_ratio(1, 16) {
            input.truncate(rng.random_range(0..=input.len()));
        }
        let most = if rng.random_ratio(1, 4) { rng.random_range(1..64) } else { 1 << 20 };
        Self { input, most, end: if rng.random() { End::Closed } else { End::Silent }, quiet }
    }

    /// As a file: a byte with the highest bit set for the end, four for the size of reads, four for the wait, the input.
    pub fn bytes(&self) -> Vec<u8> {
        let most = u32::try_from(self.most).unwrap_or(u32::MAX);
        let quiet = self.quiet.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        [&[0x80 | u8::from(self.end == End::Silent)][..], &most.to_le_bytes(), &quiet.to_le_bytes(), &self.input].concat()
    }

    /// Reads such a file; any other is an input as it stands.
    pub fn parse(bytes: &[u8]) -> Self {
        if bytes.first().is_none_or(|b| b & 0x80 == 0) {
            return Self { input: bytes.to_vec(), most: 1 << 20, quiet: None, end: End::Closed };
        }
        let head = |i: usize| bytes.get(i).copied().unwrap_or_default();
        let number = |i: usize| u32::from_le_bytes([head(i), head(i + 1), head(i + 2), head(i + 3)]);
        let most = number(1).clamp(1, 1 << 20) as usize;
        let quiet = Some(number(5)).filter(|at| *at != u32::MAX).map(|at| at as usize);
        Self {
            input: bytes.get(9..).unwrap_or_default().to_vec(),
            most,
            quiet,
            end: if head(0) & 1 == 1 { End::Silent } else { End::Closed },
        }
    }
}

#[derive(Clone)]
struct Pdu {
    kind: u8,
    body: Vec<u8>,
    /// Announced instead of the body's own length.
    length: Option<u32>,
}

impl Pdu {
    fn bytes(&self) -> Vec<u8> {
        let length = self.length.unwrap_or(self.body.len() as u32);
        [&[self.kind, 0][..], &length.to_be_bytes(), &self.body].concat()
    }
}

fn split(mut bytes: &[u8]) -> Vec<Pdu> {
    let mut all = Vec::new();
    while bytes.len() >= 6 {
        let length = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as usize;
        all.push(Pdu { kind: bytes[0], body: bytes[6..6 + length].to_vec(), length: None });
        bytes = &bytes[6 + length..];
    }
    all
}

fn mutate(rng: &mut StdRng, pdus: &mut Vec<Pdu>, recordings: &[(String, Vec<u8>)]) {
    if pdus.is_empty() {
        pdus.extend(split(&recordings.choose(rng).unwrap().1));
    }
    // The first one is the request for an association: most of the time it is what comes behind that is bent.
    let first = usize::from(pdus.len() > 1 && rng.random_ratio(3, 4));
    let at = rng.random_range(first..pdus.len());
    match rng.random_range(0..12) {
        0 => drop(pdus.remove(at)),
        1 => pdus.insert(at, pdus[at].clone()),
        2 => {
            let other = rng.random_range(first..pdus.len());
            pdus.swap(at, other);
        }
        3 => {
            let other = split(&recordings.choose(rng).unwrap().1);
            pdus.insert(at, other.choose(rng).unwrap().clone());
        }
        4 => pdus[at].kind = if rng.random_ratio(1, 4) { rng.random() } else { rng.random_range(0..=8) },
        5 => pdus[at].length = Some(edge(rng, pdus[at].body.len())),
        6 | 7 => overwrite(rng, &mut pdus[at].body),
        8 => resize(rng, &mut pdus[at].body),
        9 if pdus[at].kind == 4 => fragment(rng, pdus, at),
        _ if pdus[at].kind == 4 => values(rng, &mut pdus[at].body),
        _ => overwrite(rng, &mut pdus[at].body),
    }
}

fn edge(rng: &mut StdRng, near: usize) -> u32 {
    if rng.random() { *EDGES.choose(rng).unwrap() } else { (near as u32).wrapping_add_signed(rng.random_range(-8..=8)) }
}

/// Bits, bytes, numbers, texts.
fn overwrite(rng: &mut StdRng, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    let number = edge(rng, bytes.len());
    let text: Vec<u8> = match rng.random_range(0..7) {
        0 => return bytes[at] ^= 1 << rng.random_range(0..8),
        1 => return bytes[at] = rng.random(),
        2 => (number as u16).to_le_bytes().to_vec(),
        3 => (number as u16).to_be_bytes().to_vec(),
        4 => number.to_le_bytes().to_vec(),
        5 => number.to_be_bytes().to_vec(),
        _ => TEXTS.choose(rng).unwrap().to_vec(),
    };
    bytes[at..].iter_mut().zip(text).for_each(|(b, t)| *b = t);
}

/// Removes, inserts or repeats a stretch.
fn resize(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    let at = rng.random_range(0..=bytes.len());
    let n = rng.random_range(0..=32.min(bytes.len() - at));
    let stretch = match rng.random_range(0..4) {
        0 => return drop(bytes.drain(at..at + n)),
        1 => (0..n).map(|_| rng.random()).collect(),
        2 => bytes[at..at + n].repeat(rng.random_range(1..200)),
        _ => TEXTS.choose(rng).unwrap().to_vec(),
    };
    bytes.splice(at..at, stretch);
}

/// Cuts the values of a P-DATA-TF into smaller ones, each in a PDU of its own.
fn fragment(rng: &mut StdRng, pdus: &mut Vec<Pdu>, at: usize) {
    let Some(all) = take_apart(&pdus[at].body) else { return };
    let size = rng.random_range(1..200);
    let mut parts = Vec::new();
    for value in all {
        let mut chunks = value.data.chunks(size).take(100).peekable();
        while let Some(chunk) = chunks.next() {
            let control = (value.control & !2) | if chunks.peek().is_none() { value.control & 2 } else { 0 };
            let body = Value { data: chunk.to_vec(), control, ..value }.bytes();
            parts.push(Pdu { kind: 4, body, length: None });
        }
    }
    pdus.splice(at..=at, parts);
}

struct Value {
    context: u8,
    control: u8,
    data: Vec<u8>,
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        [&(self.data.len() as u32 + 2).to_be_bytes()[..], &[self.context, self.control], &self.data].concat()
    }
}

fn take_apart(mut body: &[u8]) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    while !body.is_empty() {
        let length = u32::from_be_bytes(body.get(..4)?.try_into().ok()?) as usize;
        let value = body.get(4..)?.get(..length)?;
        all.push(Value { context: *value.first()?, control: *value.get(1)?, data: value[2..].to_vec() });
        body = &body[4 + length..];
    }
    Some(all)
}

/// Bends the values of a P-DATA-TF; their lengths stay true.
fn values(rng: &mut StdRng, body: &mut Vec<u8>) {
    let Some(mut all) = take_apart(body) else { return };
    let Some(at) = (!all.is_empty()).then(|| rng.random_range(0..all.len())) else { return };
    match rng.random_range(0..8) {
        0 => all[at].context = rng.random(),
        1 => all[at].control = if rng.random() { rng.random_range(0..4) } else { rng.random() },
        2 => overwrite(rng, &mut all[at].data),
        3 => resize(rng, &mut all[at].data),
        // Command sets and data sets in Implicit VR are elements one after the other.
        _ => element(rng, &mut all[at].data),
    }
    *body = all.iter().flat_map(Value::bytes).collect();
}

/// Gives one element of a set (Implicit VR Little Endian, as every command set is) another value, removes, repeats or renames it.
fn element(rng: &mut StdRng, set: &mut Vec<u8>) {
    let mut begins = Vec::new();
    let mut at = 0;
    while let Some(head) = set.get(at..at + 8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if set.len() < at + 8 + length {
            break;
        }
        begins.push((at, length));
        at += 8 + length;
    }
    let Some(&(at, length)) = begins.choose(rng) else { return overwrite(rng, set) };
    let value = match rng.random_range(0..7) {
        0 => return drop(set.drain(at..at + 8 + length)),
        1 => {
            let copy = set[at..at + 8 + length].to_vec();
            return drop(set.splice(at..at, copy));
        }
        2 => return set[at + 2] = rng.random(),
        3 => TEXTS.choose(rng).unwrap().to_vec(),
        4 => edge(rng, length).to_le_bytes().to_vec(),
        5 => (edge(rng, length) as u16).to_le_bytes().to_vec(),
        _ => vec![b'1'; rng.random_range(0..2000)],
    };
    let head = [&set[at..at + 4], &(value.len() as u32).to_le_bytes()[..]].concat();
    set.splice(at..at + 8 + length, [head, value].concat());
}
