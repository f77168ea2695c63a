//! One association: negotiation, then C-ECHO and C-STORE until release, abort or silence.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;
use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceUserReason,
    AssociationRJSource, AssociationRQ, Pdu, PresentationContextResult, PresentationContextResultReason, UserVariableItem, read_pdu,
    write_pdu,
};

use super::dimse::{self, C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, Command, status};
use super::listener::{ReceiveOptions, ReceiveStats};
use super::peek::{identifiers, is_uid};
use super::spool::{Incoming, Kept, Spool};
use super::wire::{self, WireError, pdu};
use super::{ReceiveEvent, StoredObject};

/// ARTIM (PS3.8 9.1.5): a connection that does not ask for an association within this is closed.
const ARTIM: Duration = Duration::from_secs(30);
const VERIFICATION: &str = "1.2.840.10008.1.1";
/// What the standard itself registers (PS3.6 annex A); everything else that is a UID is somebody's private class.
const DICOM_ROOT: &str = "1.2.840.10008";
/// Composite objects, the storage classes among them, stand below this.
const COMPOSITE_ROOT: &str = "1.2.840.10008.5.1.4.";
/// Storage classes that stand outside it: stored print and hardcopy, all retired.
const PRINTED_STORAGE: [&str; 3] = ["1.2.840.10008.5.1.1.27", "1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.1.30"];
/// What stands below [`COMPOSITE_ROOT`] and is another service than storage, each with all below it (PS3.6 annex A): protocol approval and inventory
/// queries; query and retrieve; protocol query; modality and general purpose worklist, availability notification; machine verification and unified
/// procedure step, trial and final; relevant patient information, product and substance queries; queries for hanging protocols, palettes and implant
/// templates.
#[rustfmt::skip]
const OTHER_SERVICES: [&str; 38] = [
    "1.1.200.4", "1.1.200.5", "1.1.200.6", "1.1.201.2", "1.1.201.3", "1.1.201.4", "1.1.201.5", "1.1.201.6",
    "1.2", "20", "31", "32", "33",
    "34.2", "34.3", "34.4", "34.5", "34.6", "34.8", "34.9",
    "37", "41", "42",
    "38.2", "38.3", "38.4", "39.2", "39.3", "39.4",
    "43.2", "43.3", "43.4", "44.2", "44.3", "44.4", "45.2", "45.3", "45.4",
];
/// Classes whose instances belong to no patient, hence to no study (PS3.4 annex GG): protocols, approvals, inventories, hanging protocols, palettes,
/// implant templates.
const OF_NO_PATIENT: [&str; 9] = [
    "1.2.840.10008.5.1.4.1.1.200.1",
    "1.2.840.10008.5.1.4.1.1.200.3",
    "1.2.840.10008.5.1.4.1.1.200.7",
    "1.2.840.10008.5.1.4.1.1.201.1",
    "1.2.840.10008.5.1.4.38.1",
    "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1",
    "1.2.840.10008.5.1.4.44.1",
    "1.2.840.10008.5.1.4.45.1",
];
/// Refused presentation contexts and offered transfer syntaxes written to the log, each: a scanner offers a few, an attacker fills disks.
const MOST_LOGGED: usize = 8;
const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// In the order of preference: what needs least work first, then lossless before lossy.
const TRANSFER_SYNTAXES: [&str; 13] = [
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.50",
];
const IMPLEMENTATION_CLASS: &str = "2.25.104353216174283041617351293172054011713";
const IMPLEMENTATION_VERSION: &str = concat!("LESIONWATCH_", env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));

/// What an association works with.
pub struct Context<'a> {
    /// Policy and limits.
    pub options: &'a ReceiveOptions,
    /// Where objects go.
    pub spool: &'a Spool,
    /// Who is told.
    pub events: &'a Sender<ReceiveEvent>,
    /// Counters.
    pub stats: &'a ReceiveStats,
    /// Number of this association.
    pub number: u64,
}

/// How it went, for the log line.
struct Tally {
    calling: String,
    objects: usize,
    refused: usize,
    bytes: u64,
}

/// An accepted presentation context.
struct Accepted {
    id: u8,
    transfer_syntax: String,
}

