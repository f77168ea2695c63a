//! Whether a series is one the detector is meant for; if not, why, in words for a technologist. Pure.

use super::stack::{Stack, stacks};
use super::{Reason, SliceHeader, multiframe};

/// Fewer slices than this are a localizer or a fragment, not a scan.
pub const LEAST_SLICES: usize = 5;
/// A stack sheared by more than this is one of a tilted gantry: the grid would smear it.
const MOST_SHEAR_DEG: f64 = 1.0;
/// cos 25°: a normal further from the patient's long axis is a coronal, sagittal or oblique reformat.
pub const LEAST_AXIAL: f64 = 0.906;
/// Thicker than any the detector was trained on, mm.
const MOST_SPACING_MM: f64 = 10.0;
/// A gap wider than this cannot be bridged, mm.
const MOST_GAP_MM: f64 = 10.0;

/// A stack that will be analysed.
#[derive(Debug, Clone, PartialEq)]
pub struct StackPlan {
    /// The stack.
    pub stack: Stack,
    /// No slices are missing.
    pub contiguous: bool,
}

fn reason(code: &str, text: String) -> Reason {
    Reason { code: code.into(), text }
}

/// What stands against one image, before geometry.
fn against(h: &SliceHeader) -> Option<Reason> {
    if h.modality != "CT" {
        let found = if h.modality.is_empty() { "missing" } else { &h.modality };
        return Some(reason("not_ct", format!("Modality is {found}; only CT is analysed. Nothing to do.")));
    }
    if h.image_type.iter().any(|v| v == "LOCALIZER") {
        return Some(reason("localizer", "This is a localizer (scout). Nothing to do.".into()));
    }
    let screen = h.samples_per_pixel != 1 || h.sop_class_uid.starts_with("1.2.840.10008.5.1.4.1.1.7");
    if screen {
        return Some(reason("not_an_acquisition", "These are screens or secondary captures, not CT slices. Nothing to do.".into()));
    }
    if !h.has_pixels {
        return Some(reason("no_pixels", "The object holds no image. Nothing to do.".into()));
    }
    if h.frames > 1 {
        return Some(reason(
            "multi_frame",
            if multiframe::CLASSES.contains(&h.sop_class_uid.as_str()) {
                format!(
                    "The object says that it holds {} frames; at most {} are analysed. Send the series in parts.",
                    h.frames,
                    multiframe::MOST_FRAMES
                )
            } else {
                format!("The object holds {} frames; send the series as single slices (CT Image Storage) or as Enhanced CT.", h.frames)
            },
        ));
    }
    if !h.has_rescale {
        return Some(reason("no_rescale", "Rescale Slope and Intercept are missing, so HU are unknown. Send the original series.".into()));
    }
    let missing: Vec<&str> = [
        (h.pixel_spacing_mm.is_none(), "Pixel Spacing"),
        (h.position_mm.is_none(), "Image Position (Patient)"),
        (h.orientation.is_none(), "Image Orientation (Patient)"),
        (h.rows.is_none() || h.cols.is_none(), "Rows or Columns"),
    ]
    .into_iter()
    .filter_map(|(missing, name)| missing.then_some(name))
    .collect();
    (!missing.is_empty()).then(|| reason("no_geometry", format!("{} missing or not usable. Send the original series.", missing.join(", "))))
}

/// The stack to analyse, or why there is none. The largest axial stack is taken; objects of other kinds in the same series do not stand in its way.
///
/// # Errors
/// The reason to publish.
pub fn plan(headers: &[SliceHeader]) -> Result<StackPlan, Reason> {
    let (mut usable, mut objections) = (Vec::new(), Vec::new());
    for h in headers {
        match against(h) {
            None => usable.push(h.clone()),
            Some(r) => objections.push((h.sop_instance_uid.as_str(), r)),
        }
    }
    let found = stacks(&usable);
    let Some(stack) = found.iter().find(|s| s.normal[2] >= LEAST_AXIAL).or(found.first()) else {
        // The first by name, so that arrival decides nothing.
        objections.sort_by(|a, b| a.0.cmp(b.0));
        let first = objections.into_iter().next().map(|(_, r)| r);
        return Err(first.unwrap_or_else(|| reason("no_images", "The series holds no images. Nothing to do.".into())));
    };
    check(stack)?;
    Ok(StackPlan { contiguous: stack.gaps.is_empty(), stack: stack.clone() })
}

