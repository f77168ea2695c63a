//! Hits, misses and false alarms worth a look, best first, with their pictures.
//!
//! A *hit* is a lesion that a prediction above the gallery's threshold finds by IoU > 0.5, shown where its score is highest; a *miss* any other lesion,
//! shown where a prediction came nearest; a *false alarm* a prediction above the threshold that finds nothing. The threshold is where key images
//! have [`AT_FALSE_POSITIVES`] false positives an image, so that the three show the detector as it would be run.

use std::collections::BTreeMap;
use std::path::Path;

use super::froc::{Matched, Rule, iou, match_image};
use super::tables::{Slice, Study};
use crate::lesion::keyimage;
use crate::series::header;
use crate::volume::{HuImage, pixels};

/// Tiles of each kind at most: the page stays one that mail takes.
pub const MOST_TILES: usize = 24;
/// The threshold's false positives an image, a usual point of comparison.
pub const AT_FALSE_POSITIVES: usize = 4;
/// Side of a crop, pixels: this many times the box, within these ends.
const SIDE_TIMES: f64 = 2.0;
const SIDE_PX: [f64; 2] = [96.0, 256.0];
/// False alarms of one case that overlap by more than this are one thing on several slices.
const SAME_THING_IOU: f64 = 0.3;

/// Grey pixels round the boxes of a tile.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// PNG, 8-bit grey.
    pub png: Vec<u8>,
    /// Column and row of its first pixel in the image.
    pub origin_px: [usize; 2],
    /// Width and height.
    pub size_px: [usize; 2],
    /// Width of a pixel, where the file says so.
    pub column_spacing_mm: Option<f64>,
}

/// One hit, miss or false alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Tile {
    /// Index into the study's slices.
    pub slice: usize,
    /// Truth box, as grown.
    pub truth: Option<[f64; 4]>,
    /// Prediction and score.
    pub prediction: Option<([f64; 4], f64)>,
    /// Their overlap, where there are both.
    pub overlap: Option<f64>,
    /// Type of the truth, else of the prediction; empty where unknown.
    pub kind: String,
    /// The crop, or why there is none.
    pub picture: Result<Picture, String>,
}

/// The three rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gallery {
    /// Scores above this count.
    pub threshold: f64,
    /// Highest score first, and how many there are in all.
    pub hits: (Vec<Tile>, usize),
    /// Nearest first.
    pub misses: (Vec<Tile>, usize),
    /// Highest score first.
    pub false_alarms: (Vec<Tile>, usize),
}

/// Chooses the tiles; `root` is the folder that the image table's paths start from, `None` for a page without pictures.
#[must_use]
pub fn hang(study: &Study, root: Option<&Path>) -> Gallery {
    let matched: Vec<Matched> = study.slices.iter().map(|s| match_image(&s.boxes, Rule::Iou)).collect();
    let threshold = threshold(study, &matched);
    let (mut hits, mut misses) = lesions(study, &matched, threshold);
    let mut false_alarms = false_alarms(study, &matched, threshold);
    for tiles in [&mut hits, &mut misses, &mut false_alarms] {
        tiles.0.truncate(MOST_TILES);
        for tile in &mut tiles.0 {
            tile.picture = root.map_or_else(|| Err("no picture: --dicom was not given".into()), |root| picture(root, study, tile));
        }
    }
    Gallery { threshold, hits, misses, false_alarms }
}

fn threshold(study: &Study, matched: &[Matched]) -> f64 {
    let key = || study.slices.iter().zip(matched).filter(|(s, _)| !s.marks.is_empty());
    let mut scores: Vec<f64> = key().flat_map(|(s, m)| m.false_positives.iter().map(|i| s.boxes.predictions[*i].1)).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    scores.get(AT_FALSE_POSITIVES * key().count()).copied().unwrap_or(f64::NEG_INFINITY)
}

/// A tile a lesion: hits by score, misses by how near the nearest prediction came.
fn lesions(study: &Study, matched: &[Matched], threshold: f64) -> ((Vec<Tile>, usize), (Vec<Tile>, usize)) {
    // Of a lesion's boxes the one with the highest hit, else the one that a prediction came nearest to.
    let mut best: BTreeMap<(&str, &str, &str), (f64, f64, Tile)> = BTreeMap::new();
    for (index, (slice, matched)) in study.slices.iter().zip(matched).enumerate() {
        for ((mark, truth), hit) in slice.marks.iter().zip(&slice.boxes.truths).zip(&matched.hits) {
            let all = &slice.boxes.predictions;
            let nearest = || (0..all.len()).max_by(|a, b| iou(all[*a].0, *truth).total_cmp(&iou(all[*b].0, *truth)));
            let prediction = hit.or_else(nearest).map(|i| all[i]).filter(|(p, _)| iou(*p, *truth) > 0.0);
            let overlap = prediction.map(|(p, _)| iou(p, *truth));
            let rank = (hit.map_or(f64::NEG_INFINITY, |i| all[i].1), overlap.unwrap_or(0.0));
            let key = (slice.set.as_str(), slice.case.as_str(), mark.lesion.as_str());
            if best.get(&key).is_none_or(|(score, near, _)| rank > (*score, *near)) {
                let kind = mark.kind.clone();
                let picture = Err(String::new());
                best.insert(key, (rank.0, rank.1, Tile { slice: index, truth: Some(*truth), prediction, overlap, kind, picture }));
            }
        }
    }
    let mut ranked: Vec<(f64, f64, Tile)> = best.into_values().collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let (hits, misses): (Vec<_>, Vec<_>) = ranked.into_iter().partition(|(score, ..)| *score > threshold);
    let tiles = |ranked: Vec<(f64, f64, Tile)>| {
        let n = ranked.len();
        (ranked.into_iter().map(|(.., tile)| tile).collect(), n)
    };
    (tiles(hits), tiles(misses))
}

