//! An engine on a thread of its own: a call that does not return in its time, or that panics, is a failure like any other. For engines that hang on a
//! driver; what crosses is copied, which costs a few milliseconds a slot.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Engine, EngineError, Features, Map, SlotInput};

/// One piece of work.
enum Job {
    Encode(SlotInput),
    Heads(Vec<Features>),
    Fork,
}

/// What came of it.
enum Done {
    Features(Result<Features, EngineError>),
    Maps(Result<Vec<Map>, EngineError>),
    Fork(Box<dyn Engine>),
}

/// An engine behind a thread.
pub struct Guarded {
    name: &'static str,
    quantization: &'static str,
    context: usize,
    limit: Duration,
    jobs: Sender<Job>,
    done: Receiver<Done>,
    /// Shared by all forks: a driver that swallowed one call is asked no more.
    lost: Arc<AtomicBool>,
}

impl Guarded {
    /// Moves `engine` to a thread; a call may take `limit`.
    #[must_use]
    pub fn new(engine: Box<dyn Engine>, limit: Duration) -> Self {
        Self::with(engine, limit, Arc::new(AtomicBool::new(false)))
    }

    fn with(mut engine: Box<dyn Engine>, limit: Duration, lost: Arc<AtomicBool>) -> Self {
        let (name, quantization, context) = (engine.name(), engine.quantization(), engine.context());
        let (jobs, inbox) = bounded::<Job>(1);
        let (outbox, done) = bounded::<Done>(1);
        let work = move || {
            for job in inbox {
                let result = catch_unwind(AssertUnwindSafe(|| match job {
                    Job::Encode(slot) => Done::Features(engine.encode(&slot)),
                    Job::Heads(window) => Done::Maps(engine.heads(&window.iter().collect::<Vec<_>>())),
                    Job::Fork => Done::Fork(engine.fork()),
                }));
                // A panic ends the thread; the caller sees the closed channel.
                let Ok(result) = result else { return };
                if outbox.send(result).is_err() {
                    return;
                }
            }
        };
        // Where no thread can be made the channels are closed, and the first call says so.
        if let Err(e) = std::thread::Builder::new().name(format!("{name}-guard")).spawn(work) {
            log::error!("engine {name}: no thread error={e}");
        }
        Self { name, quantization, context, limit, jobs, done, lost }
    }

    fn call(&self, job: Job) -> Result<Done, EngineError> {
        let failed = |reason: String| EngineError::Failed { engine: self.name, reason };
        if self.lost.load(Ordering::Relaxed) {
            return Err(failed("an earlier call never returned".into()));
        }
        self.jobs.send(job).map_err(|_| failed("its thread has ended".into()))?;
        self.done.recv_timeout(self.limit).map_err(|e| match e {
            RecvTimeoutError::Timeout => {
                self.lost.store(true, Ordering::Relaxed);
                failed(format!("a call did not return in {:.0} s", self.limit.as_secs_f64()))
            }
            RecvTimeoutError::Disconnected => failed("it panicked".into()),
        })
    }

    fn out_of_step(&self) -> EngineError {
        EngineError::Failed { engine: self.name, reason: "an answer to another question".into() }
    }
}

impl Engine for Guarded {
    fn name(&self) -> &'static str {
        self.name
    }

    fn quantization(&self) -> &'static str {
        self.quantization
    }

    fn context(&self) -> usize {
        self.context
    }

    /// A fork whose engine cannot be asked any more answers every call with the failure.
    fn fork(&self) -> Box<dyn Engine> {
        let fork = match self.call(Job::Fork) {
            Ok(Done::Fork(engine)) => Self::with(engine, self.limit, Arc::clone(&self.lost)),
            _ => Self {
                jobs: bounded(0).0,
                done: bounded(0).1,
                lost: Arc::clone(&self.lost),
                name: self.name,
                quantization: self.quantization,
                context: self.context,
                limit: self.limit,
            },
        };
        Box::new(fork)
    }

    fn encode(&mut self, slot: &SlotInput) -> Result<Features, EngineError> {
        match self.call(Job::Encode(slot.clone()))? {
            Done::Features(features) => features,
            _ => Err(self.out_of_step()),
        }
    }

    fn heads(&mut self, window: &[&Features]) -> Result<Vec<Map>, EngineError> {
        match self.call(Job::Heads(window.iter().map(|f| (*f).clone()).collect()))? {
            Done::Maps(maps) => maps,
            _ => Err(self.out_of_step()),
        }
    }
}
