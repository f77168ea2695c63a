//! The body as a whole: outline, fat, wall, cavity, diaphragm, lungs, and in which order its parts cover each other.

use rand::Rng;

use super::blob::{Blob, Section, section};
use super::breast::Breasts;
use super::canvas::{Canvas, Clip, coverage};
use super::lattice::Lattice;
use super::painter::Painter;
use super::phase::Phase;
use super::tissue::{Spot, Tissue, soft};
use super::{bowel, chest, node, vessels, viscera, wall};
use crate::lab::synthesize::places::site::Site;

/// Air.
const AIR_HU: f32 = -1000.0;
/// Skin with what lies on it.
const SKIN_HU: f32 = 20.0;
const SKIN_MM: f32 = 1.8;
/// Lesions under the skin lie this far below its surface.
const UNDER_SKIN_MM: f32 = 8.0;
/// Below the first of these heights the wall is made of single muscles, above the second it is one.
const SINGLE_MUSCLES_MM: [f32; 2] = [175.0, 200.0];
/// The cleft between the buttocks ends at this height, and is so much deeper a mm further down.
const CLEFT_MM: f32 = 115.0;
const CLEFT_GROWS: f32 = 0.3;
/// Fat between a breast's glandular tissue and the muscle behind it.
const GLAND_FREE_MM: f32 = 4.0;
/// Layers of the flank: this far apart, with fat between.
const LAYER_MM: f32 = 6.5;
/// Layers end this far from the cavity.
const WALL_MM: f32 = 20.0;

/// One person at one time.
pub struct Body {
    outline: Blob,
    trunk: Blob,
    cavity: Blob,
    abdomen: Vec<Painter>,
    chest: Vec<Painter>,
    wall: Vec<Painter>,
    phase: Phase,
    /// HU of the lungs in front, and how much more behind.
    lung_hu: f32,
    dependent_hu: f32,
    /// Tops of the diaphragm, right and left.
    domes: [f32; 2],
    muscle: Tissue,
    /// Depth of the cleft between the buttocks at its upper end.
    cleft_mm: f32,
    breasts: Breasts,
}

