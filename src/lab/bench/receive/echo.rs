//! C-ECHO on an association of its own, again and again while others push: how long a small request waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use dicom_ul::association::client::ClientAssociationOptions;
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};

use crate::receive::services::VERIFICATION;

/// From an answer to the next request.
const PAUSE: Duration = Duration::from_millis(5);
/// A server that does not answer within this does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An association that asks again and again until it is told to stop.
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<f64>, String>>,
}

impl Echo {
    /// Begins.
    #[must_use]
    pub fn start(server: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || ask(server, &told)) }
    }

    /// Ends it; the round trips, ms.
    ///
    /// # Errors
    /// Why the server did not answer.
    pub fn stop(self) -> Result<Vec<f64>, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err("the asking thread broke off".into()))
    }
}

fn ask(server: SocketAddr, stop: &AtomicBool) -> Result<Vec<f64>, String> {
    let mut association = ClientAssociationOptions::new()
        .with_presentation_context(VERIFICATION, vec!["1.2.840.10008.1.2"])
        .calling_ae_title("ECHO")
        .called_ae_title("ANY-SCP")
        .read_timeout(ANSWER_WITHIN)
        .write_timeout(ANSWER_WITHIN)
        .establish(server)
        .map_err(|e| e.to_string())?;
    association.inner_stream().set_nodelay(true).map_err(|e| e.to_string())?;
    let id = association.presentation_contexts().first().map_or(1, |c| c.id);
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let value = PDataValue { presentation_context_id: id, value_type: PDataValueType::Command, is_last: true, data: request() };
        let begun = Instant::now();
        association.send(&Pdu::PData { data: vec![value] }).map_err(|e| e.to_string())?;
        match association.receive().map_err(|e| e.to_string())? {
            Pdu::PData { .. } => took.push(begun.elapsed().as_secs_f64() * 1e3),
            other => return Err(format!("answered with {}", other.short_description())),
        }
        std::thread::sleep(PAUSE);
    }
    association.release().map_err(|e| e.to_string())?;
    Ok(took)
}

/// A C-ECHO-RQ (PS3.7 9.3.5).
fn request() -> Vec<u8> {
    let number = |tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let command = InMemDicomObject::command_from_element_iter([
        DataElement::new(tags::AFFECTED_SOP_CLASS_UID, VR::UI, PrimitiveValue::from(VERIFICATION)),
        number(tags::COMMAND_FIELD, 0x0030),
        number(tags::MESSAGE_ID, 1),
        number(tags::COMMAND_DATA_SET_TYPE, 0x0101),
    ]);
    let mut bytes = Vec::new();
    // Writing to memory cannot fail.
    let _ = command.write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased());
    bytes
}
