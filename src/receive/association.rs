//! One association: negotiation, then messages until release, abort or silence.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dicom_ul::pdu::{AbortRQServiceProviderReason, AbortRQSource, AssociationRQ, Pdu, read_pdu, write_pdu};

use super::ReceiveEvent;
use super::context::{Context, Tally};
use super::peers::Refusal;
use super::roster::Seat;
use super::services::negotiate;
use super::session::Session;
use super::stream::Link;
use super::wire::{self, WireError, pdu};

/// Of an association that was silent for too long.
const ABORT: Pdu = Pdu::AbortRQ { source: AbortRQSource::ServiceProvider(AbortRQServiceProviderReason::ReasonNotSpecified) };
/// ARTIM (PS3.8 9.1.5): a connection whose whole request for an association, TLS handshake included, is not there within this is closed.
pub const ARTIM: Duration = Duration::from_secs(30);
/// A peer that asked for storage commitment and neither sends nor releases for so long waits for the report on the same association.
pub const REPORT_AFTER: Duration = Duration::from_millis(300);

/// Serves one connection to its end; writes one log line.
pub fn serve(stream: &mut impl Link, seat: &mut Seat, context: &Context<'_>) {
    let begin = Instant::now();
    let mut tally = Tally::default();
    let ended = run(stream, seat, context, &mut tally);
    let released = matches!(ended, Ok(End::Released));
    let seconds = begin.elapsed().as_secs_f64().max(1e-6);
    let how = match &ended {
        Ok(End::Released) => "released".to_owned(),
        Ok(End::Refused(refusal)) => format!("refused: {}", refusal.name()),
        Err(e) => e.to_string(),
    };
    if matches!(ended, Err(WireError::TooLong { .. } | WireError::Unexpected(_) | WireError::Damaged(_))) {
        // The peer may be gone; it is told all the same.
        let _ = send(stream, &Pdu::AbortRQ { source: AbortRQSource::ServiceProvider(AbortRQServiceProviderReason::UnexpectedPdu) });
    }
    log::info!(
        "association number={} peer={} over={} calling={:?} objects={} refused={} mib={:.1} seconds={seconds:.2} per_second={:.0} end={how:?}",
        context.number,
        context.peer,
        stream.transport(),
        tally.calling,
        tally.objects,
        tally.refused,
        tally.bytes as f64 / 1_048_576.0,
        tally.objects as f64 / seconds
    );
    stream.close();
    // The analysis waits for this to know that nothing more will come; a closed channel means the appliance is stopping.
    let _ = context.events.send(ReceiveEvent::AssociationEnded { association: context.number, released });
}

fn send(stream: &mut impl Link, pdu: &Pdu) -> io::Result<()> {
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, pdu).map_err(io::Error::other)?;
    stream.write_all(&bytes)?;
    stream.flush()
}

/// How an association ended where nothing went wrong.
enum End {
    Released,
    Refused(Refusal),
}

fn run(stream: &mut impl Link, seat: &mut Seat, context: &Context<'_>, tally: &mut Tally) -> Result<End, WireError> {
    let mut buffer = Vec::new();
    let by = context.since + ARTIM;
    let received = wire::read_within(stream, &mut buffer, by.saturating_duration_since(Instant::now()), Some(by))?;
    if received.kind != pdu::ASSOCIATE_RQ {
        return Err(WireError::Unexpected(received.kind));
    }
    let request = parse_request(&received)?;
    tally.calling = title(&request.calling_ae_title);
    let admission = &context.options.admission;
    let judged = admission.judge(&request, context.peer.ip());
    let (place, peer) = match judged.and_then(|place| Ok((place, seat.take(place, admission)?))) {
        Ok(found) => found,
        Err(refusal) => {
            context.stats.refused_association(refusal);
            let (called, calling) = (title(&request.called_ae_title), &tally.calling);
            log::warn!("association rejected reason={} peer={} calling={calling:?} called={called:?}", refusal.name(), context.peer);
            stream.write_all(&refusal.pdu())?;
            stream.flush()?;
            return Ok(End::Refused(refusal));
        }
    };
    let (answer, accepted) = negotiate(&request, peer);
    send(stream, &Pdu::AssociationAC(answer))?;
    context.stats.associations.fetch_add(1, Ordering::Relaxed);
    let mut session = Session::new(context, tally.calling.clone(), place, accepted);
    let most = wire::peer_limit(&request.user_variables);
    loop {
        let quiet = if session.has_report() { REPORT_AFTER } else { context.options.idle_timeout };
        let received = match wire::read(stream, &mut buffer, quiet) {
            Err(WireError::Idle(_)) if session.has_report() => {
                if let Some(report) = session.report() {
                    wire::send(stream, &report, most)?;
                }
                continue;
            }
            Err(silent @ WireError::Idle(_)) => {
                // The peer may be gone.
                let _ = send(stream, &ABORT);
                return Err(silent);
            }
            other => other?,
        };
        match received.kind {
            pdu::DATA => {
                for value in wire::values(received.body)? {
                    if let Some(response) = session.value(&value, tally)? {
                        wire::send(stream, &response, most)?;
                    }
                }
            }
            pdu::RELEASE_RQ => {
                send(stream, &Pdu::ReleaseRP)?;
                return Ok(End::Released);
            }
            pdu::ABORT => return Err(WireError::Aborted),
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

fn parse_request(received: &wire::Received<'_>) -> Result<AssociationRQ, WireError> {
    let whole = wire::whole(received);
    // The parser is not ours and reads what a stranger wrote.
    let parsed = std::panic::catch_unwind(|| read_pdu(whole.as_slice(), wire::MOST_PDATA_BYTES, false));
    match parsed {
        Ok(Ok(Some(Pdu::AssociationRQ(request)))) => Ok(request),
        _ => Err(WireError::Damaged("A-ASSOCIATE-RQ cannot be parsed")),
    }
}
