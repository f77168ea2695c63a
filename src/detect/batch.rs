//! One thread for one device: forks of the engine hand it their slots, it takes what waits as a batch, as large as memory allows, and answers each.
//!
//! A GPU has one queue of work and pays for every launch, so slots go through it together; and what a driver holds for a thread is only ever used by that one.
//! A call waits for its answer without limit: [`super::guard`] puts one to it.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::{Engine, EngineError, Features, Map, SlotInput};

/// A network that takes several slots at once. It is made, used and dropped on one thread.
pub trait BatchNetwork {
    /// As [`Engine::context`].
    fn context(&self) -> usize;
    /// As [`Engine::quantization`].
    fn quantization(&self) -> &'static str;
    /// How many slots of this size (rows, columns) may go at once now; at least one.
    fn most(&self, size: (usize, usize)) -> usize;
    /// The neck maps of each slot; all are of one size.
    ///
    /// # Errors
    /// What went wrong, for the whole batch.
    fn encode(&self, slots: &[SlotInput]) -> Result<Vec<Features>, String>;
    /// The head maps of each window; all are of one size.
    ///
    /// # Errors
    /// What went wrong, for the whole batch.
    fn heads(&self, windows: &[Vec<Features>]) -> Result<Vec<Vec<Map>>, String>;
}

/// One call, and where its answer goes.
enum Job {
    Encode(SlotInput, Sender<Result<Features, String>>),
    Heads(Vec<Features>, Sender<Result<Vec<Map>, String>>),
}

impl Job {
    /// What jobs of one batch have in common: encoder or heads, rows, columns.
    fn kind(&self) -> (bool, (usize, usize)) {
        match self {
            Self::Encode(slot, _) => (true, (slot.height, slot.width)),
            Self::Heads(window, _) => (false, window.first().map_or((0, 0), |f| f.size)),
        }
    }
}

/// An engine whose forks share one thread.
#[derive(Clone)]
pub struct Batched {
    name: &'static str,
    quantization: &'static str,
    context: usize,
    jobs: Sender<Job>,
}

impl Batched {
    /// Has `make` called on a thread of its own, which then serves the network. The thread ends with the last fork.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] with what `make` says, or where it panics or takes longer than `limit`.
    pub fn start<N, M>(name: &'static str, limit: Duration, make: M) -> Result<Self, EngineError>
    where
        N: BatchNetwork,
        M: FnOnce() -> Result<N, String> + Send + 'static,
    {
        let unavailable = |reason: String| EngineError::Unavailable { engine: name, reason };
        let (jobs, inbox) = unbounded();
        let (told, heard) = bounded(1);
        let work = move || {
            let network = match catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|panic| Err(told_by(panic.as_ref()))) {
                Ok(network) => network,
                Err(reason) => {
                    let _ = told.send(Err(reason));
                    return;
                }
            };
            if told.send(Ok((network.context(), network.quantization()))).is_ok() {
                serve(&network, &inbox);
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(work).map_err(|e| unavailable(format!("no thread: {e}")))?;
        match heard.recv_timeout(limit) {
            Ok(Ok((context, quantization))) => Ok(Self { name, quantization, context, jobs }),
            Ok(Err(reason)) => Err(unavailable(reason)),
            Err(RecvTimeoutError::Timeout) => Err(unavailable(format!("it did not start in {:.0} s", limit.as_secs_f64()))),
            Err(RecvTimeoutError::Disconnected) => Err(unavailable("its thread has ended".into())),
        }
    }

    fn call<T>(&self, job: impl FnOnce(Sender<Result<T, String>>) -> Job) -> Result<T, EngineError> {
        let failed = |reason: String| EngineError::Failed { engine: self.name, reason };
        let (answer, heard) = bounded(1);
        self.jobs.send(job(answer)).map_err(|_| failed("its thread has ended".into()))?;
        heard.recv().map_err(|_| failed("it panicked".into()))?.map_err(failed)
    }
}

impl Engine for Batched {
    fn name(&self) -> &'static str {
        self.name
    }

    fn quantization(&self) -> &'static str {
        self.quantization
    }

    fn context(&self) -> usize {
        self.context
    }

    fn fork(&self) -> Box<dyn Engine> {
        Box::new(self.clone())
    }

    fn encode(&mut self, slot: &SlotInput) -> Result<Features, EngineError> {
        self.call(|answer| Job::Encode(slot.clone(), answer))
    }

    fn heads(&mut self, window: &[&Features]) -> Result<Vec<Map>, EngineError> {
        if window.len() != self.context {
            let reason = format!("a window of {} slots, {} are needed", window.len(), self.context);
            return Err(EngineError::Failed { engine: self.name, reason });
        }
        self.call(|answer| Job::Heads(window.iter().map(|f| (*f).clone()).collect(), answer))
    }
}

/// What a panic said.
fn told_by(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a word"))
}

/// Serves until the last fork is gone, or the network panics: the callers of that batch then find their channel closed.
fn serve(network: &impl BatchNetwork, inbox: &Receiver<Job>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(job) = inbox.recv() else { return };
            waiting.push_back(job);
        }
        waiting.extend(inbox.try_iter());
        let done = catch_unwind(AssertUnwindSafe(|| {
            let batch = next_batch(&mut waiting, |size| network.most(size));
            run(network, batch);
        }));
        if done.is_err() {
            return;
        }
    }
}