/// False positives, one a thing: neighbouring slices would show the same one over and over.
fn false_alarms(study: &Study, matched: &[Matched], threshold: f64) -> (Vec<Tile>, usize) {
    let mut all: Vec<(usize, usize)> =
        matched.iter().enumerate().flat_map(|(slice, m)| m.false_positives.iter().map(move |i| (slice, *i))).collect();
    let score = |(slice, i): &(usize, usize)| study.slices[*slice].boxes.predictions[*i].1;
    all.retain(|at| score(at) > threshold);
    all.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let case = |slice: usize| (&study.slices[slice].set, &study.slices[slice].case);
    let mut tiles: Vec<Tile> = Vec::new();
    for (slice, i) in &all {
        let of = &study.slices[*slice].boxes;
        let prediction = of.predictions[*i];
        let shown = |t: &Tile| case(t.slice) == case(*slice) && t.prediction.is_some_and(|(p, _)| iou(p, prediction.0) > SAME_THING_IOU);
        if tiles.len() == MOST_TILES || tiles.iter().any(shown) {
            continue;
        }
        // The truth it came nearest to, where it touches one: often the reason.
        let near = of.truths.iter().copied().filter(|t| iou(prediction.0, *t) > 0.0);
        let truth = near.max_by(|a, b| iou(prediction.0, *a).total_cmp(&iou(prediction.0, *b)));
        let overlap = truth.map(|t| iou(prediction.0, t));
        let kind = study.slices[*slice].kinds[*i].clone();
        tiles.push(Tile { slice: *slice, truth, prediction: Some(prediction), overlap, kind, picture: Err(String::new()) });
    }
    (tiles, all.len())
}

fn picture(root: &Path, study: &Study, tile: &Tile) -> Result<Picture, String> {
    let slice: &Slice = &study.slices[tile.slice];
    let path = slice.path.as_deref().ok_or("no picture: the image table has no path for it")?;
    let path = root.join(path);
    let say = |e: &dyn std::fmt::Display| format!("no picture: {}: {e}", path.display());
    let image = pixels::decode(&path).map_err(|e| say(&e))?;
    let column_spacing_mm = header::read(&path).ok().and_then(|h| h.pixel_spacing_mm).map(|[_, column]| column);
    let boxes = tile.truth.into_iter().chain(tile.prediction.map(|(p, _)| p));
    let around = boxes.reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]).unwrap_or_default();
    let (origin_px, size_px) = crop(around, image.cols, image.rows);
    let png = encode(&image, origin_px, size_px, keyimage::window(&tile.kind)).map_err(|e| say(&e))?;
    Ok(Picture { png, origin_px, size_px, column_spacing_mm })
}

/// A square round a box, moved and if need be cut so that it lies in the image.
fn crop([x1, y1, x2, y2]: [f64; 4], cols: usize, rows: usize) -> ([usize; 2], [usize; 2]) {
    let longest = (x2 - x1).max(y2 - y1) + 1.0;
    let side = (longest * SIDE_TIMES).clamp(SIDE_PX[0], SIDE_PX[1]).max(longest + 8.0);
    let fit = |low: f64, high: f64, most: usize| {
        let size = (side as usize).min(most);
        let first = ((low + high - size as f64) / 2.0).clamp(0.0, (most - size) as f64);
        (first as usize, size)
    };
    let ((x, width), (y, height)) = (fit(x1, x2, cols), fit(y1, y2, rows));
    ([x, y], [width, height])
}

fn encode(image: &HuImage, [x, y]: [usize; 2], [width, height]: [usize; 2], [low, high]: [f32; 2]) -> Result<Vec<u8>, png::EncodingError> {
    let grey = |hu: &i16| ((f32::from(*hu) - low) / (high - low) * 255.0).clamp(0.0, 255.0) as u8;
    let data: Vec<u8> = (y..y + height).flat_map(|row| image.hu[row * image.cols + x..][..width].iter().map(grey)).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&data)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_lies_in_the_image() {
        assert_eq!(crop([250.0, 250.0, 259.0, 259.0], 512, 512), ([206, 206], [96, 96]));
        assert_eq!(crop([0.0, 500.0, 9.0, 509.0], 512, 512), ([0, 416], [96, 96]));
        assert_eq!(crop([-5.0, -5.0, 70.0, 70.0], 64, 64), ([0, 0], [64, 64]));
        assert_eq!(crop([0.0, 0.0, 399.0, 9.0], 512, 512).1, [408, 408]);
    }
}
