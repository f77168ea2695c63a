//! A reader that refuses what would cost far more than its bytes. The data set library descends by recursion: without this a file of a few hundred
//! kilobytes ends the process by overflowing its stack, and no `catch_unwind` helps against that. It makes room for a value before it reads it: three
//! kilobytes that claim a value of 3.5 GB take 3.5 GB. And it keeps a hundred bytes or two for each element, item and text value, though eight bytes or a
//! backslash make one. Pure.
//!
//! It follows element headers as bytes pass by and never changes them, by the library's rules, so that both see the same elements.

use std::io::{self, Read};

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use crate::elements::{Encoding, UNDEFINED, has_long_length};

/// How the error of a header that is too long begins, here and in `part10`.
pub const TOO_LONG: &str = "header longer than";
/// More elements, items and values of text is no header: 4096 frames with their functional groups have a third of it.
pub const MOST_PARTS: u64 = 1_000_000;
/// Deeper is no object of any modality (reports with their content trees stay below 20).
pub const MOST_DEPTH: usize = 64;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// A sequence or item that is open.
struct Level {
    kind: Kind,
    /// Position of its end; `None` where a delimiter ends it.
    end: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of items that are data sets.
    Sequence,
    /// Of items that are pieces of pixel data, after one of offsets to them.
    Offsets,
    Fragments,
    /// A data set in a sequence.
    Item,
}

/// Passes bytes on while it follows them.
pub struct Guard<R> {
    inner: R,
    explicit: bool,
    big: bool,
    /// Where the library stops reading: nothing from there on is followed.
    until: Option<Tag>,
    stopped: bool,
    at: u64,
    skip: u64,
    head: [u8; 12],
    held: usize,
    open: Vec<Level>,
    /// Bytes of the whole data set.
    length: u64,
    /// What is skipped is text, of values apart by backslashes.
    text: bool,
    parts: u64,
}

impl<R> Guard<R> {
    /// Guards a data set of at most `length` bytes, written as `transfer_syntax` says (a deflated one: as it says inside), up to the element `until`.
    pub fn new(inner: R, transfer_syntax: &str, length: u64, until: Option<Tag>) -> Self {
        let Encoding { explicit, big } = Encoding::of(transfer_syntax);
        let open = Vec::new();
        Self { inner, explicit, big, until, stopped: false, at: 0, skip: 0, head: [0; 12], held: 0, open, length, text: false, parts: 0 }
    }

