//! PDUs on a socket (PS3.8 9.3), with the peer's numbers checked before anything is sized by them, and with deadlines.

use std::io;
use std::time::{Duration, Instant};

use dicom_ul::pdu::UserVariableItem;

use super::stream::Link;

/// Largest P-DATA-TF accepted, and announced, bytes of its variable part.
pub const MOST_PDATA_BYTES: u32 = 131_072;
/// DICOM's one application context (PS3.7 annex A).
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// 128 presentation contexts with a dozen transfer syntaxes each come to less than half of this.
const MOST_ASSOCIATE_BYTES: u32 = 256 * 1024;
/// A-RELEASE-RQ, whole.
pub const RELEASE_RQ: [u8; 10] = [0x05, 0, 0, 0, 0, 4, 0, 0, 0, 0];
/// Longest PDU sent, however long the peer would take them.
const MOST_SENT: u32 = 65_536;
/// What a peer takes that says less than makes sense, or nothing (PS3.8 D.1.1: 0 is no limit).
const LEAST_SENT: u32 = 1024;
/// Release and abort PDUs have 4 bytes.
const MOST_OTHER_BYTES: u32 = 1024;
/// A PDU that has begun must be there within this: a peer that trickles bytes is not one that sends images.
const PDU_WITHIN: Duration = Duration::from_secs(30);

/// PDU types (PS3.8 table 9-11 ff.).
pub mod pdu {
    /// A-ASSOCIATE-RQ.
    pub const ASSOCIATE_RQ: u8 = 0x01;
    /// A-ASSOCIATE-AC.
    pub const ASSOCIATE_AC: u8 = 0x02;
    /// A-ASSOCIATE-RJ.
    pub const ASSOCIATE_RJ: u8 = 0x03;
    /// P-DATA-TF.
    pub const DATA: u8 = 0x04;
    /// A-RELEASE-RQ.
    pub const RELEASE_RQ: u8 = 0x05;
    /// A-ABORT.
    pub const ABORT: u8 = 0x07;
}

/// Why no PDU came.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer closed the connection between PDUs.
    #[error("connection closed")]
    Closed,
    /// Nothing came in time.
    #[error("nothing received for {0:.1?}")]
    Idle(Duration),
    /// A length that is not accepted.
    #[error("PDU of type 0x{kind:02X} announces {length} bytes")]
    TooLong {
        /// PDU type.
        kind: u8,
        /// Announced length.
        length: u32,
    },
    /// Not DICOM, or out of place.
    #[error("unexpected PDU type 0x{0:02X}")]
    Unexpected(u8),
    /// The peer sent A-ABORT: it wants no answer (PS3.8 9.2.3, state 13).
    #[error("aborted by the peer")]
    Aborted,
    /// PDVs do not fill their PDU.
    #[error("damaged PDU: {0}")]
    Damaged(&'static str),
    /// The socket failed, or a PDU was not complete in time.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
}

/// One PDU; `body` is a buffer that is used again.
pub struct Received<'a> {
    /// Its type.
    pub kind: u8,
    /// Its variable part.
    pub body: &'a [u8],
}

/// Reads one PDU, waiting up to `idle` for its first byte.
///
/// # Errors
/// [`WireError`].
pub fn read<'a>(stream: &mut impl Link, buffer: &'a mut Vec<u8>, idle: Duration) -> Result<Received<'a>, WireError> {
    read_within(stream, buffer, idle, None)
}

/// As [`read`]; where `whole` is given the PDU must be complete by then.
///
/// # Errors
/// [`WireError`].
pub fn read_within<'a>(
    stream: &mut impl Link,
    buffer: &'a mut Vec<u8>,
    idle: Duration,
    whole: Option<Instant>,
) -> Result<Received<'a>, WireError> {
    let mut header = [0u8; 6];
    stream.read_by(Instant::now() + idle);
    let begun = match stream.read(&mut header) {
        Ok(0) => return Err(WireError::Closed),
        Ok(n) => n,
        Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(WireError::Idle(idle)),
        Err(e) => return Err(e.into()),
    };
    stream.read_by(whole.unwrap_or_else(|| Instant::now() + PDU_WITHIN));
    stream.read_exact(&mut header[begun..]).map_err(in_words)?;
    let (kind, length) = (header[0], u32::from_be_bytes([header[2], header[3], header[4], header[5]]));
    let most = match kind {
        pdu::ASSOCIATE_RQ | pdu::ASSOCIATE_AC => MOST_ASSOCIATE_BYTES,
        pdu::DATA => MOST_PDATA_BYTES,
        0x03..=0x07 => MOST_OTHER_BYTES,
        _ => return Err(WireError::Unexpected(kind)),
    };
    if length > most {
        return Err(WireError::TooLong { kind, length });
    }
    let length = length as usize;
    // Never shorter again: a command between two data sets would have the buffer filled with zeros anew for each.
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let body = &mut buffer[..length];
    stream.read_exact(body).map_err(in_words)?;
    Ok(Received { kind, body })
}

