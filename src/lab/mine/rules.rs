//! The rules that a mark must meet, as arithmetic on four end points: lengths, box, crossing, overlap, averaging, suspicion, split. Pure.
//!
//! Points are x, y in pixels, 0 at the centre of the first pixel: both ends of the long axis, then both of the short one.

use sha2::{Digest, Sha256};

use super::mark::{Reason, Refusal};
use crate::volume::HuImage;
use crate::volume::body::PixelBox;
use crate::volume::frame;

/// The box is the extent of the end points grown by this on each side, pixels (true of every checked row of DeepLesion's table).
pub const MARGIN_PX: f64 = frame::MARGIN_PX as f64;
/// Axes that cross at less are two lengths, not a pair (99 % of DeepLesion's pairs cross at more), degrees.
pub const LEAST_CROSSING_DEG: f64 = 74.0;
/// How far beyond its end a line may have to be drawn on to cross the other, as a share of its length: axes that just touch are a pair.
const TOUCHING: f64 = 0.05;
/// Boxes of one image that overlap by more (intersection over union) are one lesion.
const SAME_LESION: f64 = 0.6;
/// Stated and drawn lengths may differ by this share, or by [`LENGTH_SLACK_MM`].
const LENGTH_SLACK: f64 = 0.05;
const LENGTH_SLACK_MM: f64 = 1.0;
/// Below this the region is air, HU.
const AIR_MEAN_HU: f64 = -900.0;
/// Long over short axis above this is a vessel or a slip of the hand.
const MOST_ASPECT: f64 = 4.0;
/// Axes shorter than this are a click, pixels.
const LEAST_AXIS_PX: f64 = 2.0;

/// Four end points.
pub type Points = [[f64; 2]; 4];

fn distance([x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) -> f64 {
    (x2 - x1).hypot(y2 - y1)
}

/// Lengths of both axes for pixels of `spacing` (row spacing y, column spacing x); `[1, 1]` for lengths in pixels.
#[must_use]
pub fn lengths(points: &Points, [sy, sx]: [f64; 2]) -> [f64; 2] {
    let scaled = points.map(|[x, y]| [x * sx, y * sy]);
    [distance(scaled[0], scaled[1]), distance(scaled[2], scaled[3])]
}

/// The points with the longer axis first; what a reader calls long is not always.
#[must_use]
pub fn long_first(points: Points, spacing: [f64; 2]) -> Points {
    let [long, short] = lengths(&points, spacing);
    if long >= short { points } else { [points[2], points[3], points[0], points[1]] }
}

/// DeepLesion's box: x1, y1, x2, y2.
#[must_use]
pub fn bounding_box(points: &Points) -> [f64; 4] {
    let least = |i: usize| points.iter().map(|p| p[i]).fold(f64::INFINITY, f64::min);
    let most = |i: usize| points.iter().map(|p| p[i]).fold(f64::NEG_INFINITY, f64::max);
    [least(0) - MARGIN_PX, least(1) - MARGIN_PX, most(0) + MARGIN_PX, most(1) + MARGIN_PX]
}

/// Intersection over union.
#[must_use]
pub fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |b: [f64; 4]| (b[2] - b[0]).max(0.0) * (b[3] - b[1]).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    if both > 0.0 { both / (area(a) + area(b) - both) } else { 0.0 }
}

/// Angle at which two lines cross, 0 to 90 degrees; `None` where they do not.
#[must_use]
pub fn crossing_deg(a: [[f64; 2]; 2], b: [[f64; 2]; 2]) -> Option<f64> {
    let way = |l: [[f64; 2]; 2]| [l[1][0] - l[0][0], l[1][1] - l[0][1]];
    let (u, v, w) = (way(a), way(b), [b[0][0] - a[0][0], b[0][1] - a[0][1]]);
    let cross = |p: [f64; 2], q: [f64; 2]| p[0] * q[1] - p[1] * q[0];
    let turn = cross(u, v);
    if turn == 0.0 {
        return None;
    }
    let on = -TOUCHING..=1.0 + TOUCHING;
    if !on.contains(&(cross(w, v) / turn)) || !on.contains(&(cross(w, u) / turn)) {
        return None;
    }
    Some(turn.abs().atan2((u[0] * v[0] + u[1] * v[1]).abs()).to_degrees())
}