    fn u16(&self, i: usize) -> u16 {
        let b = [self.head[i], self.head[i + 1]];
        if self.big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }
    }

    fn u32(&self, i: usize) -> u32 {
        let b = [self.head[i], self.head[i + 1], self.head[i + 2], self.head[i + 3]];
        if self.big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !self.stopped && !bytes.is_empty() {
            let taken = if self.skip > 0 {
                let taken = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= taken as u64;
                if self.text {
                    self.count(bytes[..taken].iter().filter(|b| **b == b'\\').count() as u64)?;
                }
                taken
            } else {
                let taken = (self.needed() - self.held).min(bytes.len());
                self.head[self.held..self.held + taken].copy_from_slice(&bytes[..taken]);
                self.held += taken;
                taken
            };
            self.at += taken as u64;
            bytes = &bytes[taken..];
            if self.skip == 0 && self.held > 0 && self.held == self.needed() {
                self.held = 0;
                self.header()?;
            }
            if self.skip == 0 && self.held == 0 {
                self.close();
            }
        }
        Ok(())
    }

    /// Bytes of the header that is being gathered, as far as it can be told.
    fn needed(&self) -> usize {
        if self.held >= 8 && self.is_long() { 12 } else { 8 }
    }

    fn is_long(&self) -> bool {
        self.explicit && self.u16(0) != ITEM.0 && has_long_length([self.head[4], self.head[5]])
    }

    fn count(&mut self, parts: u64) -> io::Result<()> {
        self.parts += parts;
        if self.parts > MOST_PARTS { Err(refused(format!("{TOO_LONG} {MOST_PARTS} elements, items and values"))) } else { Ok(()) }
    }

    /// A header is whole: that of an item where a sequence is open, else that of an element.
    fn header(&mut self) -> io::Result<()> {
        self.count(1)?;
        let tag = Tag(self.u16(0), self.u16(2));
        match self.open.last().map(|l| l.kind) {
            Some(Kind::Sequence | Kind::Offsets | Kind::Fragments) if tag == SEQUENCE_END => {
                self.open.pop();
                Ok(())
            }
            Some(Kind::Sequence) if tag == ITEM => self.descend(tag, self.u32(4), Kind::Item),
            Some(Kind::Fragments) if tag == ITEM => self.value(tag, self.u32(4), VR::OB),
            Some(Kind::Offsets) if tag == ITEM => {
                self.open.pop();
                self.open.push(Level { kind: Kind::Fragments, end: None });
                self.value(tag, self.u32(4), VR::OL)
            }
            Some(Kind::Sequence | Kind::Offsets | Kind::Fragments) => Err(refused(format!("element {tag} where an item must be"))),
            Some(Kind::Item) | None => self.element(tag),
        }
    }

    fn element(&mut self, tag: Tag) -> io::Result<()> {
        if tag == ITEM_END {
            // One too many at the end of the whole is passed over.
            self.open.pop();
            return Ok(());
        }
        if self.open.is_empty() && self.until.is_some_and(|until| tag >= until) {
            self.stopped = true;
            return Ok(());
        }
        let delimiter = tag.0 == ITEM.0;
        let length = match () {
            () if self.is_long() => self.u32(8),
            () if self.explicit && !delimiter => self.u16(6).into(),
            () => self.u32(4),
        };
        let vr = match () {
            () if delimiter => VR::UN,
            () if self.explicit => VR::from_binary([self.head[4], self.head[5]]).unwrap_or(VR::UN),
            () => implied(tag),
        };
        match length {
            UNDEFINED if tag == tags::PIXEL_DATA => self.descend(tag, length, Kind::Offsets),
            UNDEFINED => self.descend(tag, length, Kind::Sequence),
            _ if vr == VR::SQ => self.descend(tag, length, Kind::Sequence),
            _ => self.value(tag, length, vr),
        }
    }

    /// Passes over a value.
    fn value(&mut self, tag: Tag, length: u32, vr: VR) -> io::Result<()> {
        self.fits(tag, length)?;
        // Of a number cut in two the library leaves the rest where the next element must be.
        if !length.is_multiple_of(width(vr)) {
            return Err(refused(format!("element {tag} has {length} bytes, which are no whole numbers of {} bytes", width(vr))));
        }
        self.skip = length.into();
        self.text = is_text(vr);
        Ok(())
    }

    /// Goes into a sequence or an item.
    fn descend(&mut self, tag: Tag, length: u32, kind: Kind) -> io::Result<()> {
        let mut end = None;
        if length != UNDEFINED {
            self.fits(tag, length)?;
            end = Some(self.at + u64::from(length));
        }
        self.open.push(Level { kind, end });
        // A sequence and its item are two levels here and one of nesting.
        if self.open.len() > 2 * MOST_DEPTH { Err(refused(format!("sequences nested deeper than {MOST_DEPTH}"))) } else { Ok(()) }
    }

    /// Whether what is so long ends where everything round it does, or before.
    fn fits(&self, tag: Tag, length: u32) -> io::Result<()> {
        let end = self.open.iter().rev().find_map(|l| l.end).unwrap_or(self.length);
        let left = end.saturating_sub(self.at);
        if u64::from(length) > left { Err(refused(format!("element {tag} claims {length} bytes where {left} are left"))) } else { Ok(()) }
    }

    /// Leaves what ends here.
    fn close(&mut self) {
        while self.open.last().is_some_and(|l| l.end.is_some_and(|end| end <= self.at)) {
            self.open.pop();
        }
    }
}

