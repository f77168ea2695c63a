//! JPEG Extended (transfer syntax 1.2.840.10008.1.2.4.51): one codestream → stored values.
//!
//! Duty: sequential DCT, Huffman coded, 8 or 12 bits, one component (processes 1, 2 and 4). Anything else is named and refused. Clauses are of ITU-T T.81
//! (09/92). The stream sizes nothing: the image is as large as the caller says or an error, tables are fixed, and every step of a loop uses up input or an image block.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Why a codestream gave no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JpegError {
    /// Not a process of this decoder.
    #[error("{0}: only sequential DCT with Huffman codes and one component can be decoded")]
    Process(&'static str),
    /// The data end too early.
    #[error("ends within {0}")]
    Cut(&'static str),
    /// Offset in bytes, what stands there (of a marker, its second byte), and what should.
    #[error("byte {0} is 0x{1:02X}: {2}")]
    Marker(usize, u8, &'static str),
    /// A marker segment contradicts T.81: which, and what is wrong with it.
    #[error("{0} {1}")]
    Segment(&'static str, &'static str),
    /// Frame header and DICOM header differ; both as rows, columns and bits.
    #[error("the frame is {} x {} at {} bits, the DICOM header says {} x {} at {}", .0.0, .0.1, .0.2, .1.0, .1.1, .1.2)]
    Frame((u16, u16, u16), (u16, u16, u16)),
    /// Entropy-coded data are damaged: number of the block in reading order from 0, and what is wrong there.
    #[error("8 x 8 block {0}: {1}")]
    Block(usize, &'static str),
}

/// Decodes the first image in `stream`; what follows it is ignored. `rows * cols` values, row-major, unsigned, within `bits_stored` bits: the overshoot of a
/// lossy code must not wrap around where Bits Stored is less than the stream's precision.
///
/// # Errors
/// [`JpegError`].
pub fn decode(stream: &[u8], rows: u16, cols: u16, bits_stored: u16) -> Result<Vec<u16>, JpegError> {
    let mut input = Input { data: stream, at: 0, within: "the marker segments" };
    if input.pair()? != 0xffd8 {
        return Err(JpegError::Marker(0, stream[0], "not the start of an image (FF D8)"));
    }
    let mut tables = Tables::default();
    let mut frame = None;
    loop {
        match input.marker()? {
            code @ (0xc0 | 0xc1) => {
                if frame.is_some() {
                    return Err(JpegError::Segment("SOF", "comes twice"));
                }
                let found = Frame::read(code, input.segment("SOF")?)?;
                if (found.rows, found.cols) != (rows, cols) || (found.bits > 8 && bits_stored <= 8) {
                    let found = (found.rows, found.cols, found.bits.into());
                    return Err(JpegError::Frame(found, (rows, cols, bits_stored)));
                }
                frame = Some(found);
            }
            0xc4 => tables.huffman(input.segment("DHT")?)?,
            0xdb => tables.quantisers(input.segment("DQT")?)?,
            0xdd => tables.interval = input.segment("DRI")?.pair()?.into(),
            0xda => {
                let frame = frame.ok_or(JpegError::Segment("SOS", "comes before any frame header"))?;
                let scan = Scan::read(&frame, &tables, input.segment("SOS")?)?;
                return scan.decode(Bits { data: stream, at: input.at, pool: 0, held: 0 }, bits_stored);
            }
            0xc2 => return Err(JpegError::Process("progressive (SOF2)")),
            0xc3 => return Err(JpegError::Process("lossless (SOF3)")),
            0xc5..=0xc7 | 0xde => return Err(JpegError::Process("hierarchical")),
            0xc9..=0xcf => return Err(JpegError::Process("arithmetic coding")),
            0xe0..=0xef | 0xfe => {
                input.segment("APP or COM")?;
            }
            found => return Err(JpegError::Marker(input.at - 1, found, "a marker that has no place before the scan")),
        }
    }
}

/// Bytes outside entropy-coded data.
struct Input<'a> {
    data: &'a [u8],
    at: usize,
    /// Part of the stream, for [`JpegError::Cut`].
    within: &'static str,
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, JpegError> {
        let byte = *self.data.get(self.at).ok_or(JpegError::Cut(self.within))?;
        self.at += 1;
        Ok(byte)
    }

    fn pair(&mut self) -> Result<u16, JpegError> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], JpegError> {
        let taken = self.data[self.at..].get(..bytes).ok_or(JpegError::Cut(self.within))?;
        self.at += bytes;
        Ok(taken)
    }

    /// Second byte of the next marker, past any fill bytes (B.1.1.2).
    fn marker(&mut self) -> Result<u8, JpegError> {
        let at = self.at;
        let mut code = self.byte()?;
        if code != 0xff {
            return Err(JpegError::Marker(at, code, "a marker is due"));
        }
        while code == 0xff {
            code = self.byte()?;
        }
        Ok(code)
    }

    /// Contents of the marker segment at hand (B.1.1.4).
    fn segment(&mut self, name: &'static str) -> Result<Input<'a>, JpegError> {
        self.within = name;
        let length = usize::from(self.pair()?).checked_sub(2).ok_or(JpegError::Segment(name, "is shorter than its own length"))?;
        let data = self.take(length)?;
        self.within = "the marker segments";
        Ok(Input { data, at: 0, within: name })
    }

    fn is_empty(&self) -> bool {
        self.at == self.data.len()
    }
}

/// Frame header (B.2.2). Sampling factors are checked and not kept: those of a lone component cancel out (A.1.1), and its scan is not interleaved (A.2.2).
struct Frame {
    rows: u16,
    cols: u16,
    bits: u8,
    component: u8,
    quantiser: u8,
}

impl Frame {
    fn read(code: u8, mut segment: Input<'_>) -> Result<Self, JpegError> {
        let wrong = |what| Err(JpegError::Segment("SOF", what));
        let (bits, rows, cols) = (segment.byte()?, segment.pair()?, segment.pair()?);
        if segment.byte()? != 1 {
            return Err(JpegError::Process("not one component"));
        }
        let (component, sampling, quantiser) = (segment.byte()?, segment.byte()?, segment.byte()?);
        if !(bits == 8 || (bits == 12 && code == 0xc1)) {
            return wrong("has a precision other than 8 bits, or 12 where it is extended");
        }
        if rows == 0 {
            return wrong("leaves the number of lines to a DNL segment, which is not supported");
        }
        if cols == 0 || !(1..=4).contains(&(sampling >> 4)) || !(1..=4).contains(&(sampling & 15)) || quantiser > 3 {
            return wrong("has a width, a sampling factor or a table number out of range");
        }
        Ok(Self { rows, cols, bits, component, quantiser })
    }
}

/// What DQT, DHT and DRI segments said so far (B.2.4).
#[derive(Default)]
struct Tables {
    /// In zigzag order.
    quantisers: [Option<[f32; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    /// Blocks between restart markers; 0 for none.
    interval: usize,
}

impl Tables {
    fn quantisers(&mut self, mut segment: Input<'_>) -> Result<(), JpegError> {
        while !segment.is_empty() {
            let head = segment.byte()?;
            let (wide, slot) = (head >> 4, self.quantisers.get_mut(usize::from(head & 15)));
            let (0 | 1, Some(slot)) = (wide, slot) else {
                return Err(JpegError::Segment("DQT", "has a precision or a table number out of range"));
            };
            let table = slot.insert([0.0; 64]);
            for step in table {
                *step = if wide == 1 { segment.pair()?.into() } else { segment.byte()?.into() };
            }
        }
        Ok(())
    }

    fn huffman(&mut self, mut segment: Input<'_>) -> Result<(), JpegError> {
        let wrong = |what| JpegError::Segment("DHT", what);
        while !segment.is_empty() {
            let head = segment.byte()?;
            let class = match head >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(wrong("has a table class out of range")),
            };
            let slot = class.get_mut(usize::from(head & 15)).ok_or(wrong("has a table number out of range"))?;
            let counts = segment.take(16)?;
            let symbols = segment.take(counts.iter().map(|n| usize::from(*n)).sum())?;
            *slot = Some(Huffman::new(counts, symbols).ok_or(wrong("has more codes than its lengths leave room for"))?);
        }
        Ok(())
    }
}

/// Codes of one table, in order of length and value (C.2).
struct Huffman {
    /// By length: one past its last code, the code's bits at the top of 16.
    ends: [i32; 17],
    /// By length: what to add to a code for the index of its symbol.
    bases: [i32; 17],
    symbols: [u8; 256],
}

impl Huffman {
    /// `counts` of codes by length, 1 to 16; `None` where they are no prefix code.
    fn new(counts: &[u8], symbols: &[u8]) -> Option<Self> {
        let mut table = Self { ends: [0; 17], bases: [0; 17], symbols: [0; 256] };
        table.symbols.get_mut(..symbols.len())?.copy_from_slice(symbols);
        let (mut code, mut index) = (0_i32, 0_i32);
        for (length, count) in (1..=16).zip(counts) {
            table.bases[length] = index - code;
            code += i32::from(*count);
            index += i32::from(*count);
            if code > 1 << length {
                return None;
            }
            table.ends[length] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// Entropy-coded data, byte stuffing removed (B.1.1.5).
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// `held` bits at the top, zeros below.
    pool: u64,
    held: u32,
}

impl Bits<'_> {
    /// Stops at a marker or at the end.
    fn fill(&mut self) {
        while self.held <= 56 {
            let step = match self.data.get(self.at..) {
                Some([0xff, 0, ..]) => 2,
                Some([0xff, ..] | []) | None => return,
                Some(_) => 1,
            };
            self.pool |= u64::from(self.data[self.at]) << (56 - self.held);
            self.held += 8;
            self.at += step;
        }
    }

    /// `count` bits, 1 to 16.
    fn take(&mut self, count: u8) -> Result<i32, &'static str> {
        if self.held < 16 {
            self.fill();
        }
        let value = (self.pool >> (64 - count)) as i32;
        self.held = self.held.checked_sub(count.into()).ok_or("the data end before its last code")?;
        self.pool <<= count;
        Ok(value)
    }

    /// DECODE (F.2.2.3).
    fn symbol(&mut self, table: &Huffman) -> Result<u8, &'static str> {
        if self.held < 16 {
            self.fill();
        }
        let next = (self.pool >> 48) as i32;
        let length = (1..=16_u8).find(|l| next < table.ends[usize::from(*l)]).ok_or("a code that is in no table")?;
        let index = self.take(length)? + table.bases[usize::from(length)];
        usize::try_from(index).ok().and_then(|i| table.symbols.get(i)).copied().ok_or("a code that is in no table")
    }

    /// RECEIVE (F.2.2.4) and EXTEND (F.2.2.1): a difference or coefficient of `size` bits, 0 to 15.
    fn signed(&mut self, size: u8) -> Result<i32, &'static str> {
        if size == 0 {
            return Ok(0);
        }
        let value = self.take(size)?;
        Ok(if value < 1 << (size - 1) { value + 1 - (1 << size) } else { value })
    }

    /// Drops what pads the last byte (B.1.1.5); more than that means that blocks and data have parted.
    fn finish(&mut self) -> Result<(), &'static str> {
        self.fill();
        if self.held >= 8 {
            return Err("data are left over behind it");
        }
        (self.pool, self.held) = (0, 0);
        Ok(())
    }

    /// Passes restart marker `number`, 0 to 7 (E.2.4).
    fn restart(&mut self, number: u8) -> Result<(), &'static str> {
        self.finish()?;
        let mut input = Input { data: self.data, at: self.at, within: "the scan" };
        let found = input.marker();
        self.at = input.at;
        if found == Ok(0xd0 + number) { Ok(()) } else { Err("its restart marker is not there") }
    }
}

