//! What the receiver offers: SOP classes, transfer syntaxes, and how presentation contexts are answered (PS3.8 9.3.3). The conformance statement is
//! written from the same tables. Pure.

use dicom_ul::pdu::{
    AssociationAC, AssociationRQ, PresentationContextResult, PresentationContextResultReason, RequestorRoles, UserVariableItem,
};

use super::commitment;
use super::peek::is_uid;
use super::peers::Peer;
use super::wire;

/// Verification SOP Class.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Of the association responses (PS3.7 D.3.3.2).
pub const IMPLEMENTATION_CLASS: &str = "2.25.104353216174283041617351293172054011713";
/// Of the association responses.
pub const IMPLEMENTATION_VERSION: &str = concat!("LESIONWATCH_", env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
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
pub const OF_NO_PATIENT: [&str; 9] = [
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
/// In the order of preference: what needs least work first, then lossless before lossy.
pub const TRANSFER_SYNTAXES: [&str; 13] = [
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

/// An accepted presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its identifier.
    pub id: u8,
    /// What it was negotiated for.
    pub abstract_syntax: String,
    /// How its data sets are written.
    pub transfer_syntax: String,
}

/// A UID of a peer as it may be logged: what is none is quoted, escaped and cut.
fn shown(uid: &str) -> String {
    if is_uid(uid) { uid.to_owned() } else { format!("{:?}", uid.chars().take(64).collect::<String>()) }
}

/// Whether instances of this class are sent with C-STORE. Private classes, and those of later editions, are taken for storage: an auto-forward
/// rule must not fail on what we have never heard of.
#[must_use]
pub fn is_storage(class: &str) -> bool {
    let below = |uid: &str, root: &str| uid.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    is_uid(class)
        && match class.strip_prefix(COMPOSITE_ROOT) {
            Some(rest) => !OTHER_SERVICES.iter().any(|service| below(rest, service)),
            None => !below(class, DICOM_ROOT) || PRINTED_STORAGE.contains(&class),
        }
}

/// Transfer syntaxes of a class, best first; `None` where it is not offered to `peer`.
#[must_use]
pub fn supported(class: &str, peer: Option<&Peer>) -> Option<&'static [&'static str]> {
    if class == VERIFICATION || (is_storage(class) && peer.is_none_or(|p| p.may_store(class))) {
        return Some(&TRANSFER_SYNTAXES);
    }
    (class == commitment::CLASS && peer.is_some_and(|p| p.allow_commitment)).then_some(&commitment::TRANSFER_SYNTAXES)
}

/// Answers every presentation context of `request`; `peer` narrows what it may store. Returns the response and what was accepted.
#[must_use]
pub fn negotiate(request: &AssociationRQ, peer: Option<&Peer>) -> (AssociationAC, Vec<Accepted>) {
    use PresentationContextResultReason as Reason;
    let clean = |t: &str| t.trim_end_matches(['\0', ' ']).to_owned();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    let results = request
        .presentation_contexts
        .iter()
        .map(|proposed| {
            let class = clean(&proposed.abstract_syntax);
            let supported = supported(&class, peer);
            let offered: Vec<String> = proposed.transfer_syntaxes.iter().map(|t| clean(t)).collect();
            let chosen = supported.unwrap_or_default().iter().find(|t| offered.iter().any(|o| o == *t));
            let (reason, syntax) = match (supported.is_some(), chosen) {
                (false, _) => (Reason::AbstractSyntaxNotSupported, "1.2.840.10008.1.2"),
                (true, None) => (Reason::TransferSyntaxesNotSupported, "1.2.840.10008.1.2"),
                (true, Some(t)) => (Reason::Acceptance, *t),
            };
            if reason == Reason::Acceptance {
                accepted.push(Accepted { id: proposed.id, abstract_syntax: class, transfer_syntax: syntax.to_owned() });
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
    let commitment = accepted.iter().any(|a| a.abstract_syntax == commitment::CLASS);
    // PS3.7 D.3.3.4: who asks for commitment is its user; nothing else is negotiated, and what is not answered keeps its default.
    let roles = request.user_variables.iter().filter_map(|v| match v {
        UserVariableItem::ScuScpRoleSelectionSubItem(class, roles) if commitment && clean(class) == commitment::CLASS => {
            Some(UserVariableItem::ScuScpRoleSelectionSubItem(clean(class), RequestorRoles { scu: roles.scu, scp: false }))
        }
        _ => None,
    });
    let said = [
        UserVariableItem::MaxLength(wire::MOST_PDATA_BYTES),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.into()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.into()),
    ];
    let answer = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: wire::APPLICATION_CONTEXT.into(),
        presentation_contexts: results,
        user_variables: said.into_iter().chain(roles).collect(),
    };
    (answer, accepted)
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
            application_context_name: wire::APPLICATION_CONTEXT.into(),
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
        let (_, accepted) = negotiate(
            &request(vec![proposed(1, "1.3.12.2.1107.5.9.1\0"), proposed(3, "1.2.840.10008.5.1.4.31"), proposed(5, VERIFICATION)]),
            None,
        );
        assert_eq!(accepted.iter().map(|a| a.id).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn a_peer_may_store_what_its_configuration_says_and_always_echo() {
        let peer = Peer { sop_classes: vec!["1.2.840.10008.5.1.4.1.1.2".into()], ..Peer::default() };
        let proposed = |id, class: &str| PresentationContextProposed {
            id,
            abstract_syntax: class.into(),
            transfer_syntaxes: vec!["1.2.840.10008.1.2".into()],
        };
        let wanted = vec![proposed(1, "1.2.840.10008.5.1.4.1.1.2"), proposed(3, "1.2.840.10008.5.1.4.1.1.4"), proposed(5, VERIFICATION)];
        let (_, accepted) = negotiate(&request(wanted), Some(&peer));
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
            negotiate(&request(vec![proposed(1, &["50", "51", "70"]), proposed(3, &["50", "51"]), proposed(5, &["53", "55"])]), None);
        let chosen: Vec<_> = accepted.iter().map(|a| (a.id, a.transfer_syntax.as_str())).collect();
        assert_eq!(chosen, [(1, "1.2.840.10008.1.2.4.70"), (3, "1.2.840.10008.1.2.4.51")]);
        assert_eq!(answer.presentation_contexts[2].reason, PresentationContextResultReason::TransferSyntaxesNotSupported);
    }
}
