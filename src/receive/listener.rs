//! The DICOM ports, plain and TLS: accept connections up to their caps, one thread an association.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::ReceiveEvent;
use super::association::serve;
use super::backlog::Backlog;
use super::context::{Context, ReceiveOptions, ReceiveStats};
use super::ledger::Ledger;
use super::peers::Refusal;
use super::roster::{Roster, Seat};
use super::spool::Spool;
use super::stream::{Socket, Stream};
use super::tls::Tls;

/// Connections that were turned away and stay open until as many others were: closing one at once, with its request unread, would reset it before the
/// peer has read why.
const MOST_LINGERING: usize = 16;

/// Why the port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("DICOM port {address}: {source}; is another program there? change {key}")]
pub struct ReceiveError {
    address: SocketAddr,
    source: std::io::Error,
    key: &'static str,
}

/// The running receiver.
pub struct Listener {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    doors: Vec<(SocketAddr, JoinHandle<()>)>,
    shared: Arc<Shared>,
    tls: Option<Arc<Tls>>,
}

/// What all associations share.
struct Shared {
    options: ReceiveOptions,
    spool: Arc<Spool>,
    ledger: Arc<Ledger>,
    backlog: Arc<Backlog>,
    events: Sender<ReceiveEvent>,
    stop: AtomicBool,
    roster: Roster,
    stats: Arc<ReceiveStats>,
    /// Associations so far.
    numbers: AtomicU64,
}

impl Listener {
    /// Opens the port, and one for TLS where that is wanted, and starts accepting.
    ///
    /// # Errors
    /// [`ReceiveError`] naming the address.
    pub fn start(
        options: ReceiveOptions,
        tls: Option<(SocketAddr, Arc<Tls>)>,
        spool: Arc<Spool>,
        ledger: Arc<Ledger>,
        backlog: Arc<Backlog>,
        events: Sender<ReceiveEvent>,
    ) -> Result<Self, ReceiveError> {
        let open = |address, key| {
            let fault = |source| ReceiveError { address, source, key };
            let socket = TcpListener::bind(address).map_err(fault)?;
            Ok((socket.local_addr().map_err(fault)?, socket))
        };
        let plain = open(options.listen, "[dicom] listen")?;
        let secure = tls.as_ref().map(|(address, _)| open(*address, "[dicom.tls] listen")).transpose()?;
        let tls = tls.map(|(_, tls)| tls);
        let (address, tls_address) = (plain.0, secure.as_ref().map(|(address, _)| *address));
        let shared = Arc::new(Shared {
            options,
            spool,
            ledger,
            backlog,
            events,
            stop: AtomicBool::new(false),
            roster: Roster::default(),
            stats: Arc::default(),
            numbers: AtomicU64::new(0),
        });
        let doors = [Some((plain, None)), secure.map(|secure| (secure, tls.clone()))].into_iter().flatten();
        let doors = doors.map(|((address, socket), tls)| {
            let door = Door { shared: Arc::clone(&shared), tls, lingering: VecDeque::new() };
            (address, std::thread::spawn(move || door.accept(&socket)))
        });
        Ok(Self { address, tls_address, doors: doors.collect(), shared, tls })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for TLS.
    #[must_use]
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Arc<ReceiveStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Reads certificates again, if there are any; associations that are open stay as they are. False where TLS is not configured.
    #[must_use]
    pub fn refresh_certificates(&self) -> bool {
        self.tls.as_ref().inspect(|tls| tls.refresh()).is_some()
    }

    /// Stops accepting, gives associations `grace` to end, then closes them.
    pub fn stop(self, grace: Duration) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (address, _) in &self.doors {
            // Wakes the acceptor; a failure means that it is gone already.
            let _ = TcpStream::connect_timeout(address, Duration::from_secs(1));
        }
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline && !self.shared.roster.is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.shared.roster.close();
        for (_, acceptor) in self.doors {
            // It has nothing left to do; a panic there was logged by the runtime.
            let _ = acceptor.join();
        }
    }
}

/// One port.
struct Door {
    shared: Arc<Shared>,
    tls: Option<Arc<Tls>>,
    /// Turned away; kept open for a while, see [`MOST_LINGERING`].
    lingering: VecDeque<TcpStream>,
}

impl Door {
    fn accept(mut self, socket: &TcpListener) {
        loop {
            let accepted = socket.accept();
            if self.shared.stop.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, peer)) => match self.seat(&stream, peer) {
                    Ok(seat) => self.serve(stream, peer, seat),
                    Err(refusal) => self.turn_away(stream, peer, refusal),
                },
                Err(e) => {
                    // Out of descriptors, or the peer was gone before it was accepted: neither may end the loop or spin it.
                    log::warn!("accept failed error={e}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    fn seat(&self, stream: &TcpStream, peer: SocketAddr) -> Result<Seat, Refusal> {
        let options = &self.shared.options;
        let here = options.admission.cap(peer.ip(), options.max_associations_per_peer).ok_or(Refusal::CallingAe)?;
        self.shared.roster.enter(stream, peer, options.max_associations, here).ok_or(Refusal::LocalLimit)
    }

    /// Sent without waiting for the request: a peer over the limit, or from an address that is nobody's, costs no thread.
    fn turn_away(&mut self, mut stream: TcpStream, peer: SocketAddr, refusal: Refusal) {
        self.shared.stats.refused_association(refusal);
        log::warn!("association rejected reason={} peer={peer}", refusal.name());
        if self.tls.is_some() {
            // Nobody has shaken hands, so there is nobody to say it to.
            return;
        }
        // It may be gone already.
        let _ = stream.write_all(&refusal.pdu());
        let _ = stream.shutdown(Shutdown::Write);
        if self.lingering.len() >= MOST_LINGERING {
            self.lingering.pop_front();
        }
        self.lingering.push_back(stream);
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, mut seat: Seat) {
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let since = Instant::now();
        let spawned = std::thread::Builder::new().name(format!("association-{number}")).spawn(move || {
            let Shared { options, spool, ledger, backlog, events, stats, .. } = &*shared;
            let context = Context { options, spool, ledger, backlog, events, stats, number, peer, since };
            match transport(stream, tls.as_deref()) {
                Ok(mut stream) => serve(&mut stream, &mut seat, &context),
                Err(e) => {
                    stats.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                    log::warn!("connection refused reason=handshake peer={peer} error={:?}", e.to_string());
                }
            }
        });
        if let Err(e) = spawned {
            log::error!("association not served error={e}");
        }
    }
}

fn transport(stream: TcpStream, tls: Option<&Tls>) -> std::io::Result<Stream> {
    let socket = Socket::new(stream)?;
    match tls {
        None => Ok(Stream::Plain(socket)),
        Some(tls) => tls.accept(socket),
    }
}
