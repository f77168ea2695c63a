//! The detector's in-plane grid and the resampling onto it. Pure.

use super::HuImage;
use super::body::PixelBox;
use crate::series::SliceHeader;

/// A lesion's box is the extent of its RECIST end points grown by this on each side, pixels: DeepLesion's rule, true of every row of its table. In a slot
/// these are slot pixels, in an image the image's own.
pub const MARGIN_PX: f32 = 5.0;
/// Slot pixel where the body fits, mm.
pub const SPACING_MM: f64 = 0.8;
/// Slot width, pixels; 410 mm at [`SPACING_MM`].
pub const WIDTH: usize = 512;
/// Slot heights, pixels: the smallest that holds the frame is taken.
pub const HEIGHTS: [usize; 2] = [384, 512];
/// The body's box is grown to this raster so that a few more slices rarely change the frame, mm.
const BODY_RASTER_MM: f64 = 32.0;
/// A frame for a large body is scaled in steps of this, mm.
const SPACING_STEP_MM: f64 = 0.05;

/// In-plane geometry of the images of one stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageGrid {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Row spacing (y), column spacing (x), mm.
    pub spacing_mm: [f64; 2],
}

impl ImageGrid {
    /// Of a slice; 1 mm where it does not say its spacing.
    #[must_use]
    pub fn of(slice: &SliceHeader) -> Self {
        Self {
            rows: slice.rows.unwrap_or(0).into(),
            cols: slice.cols.unwrap_or(0).into(),
            spacing_mm: slice.pixel_spacing_mm.unwrap_or([1.0, 1.0]),
        }
    }

    /// Width and height, mm.
    #[must_use]
    pub fn extent_mm(&self) -> [f64; 2] {
        [self.cols as f64 * self.spacing_mm[1], self.rows as f64 * self.spacing_mm[0]]
    }

    /// Whether a frame needs to know where the body is: only where the whole image does not fit.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        let [w, h] = self.extent_mm();
        w > WIDTH as f64 * SPACING_MM || h > HEIGHTS[1] as f64 * SPACING_MM
    }
}

/// Where a slot lies on the images of its stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Slot rows.
    pub height: usize,
    /// Slot columns.
    pub width: usize,
    /// Slot pixel, mm, in both directions.
    pub spacing_mm: f64,
    /// Image pixels a slot pixel: x, y.
    pub scale: [f64; 2],
    /// Image coordinates of slot pixel (0, 0): x, y (pixel centres at whole numbers).
    pub origin_px: [f64; 2],
}

impl Frame {
    /// The frame of a stack; `body` is the union of its slices' body boxes and is only read where [`ImageGrid::needs_body`].
    #[must_use]
    pub fn choose(grid: ImageGrid, body: Option<PixelBox>) -> Self {
        let [sy, sx] = grid.spacing_mm;
        let [w, h] = grid.extent_mm();
        let whole = [0.0, 0.0, w, h];
        // x1, y1, x2, y2 in mm from the image's outer corner
        let held = match body {
            Some(b) if grid.needs_body() => {
                let down = |v: f64| (v / BODY_RASTER_MM).floor() * BODY_RASTER_MM;
                let up = |v: f64| (v / BODY_RASTER_MM).ceil() * BODY_RASTER_MM;
                let grown = [down(b.x1 as f64 * sx), down(b.y1 as f64 * sy), up((b.x2 + 1) as f64 * sx), up((b.y2 + 1) as f64 * sy)];
                [grown[0].max(0.0), grown[1].max(0.0), grown[2].min(w), grown[3].min(h)]
            }
            _ => whole,
        };
        let (bw, bh) = (held[2] - held[0], held[3] - held[1]);
        let largest = (bw / WIDTH as f64).max(bh / HEIGHTS[1] as f64);
        let spacing_mm = if largest <= SPACING_MM { SPACING_MM } else { (largest / SPACING_STEP_MM).ceil() * SPACING_STEP_MM };
        let height = HEIGHTS.into_iter().find(|n| bh <= *n as f64 * spacing_mm).unwrap_or(HEIGHTS[1]);
        Self::centred([(held[0] + held[2]) / 2.0 / sx - 0.5, (held[1] + held[3]) / 2.0 / sy - 0.5], grid, spacing_mm, height, WIDTH)
    }

    /// A frame whose middle lies at `centre_px` of the image.
    #[must_use]
    pub fn centred(centre_px: [f64; 2], grid: ImageGrid, spacing_mm: f64, height: usize, width: usize) -> Self {
        let [sy, sx] = grid.spacing_mm;
        let scale = [spacing_mm / sx, spacing_mm / sy];
        let origin_px = [centre_px[0] - (width as f64 - 1.0) / 2.0 * scale[0], centre_px[1] - (height as f64 - 1.0) / 2.0 * scale[1]];
        Self { height, width, spacing_mm, scale, origin_px }
    }

