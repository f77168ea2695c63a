//! Truth of an inserted lesion: RECIST axes and DeepLesion's box, measured on the mask that was painted.

use super::Truth;
use crate::volume::frame::MARGIN_PX;

/// End points of both axes of a mask (`width` columns, row-major) as a radiologist draws them: the longest line, then the longest at right angles to it.
/// `None` for less than `least` pixels.
#[must_use]
pub fn axes(mask: &[bool], width: usize, least: usize) -> Option<[[f32; 2]; 4]> {
    let inside: Vec<[f32; 2]> = (0..mask.len()).filter(|i| mask[*i]).map(|i| [(i % width) as f32, (i / width) as f32]).collect();
    if inside.len() < least {
        return None;
    }
    // Extreme points of 32 directions stand for the outline.
    let directions: Vec<[f32; 2]> = (0..32).map(|i| (i as f32 * std::f32::consts::TAU / 32.0).sin_cos()).map(|(s, c)| [c, s]).collect();
    let furthest = |d: [f32; 2]| inside.iter().copied().max_by(|a, b| (a[0] * d[0] + a[1] * d[1]).total_cmp(&(b[0] * d[0] + b[1] * d[1])));
    let outline: Vec<[f32; 2]> = directions.iter().filter_map(|d| furthest(*d)).collect();
    let (mut long, mut ends) = (0.0, [inside[0]; 2]);
    for a in &outline {
        for b in &outline {
            let d = (a[0] - b[0]).hypot(a[1] - b[1]);
            if d > long {
                (long, ends) = (d, [*a, *b]);
            }
        }
    }
    let along = if long > 0.0 { [(ends[1][0] - ends[0][0]) / long, (ends[1][1] - ends[0][1]) / long] } else { [1.0, 0.0] };
    let across = [-along[1], along[0]];
    // The longest run at right angles: bins of one pixel along the axis.
    let mut runs = vec![[f32::MAX, f32::MIN, 0.0, 0.0, 0.0, 0.0]; long.ceil() as usize + 1];
    for p in &inside {
        let (u, v) = (along[0] * (p[0] - ends[0][0]) + along[1] * (p[1] - ends[0][1]), across[0] * p[0] + across[1] * p[1]);
        let bin = &mut runs[(u.max(0.0).round() as usize).min(long.ceil() as usize)];
        if v < bin[0] {
            (bin[0], bin[2], bin[3]) = (v, p[0], p[1]);
        }
        if v > bin[1] {
            (bin[1], bin[4], bin[5]) = (v, p[0], p[1]);
        }
    }
    let widest = runs.into_iter().filter(|r| r[1] >= r[0]).max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])))?;
    Some([ends[0], ends[1], [widest[2], widest[3]], [widest[4], widest[5]]])
}

/// DeepLesion's box round the end points, with its margin in their pixels.
#[must_use]
pub fn box_of(points: &[[f32; 2]; 4]) -> [f32; 4] {
    let extent = |axis: usize, f: fn(f32, f32) -> f32, start: f32| points.iter().map(|p| p[axis]).fold(start, f);
    let (x1, x2) = (extent(0, f32::min, f32::MAX), extent(0, f32::max, f32::MIN));
    let (y1, y2) = (extent(1, f32::min, f32::MAX), extent(1, f32::max, f32::MIN));
    [x1 - MARGIN_PX, y1 - MARGIN_PX, x2 + MARGIN_PX, y2 + MARGIN_PX]
}

/// Axes and box of a mask as [`axes`] takes it, slot pixels.
#[must_use]
pub fn measure(mask: &[bool], width: usize, least: usize, lesion_type: usize) -> Option<Truth> {
    let points = axes(mask, width, least)?;
    let [long, short] = [(0, 1), (2, 3)].map(|(a, b)| [points[b][0] - points[a][0], points[b][1] - points[a][1]]);
    let length = long[0].hypot(long[1]);
    let across = (long[0] * short[1] - long[1] * short[0]).abs() / length.max(1e-6);
    Some(Truth {
        box_px: box_of(&points),
        lesion_type,
        // Pixels have a width, their centres have not.
        axes_px: Some([length + 1.0, across + 1.0]),
        angle_rad: long[1].atan2(long[0]).rem_euclid(std::f32::consts::PI),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipse_has_its_axes_and_its_box() {
        let (w, angle) = (128usize, 0.5f32);
        let mask: Vec<bool> = (0..w * w)
            .map(|i| {
                let (x, y) = ((i % w) as f32 - 64.0, (i / w) as f32 - 60.0);
                let (u, v) = (x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin());
                (u / 30.0).powi(2) + (v / 12.0).powi(2) <= 1.0
            })
            .collect();
        let truth = measure(&mask, w, 4, 3).unwrap();
        let [long, short] = truth.axes_px.unwrap();
        assert!((long - 60.0).abs() < 2.0 && (short - 24.0).abs() < 2.5, "{long} {short}");
        assert!((truth.angle_rad - angle).abs() < 0.08);
        // The long axis runs from 64 ± 30 cos θ, 60 ± 30 sin θ.
        let expected = [64.0 - 26.3 - 5.0, 60.0 - 14.4 - 5.0, 64.0 + 26.3 + 5.0, 60.0 + 14.4 + 5.0];
        for (a, b) in truth.box_px.iter().zip(expected) {
            assert!((a - b).abs() < 3.0, "{:?}", truth.box_px);
        }
        assert!(measure(&mask, w, 1 << 20, 3).is_none());
    }
}
