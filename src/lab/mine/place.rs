//! Marks → pixels of one indexed image, with every rule that needs the image's geometry. Pure.

use super::image_header::Geometry;
use super::images::{Index, Stack};
use super::mark::{Mark, Place, Reason, Refusal};
use super::rules::{Points, agree, inside, lengths, long_first};

/// World coordinates may lie this far from the plane of their slice, mm, or half a slice interval where that is more.
const OFF_PLANE_MM: f64 = 0.5;
/// Coordinates are kept to this, pixels: the table's arithmetic then holds to its last digit.
const STEP_PX: f64 = 0.001;

/// A mark on its image.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Index of the document it came in.
    pub document: usize,
    /// The mark.
    pub mark: Mark,
    /// Stack of the index.
    pub stack: usize,
    /// Slice of the stack.
    pub slice: usize,
    /// End points, long axis first, pixels from the first pixel's centre.
    pub points: Points,
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// Pixel of a point in the patient (PS3.3 C.7.6.2.1.1, inverse), and its distance from the plane, mm.
#[must_use]
pub fn project(point_mm: [f64; 3], position_mm: [f64; 3], geometry: &Geometry) -> ([f64; 2], f64) {
    let [ax, ay, az, bx, by, bz] = geometry.orientation;
    let way = minus(point_mm, position_mm);
    let [sy, sx] = geometry.spacing_mm;
    ([dot(way, [ax, ay, az]) / sx, dot(way, [bx, by, bz]) / sy], dot(way, geometry.normal))
}

/// Places a mark.
///
/// # Errors
/// Why it cannot be used.
pub fn place(document: usize, mark: &Mark, index: &Index) -> Result<Placed, Refusal> {
    let (stack, slice) = find(mark, index)?;
    let on = &index.stacks[stack];
    if let Some(against) = &on.against {
        return Err(against.clone());
    }
    let geometry = on.geometry.ok_or_else(|| Refusal::new(Reason::NotCt, "the image has no geometry"))?;
    let points = match &mark.place {
        Place::Image { points_px, .. } => *points_px,
        Place::Patient { points_mm, .. } => on_plane(points_mm, on, slice, &geometry)?,
    };
    let [rows, cols] = on.key.size;
    inside(&points, rows.into(), cols.into())?;
    let points = long_first(points, geometry.spacing_mm).map(|p| p.map(|v| (v / STEP_PX).round() * STEP_PX));
    if let Some(stated) = mark.stated_mm {
        agree(stated, lengths(&points, geometry.spacing_mm))?;
    }
    Ok(Placed { document, mark: mark.clone(), stack, slice, points })
}

fn find(mark: &Mark, index: &Index) -> Result<(usize, usize), Refusal> {
    let missing = |text: String| Refusal::new(Reason::MissingImage, text);
    match &mark.place {
        Place::Image { sop_instance_uid, .. } => {
            index.image(sop_instance_uid).ok_or_else(|| missing(format!("image {sop_instance_uid} is in no image folder")))
        }
        Place::Patient { frame_of_reference_uid, sop_instance_uid, points_mm } => {
            if let Some(found) = sop_instance_uid.as_deref().and_then(|uid| index.image(uid)) {
                return Ok(found);
            }
            let slices = index.frame(frame_of_reference_uid);
            // A PET of the same frame of reference, or a reformat, is not what an axial mark was drawn on.
            let usable = slices.iter().filter(|(stack, _)| index.stacks[*stack].against.is_none());
            let centre = [0, 1, 2].map(|i| points_mm.iter().map(|p| p[i]).sum::<f64>() / 4.0);
            let apart = |(stack, slice): &(usize, usize)| off(centre, &index.stacks[*stack], *slice).abs();
            let nearest = usable.min_by(|a, b| apart(a).total_cmp(&apart(b)));
            nearest
                .or_else(|| slices.first())
                .copied()
                .ok_or_else(|| missing(format!("no image of frame of reference {frame_of_reference_uid} is in the image folders")))
        }
    }
}

/// Distance of a point from a slice's plane, mm.
fn off(point_mm: [f64; 3], stack: &Stack, slice: usize) -> f64 {
    stack.geometry.map_or(f64::INFINITY, |g| dot(minus(point_mm, stack.slices[slice].position_mm), g.normal))
}

fn on_plane(points_mm: &[[f64; 3]; 4], stack: &Stack, slice: usize, geometry: &Geometry) -> Result<Points, Refusal> {
    let most = (stack.interval_mm() / 2.0).max(OFF_PLANE_MM);
    let mut points = [[0.0; 2]; 4];
    for (point, world) in points.iter_mut().zip(points_mm) {
        let (pixel, off) = project(*world, stack.slices[slice].position_mm, geometry);
        if off.abs() > most {
            return Err(Refusal::new(
                Reason::OffSlice,
                format!("end point {:.1}, {:.1}, {:.1} mm lies {:.1} mm off the nearest slice", world[0], world[1], world[2], off.abs()),
            ));
        }
        *point = pixel;
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pixel_comes_back_from_the_patient(x in -10f64..600.0, y in -10f64..600.0, off in -3f64..3.0, tilt in -0.4f64..0.4, s in 0.3f64..1.2) {
            let (sin, cos) = tilt.sin_cos();
            let geometry = Geometry { orientation: [1.0, 0.0, 0.0, 0.0, cos, sin], normal: [0.0, -sin, cos], spacing_mm: [s, s * 1.2] };
            let position = [-200.0, -180.5, 77.0];
            let world = [position[0] + x * s * 1.2, position[1] + y * s * cos - off * sin, position[2] + y * s * sin + off * cos];
            let ([px, py], away) = project(world, position, &geometry);
            prop_assert!((px - x).abs() < 1e-6 && (py - y).abs() < 1e-6 && (away - off).abs() < 1e-6);
        }
    }
}
