//! `[dicom]`, `[dicom.tls]`, `[[dicom.peer]]`: as written and as checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{address, in_range};
use crate::receive::peek::is_uid;
use crate::receive::peers::{Network, Peer, Priority};
use crate::receive::services::is_storage;
use crate::receive::tls::TlsFiles;

/// `[dicom]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawDicom {
    listen: Option<String>,
    ae_title: Option<String>,
    called_ae: Option<String>,
    max_associations: Option<u16>,
    max_associations_per_peer: Option<u16>,
    idle_timeout_s: Option<u64>,
    max_object_mib: Option<u64>,
    commitment_retry_h: Option<u64>,
    peer: Vec<RawPeer>,
    tls: Option<RawTls>,
}

/// `[dicom.tls]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawTls {
    listen: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// `[[dicom.peer]]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPeer {
    calling_ae: Option<String>,
    addresses: Vec<String>,
    max_associations: Option<u16>,
    sop_classes: Vec<String>,
    allow_commitment: bool,
    commitment_address: Option<String>,
    commitment_tls: bool,
    quota_mib: Option<u64>,
    priority: Option<String>,
}

/// `[dicom]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dicom {
    /// Address of the DICOM port.
    pub listen: SocketAddr,
    /// Our AE title (1 to 16 characters).
    pub ae_title: String,
    /// Refuse associations that call another title (`called_ae = "own"`).
    pub require_called_ae: bool,
    /// Associations at once, in total.
    pub max_associations: u16,
    /// Associations at once from one address; of one peer, where it says nothing else.
    pub max_associations_per_peer: u16,
    /// A silent association is aborted after this.
    pub idle_timeout: Duration,
    /// Larger objects are refused.
    pub max_object_mib: u64,
    /// A result of storage commitment that its peer does not take is given up after this.
    pub commitment_retry: Duration,
    /// Who may talk; empty is anyone who reaches the port.
    pub peers: Vec<Peer>,
    /// Address of the port for TLS, and the files it needs.
    pub tls: Option<(SocketAddr, TlsFiles)>,
}

pub(super) fn check_dicom(raw: RawDicom) -> Result<Dicom, String> {
    let require_called_ae = match raw.called_ae.as_deref().unwrap_or("any") {
        "any" => false,
        "own" => true,
        other => return Err(format!("dicom.called_ae is \"{other}\": write \"any\" or \"own\"")),
    };
    let max_associations = in_range("dicom.max_associations", raw.max_associations.unwrap_or(16), 1, 256)?;
    let max_associations_per_peer = in_range(
        "dicom.max_associations_per_peer",
        // One peer that hangs on to its associations leaves room for the others.
        raw.max_associations_per_peer.unwrap_or((max_associations / 2).max(2).min(max_associations)),
        1,
        256,
    )?;
    let has_tls = raw.tls.is_some();
    let peers = raw.peer.into_iter().enumerate().map(|(n, peer)| check_peer(peer, n + 1, max_associations_per_peer, has_tls));
    Ok(Dicom {
        listen: address("dicom.listen", raw.listen.as_deref().unwrap_or("127.0.0.1:11112"))?,
        ae_title: ae_title("dicom.ae_title", raw.ae_title.unwrap_or_else(|| "LESIONWATCH".into()))?,
        require_called_ae,
        max_associations,
        max_associations_per_peer,
        idle_timeout: Duration::from_secs(in_range("dicom.idle_timeout_s", raw.idle_timeout_s.unwrap_or(60), 5, 3600)?),
        max_object_mib: in_range("dicom.max_object_mib", raw.max_object_mib.unwrap_or(2048), 1, 1 << 20)?,
        commitment_retry: Duration::from_secs(
            in_range("dicom.commitment_retry_h", raw.commitment_retry_h.unwrap_or(24), 1, 24 * 30)? * 3600,
        ),
        peers: peers.collect::<Result<_, _>>()?,
        tls: raw.tls.map(check_tls).transpose()?,
    })
}

fn check_tls(raw: RawTls) -> Result<(SocketAddr, TlsFiles), String> {
    let need = |name: &str| format!("dicom.tls.{name} is missing: [dicom.tls] takes listen, certificate, key and ca (PEM files)");
    let listen = address("dicom.tls.listen", &raw.listen.ok_or_else(|| need("listen"))?)?;
    let files = TlsFiles {
        certificate: raw.certificate.ok_or_else(|| need("certificate"))?,
        key: raw.key.ok_or_else(|| need("key"))?,
        ca: raw.ca.ok_or_else(|| need("ca"))?,
    };
    Ok((listen, files))
}

