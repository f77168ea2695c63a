//! Slices → stacks: images of one geometry, ordered along their normal. Pure; any order of the input gives the same stacks.

use super::SliceHeader;

/// Spacings may differ by this share of their median, or by [`SPACING_SLACK_MM`], and still be even (rounding of positions, table sag).
const SPACING_SLACK: f64 = 0.1;
const SPACING_SLACK_MM: f64 = 0.11;
/// Slices nearer than this lie at the same place, mm.
const SAME_PLACE_MM: f64 = 0.01;
/// Direction cosines of one stack agree to this.
const SAME_DIRECTION: f64 = 1e-3;

/// Images of one matrix, spacing and orientation, rising along `normal`, one a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// The slices, rising.
    pub slices: Vec<SliceHeader>,
    /// Position of each along the normal, mm.
    pub positions_mm: Vec<f64>,
    /// Median distance of neighbours, mm; 0 for a single slice.
    pub spacing_mm: f64,
    /// Unit normal, pointing to the head (z ≥ 0).
    pub normal: [f64; 3],
    /// Angle between the normal and the way from slice to slice, degrees: a tilted gantry shears the stack.
    pub shear_deg: f64,
    /// Slices that lay where another one already was.
    pub doubled: usize,
    /// Index of the slice before each gap, with the number of slices that seem to be missing.
    pub gaps: Vec<(usize, usize)>,
    /// Distances that are neither the spacing nor a multiple of it.
    pub uneven: bool,
}

/// A slice's geometry, where it has one.
struct Placed {
    header: SliceHeader,
    normal: [f64; 3],
    at: f64,
    position: [f64; 3],
}