/// Row-major place of each coefficient in zigzag order (figure A.6).
#[rustfmt::skip]
const ZIGZAG: [usize; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The one scan of a frame with one component, and the tables that it uses.
struct Scan<'a> {
    frame: &'a Frame,
    quantiser: &'a [f32; 64],
    dc: &'a Huffman,
    ac: &'a Huffman,
    interval: usize,
}

impl<'a> Scan<'a> {
    /// Scan header (B.2.3).
    fn read(frame: &'a Frame, tables: &'a Tables, mut segment: Input<'_>) -> Result<Self, JpegError> {
        let wrong = |what| JpegError::Segment("SOS", what);
        if segment.byte()? != 1 || segment.byte()? != frame.component {
            return Err(wrong("is not of the frame's one component"));
        }
        let selected = segment.byte()?;
        if (segment.byte()?, segment.byte()?, segment.byte()?) != (0, 63, 0) {
            return Err(wrong("holds a part of the coefficients, as progressive scans do"));
        }
        let quantiser = tables.quantisers[usize::from(frame.quantiser)].as_ref().ok_or(wrong("comes before its quantisation table"))?;
        let table = |of: &'a [Option<Huffman>; 4], number: u8| of.get(usize::from(number))?.as_ref();
        let dc = table(&tables.dc, selected >> 4).ok_or(wrong("comes before its DC table"))?;
        let ac = table(&tables.ac, selected & 15).ok_or(wrong("comes before its AC table"))?;
        Ok(Self { frame, quantiser, dc, ac, interval: tables.interval })
    }