/// The `number`th peer of the file.
fn check_peer(raw: RawPeer, number: usize, max_associations: u16, has_tls: bool) -> Result<Peer, String> {
    let calling =
        raw.calling_ae.ok_or_else(|| format!("peer {number}: dicom.peer.calling_ae is missing: write its AE title, or \"*\" for any"))?;
    let key = |name: &str| format!("peer \"{calling}\": dicom.peer.{name}");
    let calling_ae = if calling == "*" { None } else { Some(ae_title(&key("calling_ae"), calling.clone())?.trim().to_owned()) };
    let addresses =
        raw.addresses.iter().map(|text| text.parse::<Network>().map_err(|e| format!("{} has \"{text}\": {e}", key("addresses"))));
    if let Some(class) = raw.sop_classes.iter().find(|class| !is_storage(class)) {
        let why = if is_uid(class) { "is no storage class" } else { "is not a UID" };
        return Err(format!(
            "{} has \"{class}\", which {why}: write UIDs of storage classes, as \"1.2.840.10008.5.1.4.1.1.2\" for CT",
            key("sop_classes")
        ));
    }
    if raw.commitment_address.is_some() && !raw.allow_commitment {
        return Err(format!("{} is set without allow_commitment = true: set both or none", key("commitment_address")));
    }
    if let Some(address) = &raw.commitment_address {
        let whole = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
        if !whole {
            return Err(format!("{} is \"{address}\": write host and port, as \"10.1.2.3:104\"", key("commitment_address")));
        }
    }
    if raw.commitment_tls && !has_tls {
        return Err(format!("{} needs [dicom.tls], whose certificate is shown to the peer", key("commitment_tls")));
    }
    let priority = match raw.priority.as_deref().unwrap_or("normal") {
        "high" => Priority::High,
        "normal" => Priority::Normal,
        "low" => Priority::Low,
        other => return Err(format!("{} is \"{other}\": write \"high\", \"normal\" or \"low\"", key("priority"))),
    };
    let quota_mib = raw.quota_mib.map(|mib| in_range(&key("quota_mib"), mib, 1, u64::MAX >> 20)).transpose()?;
    Ok(Peer {
        addresses: addresses.collect::<Result<_, _>>()?,
        max_associations: in_range(&key("max_associations"), raw.max_associations.unwrap_or(max_associations), 1, 256)?.into(),
        calling_ae,
        sop_classes: raw.sop_classes,
        allow_commitment: raw.allow_commitment,
        commitment_address: raw.commitment_address,
        commitment_tls: raw.commitment_tls,
        quota_bytes: quota_mib.map(|mib| mib << 20),
        priority,
    })
}

/// PS3.5 6.2, VR AE: up to 16 characters, no backslash, no control characters, not only spaces.
fn ae_title(key: &str, title: String) -> Result<String, String> {
    if title.trim().is_empty() || title.len() > 16 || !title.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\') {
        return Err(format!("{key} is \"{title}\": an AE title has 1 to 16 ASCII characters and no backslash"));
    }
    Ok(title)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::Config;

    fn refusal(text: &str) -> String {
        Config::parse(text, "lw.toml").unwrap_err().message
    }

    #[test]
    fn peers_are_read_and_none_is_anyone() {
        assert_eq!(Config::parse("", "x").unwrap().dicom.peers, []);
        let text = "[dicom]\nmax_associations_per_peer = 3\n[[dicom.peer]]\ncalling_ae = \"CT1\"\naddresses = [\"10.1.0.0/16\", \"fd00::1\"]\n\
                    [[dicom.peer]]\ncalling_ae = \"*\"\nmax_associations = 1\nsop_classes = [\"1.2.840.10008.5.1.4.1.1.2\"]\n";
        let peers = Config::parse(text, "x").unwrap().dicom.peers;
        assert_eq!((peers[0].calling_ae.as_deref(), peers[0].addresses.len(), peers[0].max_associations), (Some("CT1"), 2, 3));
        assert_eq!((peers[1].calling_ae.as_deref(), peers[1].max_associations), (None, 1));
        assert!(peers[1].may_store("1.2.840.10008.5.1.4.1.1.2") && !peers[1].may_store("1.2.840.10008.5.1.4.1.1.4"));
    }

    #[test]
    fn a_wrong_peer_is_named_with_its_key_and_the_remedy() {
        let peer = |rest: &str| refusal(&format!("[[dicom.peer]]\ncalling_ae = \"CT1\"\n{rest}\n"));
        let message = peer("adresses = []");
        assert!(message.contains("line 3") && message.contains("nearest known key is `addresses`"), "{message}");
        for (text, words) in [
            ("addresses = [\"10.0.0.1/24\"]", "peer \"CT1\": dicom.peer.addresses has \"10.0.0.1/24\""),
            ("addresses = [\"ct1.example\"]", "write an address or a range"),
            ("max_associations = 0", "dicom.peer.max_associations is 0"),
            ("max_associations = \"4\"", "dicom.peer.max_associations takes a whole number"),
            ("commitment_address = \"10.1.2.3:104\"", "without allow_commitment"),
            ("allow_commitment = true\ncommitment_address = \"10.1.2.3\"", "write host and port"),
            ("quota_mib = 0", "dicom.peer.quota_mib is 0"),
            ("priority = \"urgent\"", "write \"high\", \"normal\" or \"low\""),
            ("allow_commitment = true\ncommitment_tls = true", "needs [dicom.tls]"),
            ("sop_classes = [\"CT\"]", "is not a UID"),
            ("sop_classes = [\"1.2.840.10008.1.20.1\"]", "is no storage class"),
        ] {
            let message = peer(text);
            assert!(message.contains(words), "{text}: {message}");
        }
        assert!(refusal("[[dicom.peer]]\n").contains("peer 1: dicom.peer.calling_ae is missing"));
        assert!(refusal("[[dicom.peer]]\ncalling_ae = \"A_TITLE_THAT_IS_TOO_LONG\"\n").contains("1 to 16 ASCII"));
        let tls = refusal("[dicom.tls]\nlisten = \"0.0.0.0:2762\"\ncertificate = \"c.pem\"\nca = \"ca.pem\"\n");
        assert!(tls.contains("dicom.tls.key is missing"), "{tls}");
        assert!(refusal("[[dicom.pear]]\n").contains("nearest known key is `peer`"));
    }
}
