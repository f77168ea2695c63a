//! DIMSE on an accepted association: C-ECHO, C-STORE with the object on disk before it is answered (PS3.7 9.1, PS3.4 annex B), and storage commitment
//! with the request on disk before it is answered (PS3.4 annex J).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::commitment;
use super::context::{Context, Tally};
use super::courier;
use super::dimse::{self, C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command, N_ACTION_RQ, N_EVENT_REPORT_RSP, status};
use super::incoming::Incoming;
use super::ledger::Ledger;
use super::peek::{Identifiers, identifiers, is_uid};
use super::place::Kept;
use super::services::{Accepted, OF_NO_PATIENT};
use super::wire::{self, Message, WireError};
use super::{ReceiveEvent, StoredObject};

/// A C-STORE under way: the request, its context, and the object or the status that it will be refused with.
struct Store<'a> {
    request: Command,
    id: u8,
    transfer_syntax: String,
    begun: Instant,
    object: Result<Incoming<'a>, (u16, String)>,
}

/// The messages of one association.
pub struct Session<'a> {
    context: &'a Context<'a>,
    calling: String,
    /// Place of the peer in the configuration.
    place: Option<usize>,
    accepted: Vec<Accepted>,
    command: Vec<u8>,
    under_way: Option<UnderWay<'a>>,
    pledges: Pledges<'a>,
}

/// A message whose data set is coming.
enum UnderWay<'a> {
    Store(Store<'a>),
    Action(Action),
}

impl<'a> Session<'a> {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(context: &'a Context<'a>, calling: String, place: Option<usize>, accepted: Vec<Accepted>) -> Self {
        let pledges = Pledges { ledger: context.ledger, waiting: VecDeque::new(), said: None, last_id: 0 };
        Self { context, calling, place, accepted, command: Vec::new(), under_way: None, pledges }
    }

    /// Whether a report of storage commitment can be sent on this association as soon as the peer is quiet.
    #[must_use]
    pub fn has_report(&self) -> bool {
        self.pledges.said.is_none() && !self.pledges.waiting.is_empty()
    }

    /// The next report.
    pub fn report(&mut self) -> Option<Message> {
        let pledge = self.pledges.waiting.pop_front()?;
        self.pledges.last_id = self.pledges.last_id.wrapping_add(1);
        let pending = self.context.ledger.get(pledge.id).ok().flatten();
        let syntax = self.accepted.iter().find(|a| a.id == pledge.context).map_or("", |a| a.transfer_syntax.as_str());
        let message = pending.map(|p| courier::message(self.context.spool, &p.request, syntax, self.pledges.last_id).0);
        // Set in any case: where the database does not answer, the courier asks it again.
        let context = pledge.context;
        self.pledges.said = Some(pledge);
        message.map(|m| Message { context, ..m })
    }