impl Body {
    /// Someone. `apart`: draws of what was added later (breasts, the groin's nodes, the cleft), on which the rest of a body does not hang.
    pub fn random(rng: &mut impl Rng, apart: &mut impl Rng) -> Self {
        let phase = Phase::random(rng);
        let size = [rng.random_range(0.93..1.1), rng.random_range(0.92..1.12)];
        // Thickness of the fat in front, behind and at the sides.
        let stout: f32 = rng.random_range(0.1f32..1.0).min(rng.random_range(0.1..1.0));
        let fat = [40.0, 45.0, 42.0].map(|most| 3.0 + most * stout * rng.random_range(0.5..1.0));
        let muscle = rng.random_range(0.0..8.0);
        let plain = Tissue::Muscle { hu: phase.muscle, fat: rng.random_range(0.0..0.35) };
        let trunk = [
            section(-60.0, 0.0, 0.0, 150.0, 92.0),
            section(60.0, 0.0, 0.0, 154.0, 100.0),
            section(140.0, 0.0, 2.0, 146.0, 98.0),
            section(215.0, 0.0, 2.0, 130.0, 96.0),
            section(300.0, 0.0, 2.0, 130.0, 98.0),
            section(400.0, 0.0, 2.0, 139.0, 103.0),
            section(520.0, 0.0, 3.0, 147.0, 105.0),
            section(620.0, 0.0, 6.0, 150.0, 99.0),
            section(740.0, 0.0, 10.0, 150.0, 80.0),
        ];
        let cavity = [
            section(-60.0, 0.0, 0.0, 30.0, 40.0),
            section(0.0, 0.0, 0.0, 52.0, 58.0),
            section(70.0, 0.0, -6.0, 76.0, 72.0),
            section(140.0, 0.0, -10.0, 96.0, 72.0),
            section(210.0, 0.0, -10.0, 112.0 - muscle, 74.0),
            section(300.0, 0.0, -8.0, 116.0 - muscle, 80.0),
            section(400.0, 0.0, -6.0, 125.0 - muscle * 0.5, 89.0),
            section(510.0, 0.0, -3.0, 130.0, 92.0),
            section(600.0, 0.0, -2.0, 112.0, 80.0),
            section(660.0, 0.0, 6.0, 62.0, 46.0),
            section(740.0, 0.0, 0.0, 20.0, 20.0),
        ];
        let scaled = |s: &Section| Section { x: s.x * size[0], y: s.y * size[1], rx: s.rx, ry: s.ry, ..*s };
        let outline: Vec<Section> = trunk
            .iter()
            .map(|s| Section { y: s.y + (fat[1] - fat[0]) / 2.0, rx: s.rx + fat[2], ry: s.ry + (fat[0] + fat[1]) / 2.0, ..*s })
            .map(|s| scaled(&s))
            .collect();
        let body = |sections: &[Section], square: f32| Blob::new(sections, 1.0, soft(0.0, 0.0, 1.0), Clip::Free).square(square);
        let square = rng.random_range(0.15..0.5);
        let breasts = Breasts::random(apart, &phase, stout);
        let cleft_mm = apart.random_range(3.0..9.0);
        let (mut abdomen, mut above, mut around) = (Vec::new(), Vec::new(), Vec::new());
        let great = vessels::add(rng, &phase, &mut abdomen);
        node::small(rng, &phase, &mut abdomen);
        bowel::add(rng, &phase, &mut abdomen);
        viscera::add(rng, &phase, &mut abdomen);
        node::hilar(apart, &phase, &mut abdomen);
        abdomen.extend(great);
        chest::add(rng, &phase, &mut above);
        wall::add(rng, &phase, &mut around);
        Self {
            outline: body(&outline, square).uneven(rng, 0.012),
            trunk: body(&trunk, square * 0.8).uneven(rng, 0.012),
            cavity: body(&cavity, 0.2).uneven(rng, 0.012),
            abdomen,
            chest: above,
            wall: around,
            breasts,
            cleft_mm,
            phase,
            lung_hu: rng.random_range(-890.0..-790.0),
            dependent_hu: rng.random_range(10.0..80.0),
            domes: [rng.random_range(430.0..455.0), rng.random_range(418.0..440.0)],
            muscle: plain,
        }
    }

    /// HU of its muscles.
    #[must_use]
    pub fn muscle_hu(&self) -> f32 {
        self.phase.muscle
    }

    /// Half of the body's width and height at its broadest, mm of the standard body.
    #[must_use]
    pub fn half_mm(&self, z: f32) -> [f32; 2] {
        self.outline.slice(z).map_or([100.0; 2], |s| s.semi_mm())
    }

    /// Paints the plane.
    pub fn paint(&self, canvas: &mut Canvas<'_>) {
        self.ground(canvas);
        for part in &self.abdomen {
            part.paint(canvas);
        }
        self.lungs(canvas);
        for part in self.chest.iter().chain(&self.wall) {
            part.paint(canvas);
        }
    }

    fn diaphragm(&self, [x, y]: [f32; 2]) -> f32 {
        let top = self.domes[usize::from(x > 0.0)];
        let aside = x.abs() - 56.0;
        let across = if aside > 0.0 { aside / 74.0 } else { aside / 120.0 };
        let along = (y + 14.0) / 92.0;
        top - 78.0 * (across * across + along * along)
    }

    /// Distance from the skin of the cleft between the buttocks, mm, of a point `skin` mm below the outline: two skins that touch, open near the surface.
    fn cleft(&self, lattice: &Lattice, [x, y, z]: [f32; 3], skin: f32) -> f32 {
        let deep = self.cleft_mm + CLEFT_GROWS * (CLEFT_MM - z);
        if y < 0.0 || z > CLEFT_MM || skin > deep {
            return f32::MAX;
        }
        let bend = 1.5 * lattice.at([0.0, y, z], 23.0);
        (x - bend).abs() - 0.8 * self.cleft_mm * (1.0 - skin / (0.5 * deep)).max(0.0)
    }

