//! Command sets (PS3.7 6.3, always Implicit VR Little Endian): parse and answer. Pure.

/// Command sets are a few hundred bytes; a larger one is an attack or a defect.
pub const MOST_COMMAND_BYTES: usize = 16 * 1024;

/// C-STORE-RSP etc.: the request's field with this bit.
pub const RESPONSE: u16 = 0x8000;
/// (0000,0800): no data set follows.
pub const NO_DATA_SET: u16 = 0x0101;

/// Command fields that are answered with more than a refusal.
pub const C_STORE_RQ: u16 = 0x0001;
/// Verification.
pub const C_ECHO_RQ: u16 = 0x0030;
/// Asks for storage commitment.
pub const N_ACTION_RQ: u16 = 0x0130;
/// Reports it.
pub const N_EVENT_REPORT_RQ: u16 = 0x0100;
/// Answers the report.
pub const N_EVENT_REPORT_RSP: u16 = 0x8100;
/// Cancels an operation; has no response.
pub const C_CANCEL_RQ: u16 = 0x0FFF;

/// DIMSE statuses used here (PS3.7 annex C, PS3.4 B.2.3).
pub mod status {
    /// Done.
    pub const SUCCESS: u16 = 0x0000;
    /// Refused: out of resources.
    pub const OUT_OF_RESOURCES: u16 = 0xA700;
    /// Error: data set does not match SOP class.
    pub const MISMATCH: u16 = 0xA900;
    /// Error: cannot understand.
    pub const CANNOT_UNDERSTAND: u16 = 0xC000;
    /// Unrecognized operation.
    pub const UNRECOGNIZED: u16 = 0x0211;
    /// Refused: SOP class not supported.
    pub const SOP_CLASS: u16 = 0x0122;
    /// N-ACTION: no such SOP instance.
    pub const NO_SUCH_INSTANCE: u16 = 0x0112;
    /// N-ACTION: invalid argument value.
    pub const INVALID_ARGUMENT: u16 = 0x0115;
    /// N-ACTION: no such action type.
    pub const NO_SUCH_ACTION: u16 = 0x0123;
    /// N-ACTION: resource limitation.
    pub const RESOURCE_LIMITATION: u16 = 0x0213;
}

/// C-STORE: status, its meaning in the standard, when it is sent.
pub const STORE_STATUSES: [(u16, &str, &str); 5] = [
    (status::SUCCESS, "Success", "the object is durable, or was there already"),
    (
        status::OUT_OF_RESOURCES,
        "Refused: out of resources",
        "the disk is full, the object larger than allowed, or the quota of its peer used up",
    ),
    (status::MISMATCH, "Error: data set does not match SOP class", "SOP Instance UIDs of command and data set differ"),
    (status::CANNOT_UNDERSTAND, "Error: cannot understand", "an identifier is missing or not a UID, or no data set follows"),
    (status::SOP_CLASS, "Refused: SOP class not supported", "the presentation context was not accepted"),
];

/// N-ACTION of storage commitment, likewise.
pub const ACTION_STATUSES: [(u16, &str, &str); 6] = [
    (status::SUCCESS, "Success", "the request is durable; its result will be reported"),
    (status::NO_SUCH_INSTANCE, "No such SOP instance", "another instance than the well-known one is named"),
    (status::INVALID_ARGUMENT, "Invalid argument value", "Transaction UID or Referenced SOP Sequence is missing, damaged or too long"),
    (status::SOP_CLASS, "Refused: SOP class not supported", "the presentation context is not of Storage Commitment"),
    (status::NO_SUCH_ACTION, "No such action type", "Action Type ID is not 1"),
    (status::RESOURCE_LIMITATION, "Resource limitation", "the disk is full, too many requests wait, or the data set is larger than 4 MiB"),
];

/// What is used of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// (0000,0100)
    pub field: u16,
    /// (0000,0110)
    pub message_id: u16,
    /// (0000,0120) of a response.
    pub answers: u16,
    /// (0000,0900) of a response.
    pub status: u16,
    /// (0000,1008)
    pub action_type: Option<u16>,
    /// (0000,0002), or (0000,0003) of an operation on an instance that is there.
    pub sop_class: String,
    /// (0000,1000), or (0000,1001).
    pub sop_instance: String,
    /// (0000,0800) says that a data set follows.
    pub has_data: bool,
}