    fn decode(&self, mut bits: Bits<'_>, bits_stored: u16) -> Result<Vec<u16>, JpegError> {
        let (rows, cols) = (usize::from(self.frame.rows), usize::from(self.frame.cols));
        let mut samples = vec![0; rows * cols];
        let basis = basis();
        // Level shift (A.3.1), with the half that makes truncation round.
        let middle = f32::from(1_u16 << (self.frame.bits - 1)) + 0.5;
        let most = ((1_u32 << bits_stored.min(self.frame.bits.into())) - 1) as f32;
        let across = cols.div_ceil(8);
        let mut dc = 0;
        for block in 0..across * rows.div_ceil(8) {
            let at = |what| JpegError::Block(block, what);
            if self.interval > 0 && block > 0 && block.is_multiple_of(self.interval) {
                bits.restart(((block / self.interval - 1) % 8) as u8).map_err(at)?;
                dc = 0;
            }
            let coefficients = self.block(&mut bits, &mut dc).map_err(at)?;
            let (top, left) = (block / across * 8, block % across * 8);
            let width = 8.min(cols - left);
            for (line, values) in samples[top * cols..].chunks_mut(cols).zip(inverse_dct(&coefficients, &basis)) {
                for (sample, value) in line[left..left + width].iter_mut().zip(values) {
                    *sample = (value + middle).clamp(0.0, most) as u16;
                }
            }
        }
        bits.finish().map_err(|what| JpegError::Block(across * rows.div_ceil(8) - 1, what))?;
        Ok(samples)
    }