/// Serves one connection to its end; writes one log line.
pub fn serve(mut stream: TcpStream, peer: SocketAddr, context: &Context<'_>) {
    let begin = Instant::now();
    let mut tally = Tally { calling: String::new(), objects: 0, refused: 0, bytes: 0 };
    let ended = run(&mut stream, context, &mut tally);
    let released = ended.is_ok();
    let seconds = begin.elapsed().as_secs_f64().max(1e-6);
    let how = match &ended {
        Ok(()) => "released".to_owned(),
        Err(e) => e.to_string(),
    };
    if matches!(ended, Err(WireError::TooLong { .. } | WireError::Unexpected(_) | WireError::Damaged(_))) {
        // The peer may be gone; it is told all the same.
        let _ = send(&mut stream, &Pdu::AbortRQ { source: AbortRQSource::ServiceProvider(AbortRQServiceProviderReason::UnexpectedPdu) });
    }
    log::info!(
        "association number={} peer={peer} calling={:?} objects={} refused={} mib={:.1} seconds={seconds:.2} per_second={:.0} end={how:?}",
        context.number,
        tally.calling,
        tally.objects,
        tally.refused,
        tally.bytes as f64 / 1_048_576.0,
        tally.objects as f64 / seconds
    );
    // The analysis waits for this to know that nothing more will come; a closed channel means the appliance is stopping.
    let _ = context.events.send(ReceiveEvent::AssociationEnded { association: context.number, released });
}

fn send(stream: &mut TcpStream, pdu: &Pdu) -> io::Result<()> {
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, pdu).map_err(io::Error::other)?;
    stream.write_all(&bytes)
}

fn run(stream: &mut TcpStream, context: &Context<'_>, tally: &mut Tally) -> Result<(), WireError> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(ARTIM))?;
    let mut buffer = Vec::new();
    let received = wire::read(stream, &mut buffer, ARTIM)?;
    if received.kind != pdu::ASSOCIATE_RQ {
        return Err(WireError::Unexpected(received.kind));
    }
    let request = parse_request(received.body)?;
    tally.calling = title(&request.calling_ae_title);
    if context.options.require_called_ae && request.called_ae_title.trim() != context.options.ae_title {
        context.stats.rejected.fetch_add(1, Ordering::Relaxed);
        let reason = AssociationRJServiceUserReason::CalledAETitleNotRecognized;
        send(
            stream,
            &Pdu::AssociationRJ(AssociationRJ { result: AssociationRJResult::Permanent, source: AssociationRJSource::ServiceUser(reason) }),
        )?;
        log::warn!("association rejected reason=called_ae called={:?}", title(&request.called_ae_title));
        return Err(WireError::Closed);
    }
    let (answer, accepted) = negotiate(&request);
    send(stream, &Pdu::AssociationAC(answer))?;
    context.stats.associations.fetch_add(1, Ordering::Relaxed);
    let mut session = Session { context, calling: tally.calling.clone(), accepted, command: Vec::new(), store: None };
    loop {
        let received = wire::read(stream, &mut buffer, context.options.idle_timeout)?;
        match received.kind {
            pdu::DATA => {
                for value in wire::values(received.body)? {
                    if let Some((id, response)) = session.value(&value, tally)? {
                        wire::send_command(stream, id, &response)?;
                    }
                }
            }
            pdu::RELEASE_RQ => {
                send(stream, &Pdu::ReleaseRP)?;
                return Ok(());
            }
            pdu::ABORT => return Err(WireError::Damaged("aborted by the peer")),
            other => return Err(WireError::Unexpected(other)),
        }
    }
}

/// An AE title as it may be logged: 16 characters, nothing that breaks a line.
fn title(raw: &str) -> String {
    let mut title: heapless::String<16> = heapless::String::new();
    for c in raw.trim().chars().filter(|c| c.is_ascii_graphic() || *c == ' ') {
        if title.push(c).is_err() {
            break;
        }
    }
    title.as_str().to_owned()
}

fn parse_request(body: &[u8]) -> Result<AssociationRQ, WireError> {
    let mut whole = vec![pdu::ASSOCIATE_RQ, 0];
    whole.extend_from_slice(&(body.len() as u32).to_be_bytes());
    whole.extend_from_slice(body);
    // The parser is not ours and reads what a stranger wrote.
    let parsed = std::panic::catch_unwind(|| read_pdu(whole.as_slice(), wire::MOST_PDATA_BYTES, false));
    match parsed {
        Ok(Ok(Some(Pdu::AssociationRQ(request)))) => Ok(request),
        _ => Err(WireError::Damaged("A-ASSOCIATE-RQ cannot be parsed")),
    }
}

