//! The delivery thread: offers what waits in the journal, again and again, until somebody has it; takes in acknowledgements and commands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use jiff::Timestamp;

use super::document::{Ack, SCHEMA, Status, rfc3339};
use super::journal::{Acknowledged, Journal, Kind};
use super::mqtt::{Happened, Link, LinkError, LinkOptions, MOST_IN_FLIGHT};

/// An alert that nobody answered is offered again after this, then after twice as long, up to the most.
const OFFER_AGAIN: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(300)];
/// Status is said again at least this often, so that a stale one can be told.
const STATUS_EVERY: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(500);
/// Tokens of messages that are not in the journal.
const NO_TOKEN: i64 = -1;

/// What delivery needs to know.
#[derive(Debug, Clone)]
pub struct DeliveryOptions {
    /// Broker and login; will and subscriptions are filled in here.
    pub link: LinkOptions,
    /// First atom of the topics.
    pub site: String,
    /// Second atom.
    pub device: String,
    /// Alerts expire after this.
    pub expire: Duration,
}

/// What changes in the status document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusFacts {
    /// Engine.
    pub engine: String,
    /// Model name and version.
    pub model: String,
    /// Verdict.
    pub health: String,
    /// Reasons.
    pub reasons: Vec<String>,
}

enum Order {
    New,
    Status(StatusFacts),
    Stop(Sender<()>),
}

/// Handle of the thread.
pub struct Delivery {
    orders: Sender<Order>,
    connected: Arc<Mutex<bool>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Delivery {
    /// Starts connecting and offering.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn start(options: DeliveryOptions, journal: Arc<Mutex<Journal>>) -> Result<Self, LinkError> {
        let base = format!("lesionwatch/{}/{}", options.site, options.device);
        let boot_id = lock(&journal).boot_id().to_owned();
        let facts = StatusFacts { health: "ok".into(), ..StatusFacts::default() };
        let will = status("offline", &boot_id, &facts, 0);
        let link = LinkOptions {
            will: Some((format!("{base}/status"), will)),
            subscribe: vec![format!("{base}/ack"), format!("{base}/cmd/+")],
            ..options.link
        };
        let (link, happened) = Link::open(link)?;
        let (orders, inbox) = bounded(256);
        let connected = Arc::new(Mutex::new(false));
        let shared = Arc::clone(&connected);
        let expire = options.expire;
        let thread = std::thread::Builder::new().name("delivery".into()).spawn(move || {
            let worker = Worker {
                base,
                boot_id,
                link,
                journal,
                facts,
                connected: shared,
                offered: HashMap::new(),
                in_flight: 0,
                cursor: 0,
                replay: None,
                said: None,
                expire,
            };
            worker.run(&inbox, &happened);
        });
        if let Err(e) = &thread {
            log::error!("delivery thread not started error={e}");
        }
        Ok(Self { orders, connected, thread: Mutex::new(thread.ok()) })
    }

    /// Something new is in the journal.
    pub fn notify(&self) {
        // Full: it is awake already.
        let _ = self.orders.try_send(Order::New);
    }

    /// The status changed.
    pub fn set_status(&self, facts: StatusFacts) {
        // Full: the next change or the minute's repeat will say it.
        let _ = self.orders.try_send(Order::Status(facts));
    }

