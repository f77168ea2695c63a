//! Storage Commitment Push Model (PS3.4 annex J): the request's data set in, the report's out. Pure.

use super::peek::is_uid;
use crate::elements::{Cursor, Encoding, ITEM, ITEM_END, SEQUENCE_END, UNDEFINED};

/// Storage Commitment Push Model SOP Class.
pub const CLASS: &str = "1.2.840.10008.1.20.1";
/// Its one, well-known instance.
pub const INSTANCE: &str = "1.2.840.10008.1.20.1.1";
/// How its data sets are written: the ones every peer knows, best first.
pub const TRANSFER_SYNTAXES: [&str; 2] = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"];
/// Action Type ID of a request, the only one there is.
pub const REQUEST: u16 = 1;
/// Bytes of a request: some twenty thousand references.
pub const MOST_BYTES: usize = 4 << 20;
/// Objects of one request: more than any study has.
pub const MOST_REFERENCES: usize = 20_000;

const TRANSACTION: (u16, u16) = (0x0008, 0x1195);
const FAILED_SEQUENCE: (u16, u16) = (0x0008, 0x1198);
const SEQUENCE: (u16, u16) = (0x0008, 0x1199);
const CLASS_UID: (u16, u16) = (0x0008, 0x1150);
const INSTANCE_UID: (u16, u16) = (0x0008, 0x1155);
const REASON: (u16, u16) = (0x0008, 0x1197);

/// Why an object is not committed (PS3.3 C.14.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The disk would not say.
    Processing,
    /// It is not in the spool.
    NoSuchInstance,
    /// It is there as an object of another class.
    ClassConflict,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Processing, Self::NoSuchInstance, Self::ClassConflict];

    /// Failure Reason (0008,1197).
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Processing => 0x0110,
            Self::NoSuchInstance => 0x0112,
            Self::ClassConflict => 0x0119,
        }
    }

    /// What it means here, for the conformance statement.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Processing => "the spool could not be read",
            Self::NoSuchInstance => "the object is not in the spool",
            Self::ClassConflict => "the object is in the spool under another SOP class",
        }
    }
}

/// An object that somebody wants to be sure of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reference {
    /// (0008,1150)
    pub class: String,
    /// (0008,1155)
    pub instance: String,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// (0008,1195)
    pub transaction: String,
    /// What is asked about.
    pub references: Vec<Reference>,
}

/// Reads the data set of an N-ACTION-RQ.
///
/// # Errors
/// A sentence for the Error Comment.
pub fn parse(bytes: &[u8], transfer_syntax: &str) -> Result<Request, String> {
    let mut cursor = Cursor::new(bytes, Encoding::of(transfer_syntax));
    let (mut transaction, mut references) = (String::new(), None);
    while !cursor.is_at_end() {
        let cut = || "data set ends inside an element".to_owned();
        let element = cursor.element().ok_or_else(cut)?;
        match element.tag {
            SEQUENCE => references = Some(sequence(&mut cursor, element.length)?),
            TRANSACTION if element.length != UNDEFINED => transaction = text(cursor.take(element.length as usize).ok_or_else(cut)?),
            _ => cursor.skip(&element).ok_or_else(cut)?,
        }
    }
    if !is_uid(&transaction) {
        return Err("Transaction UID (0008,1195) is missing or not a UID".into());
    }
    let references = references.filter(|r| !r.is_empty()).ok_or("Referenced SOP Sequence (0008,1199) is missing or empty")?;
    Ok(Request { transaction, references })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned()
}

fn sequence(cursor: &mut Cursor<'_>, length: u32) -> Result<Vec<Reference>, String> {
    let mut all = Vec::new();
    let end = cursor.end_of(length);
    while end != Some(cursor.at()) {
        let element = cursor.element().ok_or("Referenced SOP Sequence is cut")?;
        match element.tag {
            SEQUENCE_END if end.is_none() => break,
            ITEM if all.len() == MOST_REFERENCES => return Err(format!("more than {MOST_REFERENCES} objects in one request")),
            ITEM => all.push(item(cursor, element.length).ok_or("an item of Referenced SOP Sequence cannot be read")?),
            _ => return Err("Referenced SOP Sequence holds something else than items".into()),
        }
    }
    Ok(all)
}

fn item(cursor: &mut Cursor<'_>, length: u32) -> Option<Reference> {
    let (mut class, mut instance) = (String::new(), String::new());
    let end = cursor.end_of(length);
    while end != Some(cursor.at()) {
        let element = cursor.element()?;
        match element.tag {
            ITEM_END if end.is_none() => break,
            CLASS_UID if element.length != UNDEFINED => class = text(cursor.take(element.length as usize)?),
            INSTANCE_UID if element.length != UNDEFINED => instance = text(cursor.take(element.length as usize)?),
            _ => cursor.skip(&element)?,
        }
    }
    (is_uid(&class) && is_uid(&instance)).then_some(Reference { class, instance })
}

/// The data set of an N-EVENT-REPORT-RQ and its Event Type ID (1: all committed, 2: some are not; PS3.4 J.3.3). `verdicts` has one entry a reference,
/// `None` where it is committed.
#[must_use]
pub fn report(request: &Request, verdicts: &[Option<Failure>], transfer_syntax: &str) -> (u16, Vec<u8>) {
    let mut out = Writer { bytes: Vec::new(), explicit: transfer_syntax != "1.2.840.10008.1.2" };
    out.uid(TRANSACTION, &request.transaction);
    let judged = || request.references.iter().zip(verdicts.iter().copied());
    let failed: Vec<_> = judged().filter_map(|(r, v)| Some((r, Some(v?)))).collect();
    let kept: Vec<_> = judged().filter(|(_, v)| v.is_none()).collect();
    for (tag, items) in [(FAILED_SEQUENCE, &failed), (SEQUENCE, &kept)] {
        if !items.is_empty() {
            out.items(tag, items);
        }
    }
    (if failed.is_empty() { 1 } else { 2 }, out.bytes)
}

