//! The MQTT client, and the only file that names it. A thread keeps one connection alive, reconnects with back-off, and tells what the broker has
//! acknowledged. Whatever was under way when a connection ended is forgotten here: the outbox is the truth, the client only a pipe.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rand::Rng;
use tokio::sync::mpsc;

/// Largest packet either way: a key image and its header fit several times.
pub const MOST_PACKET_BYTES: u32 = 4 << 20;
/// Messages on their way to the broker at once.
pub const MOST_IN_FLIGHT: u16 = 16;
/// Requests between the caller and the connection; the caller keeps to [`MOST_IN_FLIGHT`], the rest is status and subscriptions.
const REQUESTS: usize = 64;
/// Incoming messages that wait for their reader.
const INCOMING: usize = 1024;
/// A broker that says nothing for this long after the connection was asked for is not there.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const BACK_OFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// `mqtt://host:port` or `mqtts://host:port`.
    pub url: String,
    /// Speak 3.1.1 instead of 5.
    pub v311: bool,
    /// Unique on the broker.
    pub client_id: String,
    /// User name and the file with the password.
    pub login: Option<(String, PathBuf)>,
    /// CA certificates for `mqtts://`.
    pub ca_file: Option<PathBuf>,
    /// Retained message that the broker sends when we are gone: topic, payload.
    pub will: Option<(String, Vec<u8>)>,
    /// Topic filters, subscribed on every connect.
    pub subscribe: Vec<String>,
}

/// Why a connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not an MQTT URL.
    #[error("mqtt.url \"{0}\": write mqtt://host:1883 or mqtts://host:8883")]
    Url(String),
    /// Password or certificates cannot be read.
    #[error("{path}: {source}; check mqtt.password_file and mqtt.ca_file")]
    Secret {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What happens on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// The broker accepted us; subscriptions are on their way.
    Connected,
    /// The connection ended or could not be made.
    Disconnected(String),
    /// A message came.
    Message {
        /// Topic.
        topic: String,
        /// Payload.
        payload: Vec<u8>,
    },
    /// The broker has acknowledged the message published with this token.
    Delivered(i64),
}

/// A message to publish, QoS 1.
#[derive(Debug, Clone)]
struct Outgoing {
    token: i64,
    topic: String,
    payload: Vec<u8>,
    retain: bool,
}

/// A connection that is kept alive until it is dropped.
pub struct Link {
    requests: Option<mpsc::Sender<Outgoing>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Starts connecting; what happens comes over the channel.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn open(options: LinkOptions) -> Result<(Self, Receiver<Happened>), LinkError> {
        let target = Target::read(&options)?;
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (outbox, happened) = crossbeam_channel::bounded(INCOMING);
        let thread = std::thread::Builder::new().name("mqtt".into()).spawn(move || keep_connected(&options, &target, inbox, &outbox));
        if let Err(e) = &thread {
            log::error!("mqtt thread not started error={e}");
        }
        Ok((Self { requests: Some(requests), thread: thread.ok() }, happened))
    }

    /// Publishes with QoS 1; false where there is no room now (try again later). [`Happened::Delivered`] with `token` follows, or a disconnect.
    #[must_use]
    pub fn publish(&self, token: i64, topic: String, payload: Vec<u8>, retain: bool) -> bool {
        self.requests.as_ref().is_some_and(|r| r.try_send(Outgoing { token, topic, payload, retain }).is_ok())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The thread ends when its inbox closes; it says good-bye to the broker first.
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The URL, taken apart, with the secrets read.
struct Target {
    host: String,
    port: u16,
    tls: bool,
    ca: Option<Vec<u8>>,
    login: Option<(String, String)>,
}

impl Target {
    fn read(options: &LinkOptions) -> Result<Self, LinkError> {
        let bad = || LinkError::Url(options.url.clone());
        let (scheme, rest) = options.url.split_once("://").ok_or_else(bad)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(bad()),
        };
        let authority = rest.trim_end_matches('/');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            _ => (authority, if tls { 8883 } else { 1883 }),
        };
        if host.is_empty() {
            return Err(bad());
        }
        let secret = |path: &PathBuf| std::fs::read(path).map_err(|source| LinkError::Secret { path: path.clone(), source });
        let login = options
            .login
            .as_ref()
            .map(|(user, file)| Ok((user.clone(), String::from_utf8_lossy(&secret(file)?).trim_end().to_owned())))
            .transpose()?;
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, tls, ca: options.ca_file.as_ref().map(secret).transpose()?, login })
    }

    fn transport(&self) -> rumqttc::Transport {
        match (self.tls, &self.ca) {
            (false, _) => rumqttc::Transport::tcp(),
            (true, Some(ca)) => rumqttc::Transport::tls(ca.clone(), None, None),
            (true, None) => rumqttc::Transport::tls_with_default_config(),
        }
    }
}

