//! Associations at hand, counted by address and by peer: the caps hold here, and what is open can be closed.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::peers::{Admission, Peer, Refusal};

#[derive(Debug, Default)]
struct Seats {
    by_address: HashMap<IpAddr, Vec<(u16, TcpStream)>>,
    /// By place in [`Admission::peers`].
    by_peer: HashMap<usize, usize>,
}

/// All open associations.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<Mutex<Seats>>);

/// The place of one association; left when it is dropped.
#[derive(Debug)]
pub struct Seat {
    roster: Roster,
    address: SocketAddr,
    peer: Option<usize>,
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().by_address.is_empty()
    }

    /// Closes what is open.
    pub fn close(&self) {
        for (_, stream) in self.lock().by_address.values().flatten() {
            // Closed already: fine.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// A place for a connection, within `in_all` and, for its address, `here`.
    #[must_use]
    pub fn enter(&self, stream: &TcpStream, address: SocketAddr, in_all: usize, here: usize) -> Option<Seat> {
        let mut seats = self.lock();
        let taken: usize = seats.by_address.values().map(Vec::len).sum();
        let own = seats.by_address.get(&address.ip()).map_or(0, Vec::len);
        if taken >= in_all || own >= here {
            return None;
        }
        seats.by_address.entry(address.ip()).or_default().push((address.port(), stream.try_clone().ok()?));
        Some(Seat { roster: self.clone(), address, peer: None })
    }
}

impl Seat {
    /// A place in a roster of its own, for an association that does not run over a socket.
    #[must_use]
    pub fn apart(address: SocketAddr) -> Self {
        Self { roster: Roster::default(), address, peer: None }
    }

    /// Counts the association as one of `peer`'s, which is returned.
    ///
    /// # Errors
    /// [`Refusal::LocalLimit`] where the peer has as many as it may.
    pub fn take<'a>(&mut self, peer: Option<usize>, admission: &'a Admission) -> Result<Option<&'a Peer>, Refusal> {
        let Some((place, known)) = peer.and_then(|p| Some((p, admission.peers.get(p)?))) else { return Ok(None) };
        let mut seats = self.roster.lock();
        let taken = seats.by_peer.entry(place).or_default();
        if *taken >= known.max_associations {
            return Err(Refusal::LocalLimit);
        }
        *taken += 1;
        drop(seats);
        self.peer = Some(place);
        Ok(Some(known))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.roster.lock();
        if let Some(streams) = seats.by_address.get_mut(&self.address.ip()) {
            streams.retain(|(port, _)| *port != self.address.port());
            if streams.is_empty() {
                seats.by_address.remove(&self.address.ip());
            }
        }
        if let Some(taken) = self.peer.and_then(|p| seats.by_peer.get_mut(&p)) {
            *taken = taken.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn caps_hold_in_all_by_address_and_by_peer_and_are_given_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let roster = Roster::default();
        let enter = |address: &str, in_all, here| roster.enter(&stream, address.parse().unwrap(), in_all, here);
        let mut first = enter("10.0.0.1:1", 3, 2).unwrap();
        let mut second = enter("10.0.0.1:2", 3, 2).unwrap();
        assert!(enter("10.0.0.1:3", 3, 2).is_none());
        let third = enter("10.0.0.2:1", 3, 2).unwrap();
        assert!(enter("10.0.0.3:1", 3, 2).is_none());
        drop(third);
        let peer = Peer { max_associations: 1, ..Peer::default() };
        let admission = Admission { called_ae: None, peers: vec![peer] };
        assert!(first.take(Some(0), &admission).unwrap().is_some());
        assert_eq!(second.take(Some(0), &admission).unwrap_err(), Refusal::LocalLimit);
        drop(first);
        assert!(second.take(Some(0), &admission).unwrap().is_some());
        drop(second);
        assert!(roster.is_empty());
    }
}
