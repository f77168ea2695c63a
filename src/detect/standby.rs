//! Which engine runs now, which one stands by, and when the better one is tried again.
//!
//! Duty: an engine that fails, hangs, panics or computes something else than the bundle's self-test expects is replaced at once by the next that
//! passes it; the better one is tried again with a growing pause, between series.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bundle::Bundle;
use super::{Engine, EngineError};

/// Pause before a failed engine is tried again the first time; every further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Starts an engine by name and tests it.
pub type Starter = dyn Fn(&Bundle, &'static str) -> Result<Box<dyn Engine>, String> + Send + Sync;

/// What is said of the engine to status, health and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStatus {
    /// Name and numeric format of the engine that runs.
    pub running: String,
    /// Why it is not the first choice; `None` where it is.
    pub fallback: Option<String>,
}

/// Counters and the present status, shared with those who tell them.
#[derive(Debug)]
pub struct EngineWatch {
    status: Mutex<EngineStatus>,
    /// Engines replaced because they failed.
    pub demotions: AtomicU64,
    /// Returns to the first choice.
    pub recoveries: AtomicU64,
}

impl EngineWatch {
    /// The present status.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, status: EngineStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// The engines of an appliance in the order of preference.
pub struct Standby {
    /// First choice first.
    order: Vec<&'static str>,
    starter: Arc<Starter>,
    /// Index into `order` of what runs.
    running: usize,
    pause: Duration,
    try_again: Option<Instant>,
    watch: Arc<EngineWatch>,
}

impl Standby {
    /// `order[0]` runs, as `engine`; the others stand by.
    #[must_use]
    pub fn new(order: Vec<&'static str>, engine: &dyn Engine, starter: Arc<Starter>) -> Self {
        let watch = EngineWatch {
            status: Mutex::new(EngineStatus { running: describe(engine), fallback: None }),
            demotions: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
        };
        Self { order, starter, running: 0, pause: FIRST_PAUSE, try_again: None, watch: Arc::new(watch) }
    }

    /// Starts with `engine`, the second choice, since the first does not start for `reason`.
    #[must_use]
    pub fn behind(mut self, engine: &dyn Engine, reason: &str, now: Instant) -> Self {
        self.running = 1;
        self.not_yet(describe(engine), reason, now);
        self
    }

    /// What is told of the engine.
    #[must_use]
    pub fn watch(&self) -> Arc<EngineWatch> {
        Arc::clone(&self.watch)
    }

    /// The next engine that passes the self-test, after the running one failed for `reason`.
    ///
    /// # Errors
    /// `reason` where none is left.
    pub fn replace(&mut self, bundle: &Bundle, reason: EngineError, now: Instant) -> Result<Box<dyn Engine>, EngineError> {
        let failed = self.order[self.running.min(self.order.len().saturating_sub(1))];
        log::error!("engine failed name={failed} reason={:?}", reason.to_string());
        self.watch.demotions.fetch_add(1, Ordering::Relaxed);
        for next in self.running + 1..self.order.len() {
            match (self.starter)(bundle, self.order[next]) {
                Ok(engine) => {
                    self.running = next;
                    self.try_again = Some(now + self.pause);
                    let fallback =
                        format!("{} because {reason}; it is tried again in {} s", describe(engine.as_ref()), self.pause.as_secs());
                    log::warn!("engine replaced name={} by={}", failed, self.order[next]);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    self.watch.say(EngineStatus { running: describe(engine.as_ref()), fallback: Some(fallback) });
                    return Ok(engine);
                }
                Err(e) => log::warn!("engine standing by does not start name={} reason={e:?}", self.order[next]),
            }
        }
        Err(reason)
    }

    /// The first choice again, where its pause is over and it passes the self-test.
    pub fn recovered(&mut self, bundle: &Bundle, now: Instant) -> Option<Box<dyn Engine>> {
        if self.running == 0 || self.try_again.is_none_or(|at| now < at) {
            return None;
        }
        let first = self.order[0];
        match (self.starter)(bundle, first) {
            Ok(engine) => {
                log::info!("engine runs again name={first}");
                self.running = 0;
                self.try_again = None;
                self.watch.recoveries.fetch_add(1, Ordering::Relaxed);
                self.watch.say(EngineStatus { running: describe(engine.as_ref()), fallback: None });
                Some(engine)
            }
            Err(reason) => {
                log::warn!("engine still fails name={first} reason={reason:?} again_s={}", self.pause.as_secs());
                self.not_yet(self.watch.status().running, &reason, now);
                None
            }
        }
    }

