//! The z grid: which slots a stack has, and which slices make each. Pure, and the same for any order of arrival.
//!
//! Slots fall on acquired slices wherever possible. The step is the multiple of the slice spacing that is nearest to 2 mm, or an integer fraction of it.
//! Slices are numbered by absolute position (`position / spacing`), so that a slot's slices do not depend on which others have arrived.

use sha2::{Digest, Sha256};

use super::frame::Frame;

/// The step that the network was trained for, mm.
pub const STEP_MM: f64 = 2.0;
/// Slices further apart than this get interpolated slots between them, mm.
const MOST_STEP_MM: f64 = 2.8;
/// Largest multiple and largest fraction of the spacing that is tried.
const MOST_RATIO: usize = 16;
/// Slices further apart than this are not interpolated between: nobody knows what lies there, mm.
pub const MOST_BRIDGED_MM: f64 = 10.0;

/// One plane of the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// Position along the stack's normal, mm.
    pub z_mm: f64,
    /// Index of the slice at or below it.
    pub lower: usize,
    /// Index of the slice at or above it (equal to `lower` on a slice).
    pub upper: usize,
    /// Share of `upper`, 0..1.
    pub weight: f32,
}

impl Slot {
    /// The nearer of its slices.
    #[must_use]
    pub fn nearest(&self) -> usize {
        if self.weight > 0.5 { self.upper } else { self.lower }
    }
}

/// Slots of a stack, rising z.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotGrid {
    /// Distance of neighbouring slots, mm.
    pub step_mm: f64,
    /// The slots.
    pub slots: Vec<Slot>,
}

/// `n` slices a slot (`Multiple`) or `n` slots a slice (`Fraction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ratio {
    Multiple(usize),
    Fraction(usize),
}

/// Thick slices are divided only as often as needed to come under [`MOST_STEP_MM`]: an interpolated slot costs as much as a real one and shows nothing new.
fn ratio(spacing_mm: f64) -> Ratio {
    if spacing_mm > MOST_STEP_MM {
        let n = (2..=MOST_RATIO).find(|n| spacing_mm / *n as f64 <= MOST_STEP_MM).unwrap_or(MOST_RATIO);
        return Ratio::Fraction(n);
    }
    let distance = |n: usize| (spacing_mm * n as f64 - STEP_MM).abs();
    Ratio::Multiple((1..=MOST_RATIO).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap_or(1))
}

/// The grid of slices at `positions_mm` (rising) that are `spacing_mm` apart.
#[must_use]
pub fn grid(positions_mm: &[f64], spacing_mm: f64) -> SlotGrid {
    let single = |i: usize| Slot { z_mm: positions_mm[i], lower: i, upper: i, weight: 0.0 };
    if positions_mm.len() < 2 || spacing_mm <= 0.0 {
        return SlotGrid { step_mm: STEP_MM, slots: (0..positions_mm.len()).map(single).collect() };
    }
    let number = |i: usize| (positions_mm[i] / spacing_mm).round() as i64;
    match ratio(spacing_mm) {
        Ratio::Multiple(n) => {
            let every = i64::try_from(n).unwrap_or(1);
            let mut slots: Vec<Slot> = (0..positions_mm.len()).filter(|i| number(*i).rem_euclid(every) == 0).map(single).collect();
            if slots.is_empty() {
                slots = vec![single(positions_mm.len() / 2)];
            }
            SlotGrid { step_mm: spacing_mm * n as f64, slots }
        }
        Ratio::Fraction(n) => {
            let step_mm = spacing_mm / n as f64;
            let mut slots = Vec::new();
            for i in 0..positions_mm.len() {
                slots.push(single(i));
                let Some(next) = positions_mm.get(i + 1) else { break };
                let gap = next - positions_mm[i];
                if gap > MOST_BRIDGED_MM {
                    continue;
                }
                let between = (gap / step_mm).round().max(1.0) as usize;
                slots.extend((1..between).map(|k| {
                    let share = k as f64 / between as f64;
                    Slot { z_mm: positions_mm[i] + gap * share, lower: i, upper: i + 1, weight: share as f32 }
                }));
            }
            SlotGrid { step_mm, slots }
        }
    }
}

impl SlotGrid {
    /// The slot nearest to a position.
    #[must_use]
    pub fn at(&self, z_mm: f64) -> Option<usize> {
        (0..self.slots.len()).min_by(|a, b| (self.slots[*a].z_mm - z_mm).abs().total_cmp(&(self.slots[*b].z_mm - z_mm).abs()))
    }

