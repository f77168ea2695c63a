//! The DICOM port: accepts connections up to its caps, one thread an association.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::ReceiveEvent;
use super::association::{Context, serve};
use super::spool::Spool;

/// Policy and limits of the receiving side.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Our AE title.
    pub ae_title: String,
    /// Refuse associations that call another title.
    pub require_called_ae: bool,
    /// Associations at once.
    pub max_associations: usize,
    /// Associations at once from one address.
    pub max_associations_per_peer: usize,
    /// A silent association ends after this.
    pub idle_timeout: Duration,
    /// Larger objects are refused.
    pub max_object_bytes: u64,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct ReceiveStats {
    /// Associations accepted.
    pub associations: AtomicU64,
    /// Associations rejected.
    pub rejected: AtomicU64,
    /// Objects answered with Success.
    pub objects: AtomicU64,
    /// Objects answered with a failure.
    pub refused: AtomicU64,
    /// Bytes of data sets stored.
    pub bytes: AtomicU64,
}

/// Why the port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("DICOM port {address}: {source}; is another program there? change [dicom] listen")]
pub struct ReceiveError {
    address: SocketAddr,
    source: std::io::Error,
}

type Peers = Arc<Mutex<HashMap<IpAddr, Vec<TcpStream>>>>;

/// The running receiver.
pub struct Listener {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    peers: Peers,
    stats: Arc<ReceiveStats>,
    acceptor: Option<JoinHandle<()>>,
}

impl Listener {
    /// Opens the port and starts accepting.
    ///
    /// # Errors
    /// [`ReceiveError`] naming the address.
    pub fn start(options: ReceiveOptions, spool: Arc<Spool>, events: Sender<ReceiveEvent>) -> Result<Self, ReceiveError> {
        let fault = |source| ReceiveError { address: options.listen, source };
        let socket = TcpListener::bind(options.listen).map_err(fault)?;
        let address = socket.local_addr().map_err(fault)?;
        let (stop, peers, stats) = (Arc::new(AtomicBool::new(false)), Peers::default(), Arc::new(ReceiveStats::default()));
        let acceptor = {
            let (stop, peers, stats) = (Arc::clone(&stop), Arc::clone(&peers), Arc::clone(&stats));
            std::thread::spawn(move || accept(&socket, &Arc::new(options), &spool, &events, &stop, &peers, &stats))
        };
        Ok(Self { address, stop, peers, stats, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Arc<ReceiveStats> {
        Arc::clone(&self.stats)
    }

    /// Stops accepting, gives associations `grace` to end, then closes them.
    pub fn stop(mut self, grace: Duration) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the acceptor; a failure means that it is gone already.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline && !self.lock().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        for stream in self.lock().values().flatten() {
            // Closed already: fine.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            // It has nothing left to do; a panic there was logged by the runtime.
            let _ = acceptor.join();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Vec<TcpStream>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A-ASSOCIATE-RJ: transient, service provider (presentation), local limit exceeded (PS3.8 9.3.4).
const LOCAL_LIMIT: [u8; 10] = [0x03, 0, 0, 0, 0, 4, 0, 2, 3, 2];

fn accept(
    socket: &TcpListener,
    options: &Arc<ReceiveOptions>,
    spool: &Arc<Spool>,
    events: &Sender<ReceiveEvent>,
    stop: &AtomicBool,
    peers: &Peers,
    stats: &Arc<ReceiveStats>,
) {
    for number in 1.. {
        let accepted = socket.accept();
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let (mut stream, peer) = match accepted {
            Ok(a) => a,
            Err(e) => {
                // Out of descriptors, or the peer was gone before it was accepted: neither may end the loop or spin it.
                log::warn!("accept failed error={e}");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let Some(registered) = register(peers, &stream, peer, options) else {
            stats.rejected.fetch_add(1, Ordering::Relaxed);
            log::warn!("association rejected reason=local_limit peer={peer}");
            // Sent without waiting for the request: a peer over the limit costs no thread. It may be gone already.
            let _ = stream.write_all(&LOCAL_LIMIT);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            continue;
        };
        let (options, spool, events, stats) = (Arc::clone(options), Arc::clone(spool), events.clone(), Arc::clone(stats));
        let spawned = std::thread::Builder::new().name(format!("association-{number}")).spawn(move || {
            let _registered = registered;
            serve(stream, peer, &Context { options: &options, spool: &spool, events: &events, stats: &stats, number });
        });
        if let Err(e) = spawned {
            log::error!("association not served error={e}");
        }
    }
}

/// Takes the association off the list when it ends, however it ends.
struct Registered {
    peers: Peers,
    ip: IpAddr,
    port: u16,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(streams) = peers.get_mut(&self.ip) {
            streams.retain(|s| s.peer_addr().is_ok_and(|a| a.port() != self.port));
            if streams.is_empty() {
                peers.remove(&self.ip);
            }
        }
    }
}

fn register(peers: &Peers, stream: &TcpStream, peer: SocketAddr, options: &ReceiveOptions) -> Option<Registered> {
    let mut map = peers.lock().unwrap_or_else(PoisonError::into_inner);
    let total: usize = map.values().map(Vec::len).sum();
    let own = map.get(&peer.ip()).map_or(0, Vec::len);
    if total >= options.max_associations || own >= options.max_associations_per_peer {
        return None;
    }
    map.entry(peer.ip()).or_default().push(stream.try_clone().ok()?);
    Some(Registered { peers: Arc::clone(peers), ip: peer.ip(), port: peer.port() })
}
