//! An association that we ask for: one report of a storage commitment to a peer (PS3.4 J.3.3; PS3.7 10.1.1, D.3.3.4 role selection).

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::panic::catch_unwind;
use std::time::Duration;

use dicom_ul::pdu::{
    AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResultReason, RequestorRoles, UserVariableItem, read_pdu, write_pdu,
};

use super::commitment::{CLASS, TRANSFER_SYNTAXES};
use super::dimse;
use super::services::{IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION};
use super::stream::{Link, Socket, Stream};
use super::tls::Tls;
use super::wire::{self, APPLICATION_CONTEXT, Message, WireError, pdu};

/// A peer that cannot be reached within this is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const CONTEXT: u8 = 1;

/// Why a report did not reach the peer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// As configured.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection failed later.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It does not want the association, or not for this.
    #[error("the association was refused: {0}")]
    Refused(String),
    /// It took the report with another status than Success.
    #[error("the report was answered with status 0x{0:04X}")]
    Status(u16),
}

/// Whom to call, and as whom.
pub struct Call<'a> {
    /// `host:port`.
    pub address: &'a str,
    /// Its AE title.
    pub called_ae: &'a str,
    /// Ours.
    pub calling_ae: &'a str,
    /// Over TLS.
    pub tls: Option<&'a Tls>,
}

/// Sends one report, made by `report` for the transfer syntax that was agreed on, and releases the association.
///
/// # Errors
/// [`CallError`]; the report may have arrived all the same where the connection failed after it was sent.
pub fn send(call: &Call<'_>, report: impl FnOnce(&str) -> Message) -> Result<(), CallError> {
    let mut stream = connect(call)?;
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationRQ(request(call))).map_err(|e| WireError::Io(io::Error::other(e)))?;
    stream.write_all(&bytes).and_then(|()| stream.flush()).map_err(WireError::Io)?;
    let mut buffer = Vec::new();
    let (transfer_syntax, most) = agreed(&wire::read(&mut stream, &mut buffer, ANSWER_WITHIN)?)?;
    let message = Message { context: CONTEXT, ..report(&transfer_syntax) };
    wire::send(&mut stream, &message, most).map_err(WireError::Io)?;
    let status = answer(&mut stream, &mut buffer)?;
    // The peer has the report, whatever becomes of the goodbye.
    let goodbye = stream.write_all(&wire::RELEASE_RQ).and_then(|()| stream.flush());
    if goodbye.is_ok() {
        let _ = wire::read(&mut stream, &mut buffer, ANSWER_WITHIN);
    }
    stream.close();
    if status == dimse::status::SUCCESS { Ok(()) } else { Err(CallError::Status(status)) }
}

fn connect(call: &Call<'_>) -> Result<Stream, CallError> {
    let unreachable = |source| CallError::Unreachable { address: call.address.to_owned(), source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in call.address.to_socket_addrs().map_err(unreachable)? {
        match TcpStream::connect_timeout(&address, CONNECT_WITHIN).and_then(Socket::new) {
            Ok(socket) => {
                let Some(tls) = call.tls else { return Ok(Stream::Plain(socket)) };
                let host = call.address.rsplit_once(':').map_or(call.address, |(host, _)| host).trim_matches(['[', ']']);
                return tls.connect(socket, host).map_err(unreachable);
            }
            Err(e) => last = e,
        }
    }
    Err(unreachable(last))
}

fn request(call: &Call<'_>) -> AssociationRQ {
    AssociationRQ {
        protocol_version: 1,
        calling_ae_title: call.calling_ae.to_owned(),
        called_ae_title: call.called_ae.to_owned(),
        application_context_name: APPLICATION_CONTEXT.into(),
        presentation_contexts: vec![PresentationContextProposed {
            id: CONTEXT,
            abstract_syntax: CLASS.into(),
            transfer_syntaxes: TRANSFER_SYNTAXES.map(str::to_owned).to_vec(),
        }],
        user_variables: vec![
            UserVariableItem::MaxLength(wire::MOST_PDATA_BYTES),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.into()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.into()),
            // We ask for the association and are the provider of the service all the same.
            UserVariableItem::ScuScpRoleSelectionSubItem(CLASS.into(), RequestorRoles { scu: false, scp: true }),
        ],
    }
}

/// Transfer syntax and longest PDU that the peer agrees to.
fn agreed(received: &wire::Received<'_>) -> Result<(String, u32), CallError> {
    match received.kind {
        pdu::ASSOCIATE_AC => {}
        pdu::ASSOCIATE_RJ => {
            let codes = received.body.get(1..4).unwrap_or_default();
            return Err(CallError::Refused(format!("A-ASSOCIATE-RJ result, source, reason {codes:?}")));
        }
        pdu::ABORT => return Err(CallError::Refused("aborted".into())),
        other => return Err(WireError::Unexpected(other).into()),
    }
    let whole = wire::whole(received);
    // The parser is not ours and reads what a stranger wrote.
    let parsed = catch_unwind(|| read_pdu(whole.as_slice(), wire::MOST_PDATA_BYTES, false));
    let Ok(Ok(Some(Pdu::AssociationAC(accepted)))) = parsed else {
        return Err(WireError::Damaged("A-ASSOCIATE-AC cannot be parsed").into());
    };
    let context =
        accepted.presentation_contexts.iter().find(|c| c.id == CONTEXT && c.reason == PresentationContextResultReason::Acceptance);
    let Some(context) = context else { return Err(CallError::Refused("Storage Commitment is not accepted".into())) };
    let syntax = context.transfer_syntax.trim_end_matches(['\0', ' ']);
    if !TRANSFER_SYNTAXES.contains(&syntax) {
        return Err(CallError::Refused("a transfer syntax that was not proposed".into()));
    }
    Ok((syntax.to_owned(), wire::peer_limit(&accepted.user_variables)))
}

/// Status of the N-EVENT-REPORT-RSP.
fn answer(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<u16, CallError> {
    let mut command = Vec::new();
    loop {
        let received = wire::read(stream, buffer, ANSWER_WITHIN)?;
        match received.kind {
            pdu::DATA => {}
            pdu::ABORT => return Err(CallError::Refused("aborted".into())),
            other => return Err(WireError::Unexpected(other).into()),
        }
        for value in wire::values(received.body)? {
            if !value.command || command.len() + value.data.len() > dimse::MOST_COMMAND_BYTES {
                return Err(WireError::Damaged("not the answer to a report").into());
            }
            command.extend_from_slice(value.data);
            if value.last {
                let response = dimse::parse(&command).map_err(|_| WireError::Damaged("command set cannot be parsed"))?;
                if response.field != dimse::N_EVENT_REPORT_RSP {
                    return Err(WireError::Damaged("not the answer to a report").into());
                }
                return Ok(response.status);
            }
        }
    }
}
