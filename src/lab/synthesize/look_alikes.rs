//! What is painted or let into a crop and is no lesion: the body's own structures in more arrangements and phases than the scans have.

use rand::Rng;
use rand::rngs::StdRng;

use super::insert::{self, Look, Slices};
use super::kind::{Drawn, Kind};
use super::places::site::{Site, Sites};
use super::recipe::Ingredient;
use super::shape::Shape;
use super::warp::View;
use super::{Planes, Sampler, choose, graft, organs, pick, planes_of};
use crate::volume::frame::Frame;

/// Share of samples in which organs are enhanced one by one.
const ORGANS_SHARE: f64 = 0.5;

impl Sampler {
    /// All that the recipe has of them, in a crop of `pixel_mm` pixels.
    pub(super) fn look_alikes(&self, rng: &mut StdRng, planes: &mut Planes, places: &Sites, view: &View, slices: Slices, pixel_mm: f64) {
        if self.recipe.has(Ingredient::Organs) && rng.random_bool(ORGANS_SHARE) {
            organs::enhance(planes, rng);
        }
        if self.recipe.has(Ingredient::Tubes) {
            tubes(rng, planes, places, view, slices);
        }
        if self.recipe.has(Ingredient::Veins) {
            veins(rng, planes, places, view, slices);
        }
        if self.recipe.has(Ingredient::Touches) {
            self.touches(rng, planes, places, view, slices);
        }
        if self.recipe.has(Ingredient::Grafts) {
            self.grafts(rng, planes, places, view, pixel_mm);
        }
    }

    /// Places painted over as a lesion would be, with the tissue that was there, grain and texture: no lesions.
    fn touches(&self, rng: &mut StdRng, planes: &mut Planes, places: &Sites, view: &View, slices: Slices) {
        for (site, chance) in [(Site::Parenchyma, 0.3), (Site::Fat, 0.3), (Site::Muscle, 0.4), (Site::Bone, 0.2)] {
            if !rng.random_bool(chance) {
                continue;
            }
            let kinds: Vec<&Kind> = self.kinds.iter().filter(|k| k.site == site).collect();
            for _ in 0..rng.random_range(1..3) {
                let (Some(place), Some(kind)) = (choose(rng, places.of(site)), choose(rng, &kinds)) else { continue };
                let at = view.to_crop(place.map(f64::from));
                let Drawn { shape, look, .. } = kind.draw(rng, places.muscle_hu);
                let texture_hu = look.texture_hu * rng.random_range(0.0..0.6);
                insert::paint(planes, &shape, [at[0], at[1], 0.0], Look::even(0.0, true, texture_hu), slices, rng);
            }
        }
    }

    /// Pieces of other healthy bodies in like places, no lesions.
    fn grafts(&self, rng: &mut StdRng, planes: &mut Planes, places: &Sites, view: &View, pixel_mm: f64) {
        for (site, chance) in [(Site::Lung, 0.15), (Site::Fat, 0.4), (Site::Muscle, 0.15)] {
            if !rng.random_bool(chance) {
                continue;
            }
            let (scan, sites, grid) = &self.scans[pick(rng, &self.weights)];
            let slot = rng.random_range(0..grid.slots.len());
            let key = grid.slots[slot].nearest();
            let (Some(from), Some(to)) = (choose(rng, sites[key].of(site)), choose(rng, places.of(site))) else { continue };
            let half = rng.random_range(graft::HALF_PX);
            let frame = Frame::centred(from.map(f64::from), scan.grid, pixel_mm, 2 * half, 2 * half);
            let reach = [0, 1].map(|axis| half as f64 * pixel_mm / scan.grid.spacing_mm[1 - axis]);
            if scan.slices[key].disease.iter().any(|d| d.region.is_near(from.map(f64::from), reach)) {
                continue;
            }
            let patch = planes_of(scan, grid, slot, planes.hu.len(), &frame);
            let at = view.to_crop(to.map(f64::from));
            graft::graft(planes, &patch, at, rng);
        }
    }
}

/// Vessels and bowel: tubes that go on through the slices, with the HU and edges of lesions.
fn tubes(rng: &mut StdRng, planes: &mut Planes, places: &Sites, view: &View, slices: Slices) {
    for (site, chance) in [(Site::Lung, 0.3), (Site::Fat, 0.4)] {
        if places.of(site).is_empty() || !rng.random_bool(chance) {
            continue;
        }
        for _ in 0..rng.random_range(1..4) {
            let Some(place) = choose(rng, places.of(site)) else { continue };
            let at = view.to_crop(place.map(f64::from));
            let radius = if site == Site::Lung { rng.random_range(0.8..3.5) } else { rng.random_range(1.5..11.0) };
            let edge = rng.random_range(0.6..1.6);
            let tube = Shape::tube(rng, radius, edge);
            // Bowel has a wall and other content than the wall.
            let rim_hu = if radius > 6.0 { rng.random_range(0.0..25.0) } else { 0.0 };
            // They run through fat, not through the wall and out of the body.
            let look = Look { rim_hu, yields: site == Site::Fat, ..Look::even(rng.random_range(10.0..150.0), false, 4.0) };
            insert::paint(planes, &tube, [at[0], at[1], 0.0], look, slices, rng);
        }
    }
}

/// Veins of livers and spleens after an injection: tubes brighter than the tissue. Two of the three enhanced livers count neither way, for their disease.
fn veins(rng: &mut StdRng, planes: &mut Planes, places: &Sites, view: &View, slices: Slices) {
    if places.of(Site::Parenchyma).is_empty() || !rng.random_bool(0.5) {
        return;
    }
    let hu = rng.random_range(10.0..70.0);
    for _ in 0..rng.random_range(1..6) {
        let Some(place) = choose(rng, places.of(Site::Parenchyma)) else { continue };
        let at = view.to_crop(place.map(f64::from));
        let (radius, edge) = (rng.random_range(1.2..6.0), rng.random_range(0.6..2.0));
        let look = Look::even(hu, true, 3.0);
        insert::paint(planes, &Shape::tube(rng, radius, edge), [at[0], at[1], 0.0], look, slices, rng);
    }
}
