//! The reading room's page: a real MQTT subscriber that serves HTTP. It knows the appliance by its topics only.

pub mod reading_list;
pub mod server;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, tick};
use tokio::sync::watch;

use self::reading_list::ReadingList;
use crate::alert::document::{Ack, Action, Event, EventType, rfc3339};
use crate::alert::mqtt::{Happened, Link, LinkError, LinkOptions};

/// Acknowledgements of people that wait for the broker.
const ACKS: usize = 64;

/// An event that its entry in the list of open alerts overtook comes within this; after that the appliance is asked for it.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// What the page needs.
#[derive(Debug, Clone)]
pub struct DashboardOptions {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Broker; subscriptions are filled in here, and the client's name is made unique.
    pub link: LinkOptions,
    /// Atoms of the topics.
    pub site: String,
    /// Atoms of the topics.
    pub device: String,
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// The port is taken.
    #[error("dashboard port {address}: {source}; is another program there? change [dashboard] listen")]
    Port {
        /// Where it was to listen.
        address: SocketAddr,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// The broker's address or login is wrong.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What the server's handlers share.
#[derive(Clone)]
pub struct Shared {
    list: Arc<Mutex<ReadingList>>,
    changed: watch::Receiver<u64>,
    acks: Sender<Ack>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    title: String,
    port: u16,
}

/// The running page.
pub struct Dashboard {
    address: SocketAddr,
    /// Dropped with the page: both threads end.
    _stop: (Sender<()>, watch::Sender<bool>),
}

impl Dashboard {
    /// Starts subscribing and serving; `metrics` is the appliance's own part of `/metrics`, empty for a page alone.
    ///
    /// # Errors
    /// [`DashboardError`].
    pub fn start(options: DashboardOptions, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> Result<Self, DashboardError> {
        let fault = |source| DashboardError::Port { address: options.listen, source };
        let socket = std::net::TcpListener::bind(options.listen).map_err(fault)?;
        socket.set_nonblocking(true).map_err(fault)?;
        let address = socket.local_addr().map_err(fault)?;
        let base = format!("lesionwatch/{}/{}", options.site, options.device);
        let filters = ["status", "alerts", "alerts/open", "results", "images/+/+"];
        let subscribe = filters.iter().map(|t| format!("{base}/{t}")).collect();
        // Two pages of one device are two clients: with one name each would put the other off the broker.
        let client_id = format!("{}-{}", options.link.client_id, uuid::Uuid::now_v7().simple());
        let (link, happened) = Link::open(LinkOptions { client_id, subscribe, will: None, ..options.link })?;
        let (acks, ack_inbox) = bounded(ACKS);
        let (stop, stopped) = bounded(0);
        let (change, changed) = watch::channel(0);
        let (server_stop, server_stopped) = watch::channel(false);
        let list = Arc::new(Mutex::new(ReadingList::default()));
        let shared = Shared {
            list: Arc::clone(&list),
            changed,
            acks,
            metrics,
            title: format!("{} / {}", options.site, options.device),
            port: address.port(),
        };
        let feed = Feed { base, link, list, change, missed: HashSet::new(), asked: HashSet::new() };
        std::thread::Builder::new()
            .name("dashboard-feed".into())
            .spawn(move || feed.run(&happened, &ack_inbox, &stopped))
            .map_err(fault)?;
        std::thread::Builder::new()
            .name("dashboard-http".into())
            .spawn(move || server::serve(socket, shared, server_stopped))
            .map_err(fault)?;
        Ok(Self { address, _stop: (stop, server_stop) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// The MQTT side.
struct Feed {
    base: String,
    link: Link,
    list: Arc<Mutex<ReadingList>>,
    change: watch::Sender<u64>,
    /// Stubs at the last look: alert and version.
    missed: HashSet<(String, u32)>,
    /// Boot id of the appliance, and the stubs whose details it was asked for.
    asked: HashSet<(String, (String, u32))>,
}

impl Feed {
    fn run(mut self, happened: &Receiver<Happened>, acks: &Receiver<Ack>, stopped: &Receiver<()>) {
        let looks = tick(ASK_AFTER);
        loop {
            crossbeam_channel::select! {
                recv(happened) -> what => match what {
                    Ok(what) => self.take(what),
                    Err(_) => return,
                },
                recv(acks) -> ack => match ack {
                    Ok(ack) => self.say(&ack),
                    Err(_) => return,
                },
                recv(looks) -> _ => self.ask(),
                recv(stopped) -> _ => return,
            }
        }
    }

    fn list(&self) -> MutexGuard<'_, ReadingList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, what: Happened) {
        match what {
            Happened::Connected => self.list().connected = true,
            Happened::Disconnected(_) => {
                // The question may have been lost with the connection.
                self.asked.clear();
                let mut list = self.list();
                list.disconnects += u64::from(list.connected);
                list.connected = false;
            }
            Happened::Delivered(_) => return,
            Happened::Message { topic, payload } => self.message(&topic, &payload),
        }
        self.change.send_modify(|n| *n += 1);
    }

    fn message(&self, topic: &str, payload: &[u8]) {
        let Some(below) = topic.strip_prefix(&format!("{}/", self.base)) else { return };
        let ignored = match below {
            "alerts" => serde_json::from_slice::<Event>(payload).map(|event| self.event(event)).err(),
            "alerts/open" => serde_json::from_slice(payload).map(|list| self.list().open_list(list)).err(),
            "results" => serde_json::from_slice(payload).map(|document| self.list().result(document)).err(),
            "status" => serde_json::from_slice(payload).map(|status| self.list().status(status)).err(),
            image => {
                let mut parts = image.strip_prefix("images/").into_iter().flat_map(|p| p.split('/'));
                if let (Some(alert), Some(Ok(number))) = (parts.next(), parts.next().map(str::parse)) {
                    self.list().image(alert, number, payload.to_vec());
                }
                None
            }
        };
        if let Some(reason) = ignored {
            log::warn!("dashboard message ignored topic={below} reason={reason}");
        }
    }

    /// An event that was taken in is answered `received`, a repeat again: the first answer may not have arrived.
    fn event(&self, event: Event) {
        let wants_answer =
            matches!(event.event_type, EventType::Opened | EventType::Updated | EventType::Superseded | EventType::Retracted);
        let ack = Ack {
            alert_id: event.alert_id.clone(),
            version: event.version,
            action: Action::Received,
            by: "dashboard".into(),
            role: "software".into(),
            at: rfc3339(jiff::Timestamp::now()),
        };
        self.list().event(event);
        if wants_answer {
            self.say(&ack);
        }
    }

    /// Asks once, for all of them, for the details of alerts that are open and not known here: this page was away, or has just started.
    fn ask(&mut self) {
        let (boot, stubs) = {
            let list = self.list();
            let Some(boot) = list.reachable().map(str::to_owned) else { return };
            (boot, list.stubs().into_iter().map(|s| (s.alert_id.clone(), s.version)).collect::<HashSet<_>>())
        };
        let new = stubs.iter().any(|s| self.missed.contains(s) && !self.asked.contains(&(boot.clone(), s.clone())));
        if new {
            let request = serde_json::json!({ "since_seq": 0, "transaction": uuid::Uuid::now_v7() });
            if self.link.publish(0, format!("{}/cmd/resend", self.base), request.to_string().into_bytes(), false) {
                log::info!("dashboard asks for the details of open alerts count={}", stubs.len());
                self.asked = stubs.iter().map(|s| (boot.clone(), s.clone())).collect();
            }
        }
        self.missed = stubs;
    }

    fn say(&self, ack: &Ack) {
        let Ok(payload) = serde_json::to_vec(ack) else { return };
        // No room while the broker is away: the alert is offered again, and so is this answer; a person sees that the alert stays open.
        if !self.link.publish(0, format!("{}/ack", self.base), payload, false) {
            log::warn!("acknowledgement not sent alert_id={} action={:?}", ack.alert_id, ack.action);
        }
    }
}

/// How long a page waits for news before it is told that the line is alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);
