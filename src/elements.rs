//! Data sets walked over element by element, without parsing values. Pure.

/// Sequences in sequences: deeper is not a CT image.
const MOST_DEPTH: u8 = 16;
/// A length that a delimiter ends.
pub const UNDEFINED: u32 = u32::MAX;
/// Begins an item of a sequence.
pub const ITEM: (u16, u16) = (0xFFFE, 0xE000);
/// Ends an item of undefined length.
pub const ITEM_END: (u16, u16) = (0xFFFE, 0xE00D);
/// Ends a sequence of undefined length.
pub const SEQUENCE_END: (u16, u16) = (0xFFFE, 0xE0DD);

/// PS3.5 7.1.2: all but these have a length of four bytes after two reserved ones; so has what is no VR at all, which the data set library takes for UN.
#[must_use]
pub fn has_long_length(vr: [u8; 2]) -> bool {
    let short = matches!(
        &vr,
        b"AE"
            | b"AS"
            | b"AT"
            | b"CS"
            | b"DA"
            | b"DS"
            | b"DT"
            | b"FL"
            | b"FD"
            | b"IS"
            | b"LO"
            | b"LT"
            | b"PN"
            | b"SH"
            | b"SL"
            | b"SS"
            | b"ST"
            | b"TM"
            | b"UI"
            | b"UL"
            | b"US"
    );
    !short
}

/// How elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// With their VRs.
    pub explicit: bool,
    /// Big endian.
    pub big: bool,
}

impl Encoding {
    /// Of a data set in `transfer_syntax`, once it is inflated.
    #[must_use]
    pub fn of(transfer_syntax: &str) -> Self {
        match transfer_syntax {
            "1.2.840.10008.1.2" => Self { explicit: false, big: false },
            "1.2.840.10008.1.2.2" => Self { explicit: true, big: true },
            _ => Self { explicit: true, big: false },
        }
    }
}

/// A place in a data set.
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
}

/// Header of an element, item or delimiter.
pub struct Element {
    /// Group and element.
    pub tag: (u16, u16),
    /// Written with the VR UN.
    is_unknown: bool,
    /// Bytes of its value, or [`UNDEFINED`].
    pub length: u32,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a data set.
    #[must_use]
    pub fn new(bytes: &'a [u8], encoding: Encoding) -> Self {
        Self { bytes, at: 0, encoding }
    }

    /// Bytes before it.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Where what begins here ends; `None` where a delimiter ends it.
    #[must_use]
    pub fn end_of(&self, length: u32) -> Option<usize> {
        (length != UNDEFINED).then(|| self.at.saturating_add(length as usize))
    }

    /// Passes over the value of `element`; `None` where it cannot be followed.
    pub fn skip(&mut self, element: &Element) -> Option<()> {
        self.skip_within(element, 0)
    }

    fn skip_within(&mut self, element: &Element, depth: u8) -> Option<()> {
        if element.length != UNDEFINED {
            return self.take(element.length as usize).map(drop);
        }
        let outside = self.encoding;
        if element.is_unknown {
            // PS3.5 6.2.2: a sequence, its items Implicit VR Little Endian.
            self.encoding = Encoding { explicit: false, big: false };
        }
        let skipped = self.skip_undefined(depth);
        self.encoding = outside;
        skipped
    }

    /// The next `n` bytes; `None` where there are not as many.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        let big = self.encoding.big;
        let b = self.take(2)?;
        Some(if big { u16::from_be_bytes([b[0], b[1]]) } else { u16::from_le_bytes([b[0], b[1]]) })
    }

    fn u32(&mut self) -> Option<u32> {
        let big = self.encoding.big;
        let b = self.take(4)?;
        let b = [b[0], b[1], b[2], b[3]];
        Some(if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    }

    /// Header of what stands here; its value is next.
    pub fn element(&mut self) -> Option<Element> {
        let tag = (self.u16()?, self.u16()?);
        if tag.0 == ITEM.0 || !self.encoding.explicit {
            return Some(Element { tag, is_unknown: false, length: self.u32()? });
        }
        let vr = self.take(2)?;
        let length = if has_long_length([vr[0], vr[1]]) {
            self.take(2)?;
            self.u32()?
        } else {
            self.u16()?.into()
        };
        Some(Element { tag, is_unknown: vr == b"UN", length })
    }

    /// Skips a sequence or item of undefined length.
    fn skip_undefined(&mut self, depth: u8) -> Option<()> {
        if depth > MOST_DEPTH {
            return None;
        }
        loop {
            let e = self.element()?;
            if e.tag == ITEM_END || e.tag == SEQUENCE_END {
                return Some(());
            }
            self.skip_within(&e, depth + 1)?;
        }
    }
}