    /// Dequantised coefficients of one block, row-major (F.2.2.1, F.2.2.2). `dc` is the prediction and becomes this block's.
    fn block(&self, bits: &mut Bits<'_>, dc: &mut i32) -> Result<[f32; 64], &'static str> {
        let mut coefficients = [0.0; 64];
        // Sizes go to 11 for DC and 10 for AC at 8 bits (tables F.1, F.2), to 15 and 14 at 12 bits (tables F.6, F.7).
        let most = self.frame.bits + 3;
        let size = bits.symbol(self.dc)?;
        if size > most {
            return Err("a DC difference larger than its precision allows");
        }
        *dc += bits.signed(size)?;
        // Samples give half of this at most; without a bound a damaged stream could add up until it overflows.
        if dc.abs() > 1 << most {
            return Err("DC out of range");
        }
        coefficients[0] = *dc as f32 * self.quantiser[0];
        let mut k = 1;
        while k < 64 {
            let symbol = bits.symbol(self.ac)?;
            let (run, size) = (usize::from(symbol >> 4), symbol & 15);
            match (run, size) {
                (0, 0) => break,
                (15, 0) => {}
                (_, 0) => return Err("a run that only progressive scans have"),
                (_, size) if size >= most => return Err("a coefficient larger than its precision allows"),
                _ => {}
            }
            k += run;
            if k > 63 {
                return Err("more than 64 coefficients");
            }
            coefficients[ZIGZAG[k]] = bits.signed(size)? as f32 * self.quantiser[k];
            k += 1;
        }
        Ok(coefficients)
    }
}

/// `[u][x]`: C(u) / 2 · cos((2x + 1) u π / 16) (A.3.3).
fn basis() -> [[f32; 8]; 8] {
    let scale = |u| if u == 0 { FRAC_1_SQRT_2 / 2.0 } else { 0.5 };
    std::array::from_fn(|u| std::array::from_fn(|x| (scale(u) * (((2 * x + 1) * u) as f64 * PI / 16.0).cos()) as f32))
}

/// Columns, then rows, each as sums of eight lanes at a time; f32 keeps 12 bits to better than a hundredth.
fn inverse_dct(coefficients: &[f32; 64], basis: &[[f32; 8]; 8]) -> [[f32; 8]; 8] {
    let mut columns = [[0.0; 8]; 8];
    for (line, basis) in coefficients.chunks_exact(8).zip(basis) {
        if line.iter().all(|c| *c == 0.0) {
            continue;
        }
        for (out, weight) in columns.iter_mut().zip(basis) {
            for (sum, coefficient) in out.iter_mut().zip(line) {
                *sum += weight * coefficient;
            }
        }
    }
    columns.map(|column| {
        let mut out = [0.0; 8];
        for (coefficient, basis) in column.iter().zip(basis) {
            for (sum, weight) in out.iter_mut().zip(basis) {
                *sum += coefficient * weight;
            }
        }
        out
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::series::part10;
    use dicom_dictionary_std::tags;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// The codestream of a CT slice, 512 x 512, 12 bits, written by DCMTK.
    static SLICE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/syntaxes/CT_1.2.840.10008.1.2.4.51.dcm");
        let object = part10::open(path.as_ref(), None).unwrap();
        object.element(tags::PIXEL_DATA).unwrap().value().fragments().unwrap().concat()
    });

    /// 10 rows, 18 columns: six flat blocks of 2048 + `DC`, with all that the slice lacks: 16-bit steps, sampling factors, a comment, fill bytes, restarts.
    const DC: [i32; 6] = [100, 100, -2048, 2047, 0, -1];

    fn flat() -> Vec<u8> {
        let mut stream = vec![0xff, 0xd8, 0xff, 0xff, 0xfe, 0, 4, 0xff, 0xd9, 0xff, 0xdb, 0, 131, 0x12];
        stream.extend([0, 8].repeat(64)); // steps of 8: a DC of 1 is 1 grey level
        stream.extend([0xff, 0xc1, 0, 11, 12, 0, 10, 0, 18, 1, 7, 0x21, 2]);
        stream.extend([0xff, 0xc4, 0, 35, 0x03, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // DC: size n is n in 5 bits
        stream.extend(0..16);
        stream.extend([0xff, 0xc4, 0, 20, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // AC: end of block is 0
        stream.extend([0xff, 0xdd, 0, 4, 0, 2, 0xff, 0xda, 0, 8, 1, 7, 0x30, 0, 63, 0]);
        for (number, pair) in DC.chunks(2).enumerate() {
            if number > 0 {
                stream.extend([0xff, 0xff, 0xd0 + number as u8 - 1]);
            }
            let mut bits = String::new();
            for (dc, before) in pair.iter().zip([0, pair[0]]) {
                let difference = dc - before;
                let size = 32 - difference.unsigned_abs().leading_zeros() as usize;
                let coded = if difference < 0 { difference - 1 + (1 << size) } else { difference };
                bits += &format!("{size:05b}");
                bits += &if size > 0 { format!("{coded:0size$b}0") } else { "0".into() };
            }
            bits += &"1".repeat(bits.len().next_multiple_of(8) - bits.len());
            for byte in bits.as_bytes().chunks(8).map(|b| u8::from_str_radix(str::from_utf8(b).unwrap(), 2).unwrap()) {
                stream.push(byte);
                stream.extend((byte == 0xff).then_some(0));
            }
        }
        stream.extend([0xff, 0xd9]);
        stream
    }

    #[test]
    fn what_the_standard_allows_and_scanners_rarely_write_is_read() {
        let samples = decode(&flat(), 10, 18, 12).unwrap();
        for (at, sample) in samples.iter().enumerate() {
            assert_eq!(i32::from(*sample), 2048 + DC[at / 18 / 8 * 3 + at % 18 / 8], "pixel {at}");
        }
        // Fewer Bits Stored than the stream's precision clamp, they do not wrap.
        assert_eq!(decode(&flat(), 10, 18, 10).unwrap().iter().max(), Some(&1023));
    }

    #[test]
    fn the_inverse_transform_is_that_of_the_standard() {
        // Largest coefficients of either sign, all at once: the worst that f32 can meet.
        let coefficients: [f32; 64] = std::array::from_fn(|i| if i * 7 % 3 == 0 { 16383.0 } else { -16383.0 });
        let c = |u| if u == 0 { FRAC_1_SQRT_2 } else { 1.0 };
        let cos = |x: usize, u: usize| (((2 * x + 1) * u) as f64 * PI / 16.0).cos();
        let found = inverse_dct(&coefficients, &basis());
        for (y, x) in (0..64).map(|i| (i / 8, i % 8)) {
            let terms = (0..64).map(|i| (i / 8, i % 8, f64::from(coefficients[i])));
            let expected: f64 = terms.map(|(v, u, s)| c(u) * c(v) * s * cos(x, u) * cos(y, v) / 4.0).sum();
            assert!((f64::from(found[y][x]) - expected).abs() < 0.05, "{y} {x}: {} {expected}", found[y][x]);
        }
    }

    #[test]
    fn what_is_not_decoded_is_named() {
        let with = |at: usize, value: u8| {
            let mut stream = flat();
            stream[at] = value;
            decode(&stream, 10, 18, 12).unwrap_err().to_string()
        };
        let sof = flat().windows(2).position(|w| w == [0xff, 0xc1]).unwrap() + 1;
        for (at, value, named) in [
            (1, 0xd9, "start of an image"),
            (sof, 0xc2, "progressive"),
            (sof, 0xc3, "lossless"),
            (sof, 0xc6, "hierarchical"),
            (sof, 0xc9, "arithmetic"),
            (sof, 0xc0, "precision"),
            (sof + 3, 16, "precision"),
            (sof + 5, 0, "DNL"),
            (sof + 7, 19, "10 x 19 at 12 bits, the DICOM header says 10 x 18 at 12"),
            (sof + 8, 3, "not one component"),
            (sof + 10, 0x05, "sampling"),
            (sof + 11, 1, "quantisation table"),
        ] {
            let reason = with(at, value);
            assert!(reason.contains(named), "{reason}");
        }
        assert!(matches!(decode(&flat(), 10, 18, 8), Err(JpegError::Frame(..))));
    }

    #[test]
    fn a_cut_stream_is_never_taken_for_a_whole_one() {
        let flat = flat();
        assert!(decode(&flat[..flat.len() - 2], 10, 18, 12).is_ok(), "an end marker adds nothing");
        for cut in 0..flat.len() - 2 {
            assert!(decode(&flat[..cut], 10, 18, 12).is_err(), "cut at {cut}");
        }
        for cut in (0..SLICE.len() - 4).step_by(1009) {
            assert!(decode(&SLICE[..cut], 512, 512, 12).is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error_or_an_image_of_the_right_size(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8),
            whole in any::<bool>(),
        ) {
            for (stream, rows, cols) in [(flat(), 10, 18), (SLICE.clone(), 512, 512)] {
                let mut damaged = stream;
                for (at, value, early) in &edits {
                    // Half of the edits hit the headers.
                    let reach = if *early { damaged.len().min(300) } else { damaged.len() };
                    damaged[at.index(reach)] = *value;
                }
                if !whole {
                    damaged.truncate(edits[0].0.index(damaged.len()));
                }
                if let Ok(samples) = decode(&damaged, rows, cols, 12) {
                    prop_assert_eq!(samples.len(), usize::from(rows) * usize::from(cols));
                    prop_assert!(samples.iter().all(|s| *s < 4096));
                }
            }
        }

        #[test]
        fn no_bytes_are_more_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), from in 0_usize..300) {
            // Behind a true beginning, so that every segment reader meets them.
            let mut stream = flat();
            stream.truncate(from);
            stream.extend(bytes);
            let _ = decode(&stream, 10, 18, 12);
        }
    }
}
