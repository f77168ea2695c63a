//! One association with a PACS: C-FIND and C-GET of the Study Root model (PS3.4 C.4.1, C.4.3), with the C-STORE that a C-GET brings on the same association.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use dicom_ul::association::client::{ClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu, PresentationContextResultReason};

use crate::lab::mine::attribute::{self, int};
use crate::receive::dimse::{C_STORE_RQ, NO_DATA_SET, RESPONSE};
use crate::receive::services::TRANSFER_SYNTAXES;

/// Study Root Query/Retrieve Information Model (PS3.4 C.6.2).
const FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
const GET: &str = "1.2.840.10008.5.1.4.1.2.2.3";
const IMPLICIT: &str = "1.2.840.10008.1.2";
/// What is retrieved: the images that marks are drawn on (CT, Enhanced CT, Legacy Converted Enhanced CT), and what holds marks: structured reports
/// (Basic Text, Enhanced, Comprehensive, Comprehensive 3D, Extensible, procedure log, CAD of mammography and chest), softcopy presentation states.
#[rustfmt::skip]
const STORED: [&str; 14] = [
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.88.35", "1.2.840.10008.5.1.4.1.1.88.40", "1.2.840.10008.5.1.4.1.1.88.50", "1.2.840.10008.5.1.4.1.1.88.65",
    "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.11.2", "1.2.840.10008.5.1.4.1.1.11.3",
];
/// Explicit and Implicit VR Little Endian.
const REPORT_SYNTAXES: [&str; 2] = ["1.2.840.10008.1.2.1", IMPLICIT];
/// A PACS that fetches from its archive takes a while; one that is silent for longer is not coming back.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// No object is held in memory beyond this.
const MOST_OBJECT_BYTES: usize = 1 << 30;

/// Command fields (PS3.7 E.1).
const C_FIND_RQ: u16 = 0x0020;
const C_GET_RQ: u16 = 0x0010;

/// Why the PACS gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PacsError {
    /// No association, or it broke; nothing more comes on it.
    #[error("association with {peer}: {reason}")]
    Association {
        /// As it was named.
        peer: String,
        /// What happened.
        reason: String,
    },
    /// It does not offer the service.
    #[error("{peer} does not accept {service} of Study Root: ask its administrator to allow it for this AE title")]
    NotOffered {
        /// As it was named.
        peer: String,
        /// C-FIND or C-GET.
        service: &'static str,
    },
    /// It answered with a failure.
    #[error("{service} answered 0x{status:04X}{comment}")]
    Status {
        /// C-FIND or C-GET.
        service: &'static str,
        /// (0000,0900)
        status: u16,
        /// (0000,0902), after a colon.
        comment: String,
    },
    /// What came cannot be kept.
    #[error("{0}")]
    Store(String),
}

/// One object that a C-GET brought.
pub struct Object {
    /// (0008,0016)
    pub sop_class: String,
    /// (0008,0018)
    pub sop_instance: String,
    /// Of the data set.
    pub transfer_syntax: String,
    /// As it was sent.
    pub data_set: Vec<u8>,
}

/// A message: command set and, where one follows, data set.
struct Message {
    context: u8,
    command: InMemDicomObject,
    data: Option<Vec<u8>>,
}

/// An association with a PACS.
pub struct Pacs {
    peer: String,
    association: ClientAssociation<TcpStream>,
    message_id: u16,
}

impl Pacs {
    /// Asks for an association; `peer` is `AE@host:port`.
    ///
    /// # Errors
    /// [`PacsError::Association`].
    pub fn connect(peer: &str, calling_ae: &str) -> Result<Self, PacsError> {
        let implicit = || vec![IMPLICIT];
        let options = ClientAssociationOptions::new()
            .calling_ae_title(calling_ae.to_owned())
            .connection_timeout(CONNECT_WITHIN)
            .read_timeout(ANSWER_WITHIN)
            .write_timeout(ANSWER_WITHIN)
            .max_pdu_length(crate::receive::wire::MOST_PDATA_BYTES)
            .with_presentation_context(FIND, implicit())
            .with_presentation_context(GET, implicit());
        // We ask for the association and take what is stored on it all the same (PS3.7 D.3.3.4). One context a syntax: of several in one the PACS takes
        // one, and then cannot send as it is what it has in another.
        let options = STORED.iter().fold(options, |options, class| {
            let syntaxes: &[&str] = if class.contains(".1.1.2") { &TRANSFER_SYNTAXES } else { &REPORT_SYNTAXES };
            let contexts = syntaxes.iter().fold(options, |options, syntax| options.with_presentation_context(*class, vec![*syntax]));
            contexts.with_role_selection(*class, false, true)
        });
        let fault = |reason: String| PacsError::Association { peer: peer.to_owned(), reason };
        let association = options.establish_with(peer).map_err(|e| fault(crate::series::part10::chain(&e)))?;
        Ok(Self { peer: peer.to_owned(), association, message_id: 0 })
    }

