//! Another posture and build: where the planes of a crop are read from, turned, stretched and bent before anything is painted into them.

use rand::Rng;

use super::CROP;
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

/// Crops among the turned ones that are bent as well: organs, bowel and vessels of another shape.
const BENT: f64 = 0.7;
/// Waves of a bend, along x and along y each.
const WAVES: usize = 3;
/// Their lengths, pixels.
const WAVE_PX: std::ops::Range<f32> = 45.0..170.0;
/// Largest height of a wave in its lengths. All waves' slopes together stay below 1, so that nothing is folded: 3 · 2π · 0.035 = 0.66.
const WAVE_HEIGHT: f32 = 0.035;
/// Steps to find where a bend brings a point: each leaves two thirds of the error, which starts at 18 pixels.
const UNBEND_STEPS: usize = 24;
/// Points of a region's side that are looked at.
const SIDE_POINTS: usize = 9;

/// A smooth shift of every pixel: a sum of waves.
struct Bend {
    /// Of x and of y: direction times 2π / length, phase, height.
    waves: [[([f32; 2], f32, f32); WAVES]; 2],
    /// Of every pixel of the crop, row by row.
    field: Vec<[f32; 2]>,
}

impl Bend {
    fn random(rng: &mut impl Rng) -> Self {
        let mut wave = || {
            let (length, angle) = (rng.random_range(WAVE_PX), rng.random_range(0.0..std::f32::consts::TAU));
            let number = std::f32::consts::TAU / length;
            let phase = rng.random_range(0.0..std::f32::consts::TAU);
            ([number * angle.cos(), number * angle.sin()], phase, length * rng.random_range(0.0..WAVE_HEIGHT))
        };
        let waves = std::array::from_fn(|_| std::array::from_fn(|_| wave()));
        let mut bend = Self { waves, field: Vec::new() };
        let half = (CROP as f32 - 1.0) / 2.0;
        bend.field = (0..CROP * CROP).map(|i| bend.at([(i % CROP) as f32 - half, (i / CROP) as f32 - half])).collect();
        bend
    }

    /// Shift at an offset from the crop's middle.
    fn at(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [0, 1].map(|axis| self.waves[axis].iter().map(|([kx, ky], phase, height)| height * (kx * x + ky * y + phase).sin()).sum())
    }

    /// The offset that is shifted to `to`.
    fn undo(&self, to: [f32; 2]) -> [f32; 2] {
        let mut from = to;
        for _ in 0..UNBEND_STEPS {
            let shift = self.at(from);
            from = [to[0] - shift[0], to[1] - shift[1]];
        }
        from
    }
}

/// How the pixels of a crop map to a stack of images.
pub struct View {
    frame: Frame,
    /// Crop offset from the middle → source offset from the middle, row by row; `None` for a plain crop.
    turn: Option<[f32; 4]>,
    bend: Option<Bend>,
}

impl View {
    /// A crop of `pixel_mm` pixels whose middle lies at `centre_px` of the images; some are bent where they may be.
    pub fn random(rng: &mut impl Rng, centre_px: [f64; 2], grid: ImageGrid, pixel_mm: f64, may_bend: bool) -> Self {
        if rng.random_bool(PLAIN) {
            return Self { frame: Frame::centred(centre_px, grid, pixel_mm, CROP, CROP), turn: None, bend: None };
        }
        let (sin, cos) = rng.random_range(-MOST_TURN..MOST_TURN).sin_cos();
        let across = rng.random_range(-MOST_STRETCH..MOST_STRETCH).exp();
        let turn = [cos * across, -sin / across, sin * across, cos / across];
        let bend = (may_bend && rng.random_bool(BENT)).then(|| Bend::random(rng));
        Self { frame: Frame::centred(centre_px, grid, pixel_mm, SOURCE, SOURCE), turn: Some(turn), bend }
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
                let [sx, sy] = self.bend.as_ref().map_or([0.0, 0.0], |b| b.field[y * CROP + x]);
                let (dx, dy) = (x as f32 - half + sx, dy + sy);
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
        let bent = [(d * dx - b * dy) / det, (a * dy - c * dx) / det];
        self.bend.as_ref().map_or(bent, |bend| bend.undo(bent)).map(|v| v + half)
    }

    /// The upright box round an image region, crop coordinates.
    #[must_use]
    pub fn region(&self, r: PixelBox) -> [f32; 4] {
        let (x1, y1, x2, y2) = (r.x1 as f64, r.y1 as f64, r.x2 as f64, r.y2 as f64);
        let along = |i: usize, low: f64, high: f64| low + (high - low) * i as f64 / (SIDE_POINTS - 1) as f64;
        let sides = (0..SIDE_POINTS).flat_map(|i| {
            let (x, y) = (along(i, x1, x2), along(i, y1, y2));
            [[x, y1], [x, y2], [x1, y], [x2, y]]
        });
        let border: Vec<[f32; 2]> = sides.map(|p| self.to_crop(p)).collect();
        let over = |axis: usize, f: fn(f32, f32) -> f32, start: f32| border.iter().map(|p| p[axis]).fold(start, f);
        [over(0, f32::min, f32::MAX), over(1, f32::min, f32::MAX), over(0, f32::max, f32::MIN), over(1, f32::max, f32::MIN)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// No two pixels of a bent crop come from the same place, and every point is found again.
    #[test]
    fn a_bend_folds_nothing() {
        for seed in 0..50 {
            let bend = Bend::random(&mut StdRng::seed_from_u64(seed));
            for i in 0..CROP * (CROP - 1) {
                if i % CROP < CROP - 1 {
                    let (here, right, below) = (bend.field[i], bend.field[i + 1], bend.field[i + CROP]);
                    let (a, b) = ([1.0 + right[0] - here[0], right[1] - here[1]], [below[0] - here[0], 1.0 + below[1] - here[1]]);
                    assert!(a[0] * b[1] - a[1] * b[0] > 0.0, "seed {seed}, pixel {i}");
                }
            }
            for p in [[-120.0, 90.0], [0.0, 0.0], [33.0, -77.0]] {
                let (from, shift) = (bend.undo(p), bend.at(bend.undo(p)));
                assert!((from[0] + shift[0] - p[0]).abs() + (from[1] + shift[1] - p[1]).abs() < 0.05, "seed {seed}: {p:?}");
            }
        }
    }

    /// A bright pixel of the image is found where `to_crop` says.
    #[test]
    fn pixels_go_where_coordinates_say() {
        let mut rng = StdRng::seed_from_u64(4);
        let grid = ImageGrid { rows: 512, cols: 512, spacing_mm: [0.8, 0.8] };
        for n in 0..40 {
            let view = View::random(&mut rng, [250.0, 240.0], grid, 0.8, n >= 20);
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
