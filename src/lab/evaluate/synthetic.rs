//! Validation on synthetic lesions in a series that was kept out of training: sensitivity and types.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::confusion::Confusion;
use super::froc::{Image, Matches, Rule, match_image, matches};
use crate::detect::{Engine, EngineError, SlotInput, TYPE_NAMES, heads, nms, type_name};
use crate::lab::synthesize::{CROP, Sampler};

/// What validation found.
pub struct Validation {
    /// Every crop with predictions and truth.
    pub images: Vec<Image>,
    /// Types of found lesions.
    pub confusion: Confusion,
}

/// Runs `engine` over `count` crops of `slots` planes.
///
/// # Errors
/// The engine's.
pub fn run(sampler: &Sampler, engine: &mut dyn Engine, count: usize, slots: usize, seed: u64) -> Result<Validation, EngineError> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut images = Vec::with_capacity(count);
    let mut types = Vec::new();
    for _ in 0..count {
        let sample = sampler.sample(&mut rng, slots);
        let features = sample
            .data
            .chunks_exact(CROP * CROP * 3)
            .map(|plane| engine.encode(&SlotInput { height: CROP, width: CROP, data: plane.to_vec() }))
            .collect::<Result<Vec<_>, _>>()?;
        let window: Vec<_> = if slots == 1 { vec![&features[0]; engine.context()] } else { features.iter().collect() };
        let wide = |b: [f32; 4]| b.map(f64::from);
        let inside = |b: &[f32; 4]| {
            sample.ignore.iter().any(|i| {
                (b[0] + b[2]) / 2.0 >= i[0] && (b[0] + b[2]) / 2.0 <= i[2] && (b[1] + b[3]) / 2.0 >= i[1] && (b[1] + b[3]) / 2.0 <= i[3]
            })
        };
        let mut kept = nms::finds(heads::decode(&engine.heads(&window)?));
        kept.retain(|c| !inside(&c.box_px));
        let image = Image {
            predictions: kept.iter().map(|c| (wide(c.box_px), f64::from(c.score))).collect(),
            truths: sample.truths.iter().map(|t| wide(t.box_px)).collect(),
        };
        let hits = match_image(&image, Rule::Iou).hits;
        types.extend(sample.truths.iter().zip(hits).filter_map(|(t, hit)| Some((TYPE_NAMES[t.lesion_type], type_name(&kept[hit?].types)))));
        images.push(image);
    }
    Ok(Validation { images, confusion: types.into_iter().collect() })
}

impl Validation {
    /// Matches by IoU > 0.5.
    #[must_use]
    pub fn matches(&self) -> Matches {
        matches(&self.images, Rule::Iou)
    }
}