    /// The `context` slots round slot `at`, lowest first; beyond the ends, and across a gap, the slot itself or the last one before stands in.
    #[must_use]
    pub fn window(&self, at: usize, context: usize) -> Vec<usize> {
        let half = context / 2;
        let joined = |a: usize, b: usize| (self.slots[b].z_mm - self.slots[a].z_mm) < 1.5 * self.step_mm.max(1e-6);
        let mut below = Vec::with_capacity(half);
        let mut current = at;
        for _ in 0..half {
            if current > 0 && joined(current - 1, current) {
                current -= 1;
            }
            below.push(current);
        }
        below.reverse();
        let mut window = below;
        window.push(at);
        let mut current = at;
        for _ in 0..half {
            if current + 1 < self.slots.len() && joined(current, current + 1) {
                current += 1;
            }
            window.push(current);
        }
        window
    }
}

/// What a slot was made of: frame, slices, weight. Equal keys mean equal input to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey([u8; 16]);

/// Key of `slot`; `identity(i)` names slice `i` by content (its SOP Instance UID and digest), not by index.
#[must_use]
pub fn key<'a>(slot: &Slot, frame: &Frame, identity: impl Fn(usize) -> &'a str) -> SlotKey {
    let mut hash = Sha256::new();
    for value in [frame.spacing_mm, frame.scale[0], frame.scale[1], frame.origin_px[0], frame.origin_px[1], f64::from(slot.weight)] {
        hash.update(value.to_bits().to_le_bytes());
    }
    hash.update((frame.height as u64).to_le_bytes());
    for slice in [slot.lower, slot.upper] {
        hash.update(identity(slice).as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    SlotKey(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn even(n: usize, spacing: f64, start: f64) -> Vec<f64> {
        (0..n).map(|i| start + i as f64 * spacing).collect()
    }

    #[test]
    fn steps_are_the_nearest_to_two_millimetres() {
        for (spacing, step) in
            [(1.0, 2.0), (0.625, 1.875), (5.0, 2.5), (6.0, 2.0), (2.0, 2.0), (2.5, 2.5), (1.25, 2.5), (3.0, 1.5), (4.0, 2.0), (3.27, 1.635)]
        {
            assert!(
                (grid(&even(20, spacing, -7.0), spacing).step_mm - step).abs() < 1e-9,
                "{spacing}: {}",
                grid(&even(20, spacing, 0.0), spacing).step_mm
            );
        }
    }

    #[test]
    fn one_slice_is_its_own_neighbours() {
        let g = grid(&[12.5], 1.0);
        assert_eq!(g.slots, [Slot { z_mm: 12.5, lower: 0, upper: 0, weight: 0.0 }]);
        assert_eq!(g.window(0, 3), [0, 0, 0]);
    }

    #[test]
    fn ends_repeat_and_gaps_are_not_crossed() {
        let mut positions = even(5, 2.0, 0.0);
        positions.extend(even(3, 2.0, 40.0));
        let g = grid(&positions, 2.0);
        assert_eq!(g.window(0, 3), [0, 0, 1]);
        assert_eq!(g.window(4, 5), [2, 3, 4, 4, 4]);
        assert_eq!(g.window(7, 3), [6, 7, 7]);
    }

    proptest! {
        /// What has arrived decides which slots exist, never what a slot is made of.
        #[test]
        fn a_part_of_the_stack_has_a_part_of_the_slots(spacing in 0.3f64..2.2, n in 8usize..60, start in -300f64..300.0, cut in 2usize..6) {
            let all = even(n, spacing, (start / spacing).round() * spacing);
            let whole = grid(&all, spacing);
            let part = grid(&all[..n - cut], spacing);
            if part.slots.len() > 1 {
                for slot in &part.slots {
                    prop_assert!(whole.slots.iter().any(|s| s.z_mm == slot.z_mm && s.weight == slot.weight));
                }
            }
        }

        #[test]
        fn every_slice_is_within_a_step_of_a_slot(spacing in 0.3f64..8.0, n in 2usize..80, start in -300f64..300.0) {
            let positions = even(n, spacing, start);
            let g = grid(&positions, spacing);
            for z in positions {
                prop_assert!(g.slots.iter().any(|s| (s.z_mm - z).abs() <= g.step_mm * 1.01));
            }
        }
    }
}
