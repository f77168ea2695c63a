//! RECIST axes of a lesion on its key slice: segmentation inside the detector's box, with the box as fallback. Pure.

use crate::volume::HuImage;
use crate::volume::frame::MARGIN_PX;

/// A lesion differs from its surroundings by at least this, or no segmentation is tried, HU.
const LEAST_CONTRAST_HU: f32 = 20.0;
/// Largest share of the margin that a segmentation may fill before it counts as leaked.
const MOST_LEAK: f32 = 0.35;
/// Smallest share of the box without its margin that a segmentation must fill.
const LEAST_FILL: f32 = 0.2;

/// Axes on one slice.
#[derive(Debug, Clone, PartialEq)]
pub struct Recist {
    /// Ends of the long, then of the short axis, pixels (centres at whole numbers).
    pub points_px: [[f32; 2]; 4],
    /// Long axis.
    pub long_mm: f32,
    /// Short axis.
    pub short_mm: f32,
    /// From a segmentation (true) or from the box (false).
    pub segmented: bool,
}

/// Measures the lesion in `box_px` (x1, y1, x2, y2; DeepLesion's convention) of an image with `spacing_mm` (row, column).
#[must_use]
pub fn measure(image: &HuImage, box_px: [f32; 4], spacing_mm: [f64; 2]) -> Recist {
    let mask = segment(image, box_px);
    match mask.as_ref().and_then(|m| axes(m, spacing_mm)) {
        Some((points_px, long_mm, short_mm)) => Recist { points_px, long_mm, short_mm, segmented: true },
        None => from_box(box_px, spacing_mm),
    }
}

/// A mask over a part of the image.
struct Mask {
    x0: usize,
    y0: usize,
    width: usize,
    inside: Vec<bool>,
}

/// The box without its margin: what the end points span, at least one pixel.
fn core([x1, y1, x2, y2]: [f32; 4]) -> [f32; 4] {
    let shrink = |a: f32, b: f32| {
        let margin = MARGIN_PX.min((b - a - 1.0).max(0.0) / 2.0);
        (a + margin, b - margin)
    };
    let ((x1, x2), (y1, y2)) = (shrink(x1, x2), shrink(y1, y2));
    [x1, y1, x2, y2]
}

/// Otsu's threshold between the middle and the rim of the box, then the part that is connected with the middle.
fn segment(image: &HuImage, box_px: [f32; 4]) -> Option<Mask> {
    let clamp = |v: f32, most: usize| v.round().clamp(0.0, most as f32 - 1.0) as usize;
    let (x0, y0, x1, y1) =
        (clamp(box_px[0], image.cols), clamp(box_px[1], image.rows), clamp(box_px[2], image.cols), clamp(box_px[3], image.rows));
    let (width, height) = (x1.checked_sub(x0)? + 1, y1.checked_sub(y0)? + 1);
    if width < 5 || height < 5 {
        return None;
    }
    let smooth = |x: usize, y: usize| {
        let (mut sum, mut n) = (0.0, 0.0);
        for yy in y.saturating_sub(1)..(y + 2).min(image.rows) {
            for v in &image.hu[yy * image.cols + x.saturating_sub(1)..yy * image.cols + (x + 2).min(image.cols)] {
                sum += f32::from(*v).clamp(-1000.0, 600.0);
                n += 1.0;
            }
        }
        sum / n
    };
    let values: Vec<f32> = (0..width * height).map(|i| smooth(x0 + i % width, y0 + i / width)).collect();
    let [cx1, cy1, cx2, cy2] = core(box_px);
    let (cx, cy) = ((cx1 + cx2) / 2.0 - x0 as f32, (cy1 + cy2) / 2.0 - y0 as f32);
    let (rx, ry) = (((cx2 - cx1) / 2.0).max(1.0), ((cy2 - cy1) / 2.0).max(1.0));
    let radius = |i: usize| (((i % width) as f32 - cx) / rx).hypot(((i / width) as f32 - cy) / ry);
    let median = |f: &dyn Fn(usize) -> bool| {
        let mut all: Vec<f32> = (0..values.len()).filter(|i| f(*i)).map(|i| values[i]).collect();
        all.sort_by(f32::total_cmp);
        all.get(all.len() / 2).copied()
    };
    let middle = median(&|i| radius(i) < 0.5)?;
    let rim = median(&|i| radius(i) > 1.15)?;
    if (middle - rim).abs() < LEAST_CONTRAST_HU {
        return None;
    }
    let threshold = f32::midpoint(middle, rim);
    let lesion = |i: usize| if middle > rim { values[i] > threshold } else { values[i] < threshold };
    // From the pixel nearest to the middle that is lesion, within the core's ellipse and a little more.
    let seed = (0..values.len()).filter(|i| lesion(*i)).min_by(|a, b| radius(*a).total_cmp(&radius(*b))).filter(|i| radius(*i) < 0.7)?;
    let mut inside = vec![false; values.len()];
    let mut stack = vec![seed];
    inside[seed] = true;
    while let Some(i) = stack.pop() {
        let (x, y) = (i % width, i / width);
        let near = [(x > 0, i.wrapping_sub(1)), (x + 1 < width, i + 1), (y > 0, i.wrapping_sub(width)), (y + 1 < height, i + width)];
        for (ok, j) in near {
            if ok && !inside[j] && lesion(j) && radius(j) < 1.4 {
                inside[j] = true;
                stack.push(j);
            }
        }
    }
    let share = |f: &dyn Fn(usize) -> bool| {
        let all = (0..values.len()).filter(|i| f(*i)).count();
        (0..values.len()).filter(|i| f(*i) && inside[*i]).count() as f32 / all.max(1) as f32
    };
    let leaked = share(&|i| (1.15..1.4).contains(&radius(i)));
    let filled = share(&|i| radius(i) <= 1.0);
    (leaked <= MOST_LEAK && filled >= LEAST_FILL).then_some(Mask { x0, y0, width, inside })
}

