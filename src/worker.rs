//! The analysing thread: objects in, results out. It collects series, works ahead while slices arrive, finishes a series when it settles, and writes
//! the result to the journal. One thread decides, so the order of things is the order of its loop; the engines under it use all cores.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use jiff::Timestamp;

use crate::alert::journal::Journal;
use crate::alert::{ModelFacts, ReportedLesion, SeriesFacts, SeriesResult, Timing};
use crate::analysis::{Analyst, Cache};
use crate::lesion::keyimage;
use crate::receive::backlog::Backlog;
use crate::receive::peers::Admission;
use crate::receive::spool::Spool;
use crate::receive::{ReceiveEvent, StoredObject};
use crate::series::collect::{Collector, Settled};
use crate::series::eligibility::{StackPlan, plan};
use crate::series::settle::Quiet;
use crate::series::{Outcome, Reason, header};
use crate::volume::pixels;

/// Longest sleep: the loop also looks at the stop flag and says that it lives.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Events taken in before a turn of analysis.
const EVENTS_A_TURN: usize = 256;
/// A result that could not be written (a full disk) is tried again after this.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// Series whose partial work is kept for late slices.
const MOST_CACHES: usize = 8;
/// A growing series is planned anew when it has grown by one part in so many: planning looks at every header there is.
const PLAN_SHARE: usize = 8;
/// The spool's size is looked at this often (it is a walk over its folders).
const QUOTA_EVERY: Duration = Duration::from_secs(60);

/// Counters and signs of life of the worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Series by outcome: analysed, not analysed, failed.
    pub series: [AtomicU64; 3],
    /// Slots encoded, speculation included.
    pub slots: AtomicU64,
    /// Milliseconds from a settled series to its result, in all.
    pub finish_ms: AtomicU64,
    /// Settled series whose result could not be written at the last try.
    pub unwritten: AtomicU64,
    /// Milliseconds since the start of the process at the last turn of the loop.
    pub tick_ms: AtomicU64,
}

/// What the worker works with.
pub struct Worker {
    /// Engines and bundle.
    pub analyst: Analyst,
    /// Results and messages.
    pub journal: Arc<Mutex<Journal>>,
    /// Where objects are.
    pub spool: Arc<Spool>,
    /// What peers hold of the spool.
    pub backlog: Arc<Backlog>,
    /// Who the peers are.
    pub admission: Admission,
    /// Quiet times.
    pub quiet: Quiet,
    /// Draw key images.
    pub key_images: bool,
    /// Bytes at which the spool drops analysed series.
    pub spool_quota_bytes: u64,
    /// Counters.
    pub stats: Arc<WorkerStats>,
    /// Called after something was written to the journal.
    pub notify: Box<dyn Fn() + Send>,
    /// Set to end the loop.
    pub stop: Arc<AtomicBool>,
    /// Origin of all durations.
    pub origin: Instant,
}

/// What a growing series looked like when it was planned last.
#[derive(Debug, Default)]
struct Ahead {
    /// Its objects then.
    objects: usize,
    /// `None` where there was nothing to analyse.
    plan: Option<StackPlan>,
    /// All that the plan holds was worked on.
    done: bool,
}

