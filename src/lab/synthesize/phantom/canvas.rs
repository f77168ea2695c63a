//! One plane of a phantom while it is painted. Lengths are mm of the standard body that every phantom is a warped copy of.

use super::lattice::Lattice;
use super::tissue::{Spot, Tissue};
use crate::lab::synthesize::places::site::Site;

/// Furthest that a point of the body is moved from where it stands in the standard body.
pub const WARP_MM: f32 = 14.0;
/// Width over which one tissue goes over into the next, before the scanner's own blur.
const EDGE_MM: f32 = 0.9;

/// Which part of the body a structure ends at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clip {
    /// Nothing stops it.
    Free,
    /// The cavity below the diaphragm.
    Abdomen,
    /// The cavity above the diaphragm.
    Chest,
}

/// A plane.
pub struct Canvas<'a> {
    /// Pixels across and down.
    pub size: usize,
    /// Height of the plane.
    pub z: f32,
    /// Where each pixel lies in the standard body.
    pub at: &'a [[f32; 2]],
    /// mm of the standard body a pixel.
    pub pixel_mm: f32,
    /// Irregularity.
    pub lattice: &'a Lattice,
    /// HU.
    pub hu: Vec<f32>,
    /// Which lesions grow there.
    pub site: Vec<Option<Site>>,
    /// Depth below the inside of the body wall.
    pub cavity: Vec<f32>,
    /// Height above the diaphragm.
    pub above: Vec<f32>,
}

/// Share of a structure `depth` mm below its surface.
#[must_use]
pub fn coverage(depth: f32) -> f32 {
    (0.5 + depth / EDGE_MM).clamp(0.0, 1.0)
}

impl Canvas<'_> {
    /// Pixels that may show what lies within `[x1, y1, x2, y2]` mm.
    #[must_use]
    pub fn window(&self, reach: [f32; 4]) -> [usize; 4] {
        let half = self.size as f32 / 2.0;
        let low = |mm: f32| ((mm - WARP_MM) / self.pixel_mm + half).clamp(0.0, self.size as f32) as usize;
        let high = |mm: f32| ((mm + WARP_MM) / self.pixel_mm + half + 1.0).clamp(0.0, self.size as f32) as usize;
        [low(reach[0]), low(reach[1]), high(reach[2]), high(reach[3])]
    }

    /// Share of pixel `i` that `clip` leaves.
    #[must_use]
    pub fn open(&self, i: usize, clip: Clip) -> f32 {
        match clip {
            Clip::Free => 1.0,
            Clip::Abdomen => coverage(self.cavity[i] - 1.5).min(coverage(-self.above[i] - 1.5)),
            Clip::Chest => coverage(self.cavity[i] - 1.5).min(coverage(self.above[i])),
        }
    }

    /// Puts `tissue` at pixel `i`.
    pub fn put(&mut self, i: usize, spot: Spot, tissue: &Tissue, clip: Clip) {
        let share = coverage(spot.depth);
        if share > 0.0 {
            let share = share * self.open(i, clip);
            if share > 0.0 {
                self.mix(i, share, tissue.hu(self.lattice, spot), tissue.site());
            }
        }
    }

    /// Covers `share` of pixel `i`; what covers more than half of it says which lesions grow there.
    pub fn mix(&mut self, i: usize, share: f32, hu: f32, site: Option<Site>) {
        self.hu[i] += share * (hu - self.hu[i]);
        if share > 0.5 {
            self.site[i] = site;
        }
    }

    /// Where pixel `i` is.
    #[must_use]
    pub fn point(&self, i: usize) -> [f32; 3] {
        [self.at[i][0], self.at[i][1], self.z]
    }
}
