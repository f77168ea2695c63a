//! What training draws from: synthesized samples, marked key slices, or both in a given share.

use rand::Rng;
use rand::rngs::StdRng;

use crate::error::{Class, Failure};
use crate::lab::dataset::marked::MarkedSlices;
use crate::lab::synthesize::{Sample, Sampler};

/// Sources with the share of samples that are marked key slices.
pub struct Mixture {
    synthetic: Option<Sampler>,
    marked: Option<MarkedSlices>,
    marked_share: f64,
}

impl Mixture {
    /// `marked_share` of the samples (0..=1) come from `marked`, the others from `synthetic`.
    ///
    /// # Errors
    /// [`Class::Usage`]: a source that the share needs is missing.
    pub fn new(synthetic: Option<Sampler>, marked: Option<MarkedSlices>, marked_share: f64) -> Result<Self, Failure> {
        let complain = |text: String| Err(Failure::new(Class::Usage, text));
        if marked_share > 0.0 && marked.is_none() {
            return complain("marked lesions are asked for and there are none: name their dataset with --harvest DIR".into());
        }
        if marked_share < 1.0 && synthetic.is_none() {
            let text = "there is nothing to synthesize into: name folders of CT with --ct DIR, or train on marked lesions alone with --harvest DIR --harvest-share 1";
            return complain(text.into());
        }
        Ok(Self { synthetic, marked, marked_share })
    }

    /// Synthesized samples only.
    #[must_use]
    pub fn synthetic(sampler: Sampler) -> Self {
        Self { synthetic: Some(sampler), marked: None, marked_share: 0.0 }
    }

    /// Marked slices only.
    #[must_use]
    pub fn marked(slices: MarkedSlices) -> Self {
        Self { synthetic: None, marked: Some(slices), marked_share: 1.0 }
    }

    /// Draws a sample of `slots` planes; the same seed gives the same as long as the files stay the same.
    ///
    /// # Errors
    /// No image of the marked slices can be read.
    pub fn sample(&self, rng: &mut StdRng, slots: usize) -> Result<Sample, Failure> {
        match (&self.marked, &self.synthetic) {
            (Some(marked), Some(synthetic)) => {
                if rng.random_bool(self.marked_share) {
                    marked.sample(rng, slots)
                } else {
                    Ok(synthetic.sample(rng, slots))
                }
            }
            (Some(marked), None) => marked.sample(rng, slots),
            (None, Some(synthetic)) => Ok(synthetic.sample(rng, slots)),
            (None, None) => Err(Failure::new(Class::Internal, "nothing to draw samples from")),
        }
    }

    /// What of the marked slices could not be read so far, for the progress line.
    #[must_use]
    pub fn trouble(&self) -> Option<std::sync::Arc<crate::lab::dataset::marked::Trouble>> {
        self.marked.as_ref().map(MarkedSlices::trouble)
    }
}
