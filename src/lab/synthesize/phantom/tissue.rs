//! What a structure is made of: HU at a depth below its surface.

use super::lattice::Lattice;
use crate::lab::synthesize::places::site::Site;

/// Gas in bowel.
const GAS_HU: f32 = -980.0;
/// Fat between and within muscles.
const FAT_HU: f32 = -95.0;
/// Before its cortex is brighter than this a kidney hides most of its masses.
const ENHANCED_CORTEX_HU: f32 = 100.0;

/// A point within a structure.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    /// Where, mm.
    pub p: [f32; 3],
    /// Below the surface, mm.
    pub depth: f32,
    /// Along a tube, mm.
    pub along: f32,
    /// Before (−) or behind (+) the structure's axis, in radii: gas rises to the front.
    pub height: f32,
}

/// What a hollow organ holds.
#[derive(Debug, Clone, Copy)]
pub enum Content {
    /// Fluid or contrast of these HU, with gas above it where `gas` (−1 none .. 1 nothing else) is reached; the level wanders along a tube.
    Fluid {
        /// HU.
        hu: f32,
        /// Height of the level.
        gas: f32,
    },
    /// Lumps with specks of gas.
    Stool {
        /// HU.
        hu: f32,
        /// Share of gas, 0..1.
        gas: f32,
    },
    /// Folds of the wall with fluid between them: collapsed.
    Folded {
        /// HU.
        hu: f32,
    },
}

/// A material.
#[derive(Debug, Clone, Copy)]
pub enum Tissue {
    /// An organ or a vessel.
    Soft {
        /// HU.
        hu: f32,
        /// Amplitude of its texture.
        texture_hu: f32,
        /// Scale of the texture.
        scale_mm: f32,
        /// Which lesions grow in it.
        site: Option<Site>,
    },
    /// Bundles with streaks of fat between them.
    Muscle {
        /// HU.
        hu: f32,
        /// Share of fat, 0..1.
        fat: f32,
    },
    /// Lobules and strands with fat between them.
    Breast {
        /// HU of the lobules.
        hu: f32,
        /// Share of fat, 0..1.
        fat: f32,
    },
    /// A compact shell round a spongy core.
    Bone {
        /// Shell.
        cortex_mm: f32,
        /// HU of the shell.
        cortex_hu: f32,
        /// HU of the core.
        core_hu: f32,
    },
    /// Cortex round pyramids.
    Kidney {
        /// Thickness of the cortex.
        cortex_mm: f32,
        /// HU of the cortex and of the columns.
        cortex_hu: f32,
        /// HU of the pyramids.
        medulla_hu: f32,
    },
    /// Wall and content.
    Hollow {
        /// Thickness of the wall.
        wall_mm: f32,
        /// HU of the wall.
        wall_hu: f32,
        /// What it holds.
        content: Content,
    },
}

/// An even organ or vessel in which no lesion is painted.
#[must_use]
pub const fn soft(hu: f32, texture_hu: f32, scale_mm: f32) -> Tissue {
    Tissue::Soft { hu, texture_hu, scale_mm, site: None }
}

/// An even tissue that holds the lesions of `site`.
#[must_use]
pub const fn holding(site: Site, hu: f32, texture_hu: f32, scale_mm: f32) -> Tissue {
    Tissue::Soft { hu, texture_hu, scale_mm, site: Some(site) }
}

fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t.clamp(0.0, 1.0)
}

impl Tissue {
    /// Which lesions grow in it.
    #[must_use]
    pub fn site(&self) -> Option<Site> {
        match *self {
            Self::Soft { site, .. } => site,
            Self::Muscle { .. } => Some(Site::Muscle),
            Self::Bone { .. } => Some(Site::Bone),
            Self::Kidney { cortex_hu, .. } => (cortex_hu > ENHANCED_CORTEX_HU).then_some(Site::Kidney),
            Self::Breast { .. } | Self::Hollow { .. } => None,
        }
    }

    /// HU at `spot`.
    #[must_use]
    pub fn hu(&self, lattice: &Lattice, spot: Spot) -> f32 {
        let p = spot.p;
        match *self {
            Self::Soft { hu, texture_hu, scale_mm, .. } => {
                if texture_hu > 0.0 {
                    hu + texture_hu * lattice.rough(p, scale_mm)
                } else {
                    hu
                }
            }
            Self::Muscle { hu, fat } => {
                let streak = lattice.rough([p[0], p[1], p[2] * 0.25], 6.5);
                mix(hu + 4.0 * lattice.at(p, 13.0), FAT_HU, (streak - 1.05 + 1.6 * fat) * 2.2)
            }
            Self::Breast { hu, fat } => {
                let lobule = 0.6 * lattice.rough(p, 17.0) + 0.6 * lattice.rough(p, 6.0);
                mix(hu + 5.0 * lattice.at(p, 9.0), FAT_HU, (lobule - 0.9 + 1.5 * fat) * 2.2)
            }
            Self::Bone { cortex_mm, cortex_hu, core_hu } => {
                let core = core_hu + 0.3 * core_hu * lattice.rough(p, 3.2);
                mix(cortex_hu, core, (spot.depth - cortex_mm * (1.0 + 0.4 * lattice.at(p, 9.0))) / 0.8 + 0.5)
            }
            Self::Kidney { cortex_mm, cortex_hu, medulla_hu } => {
                let column = lattice.at(p, 11.0) > 0.22;
                let within = (spot.depth - cortex_mm) / 1.5 + 0.5;
                mix(cortex_hu, medulla_hu, if column { 0.25 * within } else { within }) + 3.0 * lattice.at(p, 5.0)
            }
            Self::Hollow { wall_mm, wall_hu, content } => {
                let wall_mm = wall_mm * (1.0 + 0.5 * lattice.at(p, 12.0));
                mix(wall_hu, content.hu(lattice, spot, wall_hu), (spot.depth - wall_mm) / 0.7 + 0.5)
            }
        }
    }
}

impl Content {
    fn hu(self, lattice: &Lattice, spot: Spot, wall_hu: f32) -> f32 {
        let p = spot.p;
        match self {
            Self::Fluid { hu, gas } => {
                let level = gas + 1.1 * lattice.at([spot.along, 17.0, 5.0], 55.0) - 1.0;
                let fluid = hu * (1.0 + 0.15 * lattice.at(p, 15.0)) + 3.0 * lattice.at(p, 6.0);
                mix(fluid, GAS_HU, (level - spot.height) * 10.0)
            }
            Self::Stool { hu, gas } => {
                let lump = lattice.rough(p, 5.0);
                let stuff = hu + 30.0 * lattice.rough(p, 3.4);
                let front = 0.5 * gas * (-spot.height).max(0.0);
                mix(stuff, GAS_HU * 0.85, (lump - 1.15 + 1.1 * gas + front) * 2.5)
            }
            Self::Folded { hu } => mix(hu, wall_hu, lattice.rough(p, 4.0) * 1.5 + 0.5),
        }
    }
}
