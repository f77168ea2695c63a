//! One TOML file: [`RawConfig`] as written, every key optional, unknown keys refused → [`Config`], checked.
//!
//! Units are in the names. Secrets are named by file path, never inline.

pub mod dicom;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use self::dicom::{Dicom, RawDicom, check_dicom};
use crate::detect::select;
use crate::error::{Class, Failure};

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    site: RawSite,
    dicom: RawDicom,
    mqtt: RawMqtt,
    alert: RawAlert,
    dashboard: RawDashboard,
    state: RawState,
    model: RawModel,
    engine: RawEngine,
    series: RawSeries,
}

macro_rules! raw_section {
    ($name:ident { $($key:ident : $kind:ty),* $(,)? }) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct $name { $($key: Option<$kind>),* }
    };
}

raw_section!(RawSite { name: String, device: String });
raw_section!(RawMqtt {
    url: String,
    embedded_listen: String,
    protocol: String,
    username: String,
    password_file: PathBuf,
    ca_file: PathBuf,
});
raw_section!(RawAlert { key_images: bool, min_score: f32, expire_h: u64 });
raw_section!(RawDashboard { listen: String });
raw_section!(RawState { dir: PathBuf, spool_quota_mib: u64, reserve_mib: u64, write_ahead_mib: u64 });
raw_section!(RawModel { bundle: PathBuf });
raw_section!(RawEngine { prefer: String, threads: usize });
raw_section!(RawSeries { quiet_min_s: f64, quiet_max_s: f64 });

/// The checked configuration: what runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// First atom of every topic.
    pub site: String,
    /// Second atom of every topic.
    pub device: String,
    /// The receiving side.
    pub dicom: Dicom,
    /// Where documents go.
    pub mqtt: Mqtt,
    /// What is said, and for how long.
    pub alert: Alert,
    /// Where the page listens; `None` switches it off.
    pub dashboard: Option<SocketAddr>,
    /// Disk.
    pub state: State,
    /// Model bundle; `None` is the one built in.
    pub bundle: Option<PathBuf>,
    /// Which engine, on how many cores.
    pub engine: Engine,
    /// When a series without evidence of its end counts as complete.
    pub series: Series,
}

/// Where documents go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broker {
    /// The broker built in, listening here.
    Embedded(SocketAddr),
    /// Another one: `mqtt://` or `mqtts://`.
    Url(String),
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// Which broker.
    pub broker: Broker,
    /// Speak MQTT 3.1.1 instead of 5.
    pub v311: bool,
    /// User name and the file that holds the password.
    pub login: Option<(String, PathBuf)>,
    /// CA certificates (PEM) for `mqtts://`.
    pub ca_file: Option<PathBuf>,
}

/// `[alert]`
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Publish a PNG of every reported lesion.
    pub key_images: bool,
    /// Report lesions from this calibrated score on; `None` is the bundle's operating point.
    pub min_score: Option<f32>,
    /// An alert nobody acknowledged expires after this.
    pub expire: Duration,
}

/// `[state]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Folder of spool and `state.db`.
    pub dir: PathBuf,
    /// Spool size at which analysed series are removed, oldest first.
    pub spool_quota_mib: u64,
    /// Free space kept on the file system: below it C-STORE answers 0xA700.
    pub reserve_mib: u64,
    /// Zeros written into spare files while nothing is received, for objects to come; every object is written twice then, which a medium that wears out
    /// fast may be spared with 0.
    pub write_ahead_mib: u64,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// One of [`select::NAMES`].
    pub prefer: String,
    /// Engines run in parallel, one a core; `None` is one a core.
    pub threads: Option<usize>,
}

/// `[series]`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Series {
    /// Least quiet time.
    pub quiet_min: Duration,
    /// Most quiet time.
    pub quiet_max: Duration,
}

impl Config {
    /// Reads and checks `path`; without one, the defaults.
    ///
    /// # Errors
    /// [`Class::Config`] with file, line, key and what to do.
    pub fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Self::parse("", "defaults") };
        let text =
            std::fs::read_to_string(path).map_err(|e| config_error(format!("{}: cannot read the configuration: {e}", path.display())))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// As [`Config::load`], from text; `origin` names it in messages.
    ///
    /// # Errors
    /// [`Class::Config`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let raw: RawConfig = toml::from_str(text).map_err(|e| config_error(explain(&e, text, origin)))?;
        check(raw).map_err(|m| config_error(format!("{origin}: {m}")))
    }
}

