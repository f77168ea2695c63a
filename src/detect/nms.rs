//! Suppression of overlapping boxes. Pure, and the same for any order of its input.

use std::cmp::Ordering;

use super::Candidate;

/// Boxes that overlap more than this are the same find.
pub const MOST_OVERLAP: f32 = 0.5;
/// A box with more of itself than this inside a stronger one is taken for a part of that find, and its score is multiplied by [`PART_WEIGHT`]: a fold of a
/// bowel loop, the pelvis of a kidney. Not suppressed, for the stronger one may be the false one. `models/lesionwatch/CARD.md` says what it buys.
pub const PART: f32 = 0.7;
/// See [`PART`].
pub const PART_WEIGHT: f32 = 0.8;
/// Boxes kept a slot: what the contract promises at most an image.
pub const MOST_KEPT: usize = 100;

/// Best score first; equal scores by box, so that the order of arrival decides nothing.
#[must_use]
pub fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.score
        .total_cmp(&a.score)
        .then_with(|| a.box_px.iter().zip(&b.box_px).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal))
}

/// Intersection over union with the +1 pixel convention of the DeepLesion evaluation: a box from 3 to 3 is one pixel wide.
#[must_use]
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let common = common(a, b);
    let union = area(a) + area(b) - common;
    if union > 0.0 { common / union } else { 0.0 }
}

fn side(low: f32, high: f32) -> f32 {
    (high - low + 1.0).max(0.0)
}

fn area(r: [f32; 4]) -> f32 {
    side(r[0], r[2]) * side(r[1], r[3])
}

fn common(a: [f32; 4], b: [f32; 4]) -> f32 {
    side(a[0].max(b[0]), a[2].min(b[2])) * side(a[1].max(b[1]), a[3].min(b[3]))
}

/// The finds of one slot: overlapping boxes suppressed, parts of stronger finds ranked behind them; best first.
#[must_use]
pub fn finds(candidates: Vec<Candidate>) -> heapless::Vec<Candidate, MOST_KEPT> {
    let mut kept = suppress(candidates);
    let is_part = |i: usize| {
        let own = kept[i].box_px;
        kept[..i].iter().any(|stronger| common(own, stronger.box_px) > PART * area(own))
    };
    let parts: heapless::Vec<bool, MOST_KEPT> = (0..kept.len()).map(is_part).collect();
    kept.iter_mut().zip(parts).filter(|(_, part)| *part).for_each(|(find, _)| find.score *= PART_WEIGHT);
    kept.sort_by(by_rank);
    kept
}

/// Greedy suppression: the best box stays, what overlaps it by more than [`MOST_OVERLAP`] goes; at most [`MOST_KEPT`] stay.
fn suppress(mut candidates: Vec<Candidate>) -> heapless::Vec<Candidate, MOST_KEPT> {
    candidates.sort_by(by_rank);
    let mut kept: heapless::Vec<Candidate, MOST_KEPT> = heapless::Vec::new();
    for candidate in candidates {
        if kept.iter().all(|k| iou(k.box_px, candidate.box_px) <= MOST_OVERLAP) && kept.push(candidate).is_err() {
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::TYPES;
    use proptest::prelude::*;

    fn candidate(box_px: [f32; 4], score: f32) -> Candidate {
        Candidate { box_px, score, types: [0.125; TYPES], axes_px: [1.0, 1.0], angle_rad: 0.0 }
    }

    fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0f32..80.0, 0f32..80.0, 1f32..40.0, 1f32..40.0, 0u8..20);
        prop::collection::vec(one.prop_map(|(x, y, w, h, s)| candidate([x, y, x + w, y + h], f32::from(s) / 20.0)), 0..150)
    }

    #[test]
    fn a_pixel_is_one_pixel_wide() {
        assert!((iou([3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 4.0, 3.0]) - 0.5).abs() < 1e-6);
        assert_eq!(iou([0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]), 0.0);
    }

    #[test]
    fn a_part_of_a_stronger_find_is_ranked_behind_it() {
        let (whole, part, beside) = ([10.0, 10.0, 59.0, 59.0], [20.0, 20.0, 29.0, 29.0], [52.0, 20.0, 71.0, 29.0]);
        let found = finds(vec![candidate(whole, 0.9), candidate(part, 0.8), candidate(beside, 0.7)]);
        let scores: Vec<(f32, f32)> = found.iter().map(|f| (f.box_px[0], f.score)).collect();
        assert_eq!(scores, [(10.0, 0.9), (52.0, 0.7), (20.0, 0.8 * PART_WEIGHT)]);
        // A weak box round a strong one takes nothing from it.
        let found = finds(vec![candidate(whole, 0.4), candidate(part, 0.8)]);
        assert_eq!(found.iter().map(|f| f.score).collect::<Vec<_>>(), [0.8, 0.4]);
    }

    proptest! {
        #[test]
        fn finds_are_the_boxes_that_were_kept_whatever_their_order(all in any_candidates(), turn in 0usize..150) {
            let found = finds(all.clone());
            prop_assert!(found.is_sorted_by(|a, b| a.score >= b.score));
            let sorted = |finds: &[Candidate]| {
                let mut boxes: Vec<[f32; 4]> = finds.iter().map(|f| f.box_px).collect();
                boxes.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
                boxes
            };
            prop_assert_eq!(sorted(&found), sorted(&suppress(all.clone())));
            let mut turned = all;
            let by = turn % turned.len().max(1);
            turned.rotate_left(by);
            prop_assert_eq!(&finds(turned), &found);
        }

        #[test]
        fn no_two_kept_boxes_overlap_and_the_best_stays(all in any_candidates()) {
            let kept = suppress(all.clone());
            for (i, a) in kept.iter().enumerate() {
                for b in &kept[i + 1..] {
                    prop_assert!(iou(a.box_px, b.box_px) <= MOST_OVERLAP);
                    prop_assert!(a.score >= b.score);
                }
            }
            prop_assert_eq!(kept.is_empty(), all.is_empty());
        }

        #[test]
        fn order_decides_nothing_and_twice_is_once(all in any_candidates(), seed in any::<u64>()) {
            let kept = suppress(all.clone());
            let mut shuffled = all;
            let n = shuffled.len().max(1);
            for i in 0..shuffled.len() {
                shuffled.swap(i, (seed as usize).wrapping_mul(i + 7) % n);
            }
            prop_assert_eq!(&suppress(shuffled), &kept);
            prop_assert_eq!(&suppress(kept.to_vec()), &kept);
        }
    }
}
