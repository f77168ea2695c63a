//! The picture of a lesion: its key slice in the window of its type, with box and axes. Pure: returns PNG bytes.
//!
//! Two text chunks (PNG 11.3.4.3 tEXt) say what it is a picture of: `lesion` its [`caption`], `scale` the picture's pixels a pixel of the slice. A reader
//! who holds a lesion and a picture can tell whether they belong together, whatever topic or order they came in.

use super::Lesion;
use crate::detect::type_name;
use crate::volume::HuImage;

/// Longest side, pixels: enough to judge, small enough for a message.
pub const SIDE_PX: usize = 512;
const BOX_RGB: [u8; 3] = [255, 210, 0];
const AXES_RGB: [u8; 3] = [90, 220, 255];
const SHADOW_RGB: [u8; 3] = [0, 0, 0];
/// After the data of each PNG chunk.
const CRC_BYTES: usize = 4;

/// HU window a type is read in.
#[must_use]
pub fn window(type_name: &str) -> [f32; 2] {
    match type_name {
        "lung" => [-1350.0, 150.0],
        "bone" => [-450.0, 1050.0],
        _ => [-160.0, 240.0],
    }
}

/// What the text chunk `lesion` of a picture says: the box on the original image, tenths of a pixel, and the slices from 1 on, as in the documents.
#[must_use]
pub fn caption(box_px: [f64; 4], slices: [usize; 2]) -> String {
    // + 0.0: no negative zero.
    let [x1, y1, x2, y2] = box_px.map(|v| (v * 10.0).round() / 10.0 + 0.0);
    format!("box {x1:.1} {y1:.1} {x2:.1} {y2:.1} slices {} {}", slices[0], slices[1])
}

/// A text chunk of a PNG, `None` where it has none or is no PNG. Nothing is decoded.
#[must_use]
pub fn text<'a>(png: &'a [u8], keyword: &str) -> Option<&'a str> {
    let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let (data, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        if kind == b"tEXt"
            && let Some(value) = data.strip_prefix(keyword.as_bytes()).and_then(|d| d.strip_prefix(b"\0"))
        {
            return std::str::from_utf8(value).ok();
        }
        rest = after.get(CRC_BYTES..)?;
    }
}

struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn dot(&mut self, x: i64, y: i64, colour: [u8; 3]) {
        if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y))
            && x < self.width
            && y < self.height
        {
            self.rgb[(y * self.width + x) * 3..][..3].copy_from_slice(&colour);
        }
    }

    /// A line, and its shadow one pixel off, so that it shows on light and dark ground.
    fn line(&mut self, a: [f32; 2], b: [f32; 2], colour: [u8; 3]) {
        let steps = (a[0] - b[0]).abs().max((a[1] - b[1]).abs()).ceil().clamp(1.0, 4.0 * SIDE_PX as f32) as usize;
        for (shift, colour) in [(1, SHADOW_RGB), (0, colour)] {
            for i in 0..=steps {
                let t = i as f32 / steps as f32;
                let (x, y) = (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t);
                self.dot(x.round() as i64 + shift, y.round() as i64 + shift, colour);
            }
        }
    }
}

/// Draws `lesion` on `image`, the whole slice, and encodes it.
///
/// # Errors
/// The encoder's, which writes to memory only.
pub fn draw(image: &HuImage, lesion: &Lesion) -> Result<Vec<u8>, png::EncodingError> {
    let kind = type_name(&lesion.types);
    let [low, high] = window(kind);
    let scale = SIDE_PX as f32 / image.rows.max(image.cols).max(1) as f32;
    let (width, height) = (((image.cols as f32 * scale) as usize).max(1), ((image.rows as f32 * scale) as usize).max(1));
    let mut canvas = Canvas { width, height, rgb: vec![0; width * height * 3] };
    for (i, cell) in canvas.rgb.chunks_exact_mut(3).enumerate() {
        let at = |p: usize, most: usize| ((p as f32 + 0.5) / scale) as usize % most.max(1);
        let hu = f32::from(image.hu[at(i / width, image.rows) * image.cols + at(i % width, image.cols)]);
        cell.fill(((hu - low) / (high - low) * 255.0).clamp(0.0, 255.0) as u8);
    }
    let to = |p: [f32; 2]| [(p[0] + 0.5) * scale - 0.5, (p[1] + 0.5) * scale - 0.5];
    let [x1, y1, x2, y2] = lesion.box_px;
    for (a, b) in [([x1, y1], [x2, y1]), ([x2, y1], [x2, y2]), ([x2, y2], [x1, y2]), ([x1, y2], [x1, y1])] {
        canvas.line(to(a), to(b), BOX_RGB);
    }
    for ends in lesion.recist_px.chunks_exact(2) {
        canvas.line(to(ends[0]), to(ends[1]), AXES_RGB);
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    encoder.add_text_chunk("lesion".into(), caption(lesion.box_px.map(f64::from), lesion.slices.map(|s| s + 1)))?;
    encoder.add_text_chunk("scale".into(), scale.to_string())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::detect::TYPES;

    fn lesion() -> Lesion {
        Lesion {
            number: 1,
            score: 0.5,
            types: [0.125; TYPES],
            key_slice: 0,
            slices: [3, 7],
            box_px: [100.0, 50.0, 140.0, 90.0],
            center_lps_mm: [0.0; 3],
            long_axis_mm: 10.0,
            short_axis_mm: 8.0,
            recist_px: [[105.0, 70.0], [135.0, 70.0], [120.0, 60.0], [120.0, 80.0]],
            segmented: false,
            volume_mm3: 1.0,
        }
    }

    #[test]
    fn the_picture_says_what_it_shows() {
        let image = HuImage { rows: 128, cols: 256, hu: vec![0; 128 * 256] };
        // A tie: the document rounds it in f64, the picture must come to the same.
        let bytes = draw(&image, &Lesion { box_px: [100.25, 50.0, 140.75, 90.0], ..lesion() }).unwrap();
        assert_eq!(text(&bytes, "lesion"), Some(caption([100.3, 50.0, 140.8, 90.0], [4, 8]).as_str()));
        assert_eq!(text(&bytes, "scale"), Some("2"));
        assert_eq!(text(&bytes, "other"), None);
        for cut in 0..bytes.len().min(200) {
            let _ = text(&bytes[..cut], "other");
        }
    }

    #[test]
    fn the_picture_shows_the_box() {
        let image = HuImage { rows: 256, cols: 512, hu: vec![-1000; 256 * 512] };
        let bytes = draw(&image, &lesion()).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (512, 256));
        assert_eq!(pixels[(50 * 512 + 110) * 3..][..3], BOX_RGB);
        assert_eq!(pixels[(70 * 512 + 110) * 3..][..3], AXES_RGB);
    }
}
