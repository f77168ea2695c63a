//! The thread that reports storage commitments whose association is closed: on a new one, to the address configured for the peer, again and again until
//! the peer has the report or its time is over.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::caller::{self, Call, CallError};
use super::commitment::{self, Failure, Request};
use super::dimse;
use super::ledger::{Ledger, Pending};
use super::peers::Admission;
use super::spool::Spool;
use super::tls::Tls;
use super::wire::Message;

/// Longest sleep: requests also grow old.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Sleep after the database would not answer.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// What the courier works with.
pub struct Courier {
    /// Requests that wait.
    pub ledger: Arc<Ledger>,
    /// What is committed.
    pub spool: Arc<Spool>,
    /// Where peers are.
    pub admission: Admission,
    /// Our AE title.
    pub ae_title: String,
    /// For peers that are called over TLS.
    pub tls: Option<Arc<Tls>>,
    /// A request is given up after this.
    pub retry: Duration,
}

/// The running thread.
pub struct Running {
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Ends after the report that is under way.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ledger.wake();
        if self.thread.join().is_err() {
            log::error!("courier had stopped");
        }
    }
}

/// The message of a report; the context is the caller's. What is committed is what is in the spool at this moment.
#[must_use]
pub fn message(spool: &Spool, request: &Request, transfer_syntax: &str, message_id: u16) -> (Message, usize) {
    let verdicts = spool.committed(&request.references).unwrap_or_else(|e| {
        log::error!("spool not readable for commitment transaction={} error={e}", request.transaction);
        vec![Some(Failure::Processing); request.references.len()]
    });
    let (event, data) = commitment::report(request, &verdicts, transfer_syntax);
    let command = dimse::event_report(commitment::CLASS, commitment::INSTANCE, message_id, event);
    (Message { context: 0, command, data: Some(data) }, verdicts.iter().flatten().count())
}

impl Courier {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's.
    pub fn start(self) -> std::io::Result<Running> {
        let (ledger, stop) = (Arc::clone(&self.ledger), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("courier".into()).spawn(move || self.run(&stopped))?;
        Ok(Running { ledger, stop, thread })
    }

    fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            let now = SystemTime::now();
            match self.ledger.expire(now - self.retry) {
                Ok(gone) => {
                    gone.iter().for_each(|t| log::error!("commitment given up transaction={t} : its peer could not be told in time"))
                }
                Err(e) => log::error!("{e}"),
            }
            if self.round(now, stop) {
                self.ledger.wait(SystemTime::now(), LOOK_EVERY);
            } else {
                std::thread::park_timeout(AFTER_FAULT);
            }
        }
    }

    /// Everything that is due by `now`; false where the database would not answer. A peer that cannot be reached is tried once a round.
    fn round(&self, now: SystemTime, stop: &AtomicBool) -> bool {
        let mut unreachable = HashSet::new();
        while !stop.load(Ordering::SeqCst) {
            let pending = match self.ledger.due(now) {
                Ok(Some(pending)) => pending,
                Ok(None) => return true,
                Err(e) => {
                    log::error!("{e}");
                    return false;
                }
            };
            match self.deliver(&pending, &mut unreachable) {
                Ok(failed) => {
                    self.ledger.reported(pending.id);
                    let (objects, transaction) = (pending.request.references.len(), &pending.request.transaction);
                    log::info!(
                        "commitment reported transaction={transaction} to={:?} objects={objects} failed={failed}",
                        pending.calling_ae
                    );
                }
                Err(reason) => {
                    let wait = self.ledger.put_off(&pending, SystemTime::now());
                    log::warn!(
                        "commitment not reported transaction={} to={:?} reason={reason:?} again_s={}",
                        pending.request.transaction,
                        pending.calling_ae,
                        wait.as_secs()
                    );
                }
            }
        }
        true
    }

    /// Objects that are not committed, as the peer now knows.
    fn deliver(&self, pending: &Pending, unreachable: &mut HashSet<String>) -> Result<usize, String> {
        let from: Option<IpAddr> = pending.address.parse().ok();
        let place = from.and_then(|from| self.admission.find(&pending.calling_ae, from));
        let peer = place.and_then(|p| self.admission.peers.get(p)).filter(|p| p.allow_commitment);
        let peer = peer.ok_or("no [[dicom.peer]] with this title and address is allowed commitment any more")?;
        let Some(address) = &peer.commitment_address else {
            return Err("its association is closed; set commitment_address in its [[dicom.peer]]".into());
        };
        if unreachable.contains(address) {
            return Err(format!("{address} could not be reached a moment ago"));
        }
        let tls = self.tls.as_deref().filter(|_| peer.commitment_tls);
        let call = Call { address, called_ae: &pending.calling_ae, calling_ae: &self.ae_title, tls };
        let mut failed = 0;
        let sent = caller::send(&call, |syntax| {
            let (message, n) = message(&self.spool, &pending.request, syntax, 1);
            failed = n;
            message
        });
        if matches!(sent, Err(CallError::Unreachable { .. })) {
            unreachable.insert(address.clone());
        }
        sent.map(|()| failed).map_err(|e| e.to_string())
    }
}
