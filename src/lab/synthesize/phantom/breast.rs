//! Breasts: fat under the skin with lobules and strands of glandular tissue, which look like masses in every second chest and are none.

use rand::Rng;

use super::blob::{Blob, Slice};
use super::canvas::Clip::Free;
use super::phase::Phase;
use super::tissue::{Tissue, soft};

/// Share of bodies that have them, as far as a phantom has a sex.
const SHARE: f64 = 0.5;
/// Height of their middle.
const MIDDLE_MM: f32 = 505.0;
/// The chest's surface before fat: breasts stand on it.
const CHEST_Y_MM: f32 = -92.0;

/// One of two.
struct Breast {
    skin: Blob,
    gland: Blob,
}

/// Both, or none.
pub struct Breasts {
    pair: Vec<Breast>,
    tissue: Tissue,
}

/// A section of them on one plane.
pub struct Section(Vec<(Option<Slice>, Option<Slice>)>);

impl Breasts {
    /// `stout`: 0..1; more fat, larger breasts.
    pub fn random(rng: &mut impl Rng, phase: &Phase, stout: f32) -> Self {
        let fat = rng.random_range(0.15f32..1.0);
        let tissue = Tissue::Breast { hu: phase.muscle + rng.random_range(-25.0..10.0), fat };
        if !rng.random_bool(SHARE) {
            return Self { pair: Vec::new(), tissue };
        }
        // On the back they sink to the sides.
        let (out, wide) = (rng.random_range(62.0..88.0), rng.random_range(50.0..74.0));
        let (high, tall) = (rng.random_range(14.0..34.0) + 22.0 * stout, rng.random_range(48.0..75.0));
        let share = rng.random_range(0.5..0.85);
        let mut one = |side: f32| {
            let at = [side * out + rng.random_range(-4.0..4.0), CHEST_Y_MM, MIDDLE_MM + rng.random_range(-8.0..8.0)];
            let turn = side * rng.random_range(-0.5..0.1);
            // Outlines only: the ground under them is painted pixel by pixel.
            let outline = |at, semi| Blob::ellipsoid(at, semi, turn, soft(0.0, 0.0, 1.0), Free);
            let skin = outline(at, [wide, high + 12.0, tall]).uneven(rng, 0.03);
            let deep = [at[0] + side * rng.random_range(-6.0..10.0), at[1] - high * 0.25, at[2]];
            let gland = outline(deep, [wide, high, tall].map(|mm| mm * share)).uneven(rng, 0.25);
            Breast { skin, gland }
        };
        Self { pair: vec![one(-1.0), one(1.0)], tissue }
    }

    /// At a height.
    pub fn slice(&self, z: f32) -> Section {
        Section(self.pair.iter().map(|b| (b.skin.slice(z), b.gland.slice(z))).collect())
    }

    /// What their lobules are made of.
    pub fn tissue(&self) -> &Tissue {
        &self.tissue
    }
}

impl Section {
    /// Depth below their skin, mm.
    pub fn skin(&self, at: [f32; 2]) -> f32 {
        self.deepest(at, |pair| pair.0.as_ref())
    }

    /// Depth in glandular tissue, mm.
    pub fn gland(&self, at: [f32; 2]) -> f32 {
        self.deepest(at, |pair| pair.1.as_ref())
    }

    fn deepest(&self, at: [f32; 2], of: fn(&(Option<Slice>, Option<Slice>)) -> Option<&Slice>) -> f32 {
        self.0.iter().filter_map(of).map(|s| s.depth(at)).fold(f32::MIN, f32::max)
    }
}