/// Parses a command set.
///
/// # Errors
/// A sentence saying what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Command, String> {
    let mut command = Command::default();
    let (mut at, mut field) = (0, None);
    while at < bytes.len() {
        let head = bytes.get(at..at + 8).ok_or("command set ends inside an element")?;
        let group = u16::from_le_bytes([head[0], head[1]]);
        let element = u16::from_le_bytes([head[2], head[3]]);
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if group != 0 {
            return Err(format!("command set holds an element of group {group:04X}"));
        }
        let value = at
            .checked_add(8 + length)
            .and_then(|end| bytes.get(at + 8..end))
            .ok_or_else(|| format!("element (0000,{element:04X}) says {length} bytes, fewer are there"))?;
        let number = || value.get(..2).map(|v| u16::from_le_bytes([v[0], v[1]]));
        let text = || String::from_utf8_lossy(value).trim_end_matches(['\0', ' ']).to_owned();
        match element {
            0x0002 | 0x0003 => command.sop_class = text(),
            0x0100 => field = number(),
            0x0110 => command.message_id = number().unwrap_or(0),
            0x0120 => command.answers = number().unwrap_or(0),
            0x0800 => command.has_data = number() != Some(NO_DATA_SET),
            0x0900 => command.status = number().unwrap_or(0),
            0x1000 | 0x1001 => command.sop_instance = text(),
            0x1008 => command.action_type = number(),
            _ => {}
        }
        at += 8 + length;
    }
    command.field = field.ok_or("command set has no Command Field (0000,0100)")?;
    Ok(command)
}

/// The response to `request` with `status` and, for failures, an Error Comment (0000,0902; LO, 64 characters).
#[must_use]
pub fn respond(request: &Command, status: u16, comment: Option<&str>) -> Vec<u8> {
    let mut set = Set::default();
    if !request.sop_class.is_empty() {
        set.put(0x0002, &padded(&request.sop_class, 0));
    }
    set.put(0x0100, &(request.field | RESPONSE).to_le_bytes());
    set.put(0x0120, &request.message_id.to_le_bytes());
    set.put(0x0800, &NO_DATA_SET.to_le_bytes());
    set.put(0x0900, &status.to_le_bytes());
    if let Some(comment) = comment {
        let ascii: String = comment.chars().filter(|c| c.is_ascii() && !c.is_ascii_control() && *c != '\\').take(64).collect();
        set.put(0x0902, &padded(&ascii, b' '));
    }
    if !request.sop_instance.is_empty() {
        set.put(0x1000, &padded(&request.sop_instance, 0));
    }
    if let Some(action) = request.action_type {
        set.put(0x1008, &action.to_le_bytes());
    }
    set.finish()
}

/// An N-EVENT-REPORT-RQ (PS3.7 10.3.1); its data set follows.
#[must_use]
pub fn event_report(class: &str, instance: &str, message_id: u16, event_type: u16) -> Vec<u8> {
    let mut set = Set::default();
    set.put(0x0002, &padded(class, 0));
    set.put(0x0100, &N_EVENT_REPORT_RQ.to_le_bytes());
    set.put(0x0110, &message_id.to_le_bytes());
    set.put(0x0800, &0u16.to_le_bytes());
    set.put(0x1000, &padded(instance, 0));
    set.put(0x1002, &event_type.to_le_bytes());
    set.finish()
}

/// A command set in the making.
#[derive(Default)]
struct Set(Vec<u8>);

impl Set {
    fn put(&mut self, element: u16, value: &[u8]) {
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&element.to_le_bytes());
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    /// With the group length that every command set begins with.
    fn finish(self) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 4, 0, 0, 0];
        bytes.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        bytes.extend(self.0);
        bytes
    }
}

/// Values have an even length (PS3.5 7.1).
fn padded(text: &str, pad: u8) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    if !bytes.len().is_multiple_of(2) {
        bytes.push(pad);
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_response_names_what_it_answers() {
        let request = Command {
            field: C_STORE_RQ,
            message_id: 7,
            sop_class: "1.2".into(),
            sop_instance: "1.2.3".into(),
            has_data: true,
            ..Command::default()
        };
        let parsed = parse(&respond(&request, status::OUT_OF_RESOURCES, Some("disk full"))).unwrap();
        assert_eq!(
            (parsed.field, parsed.sop_class.as_str(), parsed.sop_instance.as_str(), parsed.has_data),
            (0x8001, "1.2", "1.2.3", false)
        );
    }

    #[test]
    fn damage_is_named() {
        assert!(parse(&[0, 0, 0, 1, 2, 0, 0, 0]).unwrap_err().contains("fewer are there"));
        assert!(parse(&[8, 0, 0, 1, 0, 0, 0, 0]).unwrap_err().contains("group 0008"));
        assert!(parse(&[0, 0, 0]).is_err());
        assert!(parse(&[]).unwrap_err().contains("Command Field"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
