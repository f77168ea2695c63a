//! Forks of one engine that work together, each on a thread of its own.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use super::{Candidate, Engine, EngineError, Features, heads, nms};

/// Slots computed between two looks at what else there is to do, for each engine: a quarter of a second on two cores that take 16 ms a slot.
const SLOTS_A_TURN: usize = 8;
/// The same of a large crew: their maps, some 4 MB a slot, are in memory at once.
const MOST_SLOTS_A_TURN: usize = 48;

/// The forks.
pub struct Crew {
    engines: Vec<Mutex<Box<dyn Engine>>>,
}

/// What the first stage made so far, by its jobs' numbers.
struct Made<'a, A>(&'a [OnceLock<A>]);

impl<A> Made<'_, A> {
    /// What job `n` made; there if the asking job said that it needs it.
    fn of(&self, n: usize) -> Option<&A> {
        self.0[n].get()
    }
}

impl Crew {
    /// `threads` forks of `engine`, one at least.
    #[must_use]
    pub fn of(engine: Box<dyn Engine>, threads: usize) -> Self {
        let mut engines: Vec<Mutex<Box<dyn Engine>>> = (1..threads).map(|_| Mutex::new(engine.fork())).collect();
        engines.push(Mutex::new(engine));
        Self { engines }
    }

    /// The forks one by one; each is busy while it is locked.
    #[must_use]
    pub fn engines(&self) -> &[Mutex<Box<dyn Engine>>] {
        &self.engines
    }

    /// Slots of one turn.
    #[must_use]
    pub fn turn(&self) -> usize {
        (SLOTS_A_TURN * self.engines.len()).min(MOST_SLOTS_A_TURN)
    }

    /// `job` for every item; results in the items' order.
    ///
    /// # Errors
    /// A job's; an engine's that panicked.
    pub fn each<T, E>(&self, items: &[usize], job: impl Fn(&mut dyn Engine, usize) -> Result<T, E> + Sync) -> Result<Vec<T>, E>
    where
        T: Send + Sync,
        E: Send + From<EngineError>,
    {
        self.in_stages(items.len(), |engine, n| job(engine, items[n]), &[], |_, _, _| Ok(())).map(|(made, _)| made)
    }

