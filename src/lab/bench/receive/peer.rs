//! A server under measurement: started, waited for until it accepts connections, watched while it works, killed when it is let go.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Class, Failure};
use crate::lab::bench::process::{Process, tree};

/// A server that does not accept connections within this is not going to.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Memory is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running server with all its children.
pub struct Peer {
    child: Child,
    peak_kib: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

/// A loopback port that was free a moment ago.
///
/// # Errors
/// [`Class::Unavailable`].
pub fn free_port() -> Result<u16, Failure> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    bound.map(|a| a.port()).map_err(|e| Failure::new(Class::Unavailable, format!("no free port on the loopback address: {e}")))
}

impl Peer {
    /// Starts `command`, whose output goes to the file `log`, and waits until it accepts connections on `port` of the loopback address.
    ///
    /// # Errors
    /// [`Class::Unavailable`] with the end of the log where it cannot be started, ends, or does not listen in time.
    pub fn start(command: &mut Command, port: u16, log: &Path) -> Result<Self, Failure> {
        let unavailable = |what: String| {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(3).collect();
            Failure::new(Class::Unavailable, format!("{what}; {}: {}", log.display(), last.join(" / ")))
        };
        let name = command.get_program().to_string_lossy().into_owned();
        let out = std::fs::File::create(log).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", log.display())))?;
        let also = out.try_clone().map_err(|e| Failure::new(Class::Io, format!("{}: {e}", log.display())))?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(also).spawn().map_err(|e| unavailable(format!("{name}: {e}")))?;
        let (peak_kib, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut peer = Self { child, peak_kib, stop, watcher: None };
        let deadline = Instant::now() + READY_WITHIN;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Ok(Some(status)) = peer.child.try_wait() {
                return Err(unavailable(format!("{name} ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(unavailable(format!("{name} does not listen on port {port}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let (pid, peak, stop) = (peer.child.id(), Arc::clone(&peer.peak_kib), Arc::clone(&peer.stop));
        peer.watcher = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(tree(pid).iter().map(|p| p.resident_kib).sum(), Ordering::Relaxed);
                std::thread::park_timeout(LOOK_EVERY);
            }
        }));
        Ok(peer)
    }

    /// Processor seconds so far of the server, the children it has and those it had.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        tree(self.child.id()).iter().map(Process::cpu_seconds).sum()
    }

    /// Most resident memory of the server and its children at one moment so far; pages that they share count for each.
    #[must_use]
    pub fn peak_mib(&self) -> f64 {
        self.peak_kib.load(Ordering::Relaxed) as f64 / 1024.0
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let children: Vec<u32> = tree(self.child.id()).iter().map(|p| p.pid).filter(|pid| *pid != self.child.id()).collect();
        // Gone already: fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in children.iter().filter_map(|pid| rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap_or(0))) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            let _ = watcher.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no licence; exit 3"]);
        let error = Peer::start(&mut command, free_port().unwrap(), &log).err().unwrap().to_string();
        assert!(error.contains("ended") && error.contains("no licence"), "{error}");
    }
}