/// Tokens of messages on their way: waiting for their packet id, then for their acknowledgement.
#[derive(Default)]
struct Tokens {
    unnumbered: VecDeque<i64>,
    numbered: HashMap<u16, i64>,
}

fn keep_connected(options: &LinkOptions, target: &Target, mut inbox: mpsc::Receiver<Outgoing>, outbox: &Sender<Happened>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(r) => r,
        Err(e) => {
            log::error!("mqtt runtime not started error={e}");
            return;
        }
    };
    let mut pause = BACK_OFF[0];
    runtime.block_on(async {
        loop {
            let mut connected = false;
            let ended = if options.v311 {
                v311(options, target, &mut inbox, outbox, &mut connected).await
            } else {
                v5(options, target, &mut inbox, outbox, &mut connected).await
            };
            let Some(reason) = ended else { return };
            if outbox.send(Happened::Disconnected(reason)).is_err() {
                return;
            }
            pause = if connected { BACK_OFF[0] } else { (pause * 2).min(BACK_OFF[1]) };
            // Jitter: a hundred boxes do not come back in the same instant.
            let wait = pause.mul_f64(rand::rng().random_range(0.7..1.3));
            let deadline = tokio::time::Instant::now() + wait;
            // What is asked of a connection that is not there is dropped: the caller offers it again on `Connected`.
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => break,
                    request = inbox.recv() => if request.is_none() { return },
                }
            }
        }
    });
}

/// One connection from start to end: `None` when the caller is done, else why it ended. The two protocol versions differ in types only.
macro_rules! session {
    ($name:ident, $client:path, $packet:path, $event:path, $qos:path, $options:expr, $topic:expr, $ok:expr) => {
        async fn $name(
            options: &LinkOptions,
            target: &Target,
            inbox: &mut mpsc::Receiver<Outgoing>,
            outbox: &Sender<Happened>,
            connected: &mut bool,
        ) -> Option<String> {
            use $client as Client;
            use $event as Event;
            use $packet as Packet;
            use $qos as QoS;
            let (client, mut events) = Client::new($options(options, target), REQUESTS);
            let mut tokens = Tokens::default();
            let patience = tokio::time::sleep(ANSWER_WITHIN);
            tokio::pin!(patience);
            loop {
                tokio::select! {
                    event = events.poll() => match event {
                        Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                            if !$ok(&ack) {
                                return Some(format!("the broker refused the connection: {:?}", ack.code));
                            }
                            for filter in &options.subscribe {
                                if let Err(e) = client.try_subscribe(filter, QoS::AtLeastOnce) {
                                    return Some(e.to_string());
                                }
                            }
                            *connected = true;
                            outbox.send(Happened::Connected).ok()?;
                        }
                        Ok(Event::Incoming(Packet::Publish(p))) => {
                            let message = Happened::Message { topic: $topic(&p.topic), payload: p.payload.to_vec() };
                            // A reader that does not read loses messages here and gets them again from the sender, rather than stopping the connection.
                            if outbox.try_send(message).is_err() {
                                log::warn!("mqtt message dropped reason=reader_behind");
                            }
                        }
                        Ok(Event::Incoming(Packet::PubAck(ack))) => {
                            if let Some(token) = tokens.numbered.remove(&ack.pkid) {
                                outbox.send(Happened::Delivered(token)).ok()?;
                            }
                        }
                        Ok(Event::Outgoing(rumqttc::Outgoing::Publish(id))) => {
                            if let Some(token) = tokens.unnumbered.pop_front() {
                                tokens.numbered.insert(id, token);
                            }
                        }
                        Ok(_) => {}
                        Err(e) => return Some(e.to_string()),
                    },
                    request = inbox.recv() => match request {
                        // Asked of a connection that is not there yet: dropped, as between connections.
                        Some(_) if !*connected => {}
                        None if !*connected => return None,
                        Some(r) => {
                            tokens.unnumbered.push_back(r.token);
                            if let Err(e) = client.try_publish(r.topic, QoS::AtLeastOnce, r.retain, r.payload) {
                                return Some(e.to_string());
                            }
                        }
                        None => {
                            // Said good-bye: no will. The loop ends with the socket, or after a moment.
                            let _ = client.try_disconnect();
                            let _ = tokio::time::timeout(Duration::from_secs(2), async { while events.poll().await.is_ok() {} }).await;
                            return None;
                        }
                    },
                    () = &mut patience, if !*connected => return Some("no answer from the broker".into()),
                }
            }
        }
    };
}

