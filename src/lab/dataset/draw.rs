//! Key slice → training sample: a crop round or off a lesion, turned, stretched, zoomed and augmented as synthetic ones are.

use rand::Rng;
use rand::rngs::StdRng;

use super::marked::{Loaded, Mark, MarkedSlices};
use crate::error::{Class, Failure};
use crate::lab::synthesize::recipe::Recipe;
use crate::lab::synthesize::recist;
use crate::lab::synthesize::warp::View;
use crate::lab::synthesize::{self, CROP, SLOT_MM, Sample, Truth, UNKNOWN_TYPE};
use crate::volume::frame::MARGIN_PX;

/// Crops anywhere on the body: what key slices look like away from their lesions.
const OFF_LESION: f64 = 0.2;
/// Largest zoom, as a logarithm (± 32 %).
const MOST_ZOOM: f32 = 0.28;
/// A crop's middle lies up to this far from its lesion's, slot pixels, and nearer where the lesion would be cut.
const MOST_OFF_PX: f64 = 95.0;
const LEAST_OFF_PX: f64 = 8.0;
/// Draws in a row that find no readable image after which the dataset is given up.
const MOST_FAILED: usize = 200;

impl MarkedSlices {
    /// Draws a sample of `slots` planes (1 or an odd number). Key slices that cannot be read are passed over, named and counted.
    ///
    /// # Errors
    /// [`Class::Data`] where so many in a row cannot be read that nothing seems to be there.
    pub fn sample(&self, rng: &mut StdRng, slots: usize) -> Result<Sample, Failure> {
        for _ in 0..MOST_FAILED {
            let key = rng.random_range(0..self.keys().len());
            if let Ok(loaded) = self.load(key, slots) {
                return Ok(crop(&loaded, &self.keys()[key].marks, rng, slots));
            }
        }
        let root = self.root().display();
        let text = format!("{root}: {MOST_FAILED} key slices in a row cannot be read; `lesionlab dataset {root} --decode` names them");
        Err(Failure::new(Class::Data, text))
    }
}

/// One crop of a key slice with `marks`.
#[must_use]
pub fn crop(loaded: &Loaded, marks: &[Mark], rng: &mut StdRng, slots: usize) -> Sample {
    crop_by(&Recipe::default(), loaded, marks, rng, slots)
}

fn crop_by(recipe: &Recipe, loaded: &Loaded, marks: &[Mark], rng: &mut StdRng, slots: usize) -> Sample {
    let grid = loaded.scan.grid;
    let pixel_mm = f64::from(SLOT_MM) * f64::from(rng.random_range(-MOST_ZOOM..MOST_ZOOM).exp());
    let [sy, sx] = grid.spacing_mm;
    let sound: Vec<&Mark> = marks.iter().filter(|m| !m.noisy).collect();
    let centre = if sound.is_empty() || rng.random_bool(OFF_LESION) {
        let body = loaded.key().body;
        [rng.random_range(body.x1..=body.x2) as f64, rng.random_range(body.y1..=body.y2) as f64]
    } else {
        let b = sound[rng.random_range(0..sound.len())].box_px.map(f64::from);
        let off = |low: f64, high: f64, spacing: f64, draw: f64| {
            let room = CROP as f64 / 2.0 - (high - low) / 2.0 * spacing / pixel_mm;
            (low + high) / 2.0 + draw * room.clamp(LEAST_OFF_PX, MOST_OFF_PX) * pixel_mm / spacing
        };
        [off(b[0], b[2], sx, rng.random_range(-1.0..1.0)), off(b[1], b[3], sy, rng.random_range(-1.0..1.0))]
    };
    let view = View::random(rng, centre, grid, pixel_mm, false);
    let planes = synthesize::crop(&loaded.scan, &loaded.grid, loaded.slot, slots, &view);
    let (mut truths, mut ignore) = (Vec::new(), Vec::new());
    for mark in marks {
        let truth = truth(mark, &view);
        if mark.noisy { ignore.push(truth.box_px) } else { truths.push(truth) }
    }
    synthesize::finish(planes, truths, ignore, recipe, rng)
}

