//! Boxes of neighbouring slots → tracks, one a lesion. Pure.

use crate::detect::nms::{by_rank, iou};
use crate::detect::{Candidate, TYPES};

/// Boxes of neighbouring slots that overlap this much are the same lesion.
pub const LEAST_OVERLAP: f32 = 0.3;
/// Slots a lesion may be missed on and still be one lesion.
const MOST_MISSED: usize = 1;

/// One lesion over the slots it was seen on.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// Slot index and candidate, rising.
    pub seen: Vec<(usize, Candidate)>,
}

impl Track {
    /// The slot of its best box, and the box.
    #[must_use]
    pub fn key(&self) -> &(usize, Candidate) {
        // A track is made of at least one box.
        let mut best = &self.seen[0];
        for s in &self.seen[1..] {
            if by_rank(&s.1, &best.1).is_lt() {
                best = s;
            }
        }
        best
    }

    /// Raw score: that of the best box. (A lesion of one slot and one of ten are judged alike; calibration is by lesion.)
    #[must_use]
    pub fn score(&self) -> f32 {
        self.key().1.score
    }

    /// Type probabilities, averaged with the scores as weights.
    #[must_use]
    pub fn types(&self) -> [f32; TYPES] {
        let total: f32 = self.seen.iter().map(|(_, c)| c.score).sum::<f32>().max(f32::MIN_POSITIVE);
        std::array::from_fn(|t| self.seen.iter().map(|(_, c)| c.score * c.types[t]).sum::<f32>() / total)
    }
}

/// Links the candidates of slots (`slots[i]` belongs to slot `i`), best first: a track takes, slot by slot in both directions from its best box, the
/// free box that overlaps the last one most. Every candidate is in exactly one track. Tracks come best first.
#[must_use]
pub fn link(slots: &[Vec<Candidate>]) -> Vec<Track> {
    let mut order: Vec<(usize, usize)> = slots.iter().enumerate().flat_map(|(s, all)| (0..all.len()).map(move |i| (s, i))).collect();
    order.sort_by(|a, b| by_rank(&slots[a.0][a.1], &slots[b.0][b.1]).then(a.0.cmp(&b.0)));
    let mut free: Vec<Vec<bool>> = slots.iter().map(|s| vec![true; s.len()]).collect();
    let mut tracks = Vec::new();
    for (slot, index) in order {
        if !free[slot][index] {
            continue;
        }
        free[slot][index] = false;
        let mut seen = vec![(slot, slots[slot][index].clone())];
        for up in [true, false] {
            let (mut at, mut last, mut missed) = (slot, slots[slot][index].box_px, 0);
            loop {
                let next = if up { at.checked_add(1).filter(|n| *n < slots.len()) } else { at.checked_sub(1) };
                let Some(next) = next else { break };
                at = next;
                let best = (0..slots[at].len())
                    .filter(|i| free[at][*i])
                    .map(|i| (iou(last, slots[at][i].box_px), i))
                    .filter(|(overlap, _)| *overlap >= LEAST_OVERLAP)
                    .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| by_rank(&slots[at][b.1], &slots[at][a.1])));
                match best {
                    Some((_, i)) => {
                        free[at][i] = false;
                        last = slots[at][i].box_px;
                        missed = 0;
                        seen.push((at, slots[at][i].clone()));
                    }
                    None if missed < MOST_MISSED => missed += 1,
                    None => break,
                }
            }
        }
        seen.sort_by_key(|(s, _)| *s);
        tracks.push(Track { seen });
    }
    tracks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(x: f32, y: f32, score: f32) -> Candidate {
        Candidate { box_px: [x, y, x + 20.0, y + 20.0], score, types: [0.125; TYPES], axes_px: [10.0, 8.0], angle_rad: 0.0 }
    }

    #[test]
    fn one_missed_slot_is_bridged_and_two_are_not() {
        let one = |x| vec![candidate(x, 50.0, 0.5)];
        assert_eq!(link(&[one(10.0), vec![], one(11.0), one(12.0)]).len(), 1);
        assert_eq!(link(&[one(10.0), vec![], vec![], one(11.0)]).len(), 2);
        assert_eq!(link(&[one(10.0), one(60.0)]).len(), 2);
    }

    #[test]
    fn the_key_is_the_best_box() {
        let tracks = link(&[vec![candidate(10.0, 10.0, 0.3)], vec![candidate(11.0, 10.0, 0.9)], vec![candidate(12.0, 10.0, 0.4)]]);
        assert_eq!((tracks.len(), tracks[0].key().0, tracks[0].seen.len()), (1, 1, 3));
    }

    proptest! {
        #[test]
        fn every_candidate_is_in_one_track_and_order_decides_nothing(
            all in prop::collection::vec(prop::collection::vec((0f32..100.0, 0f32..100.0, 0u8..50), 0..6), 1..10),
        ) {
            let slots: Vec<Vec<Candidate>> =
                all.iter().map(|s| s.iter().map(|(x, y, p)| candidate(*x, *y, f32::from(*p) / 50.0)).collect()).collect();
            let tracks = link(&slots);
            prop_assert_eq!(tracks.iter().map(|t| t.seen.len()).sum::<usize>(), slots.iter().map(Vec::len).sum::<usize>());
            for t in &tracks {
                for pair in t.seen.windows(2) {
                    prop_assert!(pair[1].0 > pair[0].0 && pair[1].0 - pair[0].0 <= 1 + MOST_MISSED);
                }
            }
            let reversed: Vec<Vec<Candidate>> = slots.iter().map(|s| s.iter().rev().cloned().collect()).collect();
            prop_assert_eq!(link(&reversed), tracks);
        }
    }
}
