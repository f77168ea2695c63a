//! Where and as what radiologists mark lesions, against where and as what this network finds something in CT without marked disease. A network that looks
//! at a box and its surroundings takes a collapsed colon for a mass in fat; that few mark anything in the flank it cannot see. Pure.
//!
//! By Bayes the odds that a find is a lesion are those of its looks times the ratio of the two densities. What is stored is the ratio's logarithm; what a
//! raw score's logit is worth in log odds is measured, and the inverse stands beside it as `weight`.

use serde::{Deserialize, Serialize};

use super::nms::by_rank;
use super::{Candidate, TYPE_NAMES, likeliest};
use crate::volume::body::PixelBox;

/// Cells of the body's box a side.
pub const GRID: usize = 20;
/// Log odds beyond this are not believed of a table.
const MOST_LOG_ODDS: f32 = 5.0;
/// Logits of scores are taken this far from 0 and 1.
const LEAST_APART: f32 = 1e-6;

/// `prior.toml` of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// What it was measured on, in a sentence.
    pub measured_on: String,
    /// Logits of the raw score for a log odd.
    pub weight: f32,
    /// One a type, in channel order.
    pub types: Vec<OfType>,
}

/// What is known of finds of one type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfType {
    /// Its name.
    pub name: String,
    /// Log odds of the type among the types that are found at its levels of the body.
    pub odds: f32,
    /// Log odds of the places, [`GRID`] rows from the body's front (upper edge of the image) to its back of [`GRID`] cells from the image's left; empty
    /// where too little is known.
    pub places: Vec<Vec<f32>>,
}

impl Prior {
    /// Whether the table can be used.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.weight) {
            return Err(format!("weight {} is not within 0..1", self.weight));
        }
        let names: Vec<&str> = self.types.iter().map(|t| t.name.as_str()).collect();
        if names != TYPE_NAMES {
            return Err(format!("types are {names:?}, this program knows {TYPE_NAMES:?}"));
        }
        for of in &self.types {
            let square = of.places.is_empty() || (of.places.len() == GRID && of.places.iter().all(|row| row.len() == GRID));
            if !square {
                return Err(format!("{}: places are not {GRID} rows of {GRID}", of.name));
            }
            // A number that is none fails here, too.
            if !of.places.iter().flatten().chain([&of.odds]).all(|v| v.abs() <= MOST_LOG_ODDS) {
                return Err(format!("{}: log odds beyond ±{MOST_LOG_ODDS}", of.name));
            }
        }
        Ok(())
    }

    /// Log odds of a find by its likeliest type and its middle's place in `body`, slot pixels both.
    #[must_use]
    pub fn log_odds(&self, find: &Candidate, body: PixelBox) -> f32 {
        let Some(of) = likeliest(&find.types).and_then(|t| self.types.get(t)) else { return 0.0 };
        of.odds + of.place(place(find, body))
    }

    /// Finds with their scores by looks, place and type; best first.
    pub fn apply(&self, finds: &mut [Candidate], body: PixelBox) {
        for find in finds.iter_mut() {
            let score = find.score.clamp(LEAST_APART, 1.0 - LEAST_APART);
            let logit = (score / (1.0 - score)).ln() + self.weight * self.log_odds(find, body);
            find.score = 1.0 / (1.0 + (-logit).exp());
        }
        finds.sort_by(by_rank);
    }
}

/// Where the middle of a find is in the body's box: shares of its width and height, 0..1 inside.
#[must_use]
pub fn place(find: &Candidate, body: PixelBox) -> [f32; 2] {
    let share = |low: f32, high: f32, from: usize, to: usize| (f32::midpoint(low, high) - from as f32) / (to - from + 1) as f32;
    let [x1, y1, x2, y2] = find.box_px;
    [share(x1, x2, body.x1, body.x2), share(y1, y2, body.y1, body.y2)]
}

