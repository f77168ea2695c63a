//! Contact sheets for a person to judge: samples, and where lesions may lie.

use std::path::Path;

use rayon::prelude::*;

use super::places::raster::STEP;
use super::places::site::{Part, Site, Sites};
use super::{CROP, Sample};
use crate::error::{Class, Failure};
use crate::lab::dataset::Scan;

/// Tiles a row.
const COLUMNS: usize = 8;
/// Slices on a sheet of places.
const SLICES: usize = 48;
/// Side of such a slice's tile, pixels: two image pixels each.
const SLICE_TILE: usize = 256;
/// Soft-tissue window, HU.
const WINDOW_HU: [f32; 2] = [-160.0, 240.0];

const LESION: Colour = [80, 255, 80];
const NEITHER_WAY: Colour = [160, 120, 0];

/// What a kind of place is drawn in, in the order of the legend.
const PLACES: [(Site, &str, Colour); 8] = [
    (Site::Lung, "lung red", [230, 40, 40]),
    (Site::Parenchyma, "organs green", [40, 220, 40]),
    (Site::Kidney, "kidneys yellow", [250, 240, 40]),
    (Site::Fat, "fat inside magenta", [240, 40, 240]),
    (Site::Subcutaneous, "fat under the skin cyan", [40, 200, 250]),
    (Site::Muscle, "muscle orange", [250, 140, 20]),
    (Site::Bone, "bone blue", [70, 90, 255]),
    (Site::Gland, "glands white", [255, 255, 255]),
];

type Colour = [u8; 3];

/// Square tiles in rows of [`COLUMNS`].
struct Sheet {
    side: usize,
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Sheet {
    fn new(tiles: usize, side: usize) -> Self {
        let (width, height) = (COLUMNS * side, tiles.div_ceil(COLUMNS) * side);
        Self { side, width, height, rgb: vec![0; width * height * 3] }
    }

    fn dot(&mut self, tile: usize, [x, y]: [usize; 2], colour: Colour) {
        let (left, top) = (tile % COLUMNS * self.side, tile / COLUMNS * self.side);
        self.rgb[((top + y) * self.width + left + x) * 3..][..3].copy_from_slice(&colour);
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        let io = |e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
        let file = std::fs::File::create(path).map_err(|e| io(&e))?;
        let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().and_then(|mut w| w.write_image_data(&self.rgb)).map_err(|e| io(&e))
    }
}

/// Writes `samples` as a PNG sheet: middle plane, soft-tissue or lung window (whichever shows more), boxes drawn.
///
/// # Errors
/// [`Class::Io`].
pub fn samples(path: &Path, samples: &[Sample]) -> Result<(), Failure> {
    let mut sheet = Sheet::new(samples.len(), CROP);
    for (n, sample) in samples.iter().enumerate() {
        let middle = sample.slots / 2 * CROP * CROP * 3;
        let plane = &sample.data[middle..middle + CROP * CROP * 3];
        let airy =
            plane.chunks_exact(3).filter(|c| c[0] <= 0.0).count() > CROP * CROP / 3 && sample.truths.iter().all(|t| t.lesion_type == 4);
        for (i, cell) in plane.chunks_exact(3).enumerate() {
            let grey = (if airy { cell[1] } else { cell[0] } * 255.0) as u8;
            sheet.dot(n, [i % CROP, i / CROP], [grey; 3]);
        }
        let boxes = sample.truths.iter().map(|t| (t.box_px, LESION)).chain(sample.ignore.iter().map(|b| (*b, NEITHER_WAY)));
        for (b, colour) in boxes {
            let c = b.map(|v| v.clamp(0.0, CROP as f32 - 1.0) as usize);
            for x in c[0]..=c[2] {
                sheet.dot(n, [x, c[1]], colour);
                sheet.dot(n, [x, c[3]], colour);
            }
            for y in c[1]..=c[3] {
                sheet.dot(n, [c[0], y], colour);
                sheet.dot(n, [c[2], y], colour);
            }
        }
    }
    sheet.write(path)
}

/// Writes slices of `scans`, evenly taken, with the places where lesions may lie; returns what is drawn in which colour, and how many slices of which part
/// of the body all the scans have.
///
/// # Errors
/// [`Class::Io`].
pub fn places(path: &Path, scans: &[Scan]) -> Result<String, Failure> {
    let all: Vec<_> = scans.iter().flat_map(|scan| scan.slices.iter().map(move |slice| (scan, slice))).collect();
    let sites: Vec<Sites> = all.par_iter().map(|(scan, slice)| Sites::find(scan, slice)).collect();
    let shown = all.len().min(SLICES);
    let mut sheet = Sheet::new(shown, SLICE_TILE);
    for tile in 0..shown {
        let n = tile * all.len() / shown;
        let image = &all[n].1.image;
        // Every other pixel, or as many as the largest image needs.
        let step = image.rows.max(image.cols).div_ceil(SLICE_TILE).max(1);
        for y in 0..image.rows / step {
            for x in 0..image.cols / step {
                let hu = f32::from(image.hu[y * step * image.cols + x * step]);
                let grey = ((hu - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]) * 255.0) as u8;
                sheet.dot(tile, [x, y], [grey; 3]);
            }
        }
        for (site, _, colour) in PLACES {
            for p in sites[n].of(site) {
                let at = p.map(|v| usize::from(v) / step);
                if at.iter().all(|v| *v < SLICE_TILE) {
                    sheet.dot(tile, at, colour);
                }
            }
        }
    }
    sheet.write(path)?;
    let count = |part: Part| sites.iter().filter(|s| s.part == part).count();
    let legend: Vec<&str> = PLACES.iter().map(|(_, name, _)| *name).collect();
    Ok(format!(
        "{shown} of {} slices, a place every {STEP} pixels: {}; {} of the chest, {} of the abdomen, {} of the pelvis",
        all.len(),
        legend.join(", "),
        count(Part::Chest),
        count(Part::Abdomen),
        count(Part::Pelvis)
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lab::synthesize::phantom;

    #[test]
    fn a_sheet_of_places_shows_each_tissue_in_its_colour() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("places.png");
        let told = places(&path, &phantom::scans(3, 2)).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap())).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!(info.width as usize, COLUMNS * SLICE_TILE);
        for (site, name, colour) in PLACES {
            let dots = rgb.chunks_exact(3).filter(|p| **p == colour).count();
            assert!(dots > 0, "no {site:?}");
            assert!(told.contains(name), "{told}");
        }
        assert!(told.contains("of the abdomen"), "{told}");
    }
}
