//! Another posture and build: where the planes of a crop are read from, turned and stretched before anything is painted into them.

use rand::Rng;

use super::CROP;
use crate::lab::dataset::Scan;
use crate::volume::body::PixelBox;
use crate::volume::frame::{Frame, ImageGrid};

/// Largest turn, radians (14°): how obliquely people lie.
const MOST_TURN: f32 = 0.25;
/// Largest stretch across against down, as a logarithm: narrow and broad people.
const MOST_STRETCH: f32 = 0.11;
/// Crops that are left as they are: interpolation takes a little of their grain.
const PLAIN: f64 = 0.4;
/// Side of what a turned crop is read from: holds every corner of the most turned and stretched one.
const SOURCE: usize = 352;

/// How the pixels of a crop map to a stack of images.
pub struct View {
    frame: Frame,
    /// Crop offset from the middle → source offset from the middle, row by row; `None` for a plain crop.
    turn: Option<[f32; 4]>,
}

impl View {
    /// A crop of `pixel_mm` pixels whose middle lies at `centre_px` of the images.
    pub fn random(rng: &mut impl Rng, centre_px: [f64; 2], grid: ImageGrid, pixel_mm: f64) -> Self {
        if rng.random_bool(PLAIN) {
            return Self { frame: Frame::centred(centre_px, grid, pixel_mm, CROP, CROP), turn: None };
        }
        let (sin, cos) = rng.random_range(-MOST_TURN..MOST_TURN).sin_cos();
        let across = rng.random_range(-MOST_STRETCH..MOST_STRETCH).exp();
        let turn = [cos * across, -sin / across, sin * across, cos / across];
        Self { frame: Frame::centred(centre_px, grid, pixel_mm, SOURCE, SOURCE), turn: Some(turn) }
    }

    /// The frame that planes are resampled to before [`View::crop`].
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// A plane on [`View::frame`] → the `CROP × CROP` values of the crop.
    #[must_use]
    pub fn crop(&self, plane: Vec<f32>) -> Vec<f32> {
        let Some(t) = self.turn else { return plane };
        let (middle, half) = ((SOURCE as f32 - 1.0) / 2.0, (CROP as f32 - 1.0) / 2.0);
        let mut out = Vec::with_capacity(CROP * CROP);
        for y in 0..CROP {
            let dy = y as f32 - half;
            for x in 0..CROP {
                let dx = x as f32 - half;
                let (u, v) = (middle + t[0] * dx + t[1] * dy, middle + t[2] * dx + t[3] * dy);
                let (u, v) = (u.clamp(0.0, SOURCE as f32 - 1.001), v.clamp(0.0, SOURCE as f32 - 1.001));
                let (x0, y0) = (u as usize, v as usize);
                let (fx, fy) = (u - x0 as f32, v - y0 as f32);
                let at = y0 * SOURCE + x0;
                let top = plane[at] + (plane[at + 1] - plane[at]) * fx;
                let bottom = plane[at + SOURCE] + (plane[at + SOURCE + 1] - plane[at + SOURCE]) * fx;
                out.push(top + (bottom - top) * fy);
            }
        }
        out
    }

    /// Image → crop coordinates.
    #[must_use]
    pub fn to_crop(&self, image_px: [f64; 2]) -> [f32; 2] {
        let [x, y] = self.frame.to_slot(image_px).map(|v| v as f32);
        let Some([a, b, c, d]) = self.turn else { return [x, y] };
        let (middle, half, det) = ((SOURCE as f32 - 1.0) / 2.0, (CROP as f32 - 1.0) / 2.0, a * d - b * c);
        let (dx, dy) = (x - middle, y - middle);
        [half + (d * dx - b * dy) / det, half + (a * dy - c * dx) / det]
    }

    /// The upright box round an image region, crop coordinates.
    #[must_use]
    pub fn region(&self, r: PixelBox) -> [f32; 4] {
        let (x1, y1, x2, y2) = (r.x1 as f64, r.y1 as f64, r.x2 as f64, r.y2 as f64);
        let corners = [[x1, y1], [x2, y1], [x1, y2], [x2, y2]].map(|p| self.to_crop(p));
        let over = |axis: usize, f: fn(f32, f32) -> f32, start: f32| corners.iter().map(|p| p[axis]).fold(start, f);
        [over(0, f32::min, f32::MAX), over(1, f32::min, f32::MAX), over(0, f32::max, f32::MIN), over(1, f32::max, f32::MIN)]
    }
}

/// Size of DeepLesion's margin in pixels of a crop of `scan`.
#[must_use]
pub fn margin_px(scan: &Scan, pixel_mm: f64) -> f32 {
    let [sy, sx] = scan.grid.spacing_mm;
    (f64::from(super::recist::MARGIN_PX) * (sx * sy).sqrt() / pixel_mm) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// A bright pixel of the image is found where `to_crop` says.
    #[test]
    fn pixels_go_where_coordinates_say() {
        let mut rng = StdRng::seed_from_u64(4);
        let grid = ImageGrid { rows: 512, cols: 512, spacing_mm: [0.8, 0.8] };
        for _ in 0..20 {
            let view = View::random(&mut rng, [250.0, 240.0], grid, 0.8);
            let side = view.frame().width;
            let mut plane = vec![0.0; side * side];
            let [sx, sy] = view.frame().to_slot([300.0, 200.0]);
            for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                plane[(sy as usize + dy) * side + sx as usize + dx] = 100.0;
            }
            let crop = view.crop(plane);
            let (sum, x, y) = crop
                .iter()
                .enumerate()
                .fold((0.0, 0.0, 0.0), |(s, x, y), (i, v)| (s + v, x + v * (i % CROP) as f32, y + v * (i / CROP) as f32));
            let wanted = view.to_crop([300.0, 200.0]);
            assert!((x / sum - wanted[0]).abs() < 1.0 && (y / sum - wanted[1]).abs() < 1.0, "{} {} {wanted:?}", x / sum, y / sum);
            let region = view.region(PixelBox { x1: 290, y1: 190, x2: 310, y2: 210 });
            assert!(region[0] < wanted[0] && region[2] > wanted[0] && region[1] < wanted[1] && region[3] > wanted[1]);
        }
    }
}
