//! Log odds of marks against finds: by place in the body, and by type at a level of it. Pure.

use crate::detect::TYPES;
use crate::detect::prior::{GRID, OfType};

/// A mark of a radiologist, or a find of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot {
    /// Index of the type.
    pub lesion_type: usize,
    /// Shares of the body's box.
    pub place: [f32; 2],
    /// How far down the body, where known.
    pub level: Option<f32>,
}

/// Blur of places, shares of the body's box: 3 cm of a body, which is what two patients differ by.
const PLACE_SIGMA: f32 = 0.1;
/// This much of every density of places is level: no place is impossible.
const ANYWHERE: f32 = 0.05;
/// Bone, lung, kidney and soft tissue are the same on both sides, and the CT at hand is of a few people with a diseased side each: counted on both.
const PAIRED: [usize; 4] = [0, 4, 5, 6];
/// Steps of levels, and their blur.
const LEVEL_STEP: f32 = 0.01;
const LEVELS: usize = 100;
const LEVEL_SIGMA: f32 = 0.02;
/// Spots of every type that are taken to lie at every level, so that few say little.
const EACH: f32 = 3.0;
/// Finds at a level from which on it counts.
const LEAST_AT_LEVEL: f32 = 30.0;
/// Marks and finds of a type from which on something is said of it.
const LEAST: usize = 50;

/// Log odds of each type.
#[must_use]
pub fn odds(marks: &[Spot], finds: &[Spot]) -> [OfType; TYPES] {
    let levels = |spots: &[Spot]| -> Vec<[f32; LEVELS]> {
        (0..TYPES).map(|t| along(spots.iter().filter(|s| s.lesion_type == t).filter_map(|s| s.level))).collect()
    };
    let (marked, found) = (levels(marks), levels(finds));
    let all = |of: &[[f32; LEVELS]], level: usize| of.iter().map(|v| v[level]).sum::<f32>();
    let share = |of: &[[f32; LEVELS]], t: usize, level: usize| (of[t][level] + EACH) / (all(of, level) + EACH * TYPES as f32);
    std::array::from_fn(|t| {
        let places = |spots: &[Spot]| spots.iter().filter(|s| s.lesion_type == t).map(|s| s.place).collect::<Vec<_>>();
        let (here, there) = (places(marks), places(finds));
        let of = OfType { name: crate::detect::TYPE_NAMES[t].into(), odds: 0.0, places: Vec::new() };
        if here.len() < LEAST || there.len() < LEAST {
            return of;
        }
        let density = |places: &[[f32; 2]]| {
            let other_side = places.iter().filter(|_| PAIRED.contains(&t)).map(|[x, y]| [1.0 - x, *y]);
            density(&places.iter().copied().chain(other_side).collect::<Vec<_>>())
        };
        let ratio = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| hundredths((a / b).ln())).collect();
        let places = density(&here).iter().zip(&density(&there)).map(ratio).collect();
        // At each level on its own, for scans are not of what radiologists mark: the mean over where the type is marked.
        let (mut sum, mut weights) = (0.0, 0.0);
        for level in (0..LEVELS).filter(|l| all(&found, *l) > LEAST_AT_LEVEL) {
            let weight = marked[t][level];
            sum += weight * (share(&marked, t, level) / share(&found, t, level)).ln();
            weights += weight;
        }
        OfType { odds: if weights > 0.0 { hundredths(sum / weights) } else { 0.0 }, places, ..of }
    })
}

/// What is kept of a number that is known to a tenth.
fn hundredths(value: f32) -> f32 {
    (value * 100.0).round() / 100.0
}

fn bell(distance: f32, sigma: f32) -> f32 {
    (-0.5 * (distance / sigma).powi(2)).exp()
}

/// Spots about each level.
fn along(levels: impl Iterator<Item = f32>) -> [f32; LEVELS] {
    let mut sum = [0.0; LEVELS];
    for level in levels {
        for (i, sum) in sum.iter_mut().enumerate() {
            *sum += bell(i as f32 * LEVEL_STEP - level, LEVEL_SIGMA);
        }
    }
    sum
}