impl Worker {
    /// Runs until the stop flag is set or the receiving side is gone.
    pub fn run(self, events: &Receiver<ReceiveEvent>) {
        let mut collector = Collector::new(self.quiet);
        let mut caches: HashMap<String, Cache> = HashMap::new();
        self.recover(&mut collector);
        let mut ahead: HashMap<String, Ahead> = HashMap::new();
        let mut unwritten: HashSet<String> = HashSet::new();
        let mut idle = false;
        let mut quota_checked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let now = self.origin.elapsed();
            self.stats.tick_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            let until_due = collector.next_deadline().map_or(LONGEST_WAIT, |due| due.saturating_sub(now));
            let wait = if idle { until_due.min(LONGEST_WAIT) } else { Duration::ZERO };
            match events.recv_timeout(wait) {
                Ok(event) => {
                    self.take(&mut collector, event);
                    for event in events.try_iter().take(EVENTS_A_TURN) {
                        self.take(&mut collector, event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Only when everything that has come was taken in: what waits in the queue may belong to a series that seems to be quiet.
            // One at a time: what comes meanwhile may have priority.
            let due = if events.is_empty() { collector.next_due(self.origin.elapsed()) } else { None };
            if let Some(settled) = &due {
                if !self.finish(settled, &mut caches) {
                    collector.again(&settled.series_instance_uid, self.origin.elapsed() + WRITE_AGAIN);
                    unwritten.insert(settled.series_instance_uid.clone());
                } else if unwritten.remove(&settled.series_instance_uid) {
                    log::info!("result written after all series={}", settled.series_instance_uid);
                }
            }
            self.stats.unwritten.store(unwritten.len() as u64, Ordering::Relaxed);
            idle = due.is_none() && !self.work_ahead(&collector, &mut caches, &mut ahead);
            if idle && collector.open().next().is_none() {
                self.analyst.recover();
            }
            if quota_checked.elapsed() > QUOTA_EVERY {
                quota_checked = Instant::now();
                self.keep_quota();
            }
        }
    }

    /// Adopts what the spool holds; series whose result is written already are only remembered, for late slices.
    fn recover(&self, collector: &mut Collector) {
        let objects = self.spool.objects();
        let known = self.journal.lock().unwrap_or_else(PoisonError::into_inner).known_series().unwrap_or_default();
        let (count, now) = (objects.len(), self.origin.elapsed());
        for object in objects {
            let header = header::slices(&object.path);
            collector.stored(self.ranked(object), header, now);
        }
        collector.association_ended(0, true, now);
        let mut resumed = 0;
        let open: Vec<(String, String)> = collector.open().map(|(uid, set)| (uid.clone(), set.key())).collect();
        for (uid, key) in open {
            if known.get(&uid) == Some(&key) {
                collector.mark_known(&uid);
            } else {
                self.count_found(collector, &uid);
                resumed += 1;
            }
        }
        if count > 0 {
            log::info!("spool recovered objects={count} series_resumed={resumed}");
        }
    }

    /// An object of the spool with the priority of its peer.
    fn ranked(&self, object: StoredObject) -> StoredObject {
        StoredObject { priority: self.admission.priority(self.admission.by_title(&object.calling_ae)), ..object }
    }

    /// What a former process took in and nobody analysed counts as its peers'.
    fn count_found(&self, collector: &Collector, series: &str) {
        for object in collector.set(series).into_iter().flat_map(|set| set.members()).map(|m| &m.object) {
            let bytes = std::fs::metadata(&object.path).map_or(0, |m| m.len());
            self.backlog.found(self.admission.by_title(&object.calling_ae), &object.path, bytes);
        }
    }

    fn take(&self, collector: &mut Collector, event: ReceiveEvent) {
        let now = self.origin.elapsed();
        match event {
            ReceiveEvent::Stored(object) => {
                self.recall(collector, &object, now);
                // The event may have waited while another series was analysed: what counts is when Success was sent.
                let age = object.received_at.elapsed().unwrap_or_default();
                let header = header::slices(&object.path);
                collector.stored(object, header, now.saturating_sub(age));
            }
            ReceiveEvent::AssociationEnded { association, released } => collector.association_ended(association, released, now),
        }
    }

    /// A late slice of a series that settled so long ago that it is no longer in memory: what came before it is read from the spool again, so that the
    /// result stays that of the whole set.
    fn recall(&self, collector: &mut Collector, late: &StoredObject, now: Duration) {
        if collector.set(&late.series_instance_uid).is_some() {
            return;
        }
        let known = self.journal.lock().unwrap_or_else(PoisonError::into_inner).known_set(&late.series_instance_uid);
        // No result yet: the series is new, and all its objects come as events.
        let Ok(Some(key)) = known else { return };
        for object in self.spool.series(&late.study_instance_uid, &late.series_instance_uid) {
            if object.path != late.path {
                let header = header::slices(&object.path);
                collector.stored(self.ranked(object), header, now);
            }
        }
        collector.association_ended(0, true, now);
        if collector.set(&late.series_instance_uid).is_some_and(|set| set.key() == key) {
            collector.mark_known(&late.series_instance_uid);
        }
    }

    /// One turn of work on a series that still grows; false where there is none to do.
    fn work_ahead(&self, collector: &Collector, caches: &mut HashMap<String, Cache>, ahead: &mut HashMap<String, Ahead>) -> bool {
        let open: Vec<_> = collector.open().collect();
        ahead.retain(|uid, _| open.iter().any(|(o, _)| *o == uid));
        for (uid, set) in open {
            let (last, objects) = (ahead.entry(uid.clone()).or_default(), set.len());
            let grown = objects > last.objects && (last.done || objects >= last.objects + last.objects / PLAN_SHARE);
            if grown {
                *last = Ahead { objects, plan: plan(&set.headers()).ok(), done: false };
            }
            let Some(plan) = last.plan.as_ref().filter(|_| !last.done) else { continue };
            let cache = caches.entry(uid.clone()).or_default();
            let before = cache.encoded;
            // An error shows again, and is told, when the series is finished.
            last.done = self.analyst.advance(plan, cache, false).unwrap_or(true);
            self.stats.slots.fetch_add((cache.encoded - before) as u64, Ordering::Relaxed);
            if !last.done {
                return true;
            }
        }
        false
    }

    /// Analyses and records; false where the result could not be written.
    fn finish(&self, settled: &Settled, caches: &mut HashMap<String, Cache>) -> bool {
        let begin = self.origin.elapsed();
        let cache = caches.entry(settled.series_instance_uid.clone()).or_default();
        let before = cache.encoded;
        // Whatever goes wrong in here, the series ends in an outcome and the loop goes on.
        let result = catch_unwind(AssertUnwindSafe(|| self.result(settled, cache)));
        let (outcome, plan, lesions) = result.unwrap_or_else(|_| {
            let text = "The analysis broke off unexpectedly; keep the log and report it.".to_owned();
            (Outcome::Failed(Reason { code: "internal".into(), text }), None, Vec::new())
        });
        self.stats.slots.fetch_add((cache.encoded - before) as u64, Ordering::Relaxed);
        let now = self.origin.elapsed();
        let ms = |d: Duration| u64::try_from(d.saturating_sub(settled.arrived[0]).as_millis()).unwrap_or(u64::MAX);
        let headers = settled.set.headers();
        let calling = settled.set.members().map(|m| m.object.calling_ae.as_str()).find(|a| !a.is_empty()).unwrap_or_default();
        let mut series = SeriesFacts::of(&headers, plan.as_ref(), calling);
        // Where no header could be read the identifiers are those of the spool.
        if let Some(member) = settled.set.members().next() {
            series.study_instance_uid.clone_from(&member.object.study_instance_uid);
            series.series_instance_uid.clone_from(&member.object.series_instance_uid);
        }
        if plan.is_none() {
            series.slices = settled.set.len();
        }
        let result = SeriesResult {
            series,
            set_key: settled.set.key(),
            outcome,
            lesions,
            model: ModelFacts::of(&self.analyst),
            timing: Timing { last_slice: ms(settled.arrived[1]), settled: ms(begin), analysed: ms(now) },
        };
        let written = self.record(&result, settled, now);
        if written {
            settled.set.members().for_each(|m| self.backlog.release(&m.object.path));
            self.count(&result, now.saturating_sub(begin));
        }
        if caches.len() > MOST_CACHES {
            // Any but the one just used: late slices of older series cost a second analysis, not a wrong one.
            if let Some(old) = caches.keys().find(|k| **k != settled.series_instance_uid).cloned() {
                caches.remove(&old);
            }
        }
        written
    }

    fn record(&self, result: &SeriesResult, settled: &Settled, now: Duration) -> bool {
        let wall = Timestamp::now();
        let ago = now.saturating_sub(settled.arrived[0]);
        let first = wall - jiff::SignedDuration::try_from(ago).unwrap_or_default();
        let recorded = self.journal.lock().unwrap_or_else(PoisonError::into_inner).record(result, first, wall);
        match recorded {
            Ok(true) => {
                let (outcome, code) = match &result.outcome {
                    Outcome::Analysed => ("analysed", ""),
                    Outcome::NotAnalysed(r) => ("not_analysed", r.code.as_str()),
                    Outcome::Failed(r) => ("failed", r.code.as_str()),
                };
                log::info!(
                    "series uid={} outcome={outcome} reason={code:?} slices={} lesions={} settled_ms={} analysed_ms={}",
                    result.series.series_instance_uid,
                    result.series.slices,
                    result.lesions.len(),
                    result.timing.settled,
                    result.timing.analysed
                );
                (self.notify)();
                true
            }
            Ok(false) => true,
            // The series is in the spool and not in the journal: it is tried again, and so it is by the next start.
            Err(e) => {
                log::error!("result not written series={} error={e}", result.series.series_instance_uid);
                false
            }
        }
    }

    fn count(&self, result: &SeriesResult, took: Duration) {
        let which = match result.outcome {
            Outcome::Analysed => 0,
            Outcome::NotAnalysed(_) => 1,
            Outcome::Failed(_) => 2,
        };
        self.stats.series[which].fetch_add(1, Ordering::Relaxed);
        self.stats.finish_ms.fetch_add(u64::try_from(took.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    fn result(&self, settled: &Settled, cache: &mut Cache) -> (Outcome, Option<StackPlan>, Vec<ReportedLesion>) {
        if let Some(reason) = settled.set.unreadable() {
            return (Outcome::Failed(reason), None, Vec::new());
        }
        let plan = match plan(&settled.set.headers()) {
            Ok(plan) => plan,
            Err(reason) => return (Outcome::NotAnalysed(reason), None, Vec::new()),
        };
        match self.analyst.finish(&plan, cache, |_, _| ()) {
            Ok(analysis) => {
                let lesions = analysis.lesions.into_iter().map(|lesion| self.reported(lesion, &plan)).collect();
                (Outcome::Analysed, Some(plan), lesions)
            }
            Err(e) => {
                let text = format!("{e}; send the series again.");
                (Outcome::Failed(Reason { code: e.stage().into(), text }), Some(plan), Vec::new())
            }
        }
    }

    fn reported(&self, lesion: crate::lesion::Lesion, plan: &StackPlan) -> ReportedLesion {
        let key = &plan.stack.slices[lesion.key_slice];
        let key_image_png =
            self.key_images.then(|| pixels::decode_slice(key).ok().and_then(|image| keyimage::draw(&image, &lesion).ok())).flatten();
        ReportedLesion {
            key_sop_instance_uid: key.sop_instance_uid.clone(),
            key_instance_number: key.instance_number,
            key_frame_number: key.frame.map(|f| f.number),
            key_image_png,
            lesion,
        }
    }

    /// Drops analysed series, oldest result first, until the spool is under its quota.
    fn keep_quota(&self) {
        if self.spool.bytes() <= self.spool_quota_bytes {
            return;
        }
        let oldest = self.journal.lock().unwrap_or_else(PoisonError::into_inner).oldest_series().unwrap_or_default();
        for (study, series) in oldest {
            match self.spool.remove_series(&study, &series) {
                Ok(()) => log::info!("spool over quota removed={series}"),
                // Removed before.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => log::warn!("spool series not removed series={series} error={e}"),
            }
            if self.spool.bytes() <= self.spool_quota_bytes {
                return;
            }
        }
        log::warn!("spool over quota and nothing analysed is left to remove");
    }
}