    /// Slot → image coordinates.
    #[must_use]
    pub fn to_image(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.origin_px[0] + x * self.scale[0], self.origin_px[1] + y * self.scale[1]]
    }

    /// Image → slot coordinates.
    #[must_use]
    pub fn to_slot(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [(x - self.origin_px[0]) / self.scale[0], (y - self.origin_px[1]) / self.scale[1]]
    }

    /// A lesion's box in the slot as its box in the image, clipped to it. [`MARGIN_PX`] is another length on either: the network, which sees slots alone,
    /// cannot know how long it is on the image, so it is exchanged here. No box is smaller than its margins.
    #[must_use]
    pub fn box_to_image(&self, b: [f32; 4], grid: ImageGrid) -> [f32; 4] {
        let [x1, y1] = self.to_image([b[0].into(), b[1].into()]);
        let [x2, y2] = self.to_image([b[2].into(), b[3].into()]);
        let side = |low: f64, high: f64, scale: f64, most: f64| {
            let margin = f64::from(MARGIN_PX);
            let half = ((high - low) / 2.0 - margin * scale + margin).max(margin);
            let middle = (low + high) / 2.0;
            [(middle - half).clamp(0.0, most), (middle + half).clamp(0.0, most)]
        };
        let [x1, x2] = side(x1, x2, self.scale[0], grid.cols as f64 - 1.0);
        let [y1, y2] = side(y1, y2, self.scale[1], grid.rows as f64 - 1.0);
        [x1, y1, x2, y2].map(|v| v as f32)
    }
}

/// HU on a frame, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `height * width` HU.
    pub hu: Vec<f32>,
}

/// Value outside the image.
const OUTSIDE_HU: f32 = -1024.0;

/// One axis of the resampling: for every output position its first source pixel and the weights from there on.
struct Taps {
    first: Vec<usize>,
    weights: Vec<Vec<f32>>,
    /// Part of the weight that falls on the image, 0..1.
    inside: Vec<f32>,
}

/// Tent filter: linear interpolation where the grid is finer than the image's, its width grown to the output pixel where it is coarser (no aliasing).
fn taps(outputs: usize, origin: f64, scale: f64, limit: usize) -> Taps {
    let reach = scale.max(1.0);
    let (mut first, mut weights, mut inside) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..outputs {
        let at = origin + i as f64 * scale;
        let (low, high) = ((at - reach).ceil() as i64, (at + reach).floor() as i64);
        let all: Vec<(i64, f64)> = (low..=high).map(|p| (p, (1.0 - (p as f64 - at).abs() / reach).max(0.0))).collect();
        let sum: f64 = all.iter().map(|(_, w)| w).sum();
        let on: Vec<(usize, f32)> =
            all.into_iter().filter_map(|(p, w)| usize::try_from(p).ok().filter(|p| *p < limit).map(|p| (p, (w / sum) as f32))).collect();
        first.push(on.first().map_or(0, |(p, _)| *p));
        inside.push(on.iter().map(|(_, w)| w).sum());
        weights.push(on.into_iter().map(|(_, w)| w).collect());
    }
    Taps { first, weights, inside }
}

/// `image` on `frame`; outside the image is air.
#[must_use]
pub fn resample(image: &HuImage, frame: &Frame) -> Plane {
    let across = taps(frame.width, frame.origin_px[0], frame.scale[0], image.cols);
    let down = taps(frame.height, frame.origin_px[1], frame.scale[1], image.rows);
    // Columns first, for the image rows that are read.
    let used = |y: usize| down.first.iter().zip(&down.weights).any(|(f, w)| (*f..*f + w.len()).contains(&y));
    let (top, bottom) = (
        down.first.iter().zip(&down.weights).filter(|(_, w)| !w.is_empty()).map(|(f, _)| *f).min().unwrap_or(0),
        down.first.iter().zip(&down.weights).map(|(f, w)| f + w.len()).max().unwrap_or(0),
    );
    debug_assert!(top >= bottom || used(top));
    let mut rows = vec![0.0f32; bottom.saturating_sub(top) * frame.width];
    for (line, y) in rows.chunks_exact_mut(frame.width).zip(top..bottom) {
        let source = &image.hu[y * image.cols..(y + 1) * image.cols];
        for (x, out) in line.iter_mut().enumerate() {
            let (weights, first) = (&across.weights[x], across.first[x]);
            let sum: f32 = weights.iter().zip(&source[first..]).map(|(w, v)| w * f32::from(*v)).sum();
            *out = sum + (1.0 - across.inside[x]) * OUTSIDE_HU;
        }
    }
    let mut hu = vec![0.0f32; frame.height * frame.width];
    for (y, line) in hu.chunks_exact_mut(frame.width).enumerate() {
        line.fill((1.0 - down.inside[y]) * OUTSIDE_HU);
        for (i, weight) in down.weights[y].iter().enumerate() {
            let at = (down.first[y] + i - top) * frame.width;
            for (out, v) in line.iter_mut().zip(&rows[at..at + frame.width]) {
                *out += weight * v;
            }
        }
    }
    Plane { height: frame.height, width: frame.width, hu }
}

