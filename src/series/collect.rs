//! Objects → series: which series got what, and which are complete. Pure but for the clock it is handed.
//!
//! The result of a series depends on the *set* of its objects only: [`SeriesSet`] is ordered by SOP Instance UID, repeats fall out, and its key is the
//! same for any order, number of associations, pauses or duplicates.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::eligibility::plan;
use super::header::HeaderError;
use super::settle::{Quiet, Settling};
use super::{Reason, SliceHeader};
use crate::receive::StoredObject;
use crate::receive::peers::Priority;

/// Series kept in memory after they settled, so that late slices find them; the worker reads older ones from the spool again before it adds to them.
const MOST_SETTLED: usize = 64;
/// Their objects in all, likewise, but for those of the last one: 2 kB each.
const MOST_SETTLED_OBJECTS: usize = 4096;
/// A series of one priority goes before those of the next that were complete up to so much earlier; then it is their turn, so that nobody waits for ever.
const HEAD_START: Duration = Duration::from_secs(600);

/// One object of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Where it is and how it came.
    pub object: StoredObject,
    /// Headers of its slices, or why they could not be read.
    pub slices: Result<Vec<SliceHeader>, HeaderError>,
}

/// The objects of one series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SeriesSet {
    members: BTreeMap<String, Member>,
}

impl SeriesSet {
    /// Adds an object; false where its UID is there already (the first one stays).
    pub fn insert(&mut self, member: Member) -> bool {
        let uid = member.object.sop_instance_uid.clone();
        if self.members.contains_key(&uid) {
            return false;
        }
        self.members.insert(uid, member);
        true
    }

    /// Members by rising UID.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// How many objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Nothing there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Headers that could be read, by rising UID.
    #[must_use]
    pub fn headers(&self) -> Vec<SliceHeader> {
        self.members().flat_map(|m| m.slices.as_deref().unwrap_or_default()).cloned().collect()
    }

    /// SHA-256 over the sorted UIDs, hex.
    #[must_use]
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        for uid in self.members.keys() {
            hash.update(uid.as_bytes());
            hash.update([0]);
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Why nothing could be read at all, if so.
    #[must_use]
    pub fn unreadable(&self) -> Option<Reason> {
        if self.members().any(|m| m.slices.is_ok()) {
            return None;
        }
        let first = self.members().find_map(|m| m.slices.as_ref().err())?;
        Some(Reason { code: "header".into(), text: format!("No object of the series could be read ({first}); send it again.") })
    }
}

/// A series with its arrivals.
#[derive(Debug)]
struct Collected {
    set: SeriesSet,
    settling: Settling,
    first: Duration,
    last: Duration,
    /// What brought its objects, but for what was aborted, since it settled for the first time.
    associations: Vec<u64>,
    contiguous: bool,
    /// How often slices came after it had settled.
    reopened: u32,
    /// Its open association has begun another series.
    overtaken: bool,
    /// Handed out as it is; a new object reopens it.
    settled: bool,
    /// Settled, but the result could not be written: once more from then on.
    again_at: Option<Duration>,
    /// The highest of its objects'.
    priority: Priority,
}

/// A series that is complete as far as can be known.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// (0020,000E)
    pub series_instance_uid: String,
    /// Its objects.
    pub set: SeriesSet,
    /// First and last arrival.
    pub arrived: [Duration; 2],
}

/// All series at hand.
#[derive(Debug)]
pub struct Collector {
    quiet: Quiet,
    series: HashMap<String, Collected>,
}

impl Collector {
    /// Empty.
    #[must_use]
    pub fn new(quiet: Quiet) -> Self {
        Self { quiet, series: HashMap::new() }
    }