/// A mark in the coordinates of a crop. The box is drawn anew round the mapped end points, as DeepLesion's rule has it; turned as a box it would grow.
fn truth(mark: &Mark, view: &View) -> Truth {
    let to_crop = |p: [f32; 2]| view.to_crop(p.map(f64::from));
    let lesion_type = mark.lesion_type.map_or(UNKNOWN_TYPE, usize::from);
    let Some(points) = mark.points else {
        // Without end points the lesion is taken for the ellipse in its box.
        let [x1, y1, x2, y2] = mark.box_px;
        let half = [((x2 - x1) / 2.0 - MARGIN_PX).max(0.5), ((y2 - y1) / 2.0 - MARGIN_PX).max(0.5)];
        let middle = [(x1 + x2) / 2.0, (y1 + y2) / 2.0];
        let (at, right, down) = (to_crop(middle), to_crop([middle[0] + half[0], middle[1]]), to_crop([middle[0], middle[1] + half[1]]));
        let reach = |i: usize| (right[i] - at[i]).hypot(down[i] - at[i]) + MARGIN_PX;
        let box_px = [at[0] - reach(0), at[1] - reach(1), at[0] + reach(0), at[1] + reach(1)];
        return Truth { box_px, lesion_type, axes_px: None, angle_rad: 0.0 };
    };
    let p = points.map(to_crop);
    let box_px = recist::box_of(&p);
    let way = |a: [f32; 2], b: [f32; 2]| [b[0] - a[0], b[1] - a[1]];
    let (mut long, mut short) = (way(p[0], p[1]), way(p[2], p[3]));
    let length = |v: [f32; 2]| v[0].hypot(v[1]);
    // A stretch may exchange the two.
    if length(short) > length(long) {
        std::mem::swap(&mut long, &mut short);
    }
    let angle_rad = long[1].atan2(long[0]).rem_euclid(std::f32::consts::PI);
    Truth { box_px, lesion_type, axes_px: Some([length(long), length(short)]), angle_rad }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::lab::dataset::{Scan, ScanSlice};
    use crate::lab::synthesize::recipe::Ingredient;
    use crate::volume::HuImage;
    use crate::volume::body::body_box;
    use crate::volume::frame::ImageGrid;
    use crate::volume::slots;
    use rand::SeedableRng;

    /// Columns and rows of a bright rectangle in a grey body, its first and last pixels.
    const BRIGHT: [usize; 4] = [200, 150, 239, 174];

    fn loaded(spacing_mm: [f64; 2]) -> Loaded {
        let (rows, cols) = (400, 400);
        let inside = |i: usize| (60..340).contains(&(i % cols)) && (40..360).contains(&(i / cols));
        let bright = |i: usize| (BRIGHT[0]..=BRIGHT[2]).contains(&(i % cols)) && (BRIGHT[1]..=BRIGHT[3]).contains(&(i / cols));
        let hu = (0..rows * cols)
            .map(|i| {
                if bright(i) {
                    900
                } else if inside(i) {
                    0
                } else {
                    -1000
                }
            })
            .collect();
        let image = HuImage { rows, cols, hu };
        let body = body_box(&image);
        let slices = vec![ScanSlice { image, z_mm: 0.0, body, disease: Vec::new(), sop_uid: String::new(), number: 0, sites: None }];
        let grid = slots::grid(&[0.0], 5.0);
        Loaded { scan: Scan { name: String::new(), grid: ImageGrid { rows, cols, spacing_mm }, spacing_mm: 5.0, slices }, grid, slot: 0 }
    }

    /// The mark of the rectangle: axes along its middle lines.
    fn mark(with_points: bool) -> Mark {
        let [x1, y1, x2, y2] = BRIGHT.map(|v| v as f32);
        let (mx, my) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0);
        let points = with_points.then_some([[x1, my], [x2, my], [mx, y1], [mx, y2]]);
        Mark { box_px: [x1 - 5.0, y1 - 5.0, x2 + 5.0, y2 + 5.0], points, lesion_type: Some(2), noisy: false }
    }

    /// Extent of what is clearly bright in a crop's plane.
    fn bright_extent(sample: &Sample) -> Option<[f32; 4]> {
        let mut b = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
        for (i, cell) in sample.data.chunks_exact(3).enumerate() {
            // The widest window: 900 HU lies above its end, 0 HU at a quarter of it.
            if cell[2] > 0.55 {
                let (x, y) = ((i % CROP) as f32, (i / CROP) as f32);
                b = [b[0].min(x), b[1].min(y), b[2].max(x), b[3].max(y)];
            }
        }
        (b[0] <= b[2]).then_some(b)
    }

    /// Boxes are where the rectangle is after crop, zoom, turn, stretch and mirror: its middle to 1.5 px, its sides by DeepLesion's rule.
    #[test]
    fn boxes_land_on_what_they_mark() {
        for (spacing_mm, with_points) in [([0.8, 0.8], true), ([0.5, 0.5], true), ([0.9, 0.7], true), ([0.8, 0.8], false)] {
            let loaded = loaded(spacing_mm);
            let mark = mark(with_points);
            let mut rng = StdRng::seed_from_u64(7);
            let (mut whole, mut mirrored) = (0, 0);
            // JPEG moves the edges that are measured here, by a pixel or two, and no box.
            let recipe = Recipe::without(&[Ingredient::Jpeg]);
            for _ in 0..120 {
                let sample = crop_by(&recipe, &loaded, &[mark], &mut rng, 1);
                let Some(truth) = sample.truths.first() else { continue };
                // Exports to 8 bits may take the contrast away.
                let Some(found) = bright_extent(&sample) else { continue };
                if found[0] < 3.0 || found[1] < 3.0 || found[2] > 252.0 || found[3] > 252.0 {
                    continue;
                }
                whole += 1;
                let middle = |b: [f32; 4]| [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0];
                let (m, t) = (middle(found), middle(truth.box_px));
                assert!((m[0] - t[0]).abs() < 1.5 && (m[1] - t[1]).abs() < 1.5, "{found:?} {truth:?}");
                // Axis ends lie on the sides of the rectangle; turned by up to 14° its corners reach beyond them by a tenth of the other side and more.
                let [long, short] = truth.axes_px.unwrap_or([0.0; 2]);
                if with_points {
                    let (w, h) = (found[2] - found[0] + 1.0, found[3] - found[1] + 1.0);
                    let turn = truth.angle_rad.sin().abs();
                    assert!((long * truth.angle_rad.cos().abs() + short * turn - w).abs() < 3.5, "{long} {short} {w} {truth:?}");
                    assert!((short * truth.angle_rad.cos().abs() + long * turn - h).abs() < 3.5, "{long} {short} {h} {truth:?}");
                    mirrored += usize::from(truth.angle_rad > 0.01 && truth.angle_rad < 3.13);
                }
                assert_eq!(truth.lesion_type, 2);
            }
            assert!(whole > 50, "{whole} of 120 show the lesion");
            assert!(!with_points || mirrored > 10, "{mirrored} were turned");
        }
    }

    #[test]
    fn noisy_marks_are_ignored_and_unknown_types_stay_unknown() {
        let loaded = loaded([0.8, 0.8]);
        let mut rng = StdRng::seed_from_u64(1);
        let far = Mark { box_px: [280.0, 280.0, 300.0, 300.0], points: None, noisy: true, ..mark(true) };
        let unknown = Mark { lesion_type: None, ..mark(true) };
        let samples: Vec<Sample> = (0..40).map(|_| crop(&loaded, &[unknown, far], &mut rng, 1)).collect();
        assert!(samples.iter().all(|s| !s.ignore.is_empty() && s.truths.len() <= 1));
        assert!(samples.iter().flat_map(|s| &s.truths).all(|t| t.lesion_type == UNKNOWN_TYPE));
        assert!(samples.iter().filter(|s| s.truths.len() == 1).count() > 20);
    }

    #[test]
    fn a_lesion_cut_by_the_crop_counts_neither_way() {
        let loaded = loaded([0.8, 0.8]);
        let mut rng = StdRng::seed_from_u64(2);
        let large = Mark { box_px: [70.0, 70.0, 330.0, 330.0], points: None, ..mark(true) };
        for _ in 0..20 {
            let sample = crop(&loaded, &[large], &mut rng, 1);
            assert!(sample.truths.is_empty() || sample.truths[0].box_px.iter().all(|v| (-6.0..262.0).contains(v)));
            assert_eq!(sample.truths.len() + sample.ignore.len(), 1);
        }
    }
}