    /// The first choice does not start: tried again after a pause, twice as long the next time.
    fn not_yet(&mut self, running: String, reason: &str, now: Instant) {
        self.try_again = Some(now + self.pause);
        let fallback =
            format!("{running} because {} does not start: {reason}; it is tried again in {} s", self.order[0], self.pause.as_secs());
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.watch.say(EngineStatus { running, fallback: Some(fallback) });
    }

    /// A whole series went through the first choice: its next failure is a first one again.
    pub fn proved(&mut self) {
        if self.running == 0 {
            self.pause = FIRST_PAUSE;
        }
    }
}

fn describe(engine: &dyn Engine) -> String {
    format!("{} {}", engine.name(), engine.quantization())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::detect::{select, tiny};

    #[test]
    fn the_pause_grows_until_a_series_proves_the_engine() {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let flag = Arc::clone(&broken);
        let starter = move |bundle: &Bundle, name: &'static str| match (name, flag.load(Ordering::Relaxed)) {
            ("candle-cpu", true) => Err("no device".to_owned()),
            _ => select::started(bundle, name),
        };
        let first = select::started(&bundle, "candle-cpu").unwrap();
        let mut standby = Standby::new(vec!["candle-cpu", "tract"], first.as_ref(), Arc::new(starter));
        let failure = || EngineError::Failed { engine: "candle-cpu", reason: "out of memory".into() };
        let start = Instant::now();
        assert_eq!(standby.replace(&bundle, failure(), start).unwrap().name(), "tract");
        let told = standby.watch().status().fallback.unwrap();
        assert!(told.starts_with("tract f32 because engine candle-cpu failed: out of memory"), "{told}");
        assert!(standby.recovered(&bundle, start + FIRST_PAUSE / 2).is_none());
        // Still broken after the first pause: the second one is twice as long.
        assert!(standby.recovered(&bundle, start + FIRST_PAUSE).is_none());
        broken.store(false, Ordering::Relaxed);
        assert!(standby.recovered(&bundle, start + FIRST_PAUSE * 2).is_none());
        assert_eq!(standby.recovered(&bundle, start + FIRST_PAUSE * 3).unwrap().name(), "candle-cpu");
        assert_eq!(standby.watch().status(), EngineStatus { running: "candle-cpu f32".into(), fallback: None });
        assert_eq!(standby.pause, FIRST_PAUSE * 4);
        standby.proved();
        assert_eq!(standby.pause, FIRST_PAUSE);
        // Nothing left: the reason comes back.
        standby.replace(&bundle, failure(), start).unwrap();
        assert!(standby.replace(&bundle, failure(), start).is_err());
    }

    #[test]
    fn a_first_choice_that_does_not_start_is_tried_again_like_one_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        let second = select::started(&bundle, "tract").unwrap();
        let start = Instant::now();
        let order = vec!["candle-cpu", "tract", "candle-cpu-q8_0"];
        let standby =
            || Standby::new(order.clone(), second.as_ref(), Arc::new(select::started)).behind(second.as_ref(), "no device", start);
        let mut first = standby();
        let told = first.watch().status();
        assert_eq!(told.fallback.unwrap(), "tract f32 because candle-cpu does not start: no device; it is tried again in 60 s");
        assert!(first.recovered(&bundle, start + FIRST_PAUSE / 2).is_none());
        assert_eq!(first.recovered(&bundle, start + FIRST_PAUSE).unwrap().name(), "candle-cpu");
        // The stand-in fails in turn: the third is taken, not the second again.
        let failure = EngineError::Failed { engine: "tract", reason: "out of memory".into() };
        assert_eq!(standby().replace(&bundle, failure, start).unwrap().quantization(), "q8_0");
    }
}