    fn ground(&self, canvas: &mut Canvas<'_>) {
        let z = canvas.z;
        let (outline, trunk, cavity) = (self.outline.slice(z), self.trunk.slice(z), self.cavity.slice(z));
        let breasts = self.breasts.slice(z);
        for i in 0..canvas.at.len() {
            let at = canvas.at[i];
            let depth = |s: &Option<super::blob::Slice>| s.as_ref().map_or(-99.0, |s| s.depth(at));
            let skin = depth(&outline).max(breasts.skin(at));
            let (p, lattice) = (canvas.point(i), canvas.lattice);
            let skin = skin.min(self.cleft(lattice, p, skin));
            canvas.cavity[i] = depth(&cavity);
            canvas.above[i] = z - self.diaphragm(at);
            if skin < -0.5 {
                canvas.hu[i] = AIR_HU;
                continue;
            }
            // Septa run through the fat; the visceral fat holds finer vessels.
            let septum = (1.0 - (lattice.at(p, 19.0) * 14.0).abs()).max(0.0) * 16.0 * lattice.at(p, 41.0).max(0.0);
            let mut hu = self.phase.fat + 5.0 * lattice.rough(p, 8.0) + septum;
            let (muscle, inside) = (depth(&trunk), canvas.cavity[i]);
            let gland = breasts.gland(at).min(-muscle - GLAND_FREE_MM);
            if gland > -1.0 {
                let spot = Spot { p, depth: gland, along: z, height: 0.0 };
                hu += coverage(gland) * (self.breasts.tissue().hu(lattice, spot) - hu);
            }
            hu += (SKIN_HU - hu) * coverage(SKIN_MM - skin);
            canvas.site[i] = match (inside > 0.0, muscle > 0.0) {
                (true, _) => Some(Site::Fat),
                (false, false) => (skin > UNDER_SKIN_MM && gland < 0.0).then_some(Site::Subcutaneous),
                // Between the muscles of pelvis and thigh lie nodes, too: those of the groin.
                (false, true) => (z < SINGLE_MUSCLES_MM[0]).then_some(Site::Subcutaneous),
            };
            let [low, high] = SINGLE_MUSCLES_MM;
            let walled = coverage(muscle).min(coverage(-inside)).min(((z - low) / (high - low)).clamp(0.0, 1.0));
            if walled > 0.0 {
                let layer = (-inside + 3.5 * lattice.at(p, 30.0)).rem_euclid(LAYER_MM) / LAYER_MM;
                let flank = at[0].abs() > 45.0 && inside > -WALL_MM && lattice.at([p[0], p[1], p[2] + 900.0], 40.0) > -0.15;
                let spot = Spot { p, depth: muscle, along: z, height: 0.0 };
                let mut flesh = self.muscle.hu(lattice, spot);
                if flank && layer < 0.17 {
                    flesh = self.phase.fat;
                }
                hu += walled * (flesh - hu);
                if walled > 0.5 {
                    canvas.site[i] = Some(Site::Muscle);
                }
            }
            canvas.hu[i] = AIR_HU + coverage(skin) * (hu - AIR_HU);
        }
    }

    fn lungs(&self, canvas: &mut Canvas<'_>) {
        for i in 0..canvas.at.len() {
            let share = coverage(canvas.cavity[i] - 2.5).min(coverage(canvas.above[i]));
            if share <= 0.0 {
                continue;
            }
            let p = canvas.point(i);
            // The diaphragm itself is a thin muscle.
            let lung =
                self.lung_hu + self.dependent_hu * (p[1] / 90.0) + 12.0 * canvas.lattice.rough(p, 4.0) + 10.0 * canvas.lattice.at(p, 25.0);
            let muscle = coverage(1.2 - canvas.above[i]);
            let hu = lung + (self.phase.muscle - lung) * muscle;
            canvas.mix(i, share, hu, (muscle == 0.0).then_some(Site::Lung));
        }
    }
}
