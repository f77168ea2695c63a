//! Kinds of lesions: the rows of `table.toml`, and how one of them is drawn.

use rand::Rng;
use rand::rngs::StdRng;
use serde::Deserialize;

use super::insert::Look;
use super::places::site::{Part, Site};
use super::shape::Shape;
use crate::detect::TYPE_NAMES;

/// Lesions over this long axis may have a core that gets no blood, mm.
const NECROSIS_MM: f32 = 22.0;

/// One row of `table.toml`; what its columns mean stands there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// What `--kinds` calls it.
    pub name: String,
    /// DeepLesion's name of its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Where it may lie.
    pub site: Site,
    /// Share of inserted lesions.
    pub weight: f32,
    /// Long axis, mm: 5th, 25th, 50th, 75th and 95th percentile.
    pub size_mm: [f32; 5],
    /// Range of its mean HU.
    pub hu: [f32; 2],
    /// `hu` is relative to the tissue.
    #[serde(default)]
    pub delta: bool,
    /// `hu` is relative to the muscle of the slice: a node takes up contrast as the body round it does.
    #[serde(default)]
    pub to_muscle: bool,
    /// Always with a rim.
    #[serde(default)]
    pub rim: bool,
    /// Amplitude of its texture.
    pub texture_hu: f32,
    /// Range of the width of its edge.
    pub edge_mm: [f32; 2],
    /// Range of the relative amplitude of its surface.
    pub rough: [f32; 2],
}

/// A lesion as it was drawn: what is asked of the painter.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// Its body.
    pub shape: Shape,
    /// Its HU.
    pub look: Look,
    /// Long axis of the section through its centre, mm.
    pub long_mm: f32,
}

#[derive(Deserialize)]
struct Table {
    kind: Vec<Kind>,
}

/// The built-in table.
///
/// # Errors
/// A defect of it.
pub fn table() -> Result<Vec<Kind>, toml::de::Error> {
    toml::from_str::<Table>(include_str!("table.toml")).map(|t| t.kind)
}

impl Kind {
    /// A long axis, mm.
    pub fn long_mm(&self, rng: &mut StdRng) -> f32 {
        quantile(rng, self.size_mm)
    }

    /// Draws size, shape and look, for a slice whose muscle has `muscle_hu`.
    pub fn draw(&self, rng: &mut StdRng, muscle_hu: f32) -> Drawn {
        let edge_mm = rng.random_range(self.edge_mm[0]..self.edge_mm[1]);
        let rough = rng.random_range(self.rough[0]..self.rough[1]);
        let long_mm = self.long_mm(rng);
        let shape = Shape::random(rng, long_mm, edge_mm, rough);
        let hu = rng.random_range(self.hu[0]..self.hu[1]) + if self.to_muscle { muscle_hu } else { 0.0 };
        let rim = self.rim || rng.random_bool(0.12);
        let look = Look {
            hu,
            delta: self.delta,
            texture_hu: self.texture_hu * rng.random_range(0.3..1.5),
            rim_hu: if rim { rng.random_range(8.0..35.0) } else { 0.0 },
            necrosis_hu: if long_mm > NECROSIS_MM && rng.random_bool(0.5) { rng.random_range(12.0..55.0) } else { 0.0 },
            yields: matches!(self.site, Site::Fat | Site::Subcutaneous),
        };
        Drawn { shape, look, long_mm }
    }

    /// Index into [`TYPE_NAMES`] in this part of the body: a mass in fat is called after the part that it lies in.
    #[must_use]
    pub fn type_in(&self, part: Part) -> Option<usize> {
        let name = match (self.site, part) {
            (Site::Fat, Part::Chest) => "mediastinum",
            (Site::Fat, Part::Pelvis) => "pelvis",
            _ => self.type_name.as_str(),
        };
        TYPE_NAMES.iter().position(|n| *n == name)
    }
}

/// A value of the distribution with these 5th, 25th, 50th, 75th and 95th percentiles.
fn quantile(rng: &mut StdRng, q: [f32; 5]) -> f32 {
    const AT: [f32; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];
    let u = rng.random_range(0.02f32..0.98);
    if u <= AT[0] {
        return q[0];
    }
    let i = (0..4).find(|i| u <= AT[i + 1]).unwrap_or(3);
    q[i] + (q[i + 1] - q[i]) * ((u - AT[i]) / (AT[i + 1] - AT[i])).min(1.0)
}