/// A UID of a peer as it may be logged: what is none is quoted, escaped and cut.
fn shown(uid: &str) -> String {
    if is_uid(uid) { uid.to_owned() } else { format!("{:?}", uid.chars().take(64).collect::<String>()) }
}

/// Whether instances of this class are sent with C-STORE. Private classes, and those of later editions, are taken for storage: an auto-forward
/// rule must not fail on what we have never heard of.
fn is_storage(class: &str) -> bool {
    let below = |uid: &str, root: &str| uid.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    is_uid(class)
        && match class.strip_prefix(COMPOSITE_ROOT) {
            Some(rest) => !OTHER_SERVICES.iter().any(|service| below(rest, service)),
            None => !below(class, DICOM_ROOT) || PRINTED_STORAGE.contains(&class),
        }
}

fn negotiate(request: &AssociationRQ) -> (AssociationAC, Vec<Accepted>) {
    use PresentationContextResultReason as Reason;
    let clean = |t: &str| t.trim_end_matches(['\0', ' ']).to_owned();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    let results = request
        .presentation_contexts
        .iter()
        .map(|proposed| {
            let class = clean(&proposed.abstract_syntax);
            let known = class == VERIFICATION || is_storage(&class);
            let offered: Vec<String> = proposed.transfer_syntaxes.iter().map(|t| clean(t)).collect();
            let chosen = TRANSFER_SYNTAXES.iter().find(|t| offered.iter().any(|o| o == *t));
            let (reason, syntax) = match (known, chosen) {
                (false, _) => (Reason::AbstractSyntaxNotSupported, "1.2.840.10008.1.2"),
                (true, None) => (Reason::TransferSyntaxesNotSupported, "1.2.840.10008.1.2"),
                (true, Some(t)) => (Reason::Acceptance, *t),
            };
            if reason == Reason::Acceptance {
                accepted.push(Accepted { id: proposed.id, transfer_syntax: syntax.to_owned() });
            } else {
                refused += 1;
                if refused <= MOST_LOGGED {
                    let offered: Vec<String> = offered.iter().take(MOST_LOGGED).map(|o| shown(o)).collect();
                    log::info!("presentation context refused class={} offered={}", shown(&class), offered.join(","));
                }
            }
            PresentationContextResult { id: proposed.id, reason, transfer_syntax: syntax.to_owned() }
        })
        .collect();
    if refused > MOST_LOGGED {
        log::info!("presentation contexts refused more={}", refused - MOST_LOGGED);
    }
    let answer = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: APPLICATION_CONTEXT.into(),
        presentation_contexts: results,
        user_variables: vec![
            UserVariableItem::MaxLength(wire::MOST_PDATA_BYTES),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.into()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.into()),
        ],
    };
    (answer, accepted)
}

/// A C-STORE under way: the request, its context, and the object or the status that it will be refused with.
struct Store<'a> {
    request: Command,
    id: u8,
    transfer_syntax: String,
    object: Result<Incoming<'a>, (u16, String)>,
}

struct Session<'a> {
    context: &'a Context<'a>,
    calling: String,
    accepted: Vec<Accepted>,
    command: Vec<u8>,
    store: Option<Store<'a>>,
}

type Response = Option<(u8, Vec<u8>)>;