    /// Takes in an object; returns true where its series changed by it (late slices reopen it).
    pub fn stored(&mut self, object: StoredObject, slices: Result<Vec<SliceHeader>, HeaderError>, now: Duration) -> bool {
        let (association, uid) = (object.association, object.series_instance_uid.clone());
        let quiet = self.quiet;
        for (_, other) in self.series.iter_mut().filter(|(other, s)| **other != uid && s.settling.is_open(association)) {
            other.overtaken = true;
        }
        let series = self.series.entry(uid).or_insert_with(|| Collected {
            set: SeriesSet::default(),
            settling: Settling::new(quiet),
            first: now,
            last: now,
            associations: Vec::new(),
            contiguous: false,
            reopened: 0,
            overtaken: false,
            settled: false,
            again_at: None,
            priority: Priority::Low,
        });
        series.priority = series.priority.min(object.priority);
        if series.settled {
            if series.reopened == 0 {
                // One delivery after the first: its own release says when it is whole.
                series.associations.clear();
            }
            // Settled too early more than once: the pauses are the sender's rhythm.
            if series.reopened == 0 || !series.settling.is_pause(now) {
                series.settling.start_over();
            }
        }
        series.overtaken = false;
        series.settling.arrived(association, now);
        if !series.associations.contains(&association) {
            series.associations.push(association);
        }
        let new = series.set.insert(Member { object, slices });
        if new {
            series.reopened += u32::from(series.settled);
            (series.last, series.settled, series.again_at) = (now, false, None);
        }
        new
    }

    /// An association ended.
    pub fn association_ended(&mut self, association: u64, released: bool, now: Duration) {
        for series in self.series.values_mut() {
            if series.settling.ended(association, released, now) {
                if !released {
                    series.associations.retain(|a| *a != association);
                }
                // A series without a stack has nothing that could be missing.
                series.contiguous =
                    plan(&series.set.headers()).map_or_else(|r| r.code != "missing_slices" && r.code != "too_few_slices", |p| p.contiguous);
            }
        }
    }

    fn due_of(series: &Collected) -> Option<Duration> {
        if series.settled {
            return series.again_at;
        }
        series.settling.due(series.contiguous, series.associations.len() > 1, series.overtaken)
    }