session!(
    v5,
    rumqttc::v5::AsyncClient,
    rumqttc::v5::mqttbytes::v5::Packet,
    rumqttc::v5::Event,
    rumqttc::v5::mqttbytes::QoS,
    options_v5,
    |t: &[u8]| String::from_utf8_lossy(t).into_owned(),
    |ack: &rumqttc::v5::mqttbytes::v5::ConnAck| ack.code == rumqttc::v5::mqttbytes::v5::ConnectReturnCode::Success
);
session!(
    v311,
    rumqttc::AsyncClient,
    rumqttc::Packet,
    rumqttc::Event,
    rumqttc::QoS,
    options_v311,
    |t: &str| t.to_owned(),
    |ack: &rumqttc::ConnAck| ack.code == rumqttc::ConnectReturnCode::Success
);

fn options_v5(options: &LinkOptions, target: &Target) -> rumqttc::v5::MqttOptions {
    use rumqttc::v5::mqttbytes::{QoS, v5::LastWill};
    let mut mqtt = rumqttc::v5::MqttOptions::new(&options.client_id, &target.host, target.port);
    mqtt.set_keep_alive(KEEP_ALIVE).set_transport(target.transport()).set_clean_start(true);
    mqtt.set_max_packet_size(Some(MOST_PACKET_BYTES)).set_outgoing_inflight_upper_limit(MOST_IN_FLIGHT);
    if let Some((user, password)) = &target.login {
        mqtt.set_credentials(user, password);
    }
    if let Some((topic, payload)) = &options.will {
        mqtt.set_last_will(LastWill::new(topic, payload.clone(), QoS::AtLeastOnce, true, None));
    }
    mqtt
}

fn options_v311(options: &LinkOptions, target: &Target) -> rumqttc::MqttOptions {
    use rumqttc::{LastWill, QoS};
    let mut mqtt = rumqttc::MqttOptions::new(&options.client_id, &target.host, target.port);
    mqtt.set_keep_alive(KEEP_ALIVE).set_transport(target.transport()).set_clean_session(true);
    mqtt.set_max_packet_size(MOST_PACKET_BYTES as usize, MOST_PACKET_BYTES as usize).set_inflight(MOST_IN_FLIGHT);
    if let Some((user, password)) = &target.login {
        mqtt.set_credentials(user, password);
    }
    if let Some((topic, payload)) = &options.will {
        mqtt.set_last_will(LastWill::new(topic, payload.clone(), QoS::AtLeastOnce, true));
    }
    mqtt
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, LinkError> {
        let options = LinkOptions {
            url: url.into(),
            v311: false,
            client_id: "x".into(),
            login: None,
            ca_file: None,
            will: None,
            subscribe: Vec::new(),
        };
        Target::read(&options)
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, tls) in [
            ("mqtt://broker", "broker", 1883, false),
            ("mqtts://b.example:99/", "b.example", 99, true),
            ("mqtt://[::1]:1884", "::1", 1884, false),
        ] {
            let t = target(url).unwrap();
            assert_eq!((t.host.as_str(), t.port, t.tls), (host, port, tls));
        }
        for bad in ["broker:1883", "http://x", "mqtt://", "mqtt://x:port"] {
            assert!(matches!(target(bad), Err(LinkError::Url(_))), "{bad}");
        }
    }
}
