//! Identifiers out of the beginning of a data set, in whatever encoding it came, without parsing the rest. Pure.

use std::io::Read;

use crate::elements::{Cursor, Encoding, UNDEFINED};

/// Bytes of the data set that are looked at: Study and Series Instance UID come early (group 0020), before anything large.
pub const PREFIX_BYTES: usize = 64 * 1024;

/// What is looked for; empty where absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identifiers {
    /// (0008,0016)
    pub sop_class: String,
    /// (0008,0018)
    pub sop_instance: String,
    /// (0020,000D)
    pub study_instance: String,
    /// (0020,000E)
    pub series_instance: String,
}

/// Reads what the prefix holds; what cannot be followed ends the search, not the caller.
#[must_use]
pub fn identifiers(prefix: &[u8], transfer_syntax: &str) -> Identifiers {
    let mut found = Identifiers::default();
    let encoding = Encoding::of(transfer_syntax);
    if transfer_syntax == "1.2.840.10008.1.2.1.99" {
        let mut inflated = Vec::new();
        // A cut stream ends in an error after what could be inflated.
        let _ = flate2::read::DeflateDecoder::new(prefix).take(PREFIX_BYTES as u64).read_to_end(&mut inflated);
        walk(&mut Cursor::new(&inflated, encoding), &mut found);
    } else {
        walk(&mut Cursor::new(prefix, encoding), &mut found);
    }
    found
}

fn walk(cursor: &mut Cursor<'_>, found: &mut Identifiers) -> Option<()> {
    loop {
        let e = cursor.element()?;
        if e.tag > (0x0020, 0x000E) {
            return None;
        }
        if e.length == UNDEFINED {
            cursor.skip(&e)?;
            continue;
        }
        let value = cursor.take(e.length as usize)?;
        let slot = match e.tag {
            (0x0008, 0x0016) => &mut found.sop_class,
            (0x0008, 0x0018) => &mut found.sop_instance,
            (0x0020, 0x000D) => &mut found.study_instance,
            (0x0020, 0x000E) => &mut found.series_instance,
            _ => continue,
        };
        *slot = String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned();
    }
}

/// PS3.5 9.1: digits and dots, up to 64 characters, no empty component.
#[must_use]
pub fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn explicit(tag: (u16, u16), vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        let mut b = [tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat();
        b.extend_from_slice(vr);
        b.extend_from_slice(&(value.len() as u16).to_le_bytes());
        b.extend_from_slice(value);
        b
    }

    #[test]
    fn identifiers_behind_a_sequence_of_undefined_length_are_found() {
        let mut b = explicit((8, 0x16), b"UI", b"1.2\0");
        b.extend(explicit((8, 0x18), b"UI", b"1.2.3.4\0"));
        b.extend([8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff]);
        b.extend([0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0xff]);
        b.extend(explicit((8, 0x1155), b"UI", b"9.9\0"));
        b.extend([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0]);
        b.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        b.extend(explicit((0x20, 0x0d), b"UI", b"1.5 "));
        b.extend(explicit((0x20, 0x0e), b"UI", b"1.6\0"));
        let found = identifiers(&b, "1.2.840.10008.1.2.1");
        assert_eq!((found.sop_instance.as_str(), found.study_instance.as_str(), found.series_instance.as_str()), ("1.2.3.4", "1.5", "1.6"));
    }

    #[test]
    fn identifiers_behind_an_unknown_sequence_are_found() {
        let mut b = explicit((8, 0x18), b"UI", b"1.2.3.4\0");
        // A private sequence that a converter did not know: UN of undefined length, its items Implicit VR Little Endian (PS3.5 6.2.2).
        b.extend([9, 0, 2, 0x10, b'U', b'N', 0, 0, 0xff, 0xff, 0xff, 0xff]);
        b.extend([0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0xff]);
        b.extend([9, 0, 3, 0x10, 4, 0, 0, 0, b'L', b'O', 2, 0]);
        b.extend([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0]);
        b.extend([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        // And an element of a VR that there is none of, whose length has four bytes.
        b.extend([9, 0, 4, 0x10, b'Z', b'Z', 0, 0, 2, 0, 0, 0, 1, 2]);
        b.extend(explicit((0x20, 0x0d), b"UI", b"1.5 "));
        b.extend(explicit((0x20, 0x0e), b"UI", b"1.6\0"));
        let found = identifiers(&b, "1.2.840.10008.1.2.1");
        assert_eq!((found.study_instance.as_str(), found.series_instance.as_str()), ("1.5", "1.6"));
    }

    #[test]
    fn path_tricks_are_no_uids() {
        for bad in ["", "../../etc", "1..2", ".1", "1.2/3", "1.2 ", &"1".repeat(65)] {
            assert!(!is_uid(bad), "{bad}");
        }
        assert!(is_uid("1.2.840.10008.5.1.4.1.1.2"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic_and_end(bytes in prop::collection::vec(any::<u8>(), 0..600), which in 0usize..4) {
            let syntax = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"][which];
            let _ = identifiers(&bytes, syntax);
        }
    }
}
