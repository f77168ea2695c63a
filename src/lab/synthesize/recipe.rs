//! Parts of the recipe that can be left out, so that a pair of runs that differ in one says what it buys.

use clap::ValueEnum;

/// One part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ingredient {
    /// A painted lesion's noise is each plane's own; without, the middle plane's goes through all
    PlaneNoise,
    /// Bodies bent as if organs, bowel and vessels had other shapes; without, they are turned and stretched only
    Bends,
    /// In lung the noise under a painted lesion is that of soft tissue nearby, plane by plane; without, it is white
    LungGrain,
    /// Tone curves as an injection and its phases draw them; without, HU stay as they are
    ContrastPhases,
    /// Organs, vessels and bowel loops enhanced one by one
    Organs,
    /// Painted tubes like vessels and bowel
    Tubes,
    /// Painted veins in livers and spleens, brighter than the tissue
    Veins,
    /// Places painted over as lesions are, with what was there: the painter's hand makes no lesion
    Touches,
    /// Lesions in fat leave what lies in it and fill the room between; without, they cover vessels, bowel and organs
    Room,
    /// What was photographed round real lesions counts as healthy, a margin apart, and limbs round sarcomas are bodies to paint into; without, it counts
    /// neither way
    Surroundings,
    /// Pieces of other bodies' healthy tissue
    Grafts,
    /// Steps and windows of 8-bit exports
    Exports,
    /// JPEG in them; without, they lose what 8 bits lose and no more
    Jpeg,
    /// Samples of several neighbouring slots; without, every sample is one slot
    Context,
}

/// The parts that are in; all of them, unless said otherwise.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    without: Vec<Ingredient>,
}

impl Recipe {
    /// All parts but these.
    #[must_use]
    pub fn without(parts: &[Ingredient]) -> Self {
        Self { without: parts.to_vec() }
    }

    /// Whether it is in.
    #[must_use]
    pub fn has(&self, part: Ingredient) -> bool {
        !self.without.contains(&part)
    }
}