impl OfType {
    /// Log odds of a place, linear between the cells' middles and level beyond them.
    fn place(&self, [x, y]: [f32; 2]) -> f32 {
        if self.places.is_empty() {
            return 0.0;
        }
        let cell = |share: f32| {
            let at = (share * GRID as f32 - 0.5).clamp(0.0, (GRID - 1) as f32);
            let low = (at as usize).min(GRID - 2);
            (low, at - low as f32)
        };
        let ((column, right), (row, down)) = (cell(x), cell(y));
        let between = |row: &[f32]| row[column] + (row[column + 1] - row[column]) * right;
        let (above, below) = (between(&self.places[row]), between(&self.places[row + 1]));
        above + (below - above) * down
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::detect::TYPES;

    const BODY: PixelBox = PixelBox { x1: 100, y1: 50, x2: 299, y2: 149 };

    fn find(middle: [f32; 2], score: f32, likeliest: usize) -> Candidate {
        let mut types = [0.05; TYPES];
        types[likeliest] = 0.65;
        let [x, y] = middle;
        Candidate { box_px: [x - 5.0, y - 4.0, x + 5.0, y + 4.0], score, types, axes_px: [8.0, 6.0], angle_rad: 0.0 }
    }

    /// Liver (3) by its column, everything else by its odds.
    fn prior() -> Prior {
        let odds = |t: usize| if t == 0 { -1.5 } else { 0.0 };
        let rows = |t: usize| if t == 3 { vec![(0..GRID).map(|c| c as f32 / 10.0).collect(); GRID] } else { Vec::new() };
        let types = (0..TYPES).map(|t| OfType { name: TYPE_NAMES[t].into(), odds: odds(t), places: rows(t) });
        Prior { measured_on: "nothing".into(), weight: 0.2, types: types.collect() }
    }

    #[test]
    fn places_are_shares_of_the_body_and_are_read_between_cells() {
        assert_eq!(place(&find([100.0, 50.0], 0.5, 3), BODY), [0.0, 0.0]);
        assert_eq!(place(&find([200.0, 100.0], 0.5, 3), BODY), [0.5, 0.5]);
        let odds = |x: f32| prior().log_odds(&find([x, 100.0], 0.5, 3), BODY);
        // The middle of the body lies between cells 9 and 10; beyond the outermost middles nothing changes.
        assert!((odds(200.0) - 0.95).abs() < 1e-5 && (odds(205.0) - 1.0).abs() < 1e-5);
        assert_eq!((odds(20.0), odds(400.0)), (0.0, 1.9));
        assert_eq!(prior().log_odds(&find([200.0, 100.0], 0.5, 0), BODY), -1.5);
    }

    #[test]
    fn odds_are_added_to_the_logit_by_their_weight_and_ranks_follow() {
        let mut finds = vec![find([200.0, 100.0], 0.6, 0), find([205.0, 100.0], 0.55, 3), find([200.0, 100.0], 0.5, 1)];
        prior().apply(&mut finds, BODY);
        let logit = |p: f32| (p / (1.0 - p)).ln();
        let expected = [logit(0.55) + 0.2, logit(0.6) - 0.3, 0.0];
        for (find, expected) in finds.iter().zip(expected) {
            assert!((logit(find.score) - expected).abs() < 1e-4, "{} for {expected}", logit(find.score));
        }
        // What is certain stays a number.
        let mut sure = vec![find([200.0, 100.0], 1.0, 0), find([200.0, 100.0], 0.0, 3)];
        prior().apply(&mut sure, BODY);
        assert!(sure.iter().all(|f| (0.0..=1.0).contains(&f.score)));
    }

    #[test]
    fn a_table_that_cannot_be_used_is_named() {
        assert_eq!(prior().check(), Ok(()));
        let with = |change: fn(&mut Prior)| {
            let mut prior = prior();
            change(&mut prior);
            prior.check().unwrap_err()
        };
        assert!(with(|p| p.weight = f32::NAN).contains("weight"));
        assert!(with(|p| p.types.swap(0, 1)).contains("types are"));
        assert!(with(|p| p.types[3].places[4].truncate(3)).contains("liver: places"));
        assert!(with(|p| p.types[3].places[4][0] = f32::INFINITY).contains("liver: log odds"));
    }
}