fn config_error(message: String) -> Failure {
    Failure::new(Class::Config, message)
}

/// Line of a TOML error, the nearest known key where a key is unknown, the key and what it takes where a value is of the wrong kind.
fn explain(error: &toml::de::Error, text: &str, origin: &str) -> String {
    let at = error.span().map_or(0, |s| s.start.min(text.len()));
    let line = text[..at].matches('\n').count() + 1;
    let message = error.message();
    let mut names = message.split('`').skip(1).step_by(2);
    let text = match (message.starts_with("unknown field"), names.next()) {
        (true, Some(unknown)) => names
            .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
            .min()
            .map_or(message.to_owned(), |(_, known)| format!("{message}; the nearest known key is `{known}`")),
        _ => wrong_kind(message, text, at).unwrap_or_else(|| message.to_owned()),
    };
    format!("{origin}: line {line}: {text}")
}

/// "invalid type: string \"x\", expected u16" in words, with the key of the value at byte `at`.
fn wrong_kind(message: &str, text: &str, at: usize) -> Option<String> {
    let (found, expected) =
        message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?.split_once(", expected ")?;
    let begin = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let line = text[begin..].lines().next()?;
    let key = line.split('=').next()?.trim().trim_matches(['[', ']']);
    let section = text[..begin].lines().rev().find_map(|l| l.trim().strip_prefix('[')?.trim_start_matches('[').split(']').next());
    let key = match section {
        Some(section) if line.contains('=') => format!("{section}.{key}"),
        _ => key.to_owned(),
    };
    let expected = match expected {
        "u16" | "u64" | "usize" => "a whole number, 0 or more",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "path string" => "text in quotes",
        e if e.starts_with("struct ") => return Some(format!("{key} is a section: write [{key}] and its keys below, found {found}")),
        other => other,
    };
    Some(format!("{key} takes {expected}, found {found}"))
}

fn check(raw: RawConfig) -> Result<Config, String> {
    let broker = match raw.mqtt.url.as_deref().unwrap_or("embedded") {
        "embedded" => {
            let listen = address("mqtt.embedded_listen", raw.mqtt.embedded_listen.as_deref().unwrap_or("127.0.0.1:1883"))?;
            Broker::Embedded(loopback(
                "mqtt.embedded_listen",
                listen,
                "the embedded broker knows no users; run a broker that does and set mqtt.url to it",
            )?)
        }
        // Before anything quotes it: what stands before the @ is a secret.
        url if url.contains('@') => {
            return Err("mqtt.url holds a user or password (the part before @): set mqtt.username and mqtt.password_file instead".into());
        }
        url if url.starts_with("mqtt://") || url.starts_with("mqtts://") => Broker::Url(url.to_owned()),
        other => return Err(format!("mqtt.url is \"{other}\": write \"embedded\", \"mqtt://host:1883\" or \"mqtts://host:8883\"")),
    };
    let v311 = match raw.mqtt.protocol.as_deref().unwrap_or("5") {
        "5" => false,
        "3.1.1" => true,
        other => return Err(format!("mqtt.protocol is \"{other}\": write \"5\" or \"3.1.1\"")),
    };
    let login = match (raw.mqtt.username, raw.mqtt.password_file) {
        (Some(user), Some(file)) => Some((user, file)),
        (None, None) => None,
        _ => return Err("mqtt.username and mqtt.password_file go together: set both or none".into()),
    };
    let dashboard = match raw.dashboard.listen.as_deref().unwrap_or("127.0.0.1:8080") {
        "" => None,
        listen => Some(loopback(
            "dashboard.listen",
            address("dashboard.listen", listen)?,
            "the page has no users and no TLS; put a reverse proxy with both in front of it",
        )?),
    };
    let prefer = raw.engine.prefer.unwrap_or_else(|| "auto".into());
    if !select::NAMES.contains(&prefer.as_str()) {
        return Err(format!("engine.prefer is \"{prefer}\": write one of \"{}\"", select::NAMES.join("\", \"")));
    }
    let min_score = raw.alert.min_score;
    if min_score.is_some_and(|s| !(0.0..=1.0).contains(&s)) {
        return Err(format!("alert.min_score is {}: a calibrated score lies between 0 and 1", min_score.unwrap_or_default()));
    }
    let quiet_min = seconds("series.quiet_min_s", raw.series.quiet_min_s.unwrap_or(2.0))?;
    let quiet_max = seconds("series.quiet_max_s", raw.series.quiet_max_s.unwrap_or(60.0))?;
    if quiet_min > quiet_max {
        return Err("series.quiet_min_s is larger than series.quiet_max_s: swap them".into());
    }
    Ok(Config {
        site: atom("site.name", raw.site.name.unwrap_or_else(|| "site".into()))?,
        device: atom("site.device", raw.site.device.unwrap_or_else(|| "ct1".into()))?,
        dicom: check_dicom(raw.dicom)?,
        mqtt: Mqtt { broker, v311, login, ca_file: raw.mqtt.ca_file },
        alert: Alert {
            key_images: raw.alert.key_images.unwrap_or(true),
            min_score,
            expire: Duration::from_secs(in_range("alert.expire_h", raw.alert.expire_h.unwrap_or(72), 1, 24 * 365)? * 3600),
        },
        dashboard,
        state: State {
            dir: raw.state.dir.unwrap_or_else(default_state_dir),
            spool_quota_mib: in_range("state.spool_quota_mib", raw.state.spool_quota_mib.unwrap_or(20_480), 64, u64::MAX >> 20)?,
            reserve_mib: in_range("state.reserve_mib", raw.state.reserve_mib.unwrap_or(256), 1, u64::MAX >> 20)?,
            write_ahead_mib: in_range("state.write_ahead_mib", raw.state.write_ahead_mib.unwrap_or(512), 0, u64::MAX >> 20)?,
        },
        bundle: raw.model.bundle.filter(|p| !p.as_os_str().is_empty()),
        engine: Engine { prefer, threads: raw.engine.threads.map(|n| in_range("engine.threads", n, 1, 256)).transpose()? },
        series: Series { quiet_min, quiet_max },
    })
}