    /// When the next series will be complete.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.series.values().filter_map(Self::due_of).min()
    }

    /// Series that are complete by `now`, in the order of their turns, each once until it changes.
    pub fn due(&mut self, now: Duration) -> Vec<Settled> {
        std::iter::from_fn(|| self.next_due(now)).collect()
    }

    /// The series whose turn it is, of those that are complete by `now`: by priority and the time when it was complete.
    pub fn next_due(&mut self, now: Duration) -> Option<Settled> {
        let due = self.series.iter().filter_map(|(uid, s)| Self::due_of(s).filter(|due| *due <= now).map(|due| (Self::turn(s, due), uid)));
        let uid = due.min()?.1.clone();
        let series = self.series.get_mut(&uid)?;
        (series.settled, series.again_at) = (true, None);
        let settled = Settled { series_instance_uid: uid, set: series.set.clone(), arrived: [series.first, series.last] };
        self.forget_old(&settled.series_instance_uid);
        Some(settled)
    }

    fn turn(series: &Collected, due: Duration) -> Duration {
        due + match series.priority {
            Priority::High => Duration::ZERO,
            Priority::Normal => HEAD_START,
            Priority::Low => HEAD_START * 2,
        }
    }

    /// Sets that are not complete yet, by priority: what can be worked on meanwhile.
    pub fn open(&self) -> impl Iterator<Item = (&String, &SeriesSet)> {
        let mut open: Vec<_> = self.series.iter().filter(|(_, s)| !s.settled && Self::due_of(s).is_some()).collect();
        open.sort_by_key(|(_, s)| s.priority);
        open.into_iter().map(|(uid, s)| (uid, &s.set))
    }

    /// The result of a settled series could not be written: it is due again at `at`, unless slices come before.
    pub fn again(&mut self, series_instance_uid: &str, at: Duration) {
        if let Some(series) = self.series.get_mut(series_instance_uid) {
            series.again_at = Some(at);
        }
    }

    /// A series recovered from the spool whose result is known already: late slices find it, nothing is due.
    pub fn mark_known(&mut self, series_instance_uid: &str) {
        if let Some(series) = self.series.get_mut(series_instance_uid) {
            series.settled = true;
        }
    }

    /// The set of one series.
    #[must_use]
    pub fn set(&self, series_instance_uid: &str) -> Option<&SeriesSet> {
        self.series.get(series_instance_uid).map(|s| &s.set)
    }

    /// `keep` was handed out just now; whether its result could be written is not known yet.
    fn forget_old(&mut self, keep: &str) {
        let done = |s: &Collected| s.settled && s.again_at.is_none();
        loop {
            let (mut count, mut objects) = (0, 0);
            for series in self.series.values().filter(|s| done(s)) {
                (count, objects) = (count + 1, objects + series.set.len());
            }
            if count <= MOST_SETTLED && objects <= MOST_SETTLED_OBJECTS {
                return;
            }
            let oldest =
                self.series.iter().filter(|(uid, s)| done(s) && *uid != keep).min_by_key(|(_, s)| s.last).map(|(uid, _)| uid.clone());
            match oldest {
                Some(uid) => self.series.remove(&uid),
                None => return,
            };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::stack::tests::{even, slice};
    use super::*;
    use proptest::prelude::*;

    const QUIET: Quiet = Quiet { min: Duration::from_secs(2), max: Duration::from_secs(60) };

    fn object(h: &SliceHeader, association: u64) -> StoredObject {
        StoredObject {
            path: h.path.clone(),
            study_instance_uid: h.study_instance_uid.clone(),
            series_instance_uid: h.series_instance_uid.clone(),
            sop_instance_uid: h.sop_instance_uid.clone(),
            sop_class_uid: h.sop_class_uid.clone(),
            transfer_syntax_uid: h.transfer_syntax_uid.clone(),
            calling_ae: "CT1".into(),
            priority: Priority::Normal,
            association,
            received_at: std::time::SystemTime::UNIX_EPOCH,
        }
    }

    fn put(c: &mut Collector, h: &SliceHeader, association: u64, now: Duration) -> bool {
        c.stored(object(h, association), Ok(vec![h.clone()]), now)
    }

    #[test]
    fn a_late_slice_reopens_and_a_repeat_does_not() {
        let mut c = Collector::new(QUIET);
        for h in even(10, 2.0) {
            put(&mut c, &h, 1, Duration::ZERO);
        }
        c.association_ended(1, true, Duration::ZERO);
        assert_eq!(c.due(Duration::ZERO).len(), 1);
        assert_eq!(c.next_deadline(), None);
        assert!(!put(&mut c, &slice(3, -96.0), 2, Duration::from_secs(1)));
        c.association_ended(2, true, Duration::from_secs(1));
        assert_eq!(c.next_deadline(), None);
        assert!(put(&mut c, &slice(11, -80.0), 3, Duration::from_secs(5)));
        c.association_ended(3, true, Duration::from_secs(5));
        let due = c.next_deadline().unwrap();
        let again = c.due(due);
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].set.len(), 11);
    }

    #[test]
    fn who_has_priority_goes_first_and_nobody_waits_for_ever() {
        let turns = |late: Duration| {
            let mut c = Collector::new(QUIET);
            // Complete first, second and last.
            for (n, priority) in [(1, Priority::Low), (2, Priority::Normal), (3, Priority::High)] {
                let at = if n == 3 { late } else { Duration::from_secs(n) };
                for h in even(10, 2.0) {
                    let uid = format!("1.{n}");
                    let h = SliceHeader { sop_instance_uid: format!("{uid}.{}", h.sop_instance_uid), series_instance_uid: uid, ..h };
                    c.stored(StoredObject { priority, ..object(&h, n) }, Ok(vec![h]), at);
                }
                c.association_ended(n, true, at);
            }
            c.due(late).into_iter().map(|s| s.series_instance_uid).collect::<Vec<_>>()
        };
        assert_eq!(turns(Duration::from_secs(3)), ["1.3", "1.2", "1.1"]);
        assert_eq!(turns(HEAD_START + Duration::from_secs(3)), ["1.2", "1.3", "1.1"]);
        assert_eq!(turns(HEAD_START * 2 + Duration::from_secs(3)), ["1.2", "1.1", "1.3"]);
    }

    #[test]
    fn settled_series_are_forgotten_by_number_and_by_size_but_for_the_last() {
        let mut c = Collector::new(QUIET);
        let mut settle = |n: u64, objects: usize| {
            let at = Duration::from_secs(n);
            for h in even(objects, 2.0) {
                let series_instance_uid = format!("1.{n}");
                put(&mut c, &SliceHeader { series_instance_uid, ..h }, n, at);
            }
            c.association_ended(n, true, at);
            c.due(at + QUIET.max);
            (1..=n).filter(|n| c.set(&format!("1.{n}")).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(settle(1, MOST_SETTLED_OBJECTS / 2), [1]);
        assert_eq!(settle(2, MOST_SETTLED_OBJECTS / 2), [1, 2]);
        assert_eq!(settle(3, 10), [2, 3]);
        assert_eq!(settle(4, MOST_SETTLED_OBJECTS + 1), [4]);
    }

    #[test]
    fn a_result_that_could_not_be_written_is_due_again() {
        let mut c = Collector::new(QUIET);
        for h in even(10, 2.0) {
            put(&mut c, &h, 1, Duration::ZERO);
        }
        c.association_ended(1, true, Duration::ZERO);
        let first = c.due(Duration::ZERO);
        c.again(&first[0].series_instance_uid, Duration::from_secs(5));
        assert!(c.due(Duration::from_secs(4)).is_empty());
        assert_eq!(c.due(Duration::from_secs(5)), first);
        assert!(c.due(Duration::from_secs(500)).is_empty());
    }

    /// A re-send has a rhythm of its own from its first slice on; the pause before it is no part of that.
    #[test]
    fn a_reopened_series_follows_the_rhythm_of_its_late_slices() {
        let mut c = Collector::new(QUIET);
        for h in even(10, 2.0) {
            put(&mut c, &h, 1, Duration::ZERO);
        }
        c.association_ended(1, true, Duration::ZERO);
        assert_eq!(c.due(Duration::ZERO).len(), 1);
        let late = Duration::from_secs(600);
        for i in 0..3u32 {
            let now = late + Duration::from_secs(3) * i;
            put(&mut c, &slice(20 + i as i32, -80.0 + 2.0 * f64::from(i)), 2 + u64::from(i), now);
            c.association_ended(2 + u64::from(i), true, now);
        }
        assert_eq!(c.next_deadline(), Some(late + Duration::from_secs(6 + 4 * 3)));
    }

    /// An association an image, with pauses longer than the least quiet time.
    #[test]
    fn a_slow_sender_makes_few_versions_and_a_late_slice_is_told_at_once() {
        for pause_s in [1, 5, 10] {
            let mut c = Collector::new(QUIET);
            let (mut versions, mut now) = (Vec::new(), Duration::ZERO);
            for (i, h) in even(30, 2.0).iter().enumerate() {
                now = Duration::from_secs(pause_s * i as u64);
                versions.extend(c.due(now));
                put(&mut c, h, i as u64, now);
                c.association_ended(i as u64, true, now);
                versions.extend(c.due(now));
            }
            versions.extend(c.due(now + QUIET.max));
            assert!(versions.len() <= 4, "{} versions at a pause of {pause_s} s", versions.len());
            assert_eq!(versions.last().unwrap().set.len(), 30);
        }
        let mut c = Collector::new(QUIET);
        for h in even(10, 2.0).iter().filter(|h| h.sop_instance_uid != slice(4, 0.0).sop_instance_uid) {
            put(&mut c, h, 1, Duration::ZERO);
        }
        c.association_ended(1, true, Duration::ZERO);
        assert_eq!((c.due(Duration::ZERO).len(), c.due(QUIET.min).len()), (0, 1));
        let late = QUIET.min * 5;
        put(&mut c, &even(10, 2.0)[3], 2, late);
        c.association_ended(2, true, late);
        assert_eq!(c.due(late).len(), 1);
    }

    #[test]
    fn an_abort_and_another_try_settle_at_the_release() {
        let mut c = Collector::new(QUIET);
        let all = even(10, 2.0);
        for h in &all[..5] {
            put(&mut c, h, 1, Duration::ZERO);
        }
        c.association_ended(1, false, Duration::ZERO);
        assert!(c.due(Duration::ZERO).is_empty());
        for h in &all[5..] {
            put(&mut c, h, 2, Duration::from_secs(1));
        }
        c.association_ended(2, true, Duration::from_secs(1));
        assert_eq!(c.due(Duration::from_secs(1)).len(), 1);
    }

    #[test]
    fn a_series_settles_when_its_association_goes_on_to_the_next() {
        let mut c = Collector::new(QUIET);
        for h in even(10, 2.0) {
            put(&mut c, &h, 1, Duration::ZERO);
        }
        let other = SliceHeader { series_instance_uid: "1.9".into(), sop_instance_uid: "1.9.1".into(), ..slice(1, 0.0) };
        put(&mut c, &other, 1, Duration::from_millis(100));
        assert_eq!(c.due(QUIET.min).len(), 1);
        assert!(c.due(QUIET.min * 2).is_empty());
    }

    #[test]
    fn what_cannot_be_read_still_ends_in_a_reason() {
        let mut c = Collector::new(QUIET);
        let h = slice(1, 0.0);
        c.stored(object(&h, 1), Err(HeaderError::Unreadable("cut".into())), Duration::ZERO);
        c.association_ended(1, true, Duration::ZERO);
        let settled = c.due(Duration::from_secs(100));
        assert_eq!(settled.len(), 1);
        assert_eq!(settled[0].set.unreadable().unwrap().code, "header");
    }

    proptest! {
        /// Order, repeats, number of associations and pauses change nothing about what is analysed.
        #[test]
        fn the_settled_set_is_a_function_of_the_set_of_slices(
            n in 5usize..25,
            seed in any::<u64>(),
            associations in 1u64..5,
            pause_ms in 0u64..3000,
            repeats in 0usize..10,
        ) {
            let clean = even(n, 2.0);
            let mut reference = Collector::new(QUIET);
            for h in &clean {
                put(&mut reference, h, 1, Duration::ZERO);
            }
            reference.association_ended(1, true, Duration::ZERO);
            let expected = reference.due(Duration::ZERO);

            let mut order: Vec<usize> = (0..n).chain((0..repeats).map(|r| (r * 7 + seed as usize % n) % n)).collect();
            let len = order.len();
            for i in 0..len {
                order.swap(i, (seed as usize).wrapping_mul(i + 3) % len);
            }
            let mut c = Collector::new(QUIET);
            let mut now = Duration::ZERO;
            let mut last = Vec::new();
            for (k, i) in order.iter().enumerate() {
                put(&mut c, &clean[*i], 1 + k as u64 % associations, now);
                now += Duration::from_millis(pause_ms);
                last.extend(c.due(now));
            }
            for a in 1..=associations {
                c.association_ended(a, true, now);
            }
            last.extend(c.due(now + QUIET.max));
            let got = last.last().unwrap();
            prop_assert_eq!(got.set.key(), expected[0].set.key());
            prop_assert_eq!(plan(&got.set.headers()), plan(&expected[0].set.headers()));
        }
    }
}
