//! DIMSE on an accepted association: C-ECHO and C-STORE, with the object on disk before it is answered (PS3.7 9.1, PS3.4 annex B).

use std::io;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::association::{Context, Tally};
use super::dimse::{self, C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command, status};
use super::peek::{identifiers, is_uid};
use super::services::{Accepted, OF_NO_PATIENT, shown};
use super::spool::{Incoming, Kept};
use super::wire::{self, WireError};
use super::{ReceiveEvent, StoredObject};

/// A C-STORE under way: the request, its context, and the object or the status that it will be refused with.
struct Store<'a> {
    request: Command,
    id: u8,
    transfer_syntax: String,
    object: Result<Incoming<'a>, (u16, String)>,
}

/// The messages of one association.
pub struct Session<'a> {
    context: &'a Context<'a>,
    calling: String,
    accepted: Vec<Accepted>,
    command: Vec<u8>,
    store: Option<Store<'a>>,
}

/// A presentation context and the command set to send on it.
pub type Response = Option<(u8, Vec<u8>)>;

impl<'a> Session<'a> {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(context: &'a Context<'a>, calling: String, accepted: Vec<Accepted>) -> Self {
        Self { context, calling, accepted, command: Vec::new(), store: None }
    }

    /// One PDV; a response where it completes something.
    ///
    /// # Errors
    /// [`WireError::Damaged`] where the message cannot be followed.
    pub fn value(&mut self, value: &wire::Pdv<'_>, tally: &mut Tally) -> Result<Response, WireError> {
        if !value.command {
            let Some(store) = &mut self.store else { return Err(WireError::Damaged("data set without a command")) };
            store.append(value.data, self.context.options.max_object_bytes);
            if !value.last {
                return Ok(None);
            }
            return Ok(self.store.take().map(|store| {
                let (id, request) = (store.id, store.request.clone());
                let (status, comment) = self.finish(store, tally);
                (id, dimse::respond(&request, status, comment.as_deref()))
            }));
        }
        if self.command.len() + value.data.len() > dimse::MOST_COMMAND_BYTES {
            return Err(WireError::Damaged("command set too long"));
        }
        self.command.extend_from_slice(value.data);
        if !value.last {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut self.command);
        let request = dimse::parse(&bytes).map_err(|reason| {
            log::warn!("command refused reason={reason:?}");
            WireError::Damaged("command set cannot be parsed")
        })?;
        if self.store.is_some() {
            return Err(WireError::Damaged("command before the data set of the last one"));
        }
        let answer = |status| Ok(Some((value.context, dimse::respond(&request, status, None))));
        match request.field {
            C_ECHO_RQ => answer(status::SUCCESS),
            C_STORE_RQ if request.has_data => {
                self.begin(request, value.context);
                Ok(None)
            }
            C_STORE_RQ => answer(status::CANNOT_UNDERSTAND),
            C_CANCEL_RQ => Ok(None),
            field if field & 0x8000 != 0 => Err(WireError::Damaged("a response that answers nothing")),
            _ if request.has_data => Err(WireError::Damaged("an operation that is not supported")),
            _ => answer(status::UNRECOGNIZED),
        }
    }

    fn begin(&mut self, request: Command, id: u8) {
        let transfer_syntax = self.accepted.iter().find(|a| a.id == id).map(|a| a.transfer_syntax.clone());
        let object = match &transfer_syntax {
            None => Err((status::SOP_CLASS, "presentation context was not accepted".to_owned())),
            Some(_) if !is_uid(&request.sop_instance) || !is_uid(&request.sop_class) => {
                Err((status::CANNOT_UNDERSTAND, "Affected SOP Class or Instance UID is not a UID".into()))
            }
            Some(syntax) => self.context.spool.begin(&request.sop_class, &request.sop_instance, syntax, &self.calling).map_err(refusal),
        };
        self.store = Some(Store { request, id, transfer_syntax: transfer_syntax.unwrap_or_default(), object });
    }