impl<'a> Session<'a> {
    /// One PDV; a response where it completes something.
    fn value(&mut self, value: &wire::Pdv<'_>, tally: &mut Tally) -> Result<Response, WireError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use dicom_ul::pdu::PresentationContextProposed;

    fn request(presentation_contexts: Vec<PresentationContextProposed>) -> AssociationRQ {
        AssociationRQ {
            protocol_version: 1,
            calling_ae_title: "CT".into(),
            called_ae_title: "LESIONWATCH".into(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts,
            user_variables: Vec::new(),
        }
    }

    #[test]
    fn every_storage_class_is_accepted_and_no_other_service() {
        // Digital X-ray, dose report, what is beside the storage root, private ones of Siemens, GE and Philips, one of an edition to come.
        for class in [
            "1.2.840.10008.5.1.4.1.1.1.1",
            "1.2.840.10008.5.1.4.1.1.88.67",
            "1.2.840.10008.5.1.4.39.1",
            "1.2.840.10008.5.1.4.38.1",
            "1.2.840.10008.5.1.4.34.1",
            "1.2.840.10008.5.1.4.34.7",
            "1.2.840.10008.5.1.4.34.10",
            "1.2.840.10008.5.1.4.43.1",
            "1.2.840.10008.5.1.4.44.1",
            "1.2.840.10008.5.1.4.45.1",
            "1.2.840.10008.5.1.1.29",
            "1.3.12.2.1107.5.9.1",
            "1.2.840.113619.4.30",
            "1.3.46.670589.11.0.0.12.1",
            "1.2.840.10008.5.1.4.1.1.999.1",
        ] {
            assert!(is_storage(class), "{class}");
        }
        // Query and retrieve, worklists, procedure steps, commitment, print, unified steps, machine verification, notification, queries, display,
        // media directory, transfer syntax, and what is no UID.
        for class in [
            "1.2.840.10008.5.1.4.1.2.1.1",
            "1.2.840.10008.5.1.4.1.2.2.3",
            "1.2.840.10008.5.1.4.1.2.9.9",
            "1.2.840.10008.5.1.4.31",
            "1.2.840.10008.5.1.4.32.1",
            "1.2.840.10008.3.1.2.3.3",
            "1.2.840.10008.1.20.1",
            "1.2.840.10008.1.9",
            "1.2.840.10008.1.40",
            "1.2.840.10008.1.42",
            "1.2.840.10008.5.1.1.9",
            "1.2.840.10008.5.1.1.16",
            "1.2.840.10008.5.1.4.34.6.1",
            "1.2.840.10008.5.1.4.34.4.1",
            "1.2.840.10008.5.1.4.34.8",
            "1.2.840.10008.5.1.4.33",
            "1.2.840.10008.5.1.4.37.1",
            "1.2.840.10008.5.1.4.38.2",
            "1.2.840.10008.5.1.4.39.4",
            "1.2.840.10008.5.1.4.41",
            "1.2.840.10008.5.1.4.1.1.200.4",
            "1.2.840.10008.5.1.4.1.1.201.6",
            "1.2.840.10008.5.1.1.40",
            "1.2.840.10008.1.3.10",
            "1.2.840.10008.10.1",
            "1.2.840.10008.1.2.1",
            "1.2.840.10008.4.2",
            "1.3.12.2.1107.\n5",
            "CT Image Storage",
            "",
        ] {
            assert!(!is_storage(class), "{class}");
        }
        for class in OF_NO_PATIENT {
            assert!(is_storage(class), "{class}");
        }
        let proposed = |id, class: &str| PresentationContextProposed {
            id,
            abstract_syntax: class.into(),
            transfer_syntaxes: vec!["1.2.840.10008.1.2".into()],
        };
        let (_, accepted) = negotiate(&request(vec![
            proposed(1, "1.3.12.2.1107.5.9.1\0"),
            proposed(3, "1.2.840.10008.5.1.4.31"),
            proposed(5, VERIFICATION),
        ]));
        assert_eq!(accepted.iter().map(|a| a.id).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn what_a_peer_writes_stays_on_its_line() {
        assert_eq!(shown("1.2.840"), "1.2.840");
        let forged = shown("1.2\n2026-01-01 INFO association end=\x1b[31m");
        assert!(!forged.chars().any(char::is_control) && forged.starts_with('"'), "{forged}");
        assert!(shown(&"\u{7f}".repeat(9000)).len() < 1000);
    }

    #[test]
    fn what_loses_less_is_preferred_and_what_cannot_be_decoded_refused() {
        let proposed = |id: u8, endings: &[&str]| PresentationContextProposed {
            id,
            abstract_syntax: "1.2.840.10008.5.1.4.1.1.2".into(),
            transfer_syntaxes: endings.iter().map(|e| format!("1.2.840.10008.1.2.4.{e}")).collect(),
        };
        let (answer, accepted) =
            negotiate(&request(vec![proposed(1, &["50", "51", "70"]), proposed(3, &["50", "51"]), proposed(5, &["53", "55"])]));
        let chosen: Vec<_> = accepted.iter().map(|a| (a.id, a.transfer_syntax.as_str())).collect();
        assert_eq!(chosen, [(1, "1.2.840.10008.1.2.4.70"), (3, "1.2.840.10008.1.2.4.51")]);
        assert_eq!(answer.presentation_contexts[2].reason, PresentationContextResultReason::TransferSyntaxesNotSupported);
    }
}