    /// Candidates of windows of slots, each of as many as the network's context; first `encode`s the slots in them whose maps are not `known`. Returns
    /// those slots with their maps, rising, and the candidates in the windows' order.
    ///
    /// # Errors
    /// As [`Crew::in_stages`].
    pub fn over_windows<'a, E>(
        &self,
        windows: &[&[usize]],
        known: impl Fn(usize) -> Option<&'a Features> + Sync,
        encode: impl Fn(&mut dyn Engine, usize) -> Result<Features, E> + Sync,
    ) -> Result<(Vec<(usize, Features)>, Vec<Vec<Candidate>>), E>
    where
        E: Send + From<EngineError>,
    {
        let slots: BTreeSet<usize> = windows.iter().copied().flatten().copied().collect();
        let fresh: Vec<usize> = slots.into_iter().filter(|slot| known(*slot).is_none()).collect();
        let place = |slot: &usize| fresh.binary_search(slot).ok();
        let needs: Vec<Vec<usize>> = windows.iter().map(|window| window.iter().filter_map(place).collect()).collect();
        let tell = |engine: &mut dyn Engine, n: usize, made: &Made<'_, Features>| {
            let maps = |slot: &usize| place(slot).map_or_else(|| known(*slot), |n| made.of(n));
            let window: Vec<&Features> = windows[n].iter().filter_map(maps).collect();
            Ok(nms::finds(heads::decode(&engine.heads(&window)?)).to_vec())
        };
        let (made, found) = self.in_stages(fresh.len(), |engine, n| encode(engine, fresh[n]), &needs, tell)?;
        Ok((fresh.into_iter().zip(made).collect(), found))
    }

    /// Two stages without a wait between them: `make` for every number below `first`, then `tell` for every entry of `needs`, which names the numbers
    /// that must have been made before. Who finds nothing left to make goes on to tell, and waits only for what its job needs. Results in order.
    ///
    /// # Errors
    /// The first failing job's, by number; an engine's that panicked. Nothing more is begun then.
    fn in_stages<A, B, E>(
        &self,
        first: usize,
        make: impl Fn(&mut dyn Engine, usize) -> Result<A, E> + Sync,
        needs: &[Vec<usize>],
        tell: impl Fn(&mut dyn Engine, usize, &Made<'_, A>) -> Result<B, E> + Sync,
    ) -> Result<(Vec<A>, Vec<B>), E>
    where
        A: Send + Sync,
        B: Send,
        E: Send + From<EngineError>,
    {
        let made: Vec<OnceLock<A>> = (0..first).map(|_| OnceLock::new()).collect();
        let told: Mutex<Vec<(usize, B)>> = Mutex::new(Vec::with_capacity(needs.len()));
        let failures: Mutex<Vec<(usize, E)>> = Mutex::new(Vec::new());
        let (next, stopped, (turn, changed)) = (AtomicUsize::new(0), AtomicBool::new(false), (Mutex::new(()), Condvar::new()));
        // Under the lock, so that nobody looks before and sleeps after.
        let tell_others = || {
            let _held = turn.lock().unwrap_or_else(PoisonError::into_inner);
            changed.notify_all();
        };
        let there = |needs: &[usize]| {
            let mut held = turn.lock().unwrap_or_else(PoisonError::into_inner);
            while !stopped.load(Ordering::Acquire) {
                if needs.iter().all(|n| made[*n].get().is_some()) {
                    return true;
                }
                held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
            }
            false
        };
        let work = |engine: &mut dyn Engine, n: usize| -> Result<(), E> {
            if n < first {
                // Nobody else sets it.
                let _ = made[n].set(make(engine, n)?);
            } else if there(&needs[n - first]) {
                let result = tell(engine, n - first, &Made(&made))?;
                told.lock().unwrap_or_else(PoisonError::into_inner).push((n, result));
            }
            Ok(())
        };
        let all = first + needs.len();
        std::thread::scope(|scope| {
            for engine in self.engines.iter().take(all) {
                scope.spawn(|| {
                    let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                    while !stopped.load(Ordering::Acquire) {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= all {
                            break;
                        }
                        let worked = catch_unwind(AssertUnwindSafe(|| work(engine.as_mut(), n)));
                        let panicked = || EngineError::Failed { engine: engine.name(), reason: "it panicked".into() };
                        if let Err(e) = worked.unwrap_or_else(|_| Err(panicked().into())) {
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push((n, e));
                            stopped.store(true, Ordering::Release);
                        }
                        if n < first || stopped.load(Ordering::Acquire) {
                            tell_others();
                        }
                    }
                });
            }
        });
        if let Some((_, e)) = failures.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().min_by_key(|(n, _)| *n) {
            return Err(e);
        }
        let mut told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        told.sort_by_key(|(n, _)| *n);
        Ok((made.into_iter().filter_map(OnceLock::into_inner).collect(), told.into_iter().map(|(_, b)| b).collect()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::detect::candle_engine::CandleEngine;
    use crate::detect::network::NetworkSpec;
    use crate::detect::weights::FoldedWeights;

    fn crew(threads: usize) -> Crew {
        let spec = NetworkSpec::tiny();
        let weights: FoldedWeights = crate::detect::train_net::TrainNet::new(&spec, &candle_core::Device::Cpu, 1).unwrap().fold().unwrap();
        Crew::of(Box::new(CandleEngine::new(&spec, &weights).unwrap()), threads)
    }

    fn pause(n: usize) {
        std::thread::sleep(Duration::from_micros(200 * (n as u64 * 7 % 5)));
    }

    #[test]
    fn results_come_in_order_and_nobody_tells_before_what_it_needs_is_made() {
        for threads in [1, 2, 3, 9] {
            let needs: Vec<Vec<usize>> = (0..20usize).map(|n| (n.saturating_sub(1)..(n + 2).min(20)).collect()).collect();
            let make = |_: &mut dyn Engine, n: usize| {
                pause(n);
                Ok(n * 10)
            };
            let tell = |_: &mut dyn Engine, n: usize, made: &Made<'_, usize>| {
                pause(n + 2);
                Ok(needs[n].iter().map(|i| made.of(*i).unwrap()).sum::<usize>())
            };
            let (made, told) = crew(threads).in_stages::<_, _, EngineError>(20, make, &needs, tell).unwrap();
            assert_eq!(made, (0..20).map(|n| n * 10).collect::<Vec<_>>());
            assert_eq!(told, needs.iter().map(|n| n.iter().sum::<usize>() * 10).collect::<Vec<_>>());
        }
        assert_eq!(crew(2).each::<_, EngineError>(&[7, 3, 5], |_, item| Ok(item * 2)).unwrap(), [14, 6, 10]);
    }

    /// Those who wait for what will not be made are let go, whatever it was that failed.
    #[test]
    fn a_failure_ends_it_and_is_told() {
        let failed = |reason: &str| EngineError::Failed { engine: "test", reason: reason.into() };
        let needs = vec![vec![0, 1, 2, 3]; 6];
        for at in [0, 3] {
            let make = |_: &mut dyn Engine, n: usize| {
                pause(n);
                if n == at { Err(failed("no")) } else { Ok(n) }
            };
            let e = crew(3).in_stages(4, make, &needs, |_, n, _: &Made<'_, usize>| Ok(n)).unwrap_err();
            assert!(e.to_string().contains("no"), "{e}");
        }
        let e = crew(3).in_stages(4, |_, n| Ok::<_, EngineError>(n), &needs, |_, n, _| if n == 4 { Err(failed("late")) } else { Ok(n) });
        assert!(e.unwrap_err().to_string().contains("late"));
        let e = crew(2).each::<usize, EngineError>(&[1, 2, 3], |_, n| if n == 2 { panic!("as a test wants") } else { Ok(n) });
        assert!(e.unwrap_err().to_string().contains("panicked"));
    }
}