    /// Makes the object durable; status and Error Comment of the response.
    fn finish(&self, store: Store<'a>, tally: &mut Tally) -> (u16, Option<String>) {
        let Store { request, transfer_syntax, object, .. } = store;
        match object.and_then(|object| self.keep(&request, &transfer_syntax, object, tally)) {
            Ok(()) => {
                tally.objects += 1;
                self.context.stats.objects.fetch_add(1, Ordering::Relaxed);
                (status::SUCCESS, None)
            }
            Err((status, comment)) => {
                tally.refused += 1;
                self.context.stats.refused.fetch_add(1, Ordering::Relaxed);
                log::warn!(
                    "object refused association={} status=0x{status:04X} reason={comment:?} sop={}",
                    self.context.number,
                    shown(&request.sop_instance)
                );
                (status, Some(comment))
            }
        }
    }

    fn keep(&self, request: &Command, transfer_syntax: &str, object: Incoming<'_>, tally: &mut Tally) -> Result<(), (u16, String)> {
        let ids = identifiers(object.prefix(), transfer_syntax);
        if !ids.sop_instance.is_empty() && ids.sop_instance != request.sop_instance {
            return Err((status::MISMATCH, "SOP Instance UID of command and data set differ".into()));
        }
        if OF_NO_PATIENT.contains(&request.sop_class.as_str()) && ids.series_instance.is_empty() {
            // Acknowledged and dropped: it belongs to no series, so there is nothing to analyse and no outcome to publish.
            log::info!("object dropped association={} reason=of_no_patient class={}", self.context.number, request.sop_class);
            return Ok(());
        }
        for (name, uid) in [("Study", &ids.study_instance), ("Series", &ids.series_instance)] {
            if !is_uid(uid) {
                return Err((status::CANNOT_UNDERSTAND, format!("{name} Instance UID is missing or not a UID")));
            }
        }
        let bytes = object.bytes();
        let kept = object.keep(&ids.study_instance, &ids.series_instance, &request.sop_instance).map_err(refusal)?;
        tally.bytes += bytes;
        self.context.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
        match kept {
            Kept::Repeat => {}
            Kept::Conflict(path) => {
                log::warn!(
                    "object conflict sop={} kept={} : another object had this UID first and is the one analysed",
                    request.sop_instance,
                    path.display()
                );
            }
            Kept::New(path) => {
                let event = ReceiveEvent::Stored(StoredObject {
                    path,
                    study_instance_uid: ids.study_instance,
                    series_instance_uid: ids.series_instance,
                    sop_instance_uid: request.sop_instance.clone(),
                    sop_class_uid: request.sop_class.clone(),
                    transfer_syntax_uid: transfer_syntax.to_owned(),
                    calling_ae: self.calling.clone(),
                    association: self.context.number,
                    received_at: SystemTime::now(),
                });
                // Blocks while the analysis is behind: back-pressure. A closed channel means the appliance is stopping; the object is stored.
                let _ = self.context.events.send(event);
            }
        }
        Ok(())
    }
}

impl Store<'_> {
    fn append(&mut self, data: &[u8], most: u64) {
        let Ok(object) = &mut self.object else { return };
        let failed = if object.bytes() + data.len() as u64 > most {
            Some((status::OUT_OF_RESOURCES, format!("object larger than {} MiB", most >> 20)))
        } else {
            object.write(data).err().map(refusal)
        };
        if let Some(failed) = failed {
            // Dropping the object removes what was written; the rest of the data set is read and thrown away.
            self.object = Err(failed);
        }
    }
}

/// DIMSE status for a failure of the disk.
fn refusal(e: io::Error) -> (u16, String) {
    let text = if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        "disk full".into()
    } else {
        format!("storage failed: {}", e.kind())
    };
    (status::OUT_OF_RESOURCES, text)
}
