//! Whether objects come in, and how long they are: what writing ahead ([`super::prewriter`]) goes by.
//!
//! Slices of a series are of one length, or of one but for a few bytes. Objects of all lengths (compressed ones) have no usual one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nothing is received when the last object ended this long ago.
const QUIET: Duration = Duration::from_secs(1);
/// Blocks of the file systems that we know.
const BLOCK_BYTES: u64 = 4096;
/// Objects whose lengths are remembered.
pub const REMEMBERED: usize = 64;
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
    /// In bytes.
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
        state.lengths.push_front(length);
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

    /// The most common length among those of as many blocks as half of the last objects have; `None` where they have none in common, or where there were few.
    #[must_use]
    pub fn usual_length(&self) -> Option<u64> {
        let state = self.state();
        let blocks = |length: u64| length.div_ceil(BLOCK_BYTES);
        let (most, count) = most_common(state.lengths.iter().map(|l| blocks(*l)))?;
        let usual = most_common(state.lengths.iter().copied().filter(|l| blocks(*l) == most))?.0;
        (count >= ENOUGH && count * 2 >= state.lengths.len()).then_some(usual)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value that comes most often, the largest of several, and how often.
fn most_common(values: impl Iterator<Item = u64>) -> Option<(u64, usize)> {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1);
    counts.into_iter().max_by_key(|(value, count)| (*count, *value))
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
        traffic.kept(526_002);
        assert_eq!(traffic.usual_length(), Some(526_000));
        (0..4).for_each(|n| traffic.kept(10_000 * (n + 1)));
        assert_eq!(traffic.usual_length(), Some(526_000));
        traffic.kept(90_000);
        assert_eq!(traffic.usual_length(), None);
        // What comes now is what counts.
        (0..64).for_each(|_| traffic.kept(131_000));
        assert_eq!(traffic.usual_length(), Some(131_000));
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