/// `$STATE_DIRECTORY` (systemd) or a folder beside the caller.
fn default_state_dir() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from("./lesionwatch-data"), PathBuf::from)
}

fn in_range<T: PartialOrd + std::fmt::Display>(key: &str, value: T, least: T, most: T) -> Result<T, String> {
    if value < least || value > most {
        return Err(format!("{key} is {value}: it must lie between {least} and {most}"));
    }
    Ok(value)
}

fn seconds(key: &str, value: f64) -> Result<Duration, String> {
    in_range(key, value, 0.0, 86_400.0).and_then(|v| Duration::try_from_secs_f64(v).map_err(|e| format!("{key} is {value}: {e}")))
}

fn address(key: &str, value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| format!("{key} is \"{value}\": write an address and a port, as \"127.0.0.1:11112\" or \"0.0.0.0:104\""))
}

/// What has no users of its own is reached from this machine only.
fn loopback(key: &str, address: SocketAddr, remedy: &str) -> Result<SocketAddr, String> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "{key} is \"{address}\", which other machines reach: write a loopback address, as \"127.0.0.1:{}\"; {remedy}",
        address.port()
    ))
}

/// A topic level of ours: nothing that a broker or a file name could read as more than a name.
fn atom(key: &str, value: String) -> Result<String, String> {
    let fits = (1..=32).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(value) } else { Err(format!("{key} is \"{value}\": use 1 to 32 of a-z, 0-9 and -")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let failure = Config::parse(text, "lw.toml").unwrap_err();
        assert_eq!(failure.class, Class::Config);
        failure.message
    }

    #[test]
    fn defaults_run_on_a_laptop() {
        let config = Config::parse("", "defaults").unwrap();
        assert_eq!(config.dicom.listen, "127.0.0.1:11112".parse().unwrap());
        assert_eq!(config.dicom.ae_title, "LESIONWATCH");
        assert_eq!(config.mqtt.broker, Broker::Embedded("127.0.0.1:1883".parse().unwrap()));
        assert_eq!(config.dashboard, Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!((config.site.as_str(), config.device.as_str()), ("site", "ct1"));
        assert_eq!(config.bundle, None);
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_nearest_key() {
        let message = refusal("[site]\nname = \"north\"\n[dicom]\nlisen = \"0.0.0.0:104\"\n");
        assert!(message.contains("lw.toml: line 4"), "{message}");
        assert!(message.contains("`lisen`") && message.contains("nearest known key is `listen`"), "{message}");
    }

    #[test]
    fn an_unknown_section_is_refused() {
        assert!(refusal("[dikom]\n").contains("nearest known key is `dicom`"));
    }

    #[test]
    fn wrong_values_name_the_key_and_the_remedy() {
        for (text, key) in [
            ("[site]\nname = \"A/B\"", "site.name"),
            ("[dicom]\nlisten = \"104\"", "dicom.listen"),
            ("[dicom]\nae_title = \"A_TITLE_THAT_IS_TOO_LONG\"", "dicom.ae_title"),
            ("[dicom]\nmax_associations = 0", "dicom.max_associations"),
            ("[mqtt]\nurl = \"http://x\"", "mqtt.url"),
            ("[mqtt]\nusername = \"x\"", "mqtt.password_file"),
            ("[engine]\nprefer = \"tpu\"", "engine.prefer"),
            ("[alert]\nmin_score = 7.0", "alert.min_score"),
            ("[series]\nquiet_min_s = 90.0", "series.quiet_min_s"),
        ] {
            let message = refusal(text);
            assert!(message.contains(key), "{text}: {message}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_said_in_words() {
        for (text, words) in [
            ("[dicom]\nmax_associations = \"16\"", "line 2: dicom.max_associations takes a whole number, 0 or more, found string \"16\""),
            ("[dicom]\nmax_associations = -1", "dicom.max_associations takes a whole number"),
            ("[site]\nname = 5", "site.name takes text in quotes, found integer `5`"),
            ("[state]\ndir = 5", "state.dir takes text in quotes"),
            ("[alert]\nkey_images = \"yes\"", "alert.key_images takes true or false"),
            ("[series]\nquiet_min_s = \"1\"", "series.quiet_min_s takes a number"),
            ("site = \"north\"", "site is a section: write [site] and its keys below"),
        ] {
            let message = refusal(text);
            assert!(message.contains(words) && !message.contains("Raw"), "{text}: {message}");
        }
    }

    #[test]
    fn what_has_no_users_is_not_offered_to_other_machines() {
        for listen in ["0.0.0.0:8080", "[::]:8080", "192.168.1.5:8080", "[::ffff:10.0.0.1]:8080"] {
            let message = refusal(&format!("[dashboard]\nlisten = \"{listen}\""));
            assert!(message.contains("dashboard.listen") && message.contains("reverse proxy"), "{message}");
            let message = refusal(&format!("[mqtt]\nembedded_listen = \"{listen}\""));
            assert!(message.contains("mqtt.embedded_listen") && message.contains("mqtt.url"), "{message}");
        }
        for listen in ["127.0.0.1:0", "127.8.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            Config::parse(&format!("[dashboard]\nlisten = \"{listen}\"\n[mqtt]\nembedded_listen = \"{listen}\""), "x").unwrap();
        }
        // The scanner is another machine.
        Config::parse("[dicom]\nlisten = \"0.0.0.0:104\"", "x").unwrap();
    }

    #[test]
    fn a_secret_in_the_url_is_refused_and_not_repeated() {
        for url in ["mqtt://user:secret@host:1883", "mqtts://secret@host", "http://user:secret@host", "user:secret@host"] {
            let message = refusal(&format!("[mqtt]\nurl = \"{url}\""));
            assert!(!message.contains("secret"), "{message}");
            assert!(message.contains("mqtt.username") && message.contains("mqtt.password_file"), "{message}");
        }
    }

    #[test]
    fn one_peer_does_not_take_every_association() {
        let per_peer = |n: u16| Config::parse(&format!("[dicom]\nmax_associations = {n}"), "x").unwrap().dicom.max_associations_per_peer;
        assert_eq!([1, 2, 3, 16, 256].map(per_peer), [1, 2, 2, 8, 128]);
    }

    #[test]
    fn an_empty_listen_switches_the_dashboard_off() {
        assert_eq!(Config::parse("[dashboard]\nlisten = \"\"", "x").unwrap().dashboard, None);
    }
}
