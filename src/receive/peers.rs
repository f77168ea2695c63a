//! Who may talk: the peers of the configuration, and why an association is refused (PS3.8 9.3.4). Pure.

use std::net::IpAddr;
use std::str::FromStr;

use dicom_ul::pdu::AssociationRQ;

use super::wire::APPLICATION_CONTEXT;

/// A range of addresses, written `10.1.0.0/16`, `fd00::/8` or as one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write an address or a range, as \"10.1.2.3\", \"10.1.0.0/16\" or \"fd00::/8\"".to_owned();
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |p| p.parse().map_err(|_| wrong()))?;
        if prefix > bits {
            return Err(format!("a prefix of this kind of address has at most {bits} bits"));
        }
        let network = Self { first: address, prefix };
        if address_bits(address) & !network.mask() != 0 {
            return Err(format!("it has bits set behind the first {prefix}; write the first address of the range"));
        }
        Ok(network)
    }
}

/// An address as 128 bits, an IPv4 one in the lowest 32.
fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl Network {
    fn mask(&self) -> u128 {
        let bits = if self.first.is_ipv4() { 32 } else { 128 };
        let host = u32::from(bits - self.prefix);
        u128::MAX.checked_shl(host).unwrap_or(0)
    }

    /// Whether `address` lies in the range; an IPv4 address mapped into IPv6 counts as what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && address_bits(address) & self.mask() == address_bits(self.first)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// Whose settled series are analysed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Before others.
    High,
    /// Of peers that nothing is said of, and where none are configured.
    #[default]
    Normal,
    /// After others.
    Low,
}

impl Priority {
    /// The word in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// One `[[dicom.peer]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Its AE title; `None` is any (`"*"`).
    pub calling_ae: Option<String>,
    /// Where it calls from; empty is anywhere.
    pub addresses: Vec<Network>,
    /// Its associations at once.
    pub max_associations: usize,
    /// SOP classes it may store; empty is all.
    pub sop_classes: Vec<String>,
    /// It may ask for storage commitment.
    pub allow_commitment: bool,
    /// `host:port` that results of storage commitment go to where its own association is closed.
    pub commitment_address: Option<String>,
    /// They go there over TLS.
    pub commitment_tls: bool,
    /// Bytes of the spool that its objects may hold until they are analysed; `None` is no quota of its own.
    pub quota_bytes: Option<u64>,
    /// When its series are analysed.
    pub priority: Priority,
}

impl Peer {
    fn calls_from(&self, address: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|n| n.contains(address))
    }

    /// Whether it may store objects of this class.
    #[must_use]
    pub fn may_store(&self, class: &str) -> bool {
        self.sop_classes.is_empty() || self.sop_classes.iter().any(|c| c == class)
    }
}

/// Why an association is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As many associations as are allowed, in total, from this address or from this peer.
    LocalLimit,
    /// No configured peer has this address or this title.
    CallingAe,
    /// It calls another title than ours.
    CalledAe,
    /// Not DICOM's application context.
    ApplicationContext,
    /// Another version of the upper layer protocol.
    ProtocolVersion,
}

impl Refusal {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::LocalLimit, Self::CallingAe, Self::CalledAe, Self::ApplicationContext, Self::ProtocolVersion];

    /// The word in log and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalLimit => "local_limit",
            Self::CallingAe => "calling_ae",
            Self::CalledAe => "called_ae",
            Self::ApplicationContext => "application_context",
            Self::ProtocolVersion => "protocol_version",
        }
    }

    /// Result, source and reason of the A-ASSOCIATE-RJ (PS3.8 table 9-21).
    #[must_use]
    pub const fn codes(self) -> [u8; 3] {
        match self {
            Self::LocalLimit => [2, 3, 2],
            Self::CallingAe => [1, 1, 3],
            Self::CalledAe => [1, 1, 7],
            Self::ApplicationContext => [1, 1, 2],
            Self::ProtocolVersion => [1, 2, 2],
        }
    }

    /// When it is sent, for the conformance statement.
    #[must_use]
    pub const fn when(self) -> &'static str {
        match self {
            Self::LocalLimit => "as many associations are open as are allowed in total, from this address or by this peer",
            Self::CallingAe => "no configured peer has this calling AE title and address",
            Self::CalledAe => "another AE title is called than the configured one",
            Self::ApplicationContext => "the application context is not 1.2.840.10008.3.1.1.1",
            Self::ProtocolVersion => "version 1 of the upper layer protocol is not offered",
        }
    }

    /// The whole A-ASSOCIATE-RJ PDU.
    #[must_use]
    pub const fn pdu(self) -> [u8; 10] {
        let [result, source, reason] = self.codes();
        [0x03, 0, 0, 0, 0, 4, 0, result, source, reason]
    }
}

/// Whom the receiver answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admission {
    /// The title that must be called; `None` is any.
    pub called_ae: Option<String>,
    /// Known peers; empty is anyone, without storage commitment.
    pub peers: Vec<Peer>,
}

impl Admission {
    /// Associations at once from `address`, `None` where no peer calls from there. `without_peers` is the cap where none are configured.
    #[must_use]
    pub fn cap(&self, address: IpAddr, without_peers: usize) -> Option<usize> {
        if self.peers.is_empty() {
            return Some(without_peers);
        }
        let mut here = self.peers.iter().filter(|p| p.calls_from(address)).map(|p| p.max_associations).peekable();
        here.peek()?;
        Some(here.sum())
    }

