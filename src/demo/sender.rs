//! A C-STORE SCU for the sample: one association, objects sent as they are stored (PS3.4 B, PS3.7 9.1.1).

use std::io::{Cursor, Read};
use std::net::SocketAddr;
use std::time::Duration;

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTable, InMemDicomObject};
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use dicom_ul::association::client::ClientAssociationOptions;
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};

/// How long the peer may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Room for the PDV and PDU headers inside the peer's maximum PDU length (PS3.8 9.3.5).
const PDV_OVERHEAD: usize = 6;

/// What can go wrong while sending.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not a Part 10 file.
    #[error("{name}: not a DICOM file: {reason}")]
    NotDicom {
        /// Which file.
        name: String,
        /// Why.
        reason: String,
    },
    /// Association or transport.
    #[error("association with {peer}: {reason}")]
    Association {
        /// Address.
        peer: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The peer refused an object.
    #[error("{name}: C-STORE answered 0x{status:04X}")]
    Refused {
        /// Which file.
        name: String,
        /// DIMSE status.
        status: u16,
    },
}

/// Sends `files` (name, Part 10 bytes) over one association and releases it; `sent` is called after each Success and
/// says whether to go on.
///
/// # Errors
/// [`SendError`], at the first object or message that fails.
pub fn send(peer: SocketAddr, called_ae: &str, files: &[(String, Vec<u8>)], mut sent: impl FnMut(usize) -> bool) -> Result<(), SendError> {
    let fault = |e: &dyn std::fmt::Display| SendError::Association { peer, reason: e.to_string() };
    let objects = files.iter().map(|(name, bytes)| parse(name, bytes)).collect::<Result<Vec<_>, _>>()?;
    let mut contexts: Vec<(&str, &str)> = objects.iter().map(|o| (o.sop_class.as_str(), o.transfer_syntax.as_str())).collect();
    contexts.sort_unstable();
    contexts.dedup();
    let options = contexts.iter().fold(ClientAssociationOptions::new(), |options, (class, syntax)| {
        options.with_presentation_context((*class).to_owned(), vec![(*syntax).to_owned()])
    });
    let mut association = options
        .calling_ae_title("SAMPLE")
        .called_ae_title(called_ae.to_owned())
        .read_timeout(ANSWER_WITHIN)
        .write_timeout(ANSWER_WITHIN)
        .establish(peer)
        .map_err(|e| fault(&e))?;
    // Small command PDUs wait for the previous ones' acknowledgement otherwise (Nagle).
    association.inner_stream().set_nodelay(true).map_err(|e| fault(&e))?;
    let chunk = (association.acceptor_max_pdu_length() as usize).clamp(4096, 1 << 20) - PDV_OVERHEAD;
    for (index, (object, (name, _))) in objects.iter().zip(files).enumerate() {
        let context = contexts.iter().position(|c| *c == (object.sop_class.as_str(), object.transfer_syntax.as_str()));
        let id = context
            .and_then(|i| association.presentation_contexts().iter().find(|c| usize::from(c.id) == 2 * i + 1))
            .map(|c| c.id)
            .ok_or_else(|| fault(&format!("no presentation context for {} in {}", object.sop_class, object.transfer_syntax)))?;
        let message_id = u16::try_from(index + 1).unwrap_or(u16::MAX);
        let command = store_request(object, message_id).map_err(|e| fault(&e))?;
        let pdv = |value_type, is_last, data| PDataValue { presentation_context_id: id, value_type, is_last, data };
        association.send(&Pdu::PData { data: vec![pdv(PDataValueType::Command, true, command)] }).map_err(|e| fault(&e))?;
        let mut chunks = object.data_set.chunks(chunk).peekable();
        while let Some(part) = chunks.next() {
            let last = chunks.peek().is_none();
            association.send(&Pdu::PData { data: vec![pdv(PDataValueType::Data, last, part.to_vec())] }).map_err(|e| fault(&e))?;
        }
        match status(association.receive().map_err(|e| fault(&e))?) {
            Some(0) if sent(index + 1) => {}
            Some(0) => break,
            Some(status) => return Err(SendError::Refused { name: name.clone(), status }),
            None => return Err(fault(&"unexpected answer to C-STORE")),
        }
    }
    association.release().map_err(|e| fault(&e))
}