    /// Everything at `level` that fits `keys`; empty values are asked for (PS3.4 C.2.2.2).
    ///
    /// # Errors
    /// [`PacsError`].
    pub fn find(&mut self, level: &str, keys: &[(Tag, VR, &str)]) -> Result<Vec<InMemDicomObject>, PacsError> {
        self.ask("C-FIND", FIND, C_FIND_RQ, level, keys)?;
        let mut found = Vec::new();
        loop {
            let message = self.receive()?;
            match self.status("C-FIND", &message, C_FIND_RQ)? {
                // Pending, with all keys or not all of them (PS3.4 C.4.1.1.4).
                0xFF00 | 0xFF01 => found.push(self.data_set(message.data.as_deref().unwrap_or_default())?),
                _ => return Ok(found),
            }
        }
    }

    /// Retrieves instances of one series; each goes to `store`. How many the PACS says it could not send.
    ///
    /// # Errors
    /// [`PacsError`], `store`'s as [`PacsError::Store`]: after that the association is of no use.
    pub fn get(
        &mut self,
        study: &str,
        series: &str,
        instances: &[&str],
        mut store: impl FnMut(Object) -> Result<(), String>,
    ) -> Result<usize, PacsError> {
        let uids = instances.join("\\");
        let keys = [
            (tags::STUDY_INSTANCE_UID, VR::UI, study),
            (tags::SERIES_INSTANCE_UID, VR::UI, series),
            (tags::SOP_INSTANCE_UID, VR::UI, uids.as_str()),
        ];
        self.ask("C-GET", GET, C_GET_RQ, "IMAGE", &keys)?;
        loop {
            let message = self.receive()?;
            if field(&message.command, tags::COMMAND_FIELD) == Some(C_STORE_RQ) {
                self.stored(message, &mut store)?;
                continue;
            }
            match self.status("C-GET", &message, C_GET_RQ)? {
                0xFF00 => {}
                _ => return Ok(field(&message.command, tags::NUMBER_OF_FAILED_SUBOPERATIONS).unwrap_or(0).into()),
            }
        }
    }

    /// Says goodbye; what was retrieved is there either way.
    pub fn release(self) {
        if let Err(e) = self.association.release() {
            log::debug!("release: {e}");
        }
    }

    fn fault(&self, reason: impl std::fmt::Display) -> PacsError {
        PacsError::Association { peer: self.peer.clone(), reason: reason.to_string() }
    }

    /// Sends one request with its identifier.
    fn ask(&mut self, service: &'static str, class: &str, field: u16, level: &str, keys: &[(Tag, VR, &str)]) -> Result<(), PacsError> {
        let accepted = |c: &&dicom_ul::pdu::PresentationContextNegotiated| {
            c.reason == PresentationContextResultReason::Acceptance && c.abstract_syntax.trim_end_matches('\0') == class
        };
        let context = self.association.presentation_contexts().iter().find(accepted).map(|c| c.id);
        let context = context.ok_or_else(|| PacsError::NotOffered { peer: self.peer.clone(), service })?;
        self.message_id = self.message_id.wrapping_add(1);
        let command = [
            text(tags::AFFECTED_SOP_CLASS_UID, VR::UI, class),
            number(tags::COMMAND_FIELD, field),
            number(tags::MESSAGE_ID, self.message_id),
            number(tags::PRIORITY, 0),
            number(tags::COMMAND_DATA_SET_TYPE, 0),
        ];
        let level = text(tags::QUERY_RETRIEVE_LEVEL, VR::CS, level);
        let identifier =
            InMemDicomObject::from_element_iter(std::iter::once(level).chain(keys.iter().map(|(tag, vr, v)| text(*tag, *vr, v))));
        let identifier = self.written(&identifier)?;
        self.send(context, command, Some(identifier))
    }

    /// Keeps one object and answers its C-STORE.
    fn stored(&mut self, message: Message, store: &mut impl FnMut(Object) -> Result<(), String>) -> Result<(), PacsError> {
        let context = self.association.presentation_contexts().iter().find(|c| c.id == message.context);
        let transfer_syntax = context.map(|c| c.transfer_syntax.trim_end_matches(['\0', ' ']).to_owned());
        let transfer_syntax = transfer_syntax.ok_or_else(|| self.fault("an object in a presentation context that there is not"))?;
        let uid = |tag| attribute::text(&message.command, tag).unwrap_or_default();
        let (sop_class, sop_instance) = (uid(tags::AFFECTED_SOP_CLASS_UID), uid(tags::AFFECTED_SOP_INSTANCE_UID));
        let answer = [
            text(tags::AFFECTED_SOP_CLASS_UID, VR::UI, &sop_class),
            number(tags::COMMAND_FIELD, C_STORE_RQ | RESPONSE),
            number(tags::MESSAGE_ID_BEING_RESPONDED_TO, field(&message.command, tags::MESSAGE_ID).unwrap_or(0)),
            number(tags::COMMAND_DATA_SET_TYPE, NO_DATA_SET),
            number(tags::STATUS, 0),
            text(tags::AFFECTED_SOP_INSTANCE_UID, VR::UI, &sop_instance),
        ];
        store(Object { sop_class, sop_instance, transfer_syntax, data_set: message.data.unwrap_or_default() }).map_err(PacsError::Store)?;
        self.send(message.context, answer, None)
    }