type Axes = ([[f32; 2]; 4], f32, f32);

/// Longest distance in the mask and the longest at right angles to it, in mm.
fn axes(mask: &Mask, spacing_mm: [f64; 2]) -> Option<Axes> {
    let (sy, sx) = (spacing_mm[0] as f32, spacing_mm[1] as f32);
    let height = mask.inside.len() / mask.width;
    let is = |x: i64, y: i64| {
        x >= 0 && y >= 0 && x < mask.width as i64 && y < height as i64 && mask.inside[y as usize * mask.width + x as usize]
    };
    let edge: Vec<[f32; 2]> = (0..mask.inside.len())
        .filter(|i| mask.inside[*i])
        .map(|i| ((i % mask.width) as i64, (i / mask.width) as i64))
        .filter(|(x, y)| !(is(x - 1, *y) && is(x + 1, *y) && is(*x, y - 1) && is(*x, y + 1)))
        .map(|(x, y)| [x as f32, y as f32])
        .collect();
    let mm = |a: [f32; 2], b: [f32; 2]| ((a[0] - b[0]) * sx).hypot((a[1] - b[1]) * sy);
    let mut long = (0.0f32, [*edge.first()?; 2]);
    for (i, a) in edge.iter().enumerate() {
        for b in &edge[i + 1..] {
            let d = mm(*a, *b);
            if d > long.0 {
                long = (d, [*a, *b]);
            }
        }
    }
    if long.0 <= 0.0 {
        return None;
    }
    let along = [(long.1[1][0] - long.1[0][0]) * sx / long.0, (long.1[1][1] - long.1[0][1]) * sy / long.0];
    // Of all pairs of edge points whose line stands at right angles (within 5°) the longest.
    let mut short = (0.0f32, [long.1[0]; 2]);
    for (i, a) in edge.iter().enumerate() {
        for b in &edge[i + 1..] {
            let d = mm(*a, *b);
            if d > short.0 {
                let cos = ((b[0] - a[0]) * sx * along[0] + (b[1] - a[1]) * sy * along[1]) / d;
                if cos.abs() < 0.087 {
                    short = (d, [*a, *b]);
                }
            }
        }
    }
    let shift = |p: [f32; 2]| [p[0] + mask.x0 as f32, p[1] + mask.y0 as f32];
    // Edge pixels are lesion to their outer side: half a pixel more at each end.
    let pixel = f32::midpoint(sx, sy);
    Some(([shift(long.1[0]), shift(long.1[1]), shift(short.1[0]), shift(short.1[1])], long.0 + pixel, short.0 + pixel))
}

