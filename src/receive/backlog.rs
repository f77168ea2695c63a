//! What each peer's objects hold of the spool until they are analysed: the quota of [`Peer::quota_bytes`] is kept here.
//!
//! An object is *held* from the moment it is kept until the result of its series, with it in, is written. Only objects of peers with a quota are counted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::peers::Peer;

#[derive(Debug, Default)]
struct Held {
    /// Path of an object → place of its peer, bytes.
    objects: HashMap<PathBuf, (usize, u64)>,
    /// Bytes by place of the peer.
    by_peer: Vec<u64>,
}

/// The accounts of all peers, in the order of the configuration.
#[derive(Debug)]
pub struct Backlog {
    /// Title and quota in bytes; `None` is none.
    peers: Vec<(String, Option<u64>)>,
    held: Mutex<Held>,
    refused: Vec<AtomicU64>,
}

/// An object that its peer has no room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quota of {peer}: {held_mib} of {quota_mib} MiB wait for analysis")]
pub struct OverQuota {
    peer: String,
    held_mib: u64,
    quota_mib: u64,
}

impl Backlog {
    /// Nothing is held.
    #[must_use]
    pub fn new(peers: &[Peer]) -> Self {
        let title = |p: &Peer| p.calling_ae.clone().unwrap_or_else(|| "*".to_owned());
        Self {
            peers: peers.iter().map(|p| (title(p), p.quota_bytes)).collect(),
            held: Mutex::new(Held { objects: HashMap::new(), by_peer: vec![0; peers.len()] }),
            refused: peers.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quota(&self, peer: Option<usize>) -> Option<(usize, u64)> {
        let place = peer?;
        Some((place, self.peers.get(place)?.1?))
    }

    /// Whether `peer` has room for `bytes` more; an object that has none counts as refused.
    ///
    /// # Errors
    /// [`OverQuota`].
    pub fn room(&self, peer: Option<usize>, bytes: u64) -> Result<(), OverQuota> {
        let Some((place, quota)) = self.quota(peer) else { return Ok(()) };
        let held = self.lock().by_peer[place];
        self.fits(place, held, bytes, quota)
    }

    fn fits(&self, place: usize, held: u64, bytes: u64, quota: u64) -> Result<(), OverQuota> {
        if held.saturating_add(bytes) <= quota {
            return Ok(());
        }
        self.refused[place].fetch_add(1, Ordering::Relaxed);
        Err(OverQuota { peer: self.peers[place].0.clone(), held_mib: held >> 20, quota_mib: quota >> 20 })
    }

    /// Counts the object that will stand under `path`; false where there is nothing to count, because it is counted already or its peer has no quota.
    ///
    /// # Errors
    /// [`OverQuota`].
    pub fn take(&self, peer: Option<usize>, path: &Path, bytes: u64) -> Result<bool, OverQuota> {
        let Some((place, quota)) = self.quota(peer) else { return Ok(false) };
        let mut held = self.lock();
        if held.objects.contains_key(path) {
            return Ok(false);
        }
        self.fits(place, held.by_peer[place], bytes, quota)?;
        held.by_peer[place] += bytes;
        held.objects.insert(path.to_owned(), (place, bytes));
        Ok(true)
    }

    /// Counts an object that a former process took in, whatever the quota says now.
    pub fn found(&self, peer: Option<usize>, path: &Path, bytes: u64) {
        let Some((place, _)) = self.quota(peer) else { return };
        let mut held = self.lock();
        if held.objects.insert(path.to_owned(), (place, bytes)).is_none() {
            held.by_peer[place] += bytes;
        }
    }

    /// The object was analysed, or did not come to be: it no longer counts.
    pub fn release(&self, path: &Path) {
        let mut held = self.lock();
        if let Some((place, bytes)) = held.objects.remove(path) {
            held.by_peer[place] = held.by_peer[place].saturating_sub(bytes);
        }
    }

    /// Peers with a quota, for the metrics: place (from 1) and title, quota, bytes held, objects refused.
    #[must_use]
    pub fn accounts(&self) -> Vec<(usize, &str, u64, u64, u64)> {
        let held = self.lock();
        let all = self.peers.iter().enumerate();
        all.filter_map(|(i, (title, quota))| {
            Some((i + 1, title.as_str(), (*quota)?, held.by_peer[i], self.refused[i].load(Ordering::Relaxed)))
        })
        .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_held_and_given_back_and_is_nobody_elses() {
        let quota = |title: &str, quota_bytes| Peer { calling_ae: Some(title.into()), quota_bytes, ..Peer::default() };
        let backlog = Backlog::new(&[quota("CT1", Some(10)), quota("CT2", None)]);
        let path = |n: u32| PathBuf::from(n.to_string());
        assert!(backlog.take(Some(0), &path(1), 6).unwrap());
        assert!(!backlog.take(Some(0), &path(1), 6).unwrap());
        assert!(backlog.take(Some(0), &path(2), 5).is_err() && backlog.room(Some(0), 5).is_err());
        backlog.take(Some(0), &path(3), 4).unwrap();
        for other in [Some(1), None, Some(9)] {
            backlog.take(other, &path(4), 1 << 40).unwrap();
        }
        assert_eq!(backlog.accounts(), [(1, "CT1", 10, 10, 2)]);
        backlog.release(&path(1));
        backlog.release(&path(1));
        assert_eq!(backlog.accounts()[0].3, 4);
        backlog.found(Some(0), &path(5), 100);
        assert_eq!(backlog.accounts()[0].3, 104);
        assert!(backlog.room(Some(0), 1).unwrap_err().to_string().starts_with("quota of CT1: 0 of 0 MiB"));
    }
}