/// Stated lengths (mm, either order) against drawn ones.
///
/// # Errors
/// [`Reason::LengthsDisagree`] with both.
pub fn agree(stated_mm: [f64; 2], drawn_mm: [f64; 2]) -> Result<(), Refusal> {
    let sorted = |[a, b]: [f64; 2]| if a >= b { [a, b] } else { [b, a] };
    let (stated, drawn) = (sorted(stated_mm), sorted(drawn_mm));
    let fits = stated.iter().zip(drawn).all(|(s, d)| (s - d).abs() <= (LENGTH_SLACK * d).max(LENGTH_SLACK_MM));
    if fits {
        return Ok(());
    }
    let text = format!("stated {:.1} x {:.1} mm, drawn {:.1} x {:.1} mm", stated[0], stated[1], drawn[0], drawn[1]);
    Err(Refusal::new(Reason::LengthsDisagree, text))
}

/// Whether every end point lies on an image of `rows` × `cols`.
///
/// # Errors
/// [`Reason::OutsideImage`] with the first that does not.
pub fn inside(points: &Points, rows: usize, cols: usize) -> Result<(), Refusal> {
    let on = |v: f64, n: usize| (-0.5..=n as f64 - 0.5).contains(&v);
    match points.iter().find(|[x, y]| !on(*x, cols) || !on(*y, rows)) {
        None => Ok(()),
        Some([x, y]) => {
            Err(Refusal::new(Reason::OutsideImage, format!("end point {x:.1}, {y:.1} lies outside the image of {cols} x {rows} pixels")))
        }
    }
}

/// Which marks of one image are one lesion: groups of indices into `boxes`, each rising; overlaps are followed through.
#[must_use]
pub fn same_lesions(boxes: &[[f64; 4]]) -> Vec<Vec<usize>> {
    let mut group: Vec<usize> = (0..boxes.len()).collect();
    for i in 0..boxes.len() {
        for j in 0..i {
            if overlap(boxes[i], boxes[j]) > SAME_LESION && group[i] != group[j] {
                let (from, to) = (group[i].max(group[j]), group[i].min(group[j]));
                group.iter_mut().filter(|g| **g == from).for_each(|g| *g = to);
            }
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); boxes.len()];
    for (i, g) in group.into_iter().enumerate() {
        groups[g].push(i);
    }
    groups.retain(|g| !g.is_empty());
    groups
}

/// Mean of several readers' end points, long axis first. The first gives the order of the ends; of the others that order is taken which lies nearest, so
/// that ends named the other way round, or two readers' long and short axes exchanged, do not cancel.
#[must_use]
pub fn average(all: &[Points], spacing: [f64; 2]) -> Option<Points> {
    let first = all.first()?;
    let orders = [[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 3, 2], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 0, 1], [2, 3, 1, 0], [3, 2, 1, 0]];
    let mut sum = [[0.0; 2]; 4];
    for points in all {
        let apart = |order: &[usize; 4]| (0..4).map(|i| distance(first[i], points[order[i]]).powi(2)).sum::<f64>();
        let order = orders.iter().min_by(|a, b| apart(a).total_cmp(&apart(b)))?;
        for i in 0..4 {
            sum[i][0] += points[order[i]][0];
            sum[i][1] += points[order[i]][1];
        }
    }
    let n = all.len() as f64;
    Some(long_first(sum.map(|[x, y]| [x / n, y / n]), spacing))
}