    /// One PDV; a response where it completes something.
    ///
    /// # Errors
    /// [`WireError::Damaged`] where the message cannot be followed.
    pub fn value(&mut self, value: &wire::Pdv<'_>, tally: &mut Tally) -> Result<Option<Message>, WireError> {
        if !value.command {
            match &mut self.under_way {
                None => return Err(WireError::Damaged("data set without a command")),
                Some(UnderWay::Store(store)) => store.append(value.data, self.context.options.max_object_bytes),
                Some(UnderWay::Action(action)) => action.append(value.data),
            }
            if !value.last {
                return Ok(None);
            }
            return Ok(self.under_way.take().map(|under_way| match under_way {
                UnderWay::Store(store) => {
                    let (id, request) = (store.id, store.request.clone());
                    let begun = store.begun;
                    let (status, comment) = self.finish(store, tally);
                    self.context.stats.store_time.observe(begun.elapsed());
                    response(id, &request, status, comment.as_deref())
                }
                UnderWay::Action(action) => self.act(action),
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
        if self.under_way.is_some() {
            return Err(WireError::Damaged("command before the data set of the last one"));
        }
        let answer = |status| Ok(Some(response(value.context, &request, status, None)));
        match request.field {
            C_ECHO_RQ => answer(status::SUCCESS),
            C_STORE_RQ if request.has_data => {
                self.begin(request, value.context);
                Ok(None)
            }
            C_STORE_RQ => answer(status::CANNOT_UNDERSTAND),
            N_ACTION_RQ if request.has_data => {
                self.under_way = Some(UnderWay::Action(Action { request, id: value.context, data: Some(Vec::new()) }));
                Ok(None)
            }
            N_EVENT_REPORT_RSP if self.pledges.answered(&request) => Ok(None),
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
            // Not even read where there is no room for a byte of it.
            Some(syntax) => {
                self.context.backlog.room(self.place, 1).map_err(|e| (status::OUT_OF_RESOURCES, e.to_string())).and_then(|()| {
                    self.context.spool.begin(&request.sop_class, &request.sop_instance, syntax, &self.calling).map_err(refusal)
                })
            }
        };
        self.under_way = Some(UnderWay::Store(Store {
            request,
            id,
            transfer_syntax: transfer_syntax.unwrap_or_default(),
            begun: Instant::now(),
            object,
        }));
    }

    /// Takes a request for storage commitment: durable before it is answered.
    fn act(&mut self, action: Action) -> Message {
        let Action { request, id, data } = action;
        let context = self.accepted.iter().find(|a| a.id == id && a.abstract_syntax == commitment::CLASS);
        let syntax = context.map_or("", |a| a.transfer_syntax.as_str());
        let parsed = || match data {
            None => Err((status::RESOURCE_LIMITATION, format!("data set longer than {} MiB", commitment::MOST_BYTES >> 20))),
            Some(data) => commitment::parse(&data, syntax).map_err(|e| (status::INVALID_ARGUMENT, e)),
        };
        let taken = match () {
            () if context.is_none() => Err((status::SOP_CLASS, "presentation context is not of Storage Commitment".to_owned())),
            () if request.sop_instance != commitment::INSTANCE => {
                Err((status::NO_SUCH_INSTANCE, format!("the one instance is {}", commitment::INSTANCE)))
            }
            () if request.action_type != Some(commitment::REQUEST) => Err((status::NO_SUCH_ACTION, "Action Type ID is not 1".into())),
            () => parsed().and_then(|asked| {
                let from = self.context.peer.ip().to_canonical().to_string();
                let id = self.context.ledger.take(&self.calling, &from, &asked, SystemTime::now());
                id.map(|id| (id, asked)).map_err(|e| (status::RESOURCE_LIMITATION, e.to_string()))
            }),
        };
        match taken {
            Ok((pledge, asked)) => {
                self.pledges.waiting.push_back(Pledge { id: pledge, context: id });
                log::info!(
                    "commitment requested association={} transaction={} objects={}",
                    self.context.number,
                    asked.transaction,
                    asked.references.len()
                );
                response(id, &request, status::SUCCESS, None)
            }
            Err((status, comment)) => {
                log::warn!("commitment refused association={} status=0x{status:04X} reason={comment:?}", self.context.number);
                response(id, &request, status, Some(&comment))
            }
        }
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
                    // What is no UID may be anything, a name too.
                    Some(&request.sop_instance).filter(|u| is_uid(u)).map_or("(no UID)", |u| u)
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
        let kept = self.keep_within_quota(object, &ids, &request.sop_instance)?;
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
                    priority: self.context.options.admission.priority(self.place),
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

impl Session<'_> {
    /// Keeps the object, counted as its peer's from before it is there; what is no new object does not count.
    fn keep_within_quota(&self, object: Incoming<'_>, ids: &Identifiers, sop_instance: &str) -> Result<Kept, (u16, String)> {
        let path = self.context.spool.place(&ids.study_instance, &ids.series_instance, sop_instance);
        let counted = !path.exists()
            && self.context.backlog.take(self.place, &path, object.length()).map_err(|e| (status::OUT_OF_RESOURCES, e.to_string()))?;
        let kept = object.keep(&ids.study_instance, &ids.series_instance, sop_instance).map_err(refusal);
        if counted && !matches!(kept, Ok(Kept::New(_))) {
            self.context.backlog.release(&path);
        }
        kept
    }
}

fn response(context: u8, request: &Command, status: u16, comment: Option<&str>) -> Message {
    Message { context, command: dimse::respond(request, status, comment), data: None }
}

/// An N-ACTION under way; `data` is `None` once it is longer than is taken.
struct Action {
    request: Command,
    id: u8,
    data: Option<Vec<u8>>,
}

impl Action {
    fn append(&mut self, data: &[u8]) {
        self.data = self.data.take().filter(|d| d.len() + data.len() <= commitment::MOST_BYTES);
        if let Some(all) = &mut self.data {
            all.extend_from_slice(data);
        }
    }
}

/// A request taken on this association, and the context it came on.
struct Pledge {
    id: i64,
    context: u8,
}

/// Requests that this association still owes a report; what it owes at its end goes to the courier.
struct Pledges<'a> {
    ledger: &'a Ledger,
    waiting: VecDeque<Pledge>,
    /// Reported, and not answered yet.
    said: Option<Pledge>,
    last_id: u16,
}

impl Pledges<'_> {
    /// Takes the answer to a report; false where there was none to answer.
    fn answered(&mut self, response: &Command) -> bool {
        let Some(pledge) = self.said.take().filter(|_| response.answers == self.last_id && !response.has_data) else { return false };
        if response.status == status::SUCCESS {
            self.ledger.reported(pledge.id);
            log::info!("commitment reported on its own association");
        } else {
            log::warn!("commitment report answered with status=0x{:04X} : tried again on a new association", response.status);
            self.ledger.let_go(pledge.id);
        }
        true
    }
}

impl Drop for Pledges<'_> {
    fn drop(&mut self) {
        for pledge in self.waiting.drain(..).chain(self.said.take()) {
            self.ledger.let_go(pledge.id);
        }
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