fn cross(o: [f64; 6]) -> [f64; 3] {
    [o[1] * o[5] - o[2] * o[4], o[2] * o[3] - o[0] * o[5], o[0] * o[4] - o[1] * o[3]]
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(a: [f64; 3]) -> f64 {
    dot(a, a).sqrt()
}

/// Normal of an orientation, pointing to the head; `None` for an orientation of no length.
#[must_use]
pub fn normal(orientation: [f64; 6]) -> Option<[f64; 3]> {
    let n = cross(orientation);
    let size = length(n);
    if size < 0.5 {
        return None;
    }
    let sign = if n[2] < 0.0 { -1.0 } else { 1.0 };
    Some(n.map(|v| sign * v / size))
}

/// All stacks, the largest first; slices without position, orientation, spacing or matrix belong to none.
#[must_use]
pub fn stacks(headers: &[SliceHeader]) -> Vec<Stack> {
    let mut placed: Vec<Placed> = headers
        .iter()
        .filter_map(|h| {
            let (position, normal) = (h.position_mm?, normal(h.orientation?)?);
            h.pixel_spacing_mm.and(h.rows).and(h.cols)?;
            Some(Placed { header: h.clone(), normal, at: dot(position, normal), position })
        })
        .collect();
    placed.sort_by(|a, b| a.at.total_cmp(&b.at).then_with(|| rank(&a.header).cmp(&rank(&b.header))));
    let mut groups: Vec<Vec<Placed>> = Vec::new();
    for p in placed {
        match groups.iter_mut().find(|g| same_geometry(&g[0], &p)) {
            Some(group) => group.push(p),
            None => groups.push(vec![p]),
        }
    }
    let mut stacks: Vec<Stack> = groups.into_iter().map(stack).collect();
    stacks.sort_by(|a, b| b.slices.len().cmp(&a.slices.len()).then_with(|| rank(&a.slices[0]).cmp(&rank(&b.slices[0]))));
    stacks
}

/// Lowest instance number first, then lowest frame: what a duplicate place keeps.
fn rank(h: &SliceHeader) -> (i32, &str, u32) {
    (h.instance_number.unwrap_or(i32::MAX), &h.sop_instance_uid, h.frame.map_or(0, |f| f.number))
}

fn same_geometry(a: &Placed, b: &Placed) -> bool {
    let (Some(oa), Some(ob), Some(sa), Some(sb)) =
        (a.header.orientation, b.header.orientation, a.header.pixel_spacing_mm, b.header.pixel_spacing_mm)
    else {
        return false;
    };
    let close = |x: &[f64], y: &[f64], slack: f64| x.iter().zip(y).all(|(x, y)| (x - y).abs() < slack);
    (a.header.rows, a.header.cols) == (b.header.rows, b.header.cols) && close(&oa, &ob, SAME_DIRECTION) && close(&sa, &sb, 1e-4)
}

fn stack(group: Vec<Placed>) -> Stack {
    let all = group.len();
    let mut kept: Vec<Placed> = Vec::with_capacity(all);
    for p in group {
        if kept.last().is_none_or(|last| p.at - last.at > SAME_PLACE_MM) {
            kept.push(p);
        }
    }
    let steps: Vec<f64> = kept.windows(2).map(|w| w[1].at - w[0].at).collect();
    let mut sorted = steps.clone();
    sorted.sort_by(f64::total_cmp);
    let spacing_mm = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let slack = (spacing_mm * SPACING_SLACK).max(SPACING_SLACK_MM);
    let (mut gaps, mut uneven) = (Vec::new(), false);
    for (i, step) in steps.iter().enumerate() {
        let times = (step / spacing_mm).round();
        if (step - times * spacing_mm).abs() > slack || times < 1.0 {
            uneven = true;
        } else if times > 1.0 {
            gaps.push((i, times as usize - 1));
        }
    }
    let shear_deg = match (kept.first(), kept.last()) {
        (Some(first), Some(last)) if kept.len() > 1 => {
            let way: [f64; 3] = std::array::from_fn(|i| last.position[i] - first.position[i]);
            (dot(way, first.normal) / length(way)).clamp(-1.0, 1.0).acos().to_degrees()
        }
        _ => 0.0,
    };
    Stack {
        positions_mm: kept.iter().map(|p| p.at).collect(),
        spacing_mm,
        normal: kept.first().map_or([0.0, 0.0, 1.0], |p| p.normal),
        shear_deg,
        doubled: all - kept.len(),
        gaps,
        uneven,
        slices: kept.into_iter().map(|p| p.header).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An axial slice at `z`, as a scanner writes it.
    pub(crate) fn slice(n: i32, z: f64) -> SliceHeader {
        SliceHeader {
            path: format!("/spool/{n}.dcm").into(),
            study_instance_uid: "1.2.3".into(),
            series_instance_uid: "1.2.3.4".into(),
            sop_instance_uid: format!("1.2.3.4.{n}"),
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
            transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
            modality: "CT".into(),
            image_type: vec!["ORIGINAL".into(), "PRIMARY".into(), "AXIAL".into()],
            body_part: None,
            series_number: Some(2),
            instance_number: Some(n),
            rows: Some(512),
            cols: Some(512),
            samples_per_pixel: 1,
            frames: 1,
            frame: None,
            pixel_spacing_mm: Some([0.7, 0.7]),
            position_mm: Some([-180.0, -180.0, z]),
            orientation: Some([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
            thickness_mm: Some(2.0),
            gantry_tilt_deg: None,
            has_rescale: true,
            has_pixels: true,
        }
    }

    pub(crate) fn even(n: usize, spacing: f64) -> Vec<SliceHeader> {
        (0..n).map(|i| slice(i as i32 + 1, -100.0 + spacing * i as f64)).collect()
    }

    #[test]
    fn an_even_stack_has_its_spacing() {
        let s = &stacks(&even(20, 2.5))[0];
        assert_eq!((s.slices.len(), s.spacing_mm, s.uneven, s.gaps.len(), s.doubled), (20, 2.5, false, 0, 0));
        assert!(s.shear_deg < 1e-6);
    }

    #[test]
    fn a_missing_slice_is_a_gap_and_a_double_place_keeps_the_lower_number() {
        let mut headers = even(10, 2.0);
        headers.remove(4);
        headers.push(slice(99, -100.0));
        let s = &stacks(&headers)[0];
        assert_eq!((s.gaps.clone(), s.doubled), (vec![(3, 1)], 1));
        assert_eq!(s.slices[0].instance_number, Some(1));
    }

    #[test]
    fn a_tilted_gantry_shears() {
        let (sin, cos) = 16.5f64.to_radians().sin_cos();
        let headers: Vec<_> =
            even(10, 2.5).into_iter().map(|h| SliceHeader { orientation: Some([1.0, 0.0, 0.0, 0.0, cos, -sin]), ..h }).collect();
        assert!((stacks(&headers)[0].shear_deg - 16.5).abs() < 0.01);
    }

    #[test]
    fn two_matrices_are_two_stacks() {
        let mut headers = even(6, 2.0);
        headers.extend(even(9, 2.0).into_iter().map(|h| SliceHeader {
            rows: Some(256),
            sop_instance_uid: format!("{}.1", h.sop_instance_uid),
            ..h
        }));
        let found = stacks(&headers);
        assert_eq!(found.iter().map(|s| s.slices.len()).collect::<Vec<_>>(), [9, 6]);
    }

    proptest! {
        #[test]
        fn order_decides_nothing(n in 2usize..30, spacing in 0.5f64..6.0, seed in any::<u64>()) {
            let headers = even(n, spacing);
            let mut shuffled = headers.clone();
            for i in 0..n {
                shuffled.swap(i, (seed as usize).wrapping_mul(i + 13) % n);
            }
            prop_assert_eq!(stacks(&headers), stacks(&shuffled));
        }
    }
}
