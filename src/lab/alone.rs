//! The detector over one image by itself, as a single slice is analysed: what benchmarks and the prior ask of CT without marked disease.

use super::dataset::{Scan, ScanSlice};
use crate::detect::{Candidate, Engine, EngineError, heads, nms};
use crate::volume::HuImage;
use crate::volume::body::{PixelBox, body_of_plane};
use crate::volume::frame::{Frame, resample};
use crate::volume::window::slot_input;

/// Finds by looks alone, those in marked disease left out, best first, and the body's box; slot pixels both. `image` stands for the slice's own.
///
/// # Errors
/// The engine's.
pub fn look(engine: &mut dyn Engine, scan: &Scan, slice: &ScanSlice, image: &HuImage) -> Result<(Vec<Candidate>, PixelBox), EngineError> {
    let frame = Frame::choose(scan.grid, scan.grid.needs_body().then_some(slice.body));
    let plane = resample(image, &frame);
    let features = engine.encode(&slot_input(&plane))?;
    let maps = engine.heads(&vec![&features; engine.context()])?;
    let sick = |c: &Candidate| {
        let centre = frame.to_image([c.box_px[0] + c.box_px[2], c.box_px[1] + c.box_px[3]].map(|v| f64::from(v) / 2.0));
        slice.disease.iter().any(|d| d.region.holds(centre))
    };
    Ok((nms::finds(heads::decode(&maps)).into_iter().filter(|c| !sick(c)).collect(), body_of_plane(&plane)))
}