fn check(s: &Stack) -> Result<(), Reason> {
    if s.normal[2] < LEAST_AXIAL {
        let angle = s.normal[2].clamp(-1.0, 1.0).acos().to_degrees();
        return Err(reason(
            "not_axial",
            format!("The slices stand {angle:.0}° off axial (a reformat); only axial series are analysed. Send the axial one."),
        ));
    }
    if s.slices.len() < LEAST_SLICES {
        let n = s.slices.len();
        return Err(reason("too_few_slices", format!("{n} axial slices; at least {LEAST_SLICES} are needed. Was the series sent whole?")));
    }
    let stated = s.slices.iter().filter_map(|h| h.gantry_tilt_deg).map(f64::abs).fold(0.0, f64::max);
    if s.shear_deg > MOST_SHEAR_DEG {
        let said = if stated > MOST_SHEAR_DEG { format!(" (the header says {stated:.1}°)") } else { String::new() };
        return Err(reason(
            "gantry_tilt",
            format!("The gantry was tilted by {:.1}°{said}; tilted stacks are not analysed. Send an untilted reconstruction.", s.shear_deg),
        ));
    }
    if s.uneven {
        let steps: Vec<f64> = s.positions_mm.windows(2).map(|w| w[1] - w[0]).collect();
        let (low, high) = steps.iter().fold((f64::MAX, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        return Err(reason(
            "uneven_spacing",
            format!("The distance of the slices varies from {low:.2} to {high:.2} mm; send an evenly spaced reconstruction."),
        ));
    }
    if s.spacing_mm > MOST_SPACING_MM {
        return Err(reason(
            "too_thick",
            format!(
                "Slices are {:.1} mm apart, at most {MOST_SPACING_MM:.0} mm are analysed; send a thinner reconstruction.",
                s.spacing_mm
            ),
        ));
    }
    let wide = s.gaps.iter().find(|(_, missing)| (*missing + 1) as f64 * s.spacing_mm > MOST_GAP_MM);
    if let Some((at, missing)) = wide {
        let name = |h: &SliceHeader| if h.frame.is_some() { h.label() } else { format!("instance {}", h.label()) };
        let (a, b) = (name(&s.slices[*at]), name(&s.slices[at + 1]));
        return Err(reason("missing_slices", format!("{missing} slices seem to be missing between {a} and {b}; send the series again.")));
    }
    Ok(())
}

/// Every image that can be decoded in some way, as stacks: what `scan --force` analyses. Images without a place in space come as stacks of one.
#[must_use]
pub fn forced(headers: &[SliceHeader]) -> Vec<StackPlan> {
    const DEFAULT_SPACING_MM: f64 = 0.8; // the detector's own pixel
    let repaired: Vec<SliceHeader> = headers
        .iter()
        .filter(|h| h.has_pixels && h.samples_per_pixel == 1)
        .map(|h| SliceHeader { pixel_spacing_mm: h.pixel_spacing_mm.or(Some([DEFAULT_SPACING_MM; 2])), ..h.clone() })
        .collect();
    let (placed, loose): (Vec<_>, Vec<_>) = repaired.into_iter().partition(|h| h.position_mm.is_some() && h.orientation.is_some());
    let mut plans = Vec::new();
    for stack in stacks(&placed) {
        if stack.uneven || stack.shear_deg > MOST_SHEAR_DEG || stack.spacing_mm > MOST_SPACING_MM {
            plans.extend(stack.slices.iter().flat_map(|h| stacks(std::slice::from_ref(h))));
        } else {
            plans.push(stack);
        }
    }
    for (i, h) in loose.into_iter().enumerate() {
        let orientation = Some([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        plans.extend(stacks(&[SliceHeader { position_mm: Some([0.0, 0.0, 100.0 * i as f64]), orientation, ..h }]));
    }
    plans.into_iter().map(|stack| StackPlan { contiguous: stack.gaps.is_empty(), stack }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::stack::tests::{even, slice};
    use super::*;

    fn code(headers: &[SliceHeader]) -> String {
        plan(headers).unwrap_err().code
    }

    fn with(f: impl Fn(&mut SliceHeader)) -> Vec<SliceHeader> {
        let mut headers = even(12, 2.0);
        headers.iter_mut().for_each(f);
        headers
    }

    #[test]
    fn a_scan_is_eligible_and_company_does_not_stand_in_its_way() {
        let mut headers = even(12, 2.0);
        let mut scout = slice(100, 0.0);
        scout.image_type.push("LOCALIZER".into());
        headers.push(scout);
        assert!(plan(&headers).unwrap().contiguous);
    }

    #[test]
    fn every_refusal_has_its_code() {
        assert_eq!(code(&[]), "no_images");
        assert_eq!(code(&with(|h| h.modality = "MR".into())), "not_ct");
        assert_eq!(code(&with(|h| h.image_type.push("LOCALIZER".into()))), "localizer");
        assert_eq!(code(&with(|h| h.samples_per_pixel = 3)), "not_an_acquisition");
        assert_eq!(code(&with(|h| h.has_rescale = false)), "no_rescale");
        assert_eq!(code(&with(|h| h.position_mm = None)), "no_geometry");
        assert_eq!(code(&with(|h| h.frames = 40)), "multi_frame");
        assert_eq!(code(&even(3, 2.0)), "too_few_slices");
        assert_eq!(code(&even(12, 12.0)), "too_thick");
        let coronal = with(|h| {
            h.orientation = Some([1.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
            h.position_mm = h.position_mm.map(|p| [p[0], p[2], 0.0]);
        });
        assert_eq!(code(&coronal), "not_axial");
    }

    #[test]
    fn gaps_are_bridged_or_named() {
        let mut headers = even(20, 2.0);
        headers.remove(9);
        assert!(!plan(&headers).unwrap().contiguous);
        headers.drain(5..12);
        let refused = plan(&headers).unwrap_err();
        assert_eq!(refused.code, "missing_slices");
        assert!(refused.text.contains("between instance 5 and instance 14"), "{}", refused.text);
    }

    #[test]
    fn force_takes_what_is_left() {
        let loose = SliceHeader { position_mm: None, pixel_spacing_mm: None, ..slice(1, 0.0) };
        let plans = forced(&[loose, slice(2, 5.0)]);
        assert_eq!(plans.len(), 2);
        assert!(plans.iter().all(|p| p.stack.slices.len() == 1));
    }
}