    /// Which peer (its place in the list) `calling` at `address` is; a peer with that very title before one with any title.
    #[must_use]
    pub fn find(&self, calling: &str, address: IpAddr) -> Option<usize> {
        let named = |wanted: Option<&str>| self.peers.iter().position(|p| p.calling_ae.as_deref() == wanted && p.calls_from(address));
        named(Some(calling.trim())).or_else(|| named(None))
    }

    /// Which peer an object in the spool came from, as far as its title tells; `None` where it is none of those that are configured.
    #[must_use]
    pub fn by_title(&self, calling: &str) -> Option<usize> {
        let named = |wanted: Option<&str>| self.peers.iter().position(|p| p.calling_ae.as_deref() == wanted);
        named(Some(calling.trim())).or_else(|| named(None))
    }

    /// The priority of the peer in this place.
    #[must_use]
    pub fn priority(&self, place: Option<usize>) -> Priority {
        place.and_then(|p| self.peers.get(p)).map(|p| p.priority).unwrap_or_default()
    }

    /// Judges a request; the peer's place in the list, or `None` where none are configured.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn judge(&self, request: &AssociationRQ, address: IpAddr) -> Result<Option<usize>, Refusal> {
        // PS3.8 table 9-11: bit 0 is version 1; others are ignored.
        if request.protocol_version & 1 == 0 {
            return Err(Refusal::ProtocolVersion);
        }
        if request.application_context_name.trim_end_matches(['\0', ' ']) != APPLICATION_CONTEXT {
            return Err(Refusal::ApplicationContext);
        }
        if self.called_ae.as_ref().is_some_and(|ours| request.called_ae_title.trim() != ours.trim()) {
            return Err(Refusal::CalledAe);
        }
        match self.find(&request.calling_ae_title, address) {
            None if !self.peers.is_empty() => Err(Refusal::CallingAe),
            found => Ok(found),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn peer(calling_ae: Option<&str>, addresses: &[&str], max_associations: usize) -> Peer {
        Peer {
            calling_ae: calling_ae.map(str::to_owned),
            addresses: addresses.iter().map(|a| network(a)).collect(),
            max_associations,
            ..Peer::default()
        }
    }

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        for (range, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "fe80::1", "10.0.0.1"),
            ("192.168.7.0/25", "::ffff:192.168.7.127", "192.168.7.128"),
        ] {
            assert!(network(range).contains(inside.parse().unwrap()), "{range} {inside}");
            assert!(!network(range).contains(outside.parse().unwrap()), "{range} {outside}");
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0.1/24", "host/8", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_very_title_comes_before_any_title() {
        let peers = vec![peer(None, &["10.0.0.0/8"], 2), peer(Some("CT1"), &["10.1.0.0/16"], 4)];
        let admission = Admission { called_ae: None, peers };
        let at = |calling, address: &str| admission.find(calling, address.parse().unwrap());
        assert_eq!(at("CT1 ", "10.1.0.1"), Some(1));
        assert_eq!(at("CT1", "10.2.0.1"), Some(0));
        assert_eq!(at("CT1", "192.168.0.1"), None);
        assert_eq!(admission.cap("10.1.0.1".parse().unwrap(), 9), Some(6));
        assert_eq!(admission.cap("10.2.0.1".parse().unwrap(), 9), Some(2));
        assert_eq!(admission.cap("192.168.0.1".parse().unwrap(), 9), None);
        assert_eq!(Admission::default().cap("192.168.0.1".parse().unwrap(), 9), Some(9));
    }

    #[test]
    fn every_refusal_is_one_of_the_standards() {
        let request = AssociationRQ {
            protocol_version: 1,
            calling_ae_title: "CT1".into(),
            called_ae_title: "LESIONWATCH".into(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: Vec::new(),
            user_variables: Vec::new(),
        };
        let admission = Admission { called_ae: Some("LESIONWATCH".into()), peers: vec![peer(Some("CT1"), &[], 1)] };
        let judge = |change: &dyn Fn(&mut AssociationRQ)| {
            let mut changed = request.clone();
            change(&mut changed);
            admission.judge(&changed, "127.0.0.1".parse().unwrap())
        };
        assert_eq!(judge(&|_| ()), Ok(Some(0)));
        assert_eq!(judge(&|r| r.calling_ae_title = "CT2".into()), Err(Refusal::CallingAe));
        assert_eq!(judge(&|r| r.called_ae_title = "PACS".into()), Err(Refusal::CalledAe));
        assert_eq!(judge(&|r| r.application_context_name = "1.2".into()), Err(Refusal::ApplicationContext));
        assert_eq!(judge(&|r| r.protocol_version = 2), Err(Refusal::ProtocolVersion));
        assert_eq!(Refusal::LocalLimit.pdu(), [3, 0, 0, 0, 0, 4, 0, 2, 3, 2]);
    }

    proptest! {
        #[test]
        fn a_range_holds_its_first_address(bits in any::<u32>(), prefix in 0u8..=32) {
            let first = std::net::Ipv4Addr::from_bits(if prefix == 0 { 0 } else { bits >> (32 - prefix) << (32 - prefix) });
            let range: Network = format!("{first}/{prefix}").parse().unwrap();
            prop_assert!(range.contains(std::net::Ipv4Addr::from_bits(bits).into()));
        }
    }
}
