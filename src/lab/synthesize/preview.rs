//! A contact sheet of samples for a person to judge.

use std::path::Path;

use super::{CROP, Sample};
use crate::error::{Class, Failure};

/// Writes `samples` as a PNG sheet of `columns` columns: middle plane, soft-tissue or lung window (whichever shows more), boxes drawn.
///
/// # Errors
/// [`Class::Io`].
pub fn write(path: &Path, samples: &[Sample], columns: usize) -> Result<(), Failure> {
    let rows = samples.len().div_ceil(columns);
    let (width, height) = (columns * CROP, rows * CROP);
    let mut sheet = vec![0u8; width * height * 3];
    for (n, sample) in samples.iter().enumerate() {
        let (left, top) = (n % columns * CROP, n / columns * CROP);
        let middle = sample.slots / 2 * CROP * CROP * 3;
        let plane = &sample.data[middle..middle + CROP * CROP * 3];
        let airy =
            plane.chunks_exact(3).filter(|c| c[0] <= 0.0).count() > CROP * CROP / 3 && sample.truths.iter().all(|t| t.lesion_type == 4);
        for (i, cell) in plane.chunks_exact(3).enumerate() {
            let grey = (if airy { cell[1] } else { cell[0] } * 255.0) as u8;
            let at = ((top + i / CROP) * width + left + i % CROP) * 3;
            sheet[at..at + 3].fill(grey);
        }
        let boxes = sample.truths.iter().map(|t| (t.box_px, [80, 255, 80])).chain(sample.ignore.iter().map(|b| (*b, [160, 120, 0])));
        for (b, colour) in boxes {
            let c = b.map(|v| v.clamp(0.0, CROP as f32 - 1.0) as usize);
            let mut dot = |x: usize, y: usize| sheet[((top + y) * width + left + x) * 3..][..3].copy_from_slice(&colour);
            for x in c[0]..=c[2] {
                dot(x, c[1]);
                dot(x, c[3]);
            }
            for y in c[1]..=c[3] {
                dot(c[0], y);
                dot(c[2], y);
            }
        }
    }
    let io = |e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    let file = std::fs::File::create(path).map_err(|e| io(&e))?;
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().and_then(|mut w| w.write_image_data(&sheet)).map_err(|e| io(&e))
}