/// What makes a mark suspicious: to be looked at, not to be believed.
#[must_use]
pub fn suspicions(points: &Points, image: &HuImage, body: PixelBox) -> Vec<Refusal> {
    let mut found = Vec::new();
    let tight = bounding_box(points);
    let [x1, y1, x2, y2] = [tight[0] + MARGIN_PX, tight[1] + MARGIN_PX, tight[2] - MARGIN_PX, tight[3] - MARGIN_PX];
    let [cx, cy] = [(x1 + x2) / 2.0, (y1 + y2) / 2.0];
    if cx < body.x1 as f64 || cx > body.x2 as f64 || cy < body.y1 as f64 || cy > body.y2 as f64 {
        found.push(Refusal::new(Reason::OutsideBody, format!("centre {cx:.1}, {cy:.1} lies outside the body")));
    }
    let mean = mean_hu(image, [x1, y1, x2, y2]);
    if mean < AIR_MEAN_HU {
        found.push(Refusal::new(Reason::Air, format!("mean of {mean:.0} HU")));
    }
    let [long, short] = lengths(points, [1.0, 1.0]);
    if long > MOST_ASPECT * short {
        found.push(Refusal::new(Reason::Elongated, format!("axes of {long:.1} and {short:.1} px")));
    }
    if short < LEAST_AXIS_PX {
        found.push(Refusal::new(Reason::Tiny, format!("short axis of {short:.1} px")));
    }
    found
}

/// Mean over the pixels of a box, at least one.
fn mean_hu(image: &HuImage, [x1, y1, x2, y2]: [f64; 4]) -> f64 {
    let at = |v: f64, n: usize| (v.round().max(0.0) as usize).min(n.saturating_sub(1));
    let (left, right, top, bottom) = (at(x1, image.cols), at(x2, image.cols), at(y1, image.rows), at(y2, image.rows));
    let mut sum = 0.0;
    for y in top..=bottom {
        sum += image.hu[y * image.cols + left..=y * image.cols + right].iter().map(|v| f64::from(*v)).sum::<f64>();
    }
    sum / ((right - left + 1) * (bottom - top + 1)) as f64
}

/// SHA-256 of what names a patient: orders patients and chooses their split; never written.
#[must_use]
pub fn patient_hash(patient: &str) -> [u8; 32] {
    Sha256::digest(patient.trim().as_bytes()).into()
}