/// The box without its margin, its sides as axes.
fn from_box(box_px: [f32; 4], spacing_mm: [f64; 2]) -> Recist {
    let [x1, y1, x2, y2] = core(box_px);
    let (cx, cy) = (f32::midpoint(x1, x2), f32::midpoint(y1, y2));
    let (w, h) = ((x2 - x1 + 1.0) * spacing_mm[1] as f32, (y2 - y1 + 1.0) * spacing_mm[0] as f32);
    let (across, down) = ([[x1, cy], [x2, cy]], [[cx, y1], [cx, y2]]);
    let (long, short) = if w >= h { (across, down) } else { (down, across) };
    Recist { points_px: [long[0], long[1], short[0], short[1]], long_mm: w.max(h), short_mm: w.min(h), segmented: false }
}

/// Volume of an ellipsoid with these axes; `depth_mm` is its extent along z.
#[must_use]
pub fn ellipsoid_mm3(long_mm: f32, short_mm: f32, depth_mm: f32) -> f32 {
    std::f32::consts::FRAC_PI_6 * long_mm * short_mm * depth_mm
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An ellipse with semi-axes in mm, turned by `angle`, on a 100 × 100 image.
    fn ellipse(a: f32, b: f32, angle: f32, spacing: [f64; 2], inside: i16, outside: i16) -> HuImage {
        let hu = (0..100 * 100)
            .map(|i| {
                let (x, y) = (((i % 100) as f32 - 50.0) * spacing[1] as f32, ((i / 100) as f32 - 50.0) * spacing[0] as f32);
                let (u, v) = (x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin());
                if (u / a).powi(2) + (v / b).powi(2) <= 1.0 { inside } else { outside }
            })
            .collect();
        HuImage { rows: 100, cols: 100, hu }
    }

    fn box_of(image: &HuImage, inside: i16) -> [f32; 4] {
        let on: Vec<(f32, f32)> = (0..10_000).filter(|i| image.hu[*i] == inside).map(|i| ((i % 100) as f32, (i / 100) as f32)).collect();
        let fold = |f: fn(&(f32, f32)) -> f32| on.iter().map(f).fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let ((x1, x2), (y1, y2)) = (fold(|p| p.0), fold(|p| p.1));
        [x1 - 5.0, y1 - 5.0, x2 + 5.0, y2 + 5.0]
    }

    proptest! {
        #[test]
        fn known_ellipses_are_measured(a in 7f32..18.0, ratio in 0.6f32..0.95, angle in 0f32..3.1, dark in any::<bool>(), sy in 0.6f64..1.1) {
            let spacing = [sy, 0.8];
            let (inside, outside) = if dark { (40, 110) } else { (60, -800) };
            let image = ellipse(a, a * ratio, angle, spacing, inside, outside);
            let found = measure(&image, box_of(&image, inside), spacing);
            prop_assert!(found.segmented);
            prop_assert!((found.long_mm - 2.0 * a).abs() < 2.5, "{} for {}", found.long_mm, 2.0 * a);
            prop_assert!((found.short_mm - 2.0 * a * ratio).abs() < 3.0, "{} for {}", found.short_mm, 2.0 * a * ratio);
        }
    }

    #[test]
    fn without_contrast_the_box_is_the_measure() {
        let image = HuImage { rows: 100, cols: 100, hu: vec![40; 10_000] };
        let found = measure(&image, [20.0, 30.0, 49.0, 49.0], [1.0, 1.0]);
        assert!(!found.segmented);
        assert_eq!((found.long_mm, found.short_mm), (20.0, 10.0));
        assert_eq!(found.points_px[0], [25.0, 39.5]);
    }

    #[test]
    fn a_box_at_the_edge_or_of_no_size_is_no_panic() {
        let image = ellipse(10.0, 8.0, 0.0, [1.0, 1.0], 60, -800);
        for b in [[0.0, 0.0, 3.0, 3.0], [95.0, 95.0, 120.0, 120.0], [50.0, 50.0, 50.0, 50.0], [-20.0, -20.0, 5.0, 200.0]] {
            let found = measure(&image, b, [1.0, 1.0]);
            assert!(found.long_mm >= found.short_mm && found.long_mm.is_finite());
        }
    }
}
