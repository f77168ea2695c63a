//! The thread that writes spares full of zeros while nothing is received ([`super::spare`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::spool::Spool;

/// How often is looked whether there is something to write.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Sleep after the disk would not take a spare.
const AFTER_FAULT: Duration = Duration::from_secs(60);

/// The running thread.
#[derive(Debug)]
pub struct Prewriter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Prewriter {
    /// Starts it: up to `most` bytes are written ahead.
    ///
    /// # Errors
    /// The system's.
    pub fn start(spool: Arc<Spool>, most: u64) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("prewriter".into()).spawn(move || run(&spool, most, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// Ends after the spare that is under way.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            log::error!("prewriter had stopped");
        }
    }
}

fn run(spool: &Spool, most: u64, stop: &AtomicBool) {
    spool.recall_lengths();
    while !stop.load(Ordering::SeqCst) {
        match spool.fill_spare(most) {
            Ok(true) => {}
            Ok(false) => std::thread::park_timeout(LOOK_EVERY),
            Err(e) => {
                // Nobody waits for it: objects go into empty spares.
                log::warn!("spare not written ahead error={e}");
                std::thread::park_timeout(AFTER_FAULT);
            }
        }
    }
}