/// `lower · (1 − weight) + upper · weight`.
#[must_use]
pub fn interpolate(lower: &Plane, upper: &Plane, weight: f32) -> Plane {
    let hu = lower.hu.iter().zip(&upper.hu).map(|(a, b)| a + (b - a) * weight).collect();
    Plane { height: lower.height, width: lower.width, hu }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ramp(rows: usize, cols: usize) -> HuImage {
        let hu = (0..rows * cols).map(|i| ((i % cols) * 2 + (i / cols)) as i16).collect();
        HuImage { rows, cols, hu }
    }

    #[test]
    fn a_usual_image_is_centred_and_whole() {
        let grid = ImageGrid { rows: 512, cols: 512, spacing_mm: [0.7, 0.7] };
        let frame = Frame::choose(grid, None);
        assert_eq!((frame.height, frame.width, frame.spacing_mm), (512, 512, 0.8));
        let centre = frame.to_image([255.5, 255.5]);
        assert!((centre[0] - 255.5).abs() < 1e-9 && (centre[1] - 255.5).abs() < 1e-9);
    }

    /// A lesion of 6 mm by 9: its box on the image is its extent and 5 of the image's pixels, however long these are.
    #[test]
    fn the_margin_of_a_box_is_the_images_own() {
        for spacing in [0.4, 0.54, 0.8, 1.37] {
            let grid = ImageGrid { rows: 512, cols: 512, spacing_mm: [spacing, spacing] };
            let frame = Frame::choose(grid, Some(PixelBox { x1: 60, y1: 60, x2: 450, y2: 450 }));
            let centre = frame.to_slot([200.0, 300.0]).map(|v| v as f32);
            let half = [3.0, 4.5].map(|mm: f64| (mm / frame.spacing_mm) as f32 + MARGIN_PX);
            let found = frame.box_to_image([centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]], grid);
            let wanted = [3.0, 4.5].map(|mm: f64| (mm / spacing) as f32 + MARGIN_PX);
            for (got, want) in found.iter().zip([200.0 - wanted[0], 300.0 - wanted[1], 200.0 + wanted[0], 300.0 + wanted[1]]) {
                assert!((got - want).abs() < 1e-3, "{spacing}: {got} {want}");
            }
            let point = frame.box_to_image([centre[0], centre[1], centre[0], centre[1]], grid);
            assert!((point[2] - point[0] - 2.0 * MARGIN_PX).abs() < 1e-3, "no box is smaller than its margins");
        }
    }

    #[test]
    fn a_small_field_takes_the_low_frame() {
        assert_eq!(Frame::choose(ImageGrid { rows: 512, cols: 512, spacing_mm: [0.59, 0.59] }, None).height, 384);
    }

    #[test]
    fn a_large_field_is_cut_to_the_body_and_scaled_if_that_does_not_fit() {
        let grid = ImageGrid { rows: 512, cols: 512, spacing_mm: [1.0, 1.0] };
        let body = PixelBox { x1: 70, y1: 130, x2: 430, y2: 390 };
        let frame = Frame::choose(grid, Some(body));
        assert_eq!((frame.height, frame.spacing_mm), (384, 0.8));
        let [x1, y1] = frame.to_slot([70.0, 130.0]);
        let [x2, y2] = frame.to_slot([430.0, 390.0]);
        assert!(x1 >= 0.0 && y1 >= 0.0 && x2 < 512.0 && y2 < 384.0);
        let large = Frame::choose(grid, Some(PixelBox { x1: 5, y1: 100, x2: 500, y2: 400 }));
        assert!((large.spacing_mm - 1.0).abs() < 1e-9, "{}", large.spacing_mm);
    }

    #[test]
    fn resampling_a_ramp_keeps_it() {
        for spacing in [0.4, 0.8, 1.3] {
            let grid = ImageGrid { rows: 100, cols: 80, spacing_mm: [spacing, spacing] };
            let frame = Frame::centred([40.0, 50.0], grid, 0.8, 16, 16);
            let plane = resample(&ramp(100, 80), &frame);
            for y in 0..16 {
                for x in 0..16 {
                    let [ix, iy] = frame.to_image([x as f64, y as f64]);
                    assert!((f64::from(plane.hu[y * 16 + x]) - (2.0 * ix + iy)).abs() < 0.6, "{spacing}");
                }
            }
        }
    }

    #[test]
    fn outside_is_air() {
        let grid = ImageGrid { rows: 4, cols: 4, spacing_mm: [0.8, 0.8] };
        let frame = Frame::centred([1.5, 1.5], grid, 0.8, 32, 32);
        let plane = resample(&HuImage { rows: 4, cols: 4, hu: vec![40; 16] }, &frame);
        assert_eq!(plane.hu[0], -1024.0);
        assert_eq!(plane.hu[16 * 32 + 16], 40.0);
    }

    proptest! {
        #[test]
        fn slot_and_image_coordinates_are_inverse(x in -100f64..600.0, y in -100f64..600.0, s in 0.3f64..1.5) {
            let frame = Frame::choose(ImageGrid { rows: 512, cols: 512, spacing_mm: [s, s * 1.1] }, None);
            let [bx, by] = frame.to_slot(frame.to_image([x, y]));
            prop_assert!((bx - x).abs() < 1e-6 && (by - y).abs() < 1e-6);
        }
    }
}
