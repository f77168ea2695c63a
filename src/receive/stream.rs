//! A connection whose reads have a deadline of their own, however many of them the bytes take: a peer that trickles is not one that sends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ProtocolVersion, ServerConnection, StreamOwned};

/// Peers that take nothing for this long are gone.
const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// The system's timeout may be as much longer than what is left: telling it anew costs a call a read.
const SLACK: Duration = Duration::from_secs(1);

/// A TCP connection with a deadline for reading.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    read_by: Option<Instant>,
    /// What the system was told last.
    timeout: Duration,
}

impl Socket {
    /// Sets the options every connection has.
    ///
    /// # Errors
    /// The socket's.
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        // A response in a small segment waits for the peer's delayed acknowledgement otherwise.
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(WRITE_WITHIN))?;
        Ok(Self { tcp, read_by: None, timeout: Duration::ZERO })
    }

    /// Reads fail with [`io::ErrorKind::TimedOut`] from then on.
    pub fn read_by(&mut self, deadline: Instant) {
        self.read_by = Some(deadline);
    }
}

impl Socket {
    /// Time left; the system waits no longer than that and [`SLACK`].
    fn arm(&mut self) -> io::Result<()> {
        let Some(deadline) = self.read_by else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Too short only wakes us before the time.
        if self.timeout > left + SLACK || self.timeout < left.min(SLACK) {
            self.tcp.set_read_timeout(Some(left))?;
            self.timeout = left;
        }
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.arm()?;
            match self.tcp.read(buffer) {
                // Linux says "would block" for a timeout; whether it was ours is seen above.
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) && self.read_by.is_some() => {
                    self.timeout = Duration::ZERO;
                }
                Ok(n) => {
                    if n < buffer.len() {
                        // All that had come was taken: a sender with Nagle's algorithm holds the rest back until this is acknowledged, which
                        // Linux otherwise does up to 40 ms later. A hint: it may fail.
                        let _ = rustix::net::sockopt::set_tcp_quickack(&self.tcp, true);
                    }
                    return Ok(n);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// What an association runs over: a connection, or anything else that has its bytes.
pub trait Link: Read + Write {
    /// As [`Socket::read_by`].
    fn read_by(&mut self, deadline: Instant);

    /// The word for it in the log.
    fn transport(&self) -> &'static str;

    /// Says that nothing more will come.
    fn close(&mut self);
}

/// A connection, plain or secure.
pub enum Stream {
    /// Plain TCP.
    Plain(Socket),
    /// TLS, called by the peer.
    Served(Box<StreamOwned<ServerConnection, Socket>>),
    /// TLS, called by us.
    Called(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Link for Stream {
    fn read_by(&mut self, deadline: Instant) {
        match self {
            Self::Plain(socket) => socket.read_by(deadline),
            Self::Served(tls) => tls.sock.read_by(deadline),
            Self::Called(tls) => tls.sock.read_by(deadline),
        }
    }

    fn transport(&self) -> &'static str {
        let version = match self {
            Self::Plain(_) => return "tcp",
            Self::Served(tls) => tls.conn.protocol_version(),
            Self::Called(tls) => tls.conn.protocol_version(),
        };
        if version == Some(ProtocolVersion::TLSv1_3) { "tls1.3" } else { "tls1.2" }
    }

    /// Over TLS an end that is not said could be a cut wire.
    fn close(&mut self) {
        match self {
            Self::Plain(_) => return,
            Self::Served(tls) => tls.conn.send_close_notify(),
            Self::Called(tls) => tls.conn.send_close_notify(),
        }
        // The peer may be gone.
        let _ = self.flush();
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Served(tls) => tls.read(buffer),
            Self::Called(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Served(tls) => tls.write(bytes),
            Self::Called(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Served(tls) => tls.flush(),
            Self::Called(tls) => tls.flush(),
        }
    }
}