/// A Part 10 file, taken apart.
struct Object<'a> {
    sop_class: String,
    sop_instance: String,
    transfer_syntax: String,
    data_set: &'a [u8],
}

fn parse<'a>(name: &str, bytes: &'a [u8]) -> Result<Object<'a>, SendError> {
    let bad = |reason: String| SendError::NotDicom { name: name.to_owned(), reason };
    let mut cursor = Cursor::new(bytes);
    cursor.set_position(128); // preamble, PS3.10 7.1
    let meta = FileMetaTable::from_reader(cursor.by_ref()).map_err(|e| bad(e.to_string()))?;
    let start = usize::try_from(cursor.position()).unwrap_or(bytes.len());
    let clean = |uid: &str| uid.trim_end_matches(['\0', ' ']).to_owned();
    Ok(Object {
        sop_class: clean(&meta.media_storage_sop_class_uid),
        sop_instance: clean(&meta.media_storage_sop_instance_uid),
        transfer_syntax: clean(&meta.transfer_syntax),
        data_set: bytes.get(start..).ok_or_else(|| bad("no data set".into()))?,
    })
}

fn store_request(object: &Object<'_>, message_id: u16) -> Result<Vec<u8>, dicom_object::WriteError> {
    let text = |tag, vr, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let number = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let command = InMemDicomObject::command_from_element_iter([
        text(tags::AFFECTED_SOP_CLASS_UID, VR::UI, &object.sop_class),
        number(tags::COMMAND_FIELD, 0x0001), // C-STORE-RQ
        number(tags::MESSAGE_ID, message_id),
        number(tags::PRIORITY, 0x0000),
        number(tags::COMMAND_DATA_SET_TYPE, 0x0000),
        text(tags::AFFECTED_SOP_INSTANCE_UID, VR::UI, &object.sop_instance),
    ]);
    let mut bytes = Vec::new();
    command.write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased())?;
    Ok(bytes)
}

/// Status (0000,0900) of a C-STORE-RSP; `None` for anything else.
fn status(pdu: Pdu) -> Option<u16> {
    let Pdu::PData { data } = pdu else { return None };
    let bytes: Vec<u8> = data.into_iter().filter(|p| p.value_type == PDataValueType::Command).flat_map(|p| p.data).collect();
    let response = InMemDicomObject::read_dataset_with_ts(bytes.as_slice(), &IMPLICIT_VR_LITTLE_ENDIAN.erased()).ok()?;
    let field = |tag| response.element(tag).ok().and_then(|e| e.to_int::<u16>().ok());
    (field(tags::COMMAND_FIELD)? == 0x8001).then(|| field(tags::STATUS)).flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use dicom_dictionary_std::uids;

    #[test]
    fn the_sample_is_61_ct_slices_of_one_series() {
        let files = crate::demo::sample().unwrap();
        assert_eq!(files.len(), 61);
        for (name, bytes) in &files {
            let object = parse(name, bytes).unwrap();
            assert_eq!(object.sop_class, uids::CT_IMAGE_STORAGE);
            assert_eq!(object.transfer_syntax, uids::JPEGLS_LOSSLESS);
        }
    }

    #[test]
    fn a_file_that_is_not_dicom_is_named() {
        let error = send("127.0.0.1:1".parse().unwrap(), "X", &[("notes.txt".into(), b"hello".to_vec())], |_| true).unwrap_err();
        assert!(error.to_string().starts_with("notes.txt: not a DICOM file"), "{error}");
    }
}