fn in_words(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::TimedOut { io::Error::new(e.kind(), "a PDU was not complete in time") } else { e }
}

/// One presentation data value.
#[derive(Debug, PartialEq, Eq)]
pub struct Pdv<'a> {
    /// Presentation context.
    pub context: u8,
    /// Command set (true) or data set.
    pub command: bool,
    /// Last fragment.
    pub last: bool,
    /// The fragment.
    pub data: &'a [u8],
}

/// The values of a P-DATA-TF body.
///
/// # Errors
/// [`WireError::Damaged`] where lengths do not add up.
pub fn values(mut body: &[u8]) -> Result<Vec<Pdv<'_>>, WireError> {
    let mut all = Vec::new();
    while !body.is_empty() {
        let (head, rest) = body.split_at_checked(6).ok_or(WireError::Damaged("PDV header cut"))?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let data = length.checked_sub(2).and_then(|n| rest.get(..n)).ok_or(WireError::Damaged("PDV longer than its PDU"))?;
        all.push(Pdv { context: head[4], command: head[5] & 1 != 0, last: head[5] & 2 != 0, data });
        body = &rest[data.len()..];
    }
    Ok(all)
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Presentation context.
    pub context: u8,
    /// Command set.
    pub command: Vec<u8>,
    /// Data set, where one follows.
    pub data: Option<Vec<u8>>,
}

/// Sends a message in PDUs of at most `most` bytes. A command set goes in one write: a response in two segments waits for the peer's delayed
/// acknowledgement.
///
/// # Errors
/// The socket's.
pub fn send(stream: &mut impl Link, message: &Message, most: u32) -> io::Result<()> {
    stream.write_all(&value(message.context, 3, &message.command))?;
    if let Some(data) = &message.data {
        let mut parts = data.chunks(most as usize - 6).peekable();
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { 2 } else { 0 };
            stream.write_all(&value(message.context, last, part))?;
        }
    }
    stream.flush()
}

/// A P-DATA-TF of one value; `control` is its message control header (PS3.8 E.2).
fn value(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![pdu::DATA, 0];
    bytes.extend_from_slice(&(data.len() as u32 + 6).to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32 + 2).to_be_bytes());
    bytes.extend_from_slice(&[context, control]);
    bytes.extend_from_slice(data);
    bytes
}

/// Longest PDU for a peer, by what it said when the association was made.
#[must_use]
pub fn peer_limit(user_variables: &[UserVariableItem]) -> u32 {
    let said = user_variables.iter().find_map(|v| if let UserVariableItem::MaxLength(n) = v { Some(*n) } else { None });
    said.filter(|n| *n != 0).unwrap_or(MOST_SENT).clamp(LEAST_SENT, MOST_SENT)
}

/// A PDU with its header again, for a parser that wants it.
#[must_use]
pub fn whole(received: &Received<'_>) -> Vec<u8> {
    let mut whole = vec![received.kind, 0];
    whole.extend_from_slice(&(received.body.len() as u32).to_be_bytes());
    whole.extend_from_slice(received.body);
    whole
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_taken_apart() {
        let body = [0, 0, 0, 3, 1, 3, 9, 0, 0, 0, 2, 5, 0];
        let all = values(&body).unwrap();
        assert_eq!(all[0], Pdv { context: 1, command: true, last: true, data: &[9] });
        assert_eq!(all[1], Pdv { context: 5, command: false, last: false, data: &[] });
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = values(&body);
        }
    }
}
