//! The training loss of one batch: focal objectness, GIoU box, quality (IoU), type, axes and direction.

use candle_core::{D, Device, Result, Tensor};

use super::targets::LevelTargets;
use crate::detect::TYPES;
use crate::detect::heads::channel;
use crate::detect::network::HEAD_CHANNELS;

/// Focal loss (Lin et al. 2017): weight of positives and focusing exponent.
const FOCAL_ALPHA: f64 = 0.35;
/// Weights of the parts.
const BOX_WEIGHT: f64 = 2.0;
const QUALITY_WEIGHT: f64 = 0.5;
const TYPE_WEIGHT: f64 = 0.3;
const AXES_WEIGHT: f64 = 0.2;

/// The loss and its parts for the progress line.
pub struct Loss {
    /// What is differentiated.
    pub total: Tensor,
    /// Objectness, box, quality, type, axes.
    pub parts: [f32; 5],
}

/// `outputs`: per level `[b, h, w, 18]`.
///
/// # Errors
/// candle's.
pub fn loss(outputs: &[Tensor], targets: &[LevelTargets<'_>], device: &Device) -> Result<Loss> {
    let found: usize = targets.iter().map(|t| t.positives.len()).sum();
    let scale = 1.0 / found.max(4) as f64;
    let mut objectness = Tensor::zeros((), candle_core::DType::F32, device)?;
    let mut rows = Vec::new();
    for (output, level) in outputs.iter().zip(targets) {
        let flat = output.flatten(0, 2)?;
        let logits = flat.narrow(1, channel::OBJECTNESS, 1)?.flatten_all()?;
        objectness = (objectness + focal(&logits, &level.objectness, &level.counts, device)?)?;
        if !level.positives.is_empty() {
            let cells: Vec<u32> = level.positives.iter().map(|p| p.cell).collect();
            rows.push(flat.index_select(&Tensor::new(cells, device)?, 0)?);
        }
    }
    let objectness = (objectness * scale)?;
    if rows.is_empty() {
        let value = objectness.to_scalar::<f32>()?;
        return Ok(Loss { total: objectness, parts: [value, 0.0, 0.0, 0.0, 0.0] });
    }
    let rows = Tensor::cat(&rows, 0)?;
    debug_assert_eq!(rows.dim(1)?, HEAD_CHANNELS);
    let positives: Vec<_> = targets.iter().flat_map(|t| t.positives.iter().map(move |p| (t.stride as f32, p))).collect();
    let column = |f: &dyn Fn(f32, &super::targets::Positive<'_>) -> f32| -> Result<Tensor> {
        Tensor::new(positives.iter().map(|(s, p)| f(*s, p)).collect::<Vec<f32>>(), device)
    };
    // Distances in strides: from the centre of the cell to the four sides.
    let wanted = [
        column(&|s, p| (p.centre[0] - p.truth.box_px[0]) / s)?,
        column(&|s, p| (p.centre[1] - p.truth.box_px[1]) / s)?,
        column(&|s, p| (p.truth.box_px[2] - p.centre[0]) / s)?,
        column(&|s, p| (p.truth.box_px[3] - p.centre[1]) / s)?,
    ];
    let got = (0..4).map(|i| rows.narrow(1, channel::BOX + i, 1)?.flatten_all()?.clamp(-6f32, 6f32)?.exp()).collect::<Result<Vec<_>>>()?;
    let (iou, giou) = overlap(&got, &wanted)?;
    let boxes = ((1.0 - giou)?.sum_all()? * (BOX_WEIGHT * scale))?;
    let quality = rows.narrow(1, channel::QUALITY, 1)?.flatten_all()?;
    let quality = (cross_entropy(&quality, &iou.detach())?.sum_all()? * (QUALITY_WEIGHT * scale))?;
    // A type that nobody stated asks for nothing.
    let typed = column(&|_, p| f32::from(u8::from(p.truth.lesion_type < TYPES)))?;
    let types = Tensor::new(positives.iter().map(|(_, p)| p.truth.lesion_type.min(TYPES - 1) as u32).collect::<Vec<u32>>(), device)?;
    let log_types = candle_nn::ops::log_softmax(&rows.narrow(1, channel::TYPES, TYPES)?, D::Minus1)?;
    let types = (log_types.gather(&types.unsqueeze(1)?, 1)?.squeeze(1)? * typed)?;
    let types = (types.sum_all()? * (-TYPE_WEIGHT * scale))?;
    // Axes and direction, where they were measured; a round lesion has no direction.
    let known = column(&|_, p| f32::from(u8::from(p.truth.axes_px.is_some())))?;
    let mut axes = Tensor::zeros((), candle_core::DType::F32, device)?;
    for i in 0..2 {
        let target = column(&|s, p| p.truth.axes_px.map_or(0.0, |a| (a[i].max(1.0) / s).ln()))?;
        let error = (rows.narrow(1, channel::AXES + i, 1)?.flatten_all()? - target)?;
        axes = (axes + (error.abs()? * &known)?.sum_all()?)?;
    }
    let elongated = column(&|_, p| p.truth.axes_px.map_or(0.0, |a| (1.0 - a[1] / a[0].max(1.0)).clamp(0.0, 1.0)))?;
    for (i, f) in [(0, f32::sin as fn(f32) -> f32), (1, f32::cos)] {
        let error = (rows.narrow(1, channel::ANGLE + i, 1)?.flatten_all()? - column(&|_, p| f(2.0 * p.truth.angle_rad))?)?;
        axes = (axes + (error.sqr()? * &elongated)?.sum_all()?)?;
    }
    let axes = (axes * (AXES_WEIGHT * scale))?;
    let total = ((((&objectness + &boxes)? + &quality)? + &types)? + &axes)?;
    let parts = [&objectness, &boxes, &quality, &types, &axes].map(|t| t.to_scalar::<f32>());
    let mut values = [0.0; 5];
    for (value, part) in values.iter_mut().zip(parts) {
        *value = part?;
    }
    Ok(Loss { total, parts: values })
}

/// log(1 + eˣ) without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + ((x.abs()?.neg()?.exp()? + 1.0)?.log()?)
}