/// Share of each cell, rows from front to back; what lies outside of the body counts at its edge.
fn density(places: &[[f32; 2]]) -> Vec<Vec<f32>> {
    let cell = |share: f32| ((share * GRID as f32) as isize).clamp(0, GRID as isize - 1) as usize;
    let mut counts = vec![vec![0.0f32; GRID]; GRID];
    for [x, y] in places {
        counts[cell(*y)][cell(*x)] += 1.0;
    }
    let blurred = transposed(&blurred(&transposed(&blurred(&counts))));
    let sum: f32 = blurred.iter().flatten().sum();
    let level = ANYWHERE / (GRID * GRID) as f32;
    blurred.iter().map(|row| row.iter().map(|v| (1.0 - ANYWHERE) * v / sum.max(f32::MIN_POSITIVE) + level).collect()).collect()
}

fn transposed(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    (0..GRID).map(|i| rows.iter().map(|row| row[i]).collect()).collect()
}

/// Along rows; beyond an edge stands what is at it.
fn blurred(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let sigma = PLACE_SIGMA * GRID as f32;
    let reach = (4.0 * sigma) as isize;
    let weights: Vec<f32> = (-reach..=reach).map(|d| bell(d as f32, sigma)).collect();
    let sum: f32 = weights.iter().sum();
    let one = |row: &Vec<f32>| {
        let at = |i: isize| row[i.clamp(0, GRID as isize - 1) as usize];
        (0..GRID as isize).map(|i| weights.iter().zip(i - reach..).map(|(w, j)| w * at(j)).sum::<f32>() / sum).collect()
    };
    rows.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` spots of a type in a row across the body at one height and level.
    fn row(lesion_type: usize, n: usize, [from, to]: [f32; 2], y: f32, level: f32) -> impl Iterator<Item = Spot> {
        let x = move |i: usize| from + (to - from) * (i as f32 + 0.5) / n as f32;
        (0..n).map(move |i| Spot { lesion_type, place: [x(i), y], level: Some(level) })
    }

    #[test]
    fn places_where_marks_are_commoner_than_finds_gain_and_the_others_lose() {
        // Livers' marks on the image's left, finds everywhere.
        let marks: Vec<Spot> = row(3, 400, [0.1, 0.4], 0.5, 0.6).collect();
        let finds: Vec<Spot> = row(3, 400, [0.0, 1.0], 0.5, 0.6).collect();
        let of = &odds(&marks, &finds)[3];
        let middle = &of.places[GRID / 2];
        assert!(middle[5] > 0.8 && middle[15] < -1.5, "{middle:?}");
        // Of bone the side makes no difference.
        let (left, right): (Vec<Spot>, Vec<Spot>) =
            (row(0, 400, [0.1, 0.4], 0.5, 0.6).collect(), row(0, 400, [0.6, 0.9], 0.5, 0.6).collect());
        let finds: Vec<Spot> = row(0, 400, [0.0, 1.0], 0.5, 0.6).collect();
        let [left, right] = [left, right].map(|marks| odds(&marks, &finds)[0].places[GRID / 2].clone());
        assert!(left[5] > 0.3 && left.iter().zip(&right).all(|(a, b)| (a - b).abs() < 0.02), "{left:?} {right:?}");
        // Nothing is marked and nothing found at the front: nothing is said of it.
        assert!(of.places[0].iter().all(|v| v.abs() < 0.5), "{:?}", of.places[0]);
        assert_eq!(of.odds, 0.0, "one type is all there is");
    }

    #[test]
    fn types_are_held_against_each_other_where_both_are() {
        // At 0.6 radiologists mark nine livers for a bone, the network finds as many of both. At 0.9, where it finds lungs only, nothing is marked.
        let whole = [0.0, 1.0];
        let marks: Vec<Spot> = row(3, 900, whole, 0.5, 0.6).chain(row(0, 100, whole, 0.5, 0.6)).collect();
        let finds: Vec<Spot> =
            row(3, 400, whole, 0.5, 0.6).chain(row(0, 400, whole, 0.5, 0.6)).chain(row(4, 5000, whole, 0.5, 0.9)).collect();
        let of = odds(&marks, &finds);
        assert!((of[3].odds - 1.8f32.ln()).abs() < 0.05 && (of[0].odds - 0.2f32.ln()).abs() < 0.1, "{} {}", of[3].odds, of[0].odds);
        assert!(of[3].places.iter().flatten().all(|v| v.abs() < 0.02));
        // Too few marks of lungs to say anything, and no finds of pelves.
        assert!(of[4].places.is_empty() && of[4].odds == 0.0 && of[7].places.is_empty());
    }
}