    fn send<const N: usize>(
        &mut self,
        context: u8,
        command: [DataElement<InMemDicomObject>; N],
        data: Option<Vec<u8>>,
    ) -> Result<(), PacsError> {
        let command = self.written(&InMemDicomObject::command_from_element_iter(command))?;
        let pdv = PDataValue { presentation_context_id: context, value_type: PDataValueType::Command, is_last: true, data: command };
        self.association.send(&Pdu::PData { data: vec![pdv] }).map_err(|e| self.fault(e))?;
        let Some(data) = data else { return Ok(()) };
        let mut writer = self.association.send_pdata(context);
        let sent = writer.write_all(&data).and_then(|()| writer.finish());
        sent.map_err(|e| self.fault(e))
    }

    /// One message, put together.
    fn receive(&mut self) -> Result<Message, PacsError> {
        let (mut command, mut data) = (Vec::new(), Vec::new());
        let mut parsed: Option<(u8, InMemDicomObject)> = None;
        loop {
            let pdu = self.association.receive().map_err(|e| self.fault(crate::series::part10::chain(&e)))?;
            let Pdu::PData { data: values } = pdu else {
                return Err(self.fault("it ended the association"));
            };
            for value in values {
                let into = if value.value_type == PDataValueType::Command { &mut command } else { &mut data };
                if into.len() + value.data.len() > MOST_OBJECT_BYTES {
                    return Err(self.fault(format!("an object of more than {} MiB", MOST_OBJECT_BYTES >> 20)));
                }
                into.extend(value.data);
                if !value.is_last {
                    continue;
                }
                match (value.value_type, parsed.take()) {
                    (PDataValueType::Command, None) => {
                        let set = self.data_set(&command)?;
                        if field(&set, tags::COMMAND_DATA_SET_TYPE).unwrap_or(NO_DATA_SET) == NO_DATA_SET {
                            return Ok(Message { context: value.presentation_context_id, command: set, data: None });
                        }
                        parsed = Some((value.presentation_context_id, set));
                    }
                    (PDataValueType::Data, Some((context, command))) => return Ok(Message { context, command, data: Some(data) }),
                    _ => return Err(self.fault("command and data sets out of order")),
                }
            }
        }
    }

    /// Status of a response to `request`; failures are errors, warnings (0xBxxx: some were not sent) are not.
    fn status(&self, service: &'static str, message: &Message, request: u16) -> Result<u16, PacsError> {
        if field(&message.command, tags::COMMAND_FIELD) != Some(request | RESPONSE) {
            return Err(self.fault(format!("something else than the answer to {service}")));
        }
        let status = field(&message.command, tags::STATUS).unwrap_or(0xC000);
        if matches!(status, 0x0000 | 0xFF00 | 0xFF01 | 0xB000..=0xBFFF) {
            return Ok(status);
        }
        let comment = attribute::text(&message.command, tags::ERROR_COMMENT).map_or_else(String::new, |c| format!(": {c}"));
        Err(PacsError::Status { service, status, comment })
    }

    fn data_set(&self, bytes: &[u8]) -> Result<InMemDicomObject, PacsError> {
        // The parser is not ours and reads what came over the network.
        let read = || InMemDicomObject::read_dataset_with_ts(bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased());
        match std::panic::catch_unwind(read) {
            Ok(Ok(set)) => Ok(set),
            Ok(Err(e)) => Err(self.fault(crate::series::part10::chain(&e))),
            Err(_) => Err(self.fault("a data set that the parser failed on")),
        }
    }

    fn written(&self, set: &InMemDicomObject) -> Result<Vec<u8>, PacsError> {
        let mut bytes = Vec::new();
        set.write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).map_err(|e| self.fault(e))?;
        Ok(bytes)
    }
}

fn text(tag: Tag, vr: VR, value: &str) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

fn number(tag: Tag, value: u16) -> DataElement<InMemDicomObject> {
    DataElement::new(tag, VR::US, PrimitiveValue::from(value))
}

/// A number of a command set: all of them are of two bytes.
fn field(set: &InMemDicomObject, tag: Tag) -> Option<u16> {
    int(set, tag).and_then(|n| n.try_into().ok())
}