struct Writer {
    bytes: Vec<u8>,
    explicit: bool,
}

impl Writer {
    fn element(&mut self, (group, element): (u16, u16), vr: &[u8; 2], value: &[u8]) {
        self.bytes.extend_from_slice(&group.to_le_bytes());
        self.bytes.extend_from_slice(&element.to_le_bytes());
        match (self.explicit, vr) {
            (false, _) => self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes()),
            (true, b"SQ") => {
                self.bytes.extend_from_slice(b"SQ\0\0");
                self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            }
            (true, _) => {
                self.bytes.extend_from_slice(vr);
                self.bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(value);
    }

    /// UIDs are padded with a zero byte (PS3.5 9.1).
    fn uid(&mut self, tag: (u16, u16), uid: &str) {
        let mut value = uid.as_bytes().to_vec();
        if !value.len().is_multiple_of(2) {
            value.push(0);
        }
        self.element(tag, b"UI", &value);
    }

    fn items(&mut self, tag: (u16, u16), items: &[(&Reference, Option<Failure>)]) {
        let mut all = Vec::new();
        for (reference, failure) in items {
            let mut item = Self { bytes: Vec::new(), explicit: self.explicit };
            item.uid(CLASS_UID, &reference.class);
            item.uid(INSTANCE_UID, &reference.instance);
            if let Some(failure) = failure {
                item.element(REASON, b"US", &failure.code().to_le_bytes());
            }
            all.extend_from_slice(&[0xFE, 0xFF, 0x00, 0xE0]);
            all.extend_from_slice(&(item.bytes.len() as u32).to_le_bytes());
            all.extend(item.bytes);
        }
        self.element(tag, b"SQ", &all);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use dicom_dictionary_std::tags;
    use dicom_object::InMemDicomObject;
    use dicom_transfer_syntax_registry::entries::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
    use proptest::prelude::*;

    fn reference(n: usize) -> Reference {
        Reference { class: "1.2.840.10008.5.1.4.1.1.2".into(), instance: format!("1.2.3.{n}") }
    }

    #[test]
    fn a_report_is_what_another_library_reads_and_reads_back_as_a_request() {
        let request = Request { transaction: "1.2.3".into(), references: (0..3).map(reference).collect() };
        for syntax in TRANSFER_SYNTAXES {
            let registered =
                if syntax == "1.2.840.10008.1.2" { IMPLICIT_VR_LITTLE_ENDIAN.erased() } else { EXPLICIT_VR_LITTLE_ENDIAN.erased() };
            let (event, bytes) = report(&request, &[None, None, None], syntax);
            assert_eq!((event, parse(&bytes, syntax).unwrap()), (1, request.clone()));
            let (event, bytes) = report(&request, &[None, Some(Failure::NoSuchInstance), Some(Failure::ClassConflict)], syntax);
            let object = InMemDicomObject::read_dataset_with_ts(bytes.as_slice(), &registered).unwrap();
            let reasons: Vec<u16> = object
                .element(tags::FAILED_SOP_SEQUENCE)
                .unwrap()
                .items()
                .unwrap()
                .iter()
                .map(|i| i.element(tags::FAILURE_REASON).unwrap().to_int().unwrap())
                .collect();
            assert_eq!((event, reasons), (2, vec![0x0112, 0x0119]));
            assert_eq!(object.element(tags::REFERENCED_SOP_SEQUENCE).unwrap().items().unwrap().len(), 1);
        }
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        let syntax = TRANSFER_SYNTAXES[1];
        assert!(parse(&[], syntax).unwrap_err().contains("Transaction UID"));
        let none = Request { transaction: "1.2.3".into(), references: Vec::new() };
        assert!(parse(&report(&none, &[], syntax).1, syntax).unwrap_err().contains("missing or empty"));
        let many = Request { transaction: "1.2.3".into(), references: (0..=MOST_REFERENCES).map(reference).collect() };
        let bytes = report(&many, &vec![None; many.references.len()], syntax).1;
        assert!(parse(&bytes, syntax).unwrap_err().contains("more than 20000 objects"));
        assert!(parse(&bytes[..bytes.len() / 2], syntax).is_err());
        let path =
            Request { transaction: "1.2.3".into(), references: vec![Reference { class: "1.2".into(), instance: "../../etc".into() }] };
        assert!(parse(&report(&path, &[None], syntax).1, syntax).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic_and_end(bytes in prop::collection::vec(any::<u8>(), 0..600), which in 0usize..2) {
            let _ = parse(&bytes, TRANSFER_SYNTAXES[which]);
        }

        #[test]
        fn a_request_cut_anywhere_is_no_panic(cut in 0usize..400) {
            let request = Request { transaction: "1.2.3".into(), references: (0..3).map(reference).collect() };
            let bytes = report(&request, &[None, None, None], TRANSFER_SYNTAXES[0]).1;
            let _ = parse(&bytes[..cut.min(bytes.len())], TRANSFER_SYNTAXES[0]);
        }
    }
}