    /// Whether the broker is there.
    #[must_use]
    pub fn connected(&self) -> bool {
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers what can be offered within `grace`, says `stopped`, disconnects.
    pub fn stop(&self, grace: Duration) {
        let (done, finished) = bounded(1);
        if self.orders.send_timeout(Order::Stop(done), grace).is_ok() {
            // Past the grace the outbox keeps what is left.
            let _ = finished.recv_timeout(grace);
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there was logged by the runtime.
            let _ = thread.join();
        }
    }
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

fn status(availability: &str, boot_id: &str, facts: &StatusFacts, depth: usize) -> Vec<u8> {
    let document = Status {
        schema: SCHEMA.into(),
        availability: availability.into(),
        boot_id: boot_id.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        engine: facts.engine.clone(),
        model: facts.model.clone(),
        health: facts.health.clone(),
        reasons: facts.reasons.clone(),
        outbox_depth: depth,
        time: rfc3339(Timestamp::now()),
    };
    serde_json::to_vec(&document).unwrap_or_default()
}

struct Worker {
    base: String,
    boot_id: String,
    link: Link,
    journal: Arc<Mutex<Journal>>,
    facts: StatusFacts,
    connected: Arc<Mutex<bool>>,
    /// Alerts and images offered on this connection: when next, and how long to wait after that.
    offered: HashMap<i64, (Instant, Duration)>,
    in_flight: usize,
    /// Everything up to here was offered on this connection.
    cursor: i64,
    /// What `resend` asked for: delivered messages from the first number up to the last, once more and without waiting for an answer.
    replay: Option<[i64; 2]>,
    said: Option<(Instant, StatusFacts, usize)>,
    expire: Duration,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Order>, happened: &Receiver<Happened>) {
        let ticks = tick(TICK);
        loop {
            select! {
                recv(inbox) -> order => match order {
                    Ok(Order::New) => { self.offer(); self.say_open(); self.say_status(); }
                    Ok(Order::Status(facts)) => { self.facts = facts; self.say_status(); }
                    Ok(Order::Stop(done)) => { self.stop(happened); let _ = done.send(()); return; }
                    Err(_) => { self.stop(happened); return; }
                },
                recv(happened) -> what => match what {
                    Ok(what) => self.handle(what),
                    Err(_) => return,
                },
                recv(ticks) -> _ => { self.tend(); self.offer(); self.say_again(); self.say_status(); }
            }
        }
    }

    fn is_connected(&self) -> bool {
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_connected(&self, value: bool) {
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn handle(&mut self, what: Happened) {
        match what {
            Happened::Connected => {
                log::info!("broker connected");
                self.set_connected(true);
                (self.cursor, self.in_flight, self.said) = (0, 0, None);
                self.offered.clear();
                self.say_status();
                self.say_open();
                self.offer();
            }
            Happened::Disconnected(reason) => {
                if self.is_connected() {
                    log::warn!("broker lost reason={reason:?}");
                } else {
                    log::debug!("broker not reached reason={reason:?}");
                }
                self.set_connected(false);
            }
            Happened::Delivered(token) => {
                if token != NO_TOKEN {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    let result = lock(&self.journal).delivered(token, Timestamp::now());
                    self.report(result.map(|_| ()));
                }
                self.offer();
            }
            Happened::Message { topic, payload } => self.message(&topic, &payload),
        }
    }

    fn report(&self, result: rusqlite::Result<()>) {
        if let Err(e) = result {
            log::error!("journal failed error={e}");
        }
    }

    /// Offers what waits and was not offered on this connection, then what is due again.
    fn offer(&mut self) {
        if !self.is_connected() {
            return;
        }
        let now = Instant::now();
        let room = usize::from(MOST_IN_FLIGHT).saturating_sub(self.in_flight);
        let due_again: Vec<i64> = self.offered.iter().filter(|(_, (when, _))| *when <= now).map(|(seq, _)| *seq).collect();
        let mut messages = match lock(&self.journal).waiting(self.cursor, room) {
            Ok(m) => m,
            Err(e) => return self.report(Err(e)),
        };
        for seq in due_again.into_iter().take(room.saturating_sub(messages.len())) {
            match lock(&self.journal).waiting(seq - 1, 1) {
                Ok(found) if found.first().is_some_and(|m| m.seq == seq) => messages.extend(found),
                Ok(_) => {
                    self.offered.remove(&seq);
                }
                Err(e) => return self.report(Err(e)),
            }
        }
        for message in messages {
            let payload = match lock(&self.journal).offered(&message, Timestamp::now()) {
                Ok(p) => p,
                Err(e) => return self.report(Err(e)),
            };
            if !self.link.publish(message.seq, format!("{}/{}", self.base, message.topic), payload, false) {
                return;
            }
            self.in_flight += 1;
            self.cursor = self.cursor.max(message.seq);
            if message.kind != Kind::Note {
                let wait = self.offered.get(&message.seq).map_or(OFFER_AGAIN[0], |(_, wait)| (*wait * 2).min(OFFER_AGAIN[1]));
                self.offered.insert(message.seq, (now + wait, wait));
            }
        }
    }

    /// Says again, once, what `resend` asked for; as much as there is room for.
    fn say_again(&mut self) {
        let Some([from, to]) = self.replay.filter(|_| self.is_connected()) else { return };
        let messages = match lock(&self.journal).delivered_between(from, to, usize::from(MOST_IN_FLIGHT)) {
            Ok(m) => m,
            Err(e) => {
                self.replay = None;
                return self.report(Err(e));
            }
        };
        if messages.is_empty() {
            self.replay = None;
        }
        for message in messages {
            if !self.link.publish(NO_TOKEN, format!("{}/{}", self.base, message.topic), message.payload, false) {
                return;
            }
            self.replay = Some([message.seq + 1, to]);
        }
    }

    fn tend(&mut self) {
        let now = Timestamp::now();
        let before = now - jiff::SignedDuration::try_from(self.expire).unwrap_or_default();
        let expired = lock(&self.journal).expire(before, now);
        match expired {
            Ok(0) => {}
            Ok(_) => self.say_open(),
            Err(e) => self.report(Err(e)),
        }
    }

    fn depth(&self) -> usize {
        lock(&self.journal).depth().unwrap_or(0)
    }

    fn say_status(&mut self) {
        let depth = self.depth();
        let old =
            self.said.as_ref().is_none_or(|(when, facts, said)| when.elapsed() > STATUS_EVERY || *facts != self.facts || *said != depth);
        if old && self.is_connected() {
            let payload = status("online", &self.boot_id, &self.facts, depth);
            if self.link.publish(NO_TOKEN, format!("{}/status", self.base), payload, true) {
                self.said = Some((Instant::now(), self.facts.clone(), depth));
            }
        }
    }

    fn say_open(&mut self) {
        let list = lock(&self.journal).open_alerts(Timestamp::now());
        match list.map(|l| serde_json::to_vec(&l)) {
            Ok(Ok(payload)) => {
                // No room: the next change says it.
                let _ = self.link.publish(NO_TOKEN, format!("{}/alerts/open", self.base), payload, true);
            }
            Ok(Err(e)) => log::error!("open list not written error={e}"),
            Err(e) => self.report(Err(e)),
        }
    }

    fn message(&mut self, topic: &str, payload: &[u8]) {
        let Some(below) = topic.strip_prefix(&format!("{}/", self.base)) else { return };
        if below == "ack" {
            match serde_json::from_slice::<Ack>(payload) {
                Ok(ack) => self.acknowledge(&ack),
                Err(e) => log::warn!("acknowledgement ignored reason={e} bytes={}", payload.len()),
            }
        } else if let Some(name) = below.strip_prefix("cmd/") {
            self.command(name, payload);
        }
    }

    fn acknowledge(&mut self, ack: &Ack) {
        let known = lock(&self.journal).acknowledge(ack, Timestamp::now());
        match known {
            Ok(Acknowledged::Taken) => {
                log::info!("acknowledged alert_id={} version={} action={:?}", ack.alert_id, ack.version, ack.action);
                self.say_open();
                self.offer();
                self.say_status();
            }
            Ok(Acknowledged::Stale(version)) => {
                log::info!("acknowledgement of an earlier version alert_id={} version={} present={version}", ack.alert_id, ack.version);
                self.offer();
                self.say_status();
            }
            Ok(Acknowledged::NoSuchVersion(version)) => {
                log::warn!("acknowledgement ignored reason=version alert_id={} version={} present={version}", ack.alert_id, ack.version);
            }
            Ok(Acknowledged::Unknown) => log::warn!("acknowledgement ignored reason=unknown_alert"),
            Err(e) => self.report(Err(e)),
        }
    }

    fn command(&mut self, name: &str, payload: &[u8]) {
        let request: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
        let answer = match name {
            "rebirth" => {
                (self.said, self.cursor) = (None, 0);
                self.say_status();
                self.say_open();
                serde_json::json!({ "ok": true })
            }
            "resend" => match request["since_seq"].as_i64() {
                Some(since) => match lock(&self.journal).count_from(since) {
                    Ok((messages, last)) => {
                        // What still waits is offered now as well.
                        self.cursor = self.cursor.min(since.saturating_sub(1));
                        self.replay = Some([since, last]);
                        serde_json::json!({ "ok": true, "messages": messages })
                    }
                    Err(e) => serde_json::json!({ "ok": false, "error": e.to_string() }),
                },
                None => serde_json::json!({ "ok": false, "error": "since_seq is missing or no whole number" }),
            },
            _ => serde_json::json!({ "ok": false, "error": format!("unknown command; known are rebirth and resend") }),
        };
        let mut answer = answer;
        answer["transaction"] = request["transaction"].clone();
        // No room: the asker asks again.
        let _ = self.link.publish(NO_TOKEN, format!("{}/cmd/{name}/response", self.base), answer.to_string().into_bytes(), false);
        self.offer();
        self.say_again();
    }

    fn stop(&mut self, happened: &Receiver<Happened>) {
        let deadline = Instant::now() + Duration::from_secs(2);
        self.offer();
        while self.in_flight > 0 && self.is_connected() {
            match happened.recv_deadline(deadline) {
                Ok(what) => self.handle(what),
                Err(_) => break,
            }
        }
        if self.is_connected() {
            let payload = status("stopped", &self.boot_id, &self.facts, self.depth());
            // The link sends what it was given before it says good-bye.
            let _ = self.link.publish(NO_TOKEN, format!("{}/status", self.base), payload, true);
        }
    }
}
