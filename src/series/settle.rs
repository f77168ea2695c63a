//! When a series counts as complete. Pure: time comes as an argument.
//!
//! On evidence: the one association that brought slices was released and the stack has no gap → at once. Otherwise after a quiet time that follows the
//! rhythm in which slices came: a sender that pauses for 20 s between images is given more time than one that sends 50 a second. An association that was
//! aborted is evidence of nothing; the one that tries again after it counts as the first.

use std::time::Duration;

/// Arrival gaps remembered.
const REMEMBERED: usize = 32;
/// Quiet time as a multiple of the longest remembered gap.
const RHYTHM_FACTOR: u32 = 4;

/// While its association is open a series is given at least this part of the longest quiet time.
const OPEN_SHARE: u32 = 3;
/// A whole stack that several associations brought, all released, waits at least this part of the least quiet time: the rhythm alone then says whether
/// the next association is on its way.
const RELEASED_SHARE: u32 = 4;

/// Limits of the quiet time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Least.
    pub min: Duration,
    /// Most.
    pub max: Duration,
}

/// Arrivals of one series.
#[derive(Debug, Clone)]
pub struct Settling {
    quiet: Quiet,
    gaps: heapless::Deque<Duration, REMEMBERED>,
    last: Option<Duration>,
    open: Vec<u64>,
    /// How the last association ended.
    released: bool,
}

impl Settling {
    /// Nothing has arrived.
    #[must_use]
    pub fn new(quiet: Quiet) -> Self {
        Self { quiet, gaps: heapless::Deque::new(), last: None, open: Vec::new(), released: true }
    }

    /// A slice came over `association` at `now` (since any fixed origin).
    pub fn arrived(&mut self, association: u64, now: Duration) {
        if let Some(last) = self.last {
            if self.gaps.is_full() {
                self.gaps.pop_front();
            }
            // Never full here.
            let _ = self.gaps.push_back(now.saturating_sub(last));
        }
        self.last = Some(now);
        if !self.open.contains(&association) {
            self.open.push(association);
        }
    }

    /// An association ended; true if it had brought slices of this series.
    pub fn ended(&mut self, association: u64, released: bool, now: Duration) -> bool {
        let mine = self.open.contains(&association);
        if mine {
            self.open.retain(|a| *a != association);
            self.released = released;
            // One association an image: the time from image to image is the rhythm, and the end of one is its last sign of life.
            self.last = Some(self.last.map_or(now, |l| l.max(now)));
        }
        mine
    }

    /// The quiet time that the rhythm so far asks for.
    #[must_use]
    pub fn quiet_time(&self) -> Duration {
        self.rhythm(self.quiet.min)
    }

    fn rhythm(&self, least: Duration) -> Duration {
        let longest = self.gaps.iter().max().copied().unwrap_or_default();
        (longest * RHYTHM_FACTOR).clamp(least, self.quiet.max)
    }

    /// Forgets the rhythm: what comes next is a re-send or a late slice, and the pause before it says nothing of its sender's.
    pub fn start_over(&mut self) {
        self.gaps.clear();
        self.last = None;
    }

    /// Whether a slice at `now` comes within the longest quiet time after the last one: a pause of a slow sender rather than a late delivery.
    #[must_use]
    pub fn is_pause(&self, now: Duration) -> bool {
        self.last.is_some_and(|last| now.saturating_sub(last) <= self.quiet.max)
    }

    /// Whether `association` has brought slices and is still there.
    #[must_use]
    pub fn is_open(&self, association: u64) -> bool {
        self.open.contains(&association)
    }

    /// When the series is complete if nothing more arrives; `contiguous` says whether its stack is one without gaps (or none at all, for objects that
    /// are not slices), `several` whether more than one association brought it and was released: then the next one may be on its way, and evidence is
    /// weak. `overtaken`: the association that is still open has gone on to another series.
    #[must_use]
    pub fn due(&self, contiguous: bool, several: bool, overtaken: bool) -> Option<Duration> {
        let last = self.last?;
        if self.open.is_empty() && self.released && contiguous {
            return Some(if several { last + self.rhythm(self.quiet.min / RELEASED_SHARE) } else { last });
        }
        if !self.open.is_empty() && !overtaken {
            // The sender is still there, and may be reconstructing: it is given a good part of the time there is, whatever its rhythm was.
            return Some(last + self.quiet_time().max(self.quiet.max / OPEN_SHARE).max(self.quiet.min));
        }
        Some(last + self.quiet_time())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Quiet = Quiet { min: Duration::from_secs(2), max: Duration::from_secs(60) };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_clean_release_of_a_whole_stack_settles_at_once() {
        let mut s = Settling::new(QUIET);
        for i in 0..100 {
            s.arrived(1, ms(i * 20));
        }
        assert_eq!(s.due(true, false, false), Some(ms(1980) + QUIET.max / OPEN_SHARE));
        s.ended(1, true, ms(2000));
        assert_eq!(s.due(true, false, false), Some(ms(2000)));
    }

    #[test]
    fn an_association_that_went_on_to_another_series_is_not_waited_for() {
        let mut s = Settling::new(QUIET);
        s.arrived(1, ms(0));
        s.arrived(1, ms(20));
        assert!(s.is_open(1));
        assert_eq!(s.due(true, false, true), Some(ms(20) + QUIET.min));
    }

    #[test]
    fn the_pause_before_a_late_slice_is_no_rhythm() {
        let mut s = Settling::new(QUIET);
        s.arrived(1, ms(0));
        s.ended(1, true, ms(10));
        s.start_over();
        s.arrived(2, ms(600_000));
        s.ended(2, true, ms(600_010));
        assert_eq!(s.due(true, false, false), Some(ms(600_010)));
        assert_eq!(s.due(true, true, false), Some(ms(600_010) + QUIET.min / RELEASED_SHARE));
        assert_eq!(s.due(false, false, false), Some(ms(600_010) + QUIET.min));
    }

    #[test]
    fn a_gap_or_an_abort_waits_for_the_quiet_time() {
        let mut s = Settling::new(QUIET);
        s.arrived(1, ms(0));
        s.arrived(1, ms(100));
        s.ended(1, true, ms(150));
        assert_eq!(s.due(false, false, false), Some(ms(150) + QUIET.min));
        let mut aborted = Settling::new(QUIET);
        aborted.arrived(1, ms(0));
        aborted.ended(1, false, ms(10));
        assert_eq!(aborted.due(true, false, false), Some(ms(10) + QUIET.min));
        // The next try ends in order.
        aborted.arrived(2, ms(20));
        aborted.ended(2, true, ms(30));
        assert_eq!(aborted.due(true, false, false), Some(ms(30)));
    }

    #[test]
    fn a_slow_sender_is_given_more_time_up_to_the_most() {
        let mut s = Settling::new(QUIET);
        for i in 0..5 {
            s.arrived(i, ms(i * 5000));
            s.ended(i, true, ms(i * 5000 + 10));
        }
        assert_eq!(s.quiet_time(), ms(4 * (5000 - 10)));
        s.arrived(9, ms(100_000));
        assert_eq!(s.quiet_time(), QUIET.max);
    }
}