/// DeepLesion's `Train_Val_Test`: 1 train (70 %), 2 validation (15 %), 3 test (15 %). The same patient falls into the same part in every harvest.
#[must_use]
pub fn split(hash: &[u8; 32]) -> u8 {
    let head = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
    match head as f64 / u64::MAX as f64 {
        share if share < 0.70 => 1,
        share if share < 0.85 => 2,
        _ => 3,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CROSS: Points = [[10.0, 20.0], [30.0, 20.0], [20.0, 14.0], [20.0, 26.0]];

    #[test]
    fn a_row_of_the_public_table_keeps_its_arithmetic() {
        let points = [[357.938, 289.428], [364.226, 314.912], [367.536, 300.35], [350.988, 305.976]];
        for (a, b) in bounding_box(&points).iter().zip([345.988, 284.428, 372.536, 319.912]) {
            assert!((a - b).abs() < 1e-9);
        }
        let [long, short] = lengths(&points, [1.0, 1.0]);
        assert!((long - 26.2489).abs() < 1e-3 && (short - 17.4787).abs() < 1e-3);
        assert!(crossing_deg([points[0], points[1]], [points[2], points[3]]).unwrap() > LEAST_CROSSING_DEG);
    }

    #[test]
    fn lines_cross_only_where_they_meet() {
        let [a, b] = [[CROSS[0], CROSS[1]], [CROSS[2], CROSS[3]]];
        assert!((crossing_deg(a, b).unwrap() - 90.0).abs() < 1e-9);
        assert_eq!(crossing_deg(a, [[20.0, 24.0], [20.0, 36.0]]), None);
        assert_eq!(crossing_deg(a, a), None);
        assert!(crossing_deg(a, [[10.0, 14.0], [30.0, 26.0]]).unwrap() < 32.0);
    }

    #[test]
    fn lengths_agree_to_five_percent_or_a_millimetre() {
        assert!(agree([10.9, 6.0], [10.0, 5.1]).is_ok());
        assert!(agree([6.0, 10.0], [10.0, 6.0]).is_ok());
        assert!(agree([104.0, 60.0], [100.0, 60.0]).is_ok());
        assert_eq!(agree([111.0, 60.0], [100.0, 60.0]).unwrap_err().reason, Reason::LengthsDisagree);
    }

    #[test]
    fn the_image_ends_half_a_pixel_beyond_the_last_centre() {
        let at = |x: f64| inside(&[[x, 5.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], 10, 20);
        assert!(at(-0.5).is_ok() && at(19.5).is_ok());
        assert_eq!(at(19.6).unwrap_err().reason, Reason::OutsideImage);
        assert_eq!(at(f64::NAN).unwrap_err().reason, Reason::OutsideImage);
    }

    #[test]
    fn overlaps_are_followed_through() {
        let b = |x: f64| [x, 0.0, x + 10.0, 10.0];
        assert_eq!(same_lesions(&[b(0.0), b(50.0), b(4.0), b(2.0)]), [vec![0, 2, 3], vec![1]]);
    }

    #[test]
    fn each_suspicion_has_its_reason() {
        let image = HuImage { rows: 64, cols: 64, hu: vec![-1000; 64 * 64] };
        let body = PixelBox { x1: 40, y1: 40, x2: 60, y2: 60 };
        let line = [[10.0, 20.0], [30.0, 20.0], [20.0, 19.5], [20.0, 20.5]];
        let found: Vec<Reason> = suspicions(&line, &image, body).into_iter().map(|r| r.reason).collect();
        assert_eq!(found, [Reason::OutsideBody, Reason::Air, Reason::Elongated, Reason::Tiny]);
        let whole = PixelBox { x1: 0, y1: 0, x2: 63, y2: 63 };
        assert_eq!(suspicions(&CROSS, &HuImage { rows: 64, cols: 64, hu: vec![40; 64 * 64] }, whole), []);
    }

    #[test]
    fn patients_fall_into_parts_of_the_right_size() {
        let mut counts = [0; 4];
        for i in 0..20_000 {
            counts[usize::from(split(&patient_hash(&format!("P{i}"))))] += 1;
        }
        assert!((13_700..14_300).contains(&counts[1]) && (2_800..3_200).contains(&counts[2]), "{counts:?}");
        assert_eq!(patient_hash("P1 "), patient_hash("P1"));
    }

    proptest! {
        #[test]
        fn readers_who_name_ends_otherwise_average_to_the_same(swap in 0usize..8, dx in -1f64..1.0) {
            let orders = [[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 3, 2], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 0, 1], [2, 3, 1, 0], [3, 2, 1, 0]];
            let other = orders[swap].map(|i| [CROSS[i][0] + dx, CROSS[i][1]]);
            let mean = average(&[CROSS, other], [1.0, 1.0]).unwrap();
            for (m, c) in mean.iter().zip(CROSS) {
                prop_assert!((m[0] - c[0] - dx / 2.0).abs() < 1e-9 && (m[1] - c[1]).abs() < 1e-9);
            }
        }

        #[test]
        fn overlap_is_a_share_and_symmetric(a in prop::array::uniform4(0f64..100.0), b in prop::array::uniform4(0f64..100.0)) {
            let o = overlap(a, b);
            prop_assert!((0.0..=1.0 + 1e-9).contains(&o) && (o - overlap(b, a)).abs() < 1e-12);
        }

        #[test]
        fn the_box_holds_the_points(p in prop::array::uniform4(prop::array::uniform2(0f64..512.0))) {
            let b = bounding_box(&p);
            prop_assert!(p.iter().all(|[x, y]| *x >= b[0] + 4.999 && *x <= b[2] - 4.999 && *y >= b[1] + 4.999 && *y <= b[3] - 4.999));
        }
    }
}