/// Binary cross-entropy of logits, a value each.
fn cross_entropy(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    softplus(logits)? - (logits * target)?
}

fn focal(logits: &Tensor, target: &[f32], counts: &[f32], device: &Device) -> Result<Tensor> {
    let target_tensor = Tensor::new(target, device)?;
    let p = candle_nn::ops::sigmoid(&logits.detach())?;
    // The modulating factor is held constant: its gradient is small beside the cross-entropy's, and the loss stays a weighted cross-entropy.
    let miss = (&target_tensor - p)?.sqr()?;
    let weights: Vec<f32> =
        target.iter().zip(counts).map(|(t, c)| c * if *t > 0.0 { FOCAL_ALPHA as f32 } else { 1.0 - FOCAL_ALPHA as f32 }).collect();
    ((cross_entropy(logits, &target_tensor)? * miss)? * Tensor::new(weights, device)?)?.sum_all()
}

/// IoU and GIoU (Rezatofighi et al. 2019) of boxes given as distances from one point.
fn overlap(a: &[Tensor], b: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let area = |v: &[Tensor]| (&v[0] + &v[2])? * (&v[1] + &v[3])?;
    let span = |i: usize, j: usize, f: fn(&Tensor, &Tensor) -> Result<Tensor>| f(&a[i], &b[i])? + f(&a[j], &b[j])?;
    let low = |x: &Tensor, y: &Tensor| x.minimum(y);
    let high = |x: &Tensor, y: &Tensor| x.maximum(y);
    let common = (span(0, 2, low)?.relu()? * span(1, 3, low)?.relu()?)?;
    let hull = (span(0, 2, high)? * span(1, 3, high)?)?;
    let union = ((area(a)? + area(b)?)? - &common)?;
    let iou = (&common / (&union + 1e-6)?)?;
    let giou = (&iou - ((&hull - &union)? / (&hull + 1e-6)?)?)?;
    Ok((iou, giou))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::detect::network::STRIDES;
    use crate::lab::synthesize::{CROP, Sample, Truth, UNKNOWN_TYPE};
    use crate::lab::train::targets::assign;
    use candle_core::Var;

    fn one(v: [f32; 4]) -> Vec<Tensor> {
        v.iter().map(|x| Tensor::new(&[*x], &Device::Cpu).unwrap()).collect()
    }

    #[test]
    fn overlap_of_known_boxes() {
        let get = |a, b| {
            let (iou, giou) = overlap(&one(a), &one(b)).unwrap();
            (iou.to_vec1::<f32>().unwrap()[0], giou.to_vec1::<f32>().unwrap()[0])
        };
        let (iou, giou) = get([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]);
        assert!((iou - 1.0).abs() < 1e-4 && (giou - 1.0).abs() < 1e-4);
        // [-1, 1]² and [0, 1] × [-1, 1]: half of it, and the hull is the larger box.
        let (iou, giou) = get([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]);
        assert!((iou - 0.5).abs() < 1e-4 && (giou - 0.5).abs() < 1e-4);
    }

    /// Loss parts and gradient of the type logits for one lesion of a type.
    fn of_type(lesion_type: usize) -> ([f32; 5], f32) {
        let truth = Truth { box_px: [100.0, 100.0, 130.0, 130.0], lesion_type, axes_px: None, angle_rad: 0.0 };
        let samples = [Sample { slots: 1, data: Vec::new(), truths: vec![truth], ignore: Vec::new() }];
        let targets = assign(&samples);
        let outputs: Vec<Var> =
            STRIDES.map(|s| Var::randn(0f32, 1f32, (1, CROP / s, CROP / s, HEAD_CHANNELS), &Device::Cpu).unwrap()).into();
        let tensors: Vec<Tensor> = outputs.iter().map(|v| v.as_tensor().clone()).collect();
        let loss = loss(&tensors, &targets, &Device::Cpu).unwrap();
        let grads = loss.total.backward().unwrap();
        let of = |v: &Var| grads.get(v).unwrap().narrow(3, channel::TYPES, TYPES).unwrap().abs().unwrap().sum_all().unwrap();
        (loss.parts, outputs.iter().map(|v| of(v).to_scalar::<f32>().unwrap()).sum())
    }

    #[test]
    fn an_unknown_type_asks_nothing_of_the_type_and_all_of_the_rest() {
        let (known, pull) = of_type(3);
        assert!(known[3] > 0.0 && pull > 0.0);
        let (unknown, pull) = of_type(UNKNOWN_TYPE);
        assert_eq!((unknown[3], pull), (0.0, 0.0));
        assert!([0, 1, 2].iter().all(|i| unknown[*i] > 0.0), "{unknown:?}");
    }

    #[test]
    fn cross_entropy_is_stable_and_right() {
        let x = Tensor::new(&[0f32, 100.0, -100.0], &Device::Cpu).unwrap();
        let t = Tensor::new(&[1f32, 0.0, 0.0], &Device::Cpu).unwrap();
        let v = cross_entropy(&x, &t).unwrap().to_vec1::<f32>().unwrap();
        assert!((v[0] - 2f32.ln()).abs() < 1e-5 && (v[1] - 100.0).abs() < 1e-3 && v[2].abs() < 1e-5);
    }
}