/// The first job and those of its kind, as many as may go at once; the others wait on in their order.
fn next_batch(waiting: &mut VecDeque<Job>, most: impl Fn((usize, usize)) -> usize) -> Vec<Job> {
    let Some(kind) = waiting.front().map(Job::kind) else { return Vec::new() };
    let most = most(kind.1).max(1);
    let (mut batch, mut left) = (Vec::new(), VecDeque::new());
    for job in waiting.drain(..) {
        if batch.len() < most && job.kind() == kind { batch.push(job) } else { left.push_back(job) }
    }
    *waiting = left;
    batch
}

fn run(network: &impl BatchNetwork, batch: Vec<Job>) {
    let (mut slots, mut windows) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for job in batch {
        match job {
            Job::Encode(slot, answer) => {
                slots.0.push(slot);
                slots.1.push(answer);
            }
            Job::Heads(window, answer) => {
                windows.0.push(window);
                windows.1.push(answer);
            }
        }
    }
    if !slots.0.is_empty() {
        answer(&slots.1, network.encode(&slots.0));
    }
    if !windows.0.is_empty() {
        answer(&windows.1, network.heads(&windows.0));
    }
}

/// To each its own; a caller that is gone is passed over.
fn answer<T>(callers: &[Sender<Result<T, String>>], made: Result<Vec<T>, String>) {
    match made {
        Ok(made) if made.len() == callers.len() => callers.iter().zip(made).for_each(|(c, m)| drop(c.send(Ok(m)))),
        Ok(made) => callers.iter().for_each(|c| drop(c.send(Err(format!("{} answers to {} slots", made.len(), callers.len()))))),
        Err(reason) => callers.iter().for_each(|c| drop(c.send(Err(reason.clone())))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// Says in each answer how large its batch was, and waits for a word before the first one is done.
    struct Counting(Receiver<()>, usize);

    impl BatchNetwork for Counting {
        fn context(&self) -> usize {
            1
        }

        fn quantization(&self) -> &'static str {
            "f32"
        }

        fn most(&self, _: (usize, usize)) -> usize {
            self.1
        }

        fn encode(&self, slots: &[SlotInput]) -> Result<Vec<Features>, String> {
            let _ = self.0.recv();
            let of = |s: &SlotInput| match s.data[0] {
                13.0 => Err("slot 13".to_owned()),
                99.0 => panic!("slot 99"),
                first => Ok(Features { size: (s.height, s.width), levels: vec![vec![first, slots.len() as f32]] }),
            };
            slots.iter().map(of).collect()
        }

        fn heads(&self, _: &[Vec<Features>]) -> Result<Vec<Vec<Map>>, String> {
            Err("no heads".into())
        }
    }

    fn slot(height: usize, first: f32) -> SlotInput {
        SlotInput { height, width: 1, data: vec![first; height * 3] }
    }

    /// `slots` handed in at once by a fork each, behind one that holds the thread until all wait.
    fn together(most: usize, slots: Vec<SlotInput>) -> Vec<Result<Features, EngineError>> {
        let (go, held) = unbounded();
        let engine = Batched::start("counting", Duration::from_secs(20), move || Ok(Counting(held, most))).unwrap();
        let (answer, first) = bounded(1);
        engine.jobs.send(Job::Encode(slot(7, 0.0), answer)).unwrap();
        // Jobs are handed in in this order before the thread may go on.
        let heard: Vec<_> = slots
            .into_iter()
            .map(|s| {
                let (answer, heard) = bounded(1);
                engine.jobs.send(Job::Encode(s, answer)).unwrap();
                heard
            })
            .collect();
        drop(go);
        first.recv().unwrap().unwrap();
        let failed = |reason: String| EngineError::Failed { engine: "counting", reason };
        heard.iter().map(|h| h.recv().map_err(|_| failed("it panicked".into()))?.map_err(failed)).collect()
    }

    #[test]
    fn what_waits_goes_together_up_to_the_limit_and_each_gets_its_own() {
        let slots = [(3, 1.0), (3, 2.0), (4, 3.0), (3, 4.0), (3, 5.0)].map(|(h, v)| slot(h, v)).to_vec();
        let got: Vec<Vec<f32>> = together(3, slots).into_iter().map(|r| r.unwrap().levels.remove(0)).collect();
        assert_eq!(got, [[1.0, 3.0], [2.0, 3.0], [3.0, 1.0], [4.0, 3.0], [5.0, 1.0]]);
    }

    #[test]
    fn a_failure_is_told_to_the_whole_batch_and_a_panic_ends_the_engine() {
        let reasons =
            |slots: Vec<SlotInput>| -> Vec<String> { together(2, slots).into_iter().map(|r| r.err().unwrap().to_string()).collect() };
        assert_eq!(reasons(vec![slot(3, 1.0), slot(3, 13.0)]), ["engine counting failed: slot 13"; 2]);
        assert_eq!(reasons(vec![slot(3, 99.0), slot(3, 1.0)]), ["engine counting failed: it panicked"; 2]);
        let start = |limit, make: fn() -> Result<Counting, String>| Batched::start("counting", limit, make).err().unwrap().to_string();
        let long = Duration::from_secs(20);
        assert_eq!(start(long, || Err("no device".into())), "engine counting cannot start: no device");
        assert_eq!(start(long, || panic!("symbol missing")), "engine counting cannot start: it panicked: symbol missing");
        let stuck: fn() -> Result<Counting, String> = || {
            std::thread::park();
            Err(String::new())
        };
        assert_eq!(start(Duration::from_millis(50), stuck), "engine counting cannot start: it did not start in 0 s");
    }
}
