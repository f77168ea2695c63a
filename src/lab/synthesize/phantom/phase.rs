//! What contrast medium makes of every organ, at one time after its injection.

use rand::Rng;

/// HU of one body at one time.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// Arteries.
    pub artery: f32,
    /// Caval and iliac veins.
    pub vein: f32,
    /// Amplitude of the streaks in the cava, where blood from kidneys and legs mixes.
    pub streaks: f32,
    /// Portal and mesenteric veins.
    pub portal: f32,
    /// Hepatic veins.
    pub hepatic: f32,
    /// Liver.
    pub liver: f32,
    /// Spleen.
    pub spleen: f32,
    /// Amplitude of the spleen's stripes: it fills unevenly at first.
    pub spleen_texture: f32,
    /// Renal cortex.
    pub cortex: f32,
    /// Renal pyramids.
    pub medulla: f32,
    /// What the kidneys give off.
    pub urine: f32,
    /// Pancreas, adrenals, prostate, uterus.
    pub gland: f32,
    /// Muscle.
    pub muscle: f32,
    /// Wall of the bowel.
    pub bowel_wall: f32,
    /// Heart muscle.
    pub myocardium: f32,
    /// Subcutaneous and visceral fat.
    pub fat: f32,
}

impl Phase {
    /// Without contrast, arterial, venous or late.
    pub fn random(rng: &mut impl Rng) -> Self {
        let fatty = if rng.random_bool(0.2) { rng.random_range(8.0..35.0) } else { 0.0 };
        let kind = rng.random_range(0..10);
        let mut r = |low: f32, high: f32| rng.random_range(low..high);
        let blood = r(34.0, 50.0);
        let fat = r(-113.0, -90.0);
        let muscle = r(45.0, 65.0);
        match kind {
            0..2 => Self {
                artery: blood,
                vein: blood - r(0.0, 4.0),
                streaks: 2.0,
                portal: blood,
                hepatic: blood - 2.0,
                liver: r(50.0, 68.0) - fatty,
                spleen: r(42.0, 54.0),
                spleen_texture: 2.0,
                cortex: r(29.0, 38.0),
                medulla: r(28.0, 36.0),
                urine: r(0.0, 12.0),
                gland: r(32.0, 46.0),
                muscle,
                bowel_wall: r(30.0, 45.0),
                myocardium: r(42.0, 52.0),
                fat,
            },
            2..4 => {
                let artery = r(170.0, 330.0);
                Self {
                    artery,
                    vein: r(45.0, 110.0),
                    streaks: r(5.0, 30.0),
                    portal: r(60.0, 150.0),
                    hepatic: r(50.0, 75.0),
                    liver: r(60.0, 82.0) - fatty,
                    spleen: r(95.0, 150.0),
                    spleen_texture: r(8.0, 32.0),
                    cortex: r(140.0, 215.0),
                    medulla: r(55.0, 95.0),
                    urine: r(0.0, 12.0),
                    gland: r(80.0, 120.0),
                    muscle: muscle + 4.0,
                    bowel_wall: r(70.0, 125.0),
                    myocardium: r(85.0, 130.0),
                    fat,
                }
            }
            4..8 => {
                let artery = r(125.0, 190.0);
                Self {
                    artery,
                    vein: artery * r(0.75, 1.05),
                    streaks: r(3.0, 22.0),
                    portal: artery * r(0.95, 1.15),
                    hepatic: artery * r(0.9, 1.1),
                    liver: r(92.0, 125.0) - fatty,
                    spleen: r(105.0, 130.0),
                    spleen_texture: 2.0,
                    cortex: r(150.0, 200.0),
                    medulla: r(120.0, 185.0),
                    urine: r(2.0, 15.0),
                    gland: r(75.0, 110.0),
                    muscle: muscle + 8.0,
                    bowel_wall: r(70.0, 115.0),
                    myocardium: r(95.0, 125.0),
                    fat,
                }
            }
            _ => {
                let artery = r(85.0, 125.0);
                Self {
                    artery,
                    vein: artery * r(0.92, 1.05),
                    streaks: 3.0,
                    portal: artery * r(0.92, 1.05),
                    hepatic: artery,
                    liver: r(78.0, 102.0) - fatty,
                    spleen: r(82.0, 105.0),
                    spleen_texture: 2.0,
                    cortex: r(120.0, 160.0),
                    medulla: r(125.0, 170.0),
                    urine: r(180.0, 1100.0),
                    gland: r(65.0, 90.0),
                    muscle: muscle + 7.0,
                    bowel_wall: r(60.0, 90.0),
                    myocardium: r(80.0, 105.0),
                    fat,
                }
            }
        }
    }
}