/// What the dictionary says of an element that is written without its VR.
fn implied(tag: Tag) -> VR {
    StandardDataDictionary.by_tag(tag).map_or(VR::UN, |entry| entry.vr().relaxed())
}

/// Whether the library keeps its values apart as text.
fn is_text(vr: VR) -> bool {
    use VR::{AE, AS, CS, DA, DS, DT, IS, LO, LT, PN, SH, ST, TM, UC, UI, UR, UT};
    matches!(vr, AE | AS | CS | DA | DS | DT | IS | LO | LT | PN | SH | ST | TM | UC | UI | UR | UT)
}

/// Bytes of one number of its values, 1 for all that is no number.
fn width(vr: VR) -> u32 {
    match vr {
        VR::SS | VR::US | VR::OW => 2,
        VR::AT | VR::FL | VR::OF | VR::SL | VR::UL | VR::OL => 4,
        VR::FD | VR::OD | VR::SV | VR::UV | VR::OV => 8,
        _ => 1,
    }
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.follow(&buffer[..n])?;
        Ok(n)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPLICIT: &str = "1.2.840.10008.1.2.1";
    const IMPLICIT: &str = "1.2.840.10008.1.2";

    /// Content Sequence in Content Sequence, `depth` times; of undefined or of defined length.
    fn nested(depth: usize, explicit: bool, defined: bool) -> Vec<u8> {
        let mut inner: Vec<u8> = Vec::new();
        for _ in 0..depth {
            let length = |n: usize| if defined { (n as u32).to_le_bytes() } else { [0xff; 4] };
            let end = |low: u8| if defined { vec![] } else { vec![0xfe, 0xff, low, 0xe0, 0, 0, 0, 0] };
            let item = [&[0xfe, 0xff, 0, 0xe0][..], &length(inner.len()), &inner, &end(0x0d)].concat();
            let vr: &[u8] = if explicit { b"SQ\0\0" } else { b"" };
            inner = [&[0x40, 0, 0x30, 0xa7][..], vr, &length(item.len()), &item, &end(0xdd)].concat();
        }
        inner
    }

    fn pass(bytes: &[u8], syntax: &str) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Guard::new(bytes, syntax, bytes.len() as u64, None).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused_however_it_is_written() {
        for (syntax, explicit) in [(EXPLICIT, true), (IMPLICIT, false)] {
            for defined in [false, true] {
                let fits = nested(MOST_DEPTH, explicit, defined);
                assert_eq!(pass(&fits, syntax).unwrap(), fits);
                assert!(pass(&nested(MOST_DEPTH + 1, explicit, defined), syntax).is_err(), "{syntax} {defined}");
            }
        }
    }

    #[test]
    fn sequences_side_by_side_do_not_add_up() {
        for defined in [false, true] {
            let many: Vec<u8> = (0..500).flat_map(|_| nested(3, true, defined)).collect();
            assert!(pass(&many, EXPLICIT).is_ok());
        }
    }

    #[test]
    fn a_file_that_would_overflow_the_stack_is_an_error() {
        let mut bytes = vec![0; 128];
        bytes.extend_from_slice(b"DICM\x02\0\x10\0UI\x14\0");
        bytes.extend_from_slice(b"1.2.840.10008.1.2.1\0");
        let level = [&[0x40, 0, 0x30, 0xa7][..], b"SQ\0\0", &[0xff; 4], &[0xfe, 0xff, 0, 0xe0], &[0xff; 4]].concat();
        bytes.extend(level.repeat(50_000));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let refused = crate::series::part10::open(file.path(), None).unwrap_err();
        assert!(refused.contains("nested deeper"), "{refused}");
    }

    /// An explicit element of a VR that there is none of, which the library takes for UN.
    fn of_no_vr(length: u32) -> Vec<u8> {
        [&[0x08, 0, 0x55, 0x11][..], b"\xa3\xb6", &[0, 0], &length.to_le_bytes()].concat()
    }

    #[test]
    fn a_value_longer_than_what_is_left_is_refused_before_room_is_made_for_it() {
        let fits = [&of_no_vr(4)[..], &[0; 4]].concat();
        assert_eq!(pass(&fits, EXPLICIT).unwrap(), fits);
        let implicit = [&[0x10, 0, 0x10, 0][..], &0xd1cd_d1ce_u32.to_le_bytes(), &[0; 9]].concat();
        for (bytes, syntax) in [([of_no_vr(5), vec![0; 4]].concat(), EXPLICIT), (implicit, IMPLICIT)] {
            let reason = pass(&bytes, syntax).unwrap_err().to_string();
            assert!(reason.contains("claims") && reason.contains("are left"), "{reason}");
        }
    }

    /// Found by fuzzing: the library takes an item that stands where an element must for a value.
    #[test]
    fn an_item_inside_an_item_is_a_value() {
        let item = |length: u32| [&[0xfe, 0xff, 0, 0xe0][..], &length.to_le_bytes()].concat();
        let sequence = |length: u32| [&[0x08, 0, 0x12, 0x21][..], b"SQ\0\0", &length.to_le_bytes()].concat();
        let bytes = |inner: u32| [sequence(u32::MAX), item(u32::MAX), item(inner), vec![0; 16]].concat();
        assert!(pass(&bytes(16), EXPLICIT).is_ok());
        assert!(pass(&bytes(17), EXPLICIT).unwrap_err().to_string().contains("claims 17 bytes where 16 are left"));
        // Nor does an item reach out of its sequence, or a value out of its item.
        let reaches = [sequence(8), item(4), vec![0; 40]].concat();
        assert!(pass(&reaches, EXPLICIT).unwrap_err().to_string().contains("claims 4 bytes where 0 are left"));
        let astray = [sequence(u32::MAX), of_no_vr(4), vec![0; 4]].concat();
        assert!(pass(&astray, EXPLICIT).unwrap_err().to_string().contains("where an item must be"));
    }

    /// Found by fuzzing: of six bytes of SL the library reads four and goes on behind them.
    #[test]
    fn numbers_cut_in_two_are_refused() {
        let long = |length: u16| [&[0x08, 0, 0x02, 0x01][..], b"SL", &length.to_le_bytes(), &[0; 8]].concat();
        assert!(pass(&long(8), EXPLICIT).is_ok());
        assert!(pass(&long(6), EXPLICIT).unwrap_err().to_string().contains("no whole numbers"));
        let pixels = |offsets: u32| {
            let item = [&[0xfe, 0xff, 0, 0xe0][..], &offsets.to_le_bytes(), &vec![0; offsets as usize]].concat();
            [
                &[0xe0, 0x7f, 0x10, 0][..],
                b"OB\0\0",
                &[0xff; 4],
                &item,
                &[0xfe, 0xff, 0, 0xe0, 3, 0, 0, 0, 1, 2, 3],
                &[0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0],
            ]
            .concat()
        };
        assert!(pass(&pixels(8), EXPLICIT).is_ok() && pass(&pixels(6), EXPLICIT).is_err());
    }

    #[test]
    fn from_the_element_on_where_reading_stops_nothing_is_followed() {
        let bytes = [&[0x08, 0, 0x55, 0x11][..], b"UI\0\0", &of_no_vr(77)].concat();
        let mut out = Vec::new();
        let mut read = |until| Guard::new(&bytes[..], EXPLICIT, 20, Some(until)).read_to_end(&mut out).is_ok();
        assert!(read(Tag(0x0008, 0x1155)) && !read(tags::PIXEL_DATA));
    }

    #[test]
    fn what_is_no_vr_hides_no_depth() {
        let level = |inner: Vec<u8>| [&of_no_vr(u32::MAX)[..], &[0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0xff], &inner].concat();
        let deep = level(nested(MOST_DEPTH, true, false));
        assert!(pass(&deep, EXPLICIT).unwrap_err().to_string().contains("nested deeper"));
    }

    #[test]
    fn elements_and_values_that_would_fill_the_memory_are_refused() {
        let too_many = |bytes: &[u8]| pass(bytes, IMPLICIT).unwrap_err().to_string().contains(TOO_LONG);
        let most = usize::try_from(MOST_PARTS).unwrap();
        let text = |values: usize| [&[0x08, 0, 0x08, 0][..], &(values as u32 - 1).to_le_bytes(), &vec![b'\\'; values - 1]].concat();
        assert!(too_many(&text(most + 1)) && pass(&text(most - 1), IMPLICIT).is_ok());
        assert!(too_many(&[0x09, 0, 0x10, 0x10, 0, 0, 0, 0].repeat(most + 1)));
    }

    /// Found by fuzzing: a transfer syntax with tabs behind it is implicit to the library, so it is to the guard.
    #[test]
    fn white_space_makes_no_other_transfer_syntax() {
        let mut bytes = vec![0; 128];
        bytes.extend_from_slice(b"DICM\x02\0\x10\0UI\x12\x001.2.840.10008.1.2\t");
        bytes.extend([&[0x09, 0, 0x10, 0x10][..], &0x0909_0909_u32.to_le_bytes(), &[0; 40]].concat());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        assert!(crate::series::part10::open(file.path(), None).unwrap_err().contains("claims"));
    }

    /// Claims are looked at inside a deflated data set, too; the object says what it was written in.
    #[test]
    fn deflated_bytes_are_guarded() {
        use std::io::Write;
        let file_of = |syntax: &[u8; 22], data_set: &[u8]| {
            let mut bytes = vec![0; 128];
            bytes.extend_from_slice(&[b"DICM\x02\0\x10\0UI\x16\0", &syntax[..]].concat());
            let mut encoder = flate2::write::DeflateEncoder::new(bytes, flate2::Compression::default());
            encoder.write_all(data_set).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), encoder.finish().unwrap()).unwrap();
            crate::series::part10::open(file.path(), None)
        };
        let file = |data_set: &[u8]| file_of(b"1.2.840.10008.1.2.1.99", data_set);
        let good = file(b"\x10\0\x20\0LO\x02\0ab").unwrap();
        assert_eq!(good.meta().transfer_syntax(), "1.2.840.10008.1.2.1.99");
        assert_eq!(good.element(tags::PATIENT_ID).unwrap().to_str().unwrap(), "ab");
        let reason = file(&[of_no_vr(0xd1cd_d1ce), vec![0; 64]].concat()).unwrap_err();
        assert!(reason.contains("claims"), "{reason}");
        let reason = file_of(b"1.2.840.10008.1.2.4.95", &[of_no_vr(0xd1cd_d1ce), vec![0; 64]].concat()).unwrap_err();
        assert!(reason.contains("claims"), "{reason}");
        assert!(file(&nested(MOST_DEPTH + 1, true, false)).unwrap_err().contains("nested deeper"));
    }

    proptest! {
        #[test]
        fn any_bytes_pass_unchanged_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), which in 0usize..3) {
            let syntax = [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.2"][which];
            if let Ok(out) = pass(&bytes, syntax) {
                prop_assert_eq!(out, bytes);
            }
        }

        #[test]
        fn reading_in_pieces_sees_the_same(depth in 0usize..100, piece in 1usize..40, explicit in any::<bool>(), defined in any::<bool>()) {
            let bytes = nested(depth, explicit, defined);
            let mut guard = Guard::new(&bytes[..], if explicit { EXPLICIT } else { IMPLICIT }, bytes.len() as u64, None);
            let mut buffer = vec![0; piece];
            let outcome = loop {
                match guard.read(&mut buffer) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            prop_assert_eq!(outcome, depth <= MOST_DEPTH);
        }
    }
}
