//! Whether objects come in, and how long they are: what writing ahead ([`super::prewriter`]) goes by.
//!
//! Slices of a scanner are of one length but for a few bytes. Objects of all lengths (compressed ones) have no usual one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nothing is received when the last object ended this long ago.
const QUIET: Duration = Duration::from_secs(1);
/// Blocks of the file systems that we know.
const BLOCK_BYTES: u64 = 4096;
/// Objects whose lengths are remembered.
const REMEMBERED: usize = 64;
/// Objects that must be of the usual length before there is one.
const ENOUGH: usize = 4;

/// Objects under way, and the lengths of the last ones.
#[derive(Debug, Default)]
pub struct Traffic {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    ended: Option<Instant>,
    /// In blocks.
    lengths: VecDeque<u64>,
}

impl Traffic {
    /// An object begins.
    pub fn begin(&self) {
        self.state().under_way += 1;
    }

    /// An object of so many bytes is whole.
    pub fn kept(&self, length: u64) {
        let mut state = self.state();
        state.lengths.truncate(REMEMBERED - 1);
        state.lengths.push_front(length.div_ceil(BLOCK_BYTES));
    }

    /// An object is no longer under way, whole or not.
    pub fn end(&self) {
        let mut state = self.state();
        state.under_way = state.under_way.saturating_sub(1);
        state.ended = Some(Instant::now());
    }

    /// Whether nothing is received.
    #[must_use]
    pub fn quiet(&self) -> bool {
        let state = self.state();
        state.under_way == 0 && state.ended.is_none_or(|at| at.elapsed() > QUIET)
    }

    /// The length, in whole blocks, that half of the last objects have; `None` where they have none in common, or where there were few.
    #[must_use]
    pub fn usual_length(&self) -> Option<u64> {
        let state = self.state();
        let mut counts: HashMap<u64, usize> = HashMap::new();
        state.lengths.iter().for_each(|blocks| *counts.entry(*blocks).or_default() += 1);
        let (blocks, count) = counts.into_iter().max_by_key(|(blocks, count)| (*count, *blocks))?;
        (count >= ENOUGH && count * 2 >= state.lengths.len()).then_some(blocks * BLOCK_BYTES)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_length_is_that_of_half_of_the_objects() {
        let traffic = Traffic::default();
        (0..3).for_each(|_| traffic.kept(526_000));
        assert_eq!(traffic.usual_length(), None);
        traffic.kept(526_200);
        assert_eq!(traffic.usual_length(), Some(129 * 4096));
        (0..4).for_each(|n| traffic.kept(10_000 * (n + 1)));
        assert_eq!(traffic.usual_length(), Some(129 * 4096));
        traffic.kept(90_000);
        assert_eq!(traffic.usual_length(), None);
        // What comes now is what counts.
        (0..64).for_each(|_| traffic.kept(131_000));
        assert_eq!(traffic.usual_length(), Some(32 * 4096));
    }

    #[test]
    fn it_is_quiet_when_no_object_is_under_way_and_none_just_was() {
        let traffic = Traffic::default();
        assert!(traffic.quiet());
        traffic.begin();
        assert!(!traffic.quiet());
        traffic.end();
        assert!(!traffic.quiet());
        traffic.state().ended = Instant::now().checked_sub(QUIET * 2);
        assert!(traffic.quiet());
        traffic.begin();
        assert!(!traffic.quiet());
    }
}
