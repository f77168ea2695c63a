//! The wiring diagram: starts the rooms back to front, joins them with bounded queues, drains on SIGTERM.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::alert::broker;
use crate::alert::deliver::{Delivery, DeliveryOptions, StatusFacts};
use crate::alert::journal::Journal;
use crate::alert::mqtt::LinkOptions;
use crate::analysis::Analyst;
use crate::config::{Broker, Config};
use crate::dashboard::{Dashboard, DashboardOptions};
use crate::detect::select::{self, Trial};
use crate::detect::standby::EngineWatch;
use crate::detect::verdict;
use crate::error::{Class, Failure};
use crate::health;
use crate::receive::backlog::Backlog;
use crate::receive::context::{ReceiveOptions, ReceiveStats};
use crate::receive::courier::{self, Courier};
use crate::receive::ledger::Ledger;
use crate::receive::listener::Listener;
use crate::receive::peers::{Admission, Refusal};
use crate::receive::prewriter::Prewriter;
use crate::receive::spool::Spool;
use crate::receive::tls::Tls;
use crate::series::settle::Quiet;
use crate::shipped;
use crate::tenancy::Tenancy;
use crate::worker::{Worker, WorkerStats};

/// Objects between receiver and analysis; when it is full the sender waits for its next Success.
const QUEUE: usize = 1024;
/// Associations get this to end when the appliance stops; then the outbox gets as much.
const DRAIN: Duration = Duration::from_secs(10);
/// The verdict is looked at this often.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
/// A worker that does not tick for this long is stalled: one turn takes a few seconds on a slow board.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// The running appliance.
pub struct Appliance {
    listener: Listener,
    courier: courier::Running,
    prewriter: Prewriter,
    delivery: Arc<Delivery>,
    dashboard: Option<Dashboard>,
    worker: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    watch: Watch,
    /// Last: the folder is free when everything that writes to it has ended.
    _tenancy: Tenancy,
    /// How to reach the broker.
    pub link: LinkOptions,
    /// Engines tried at start.
    pub trials: Vec<Trial>,
}

/// What the health verdict and the metrics are made of.
#[derive(Clone)]
struct Watch {
    delivery: Arc<Delivery>,
    journal: Arc<Mutex<Journal>>,
    spool: Arc<Spool>,
    ledger: Arc<Ledger>,
    backlog: Arc<Backlog>,
    received: Arc<ReceiveStats>,
    worked: Arc<WorkerStats>,
    origin: Instant,
    reserve_mib: u64,
    engine: Arc<EngineWatch>,
    model: String,
}

fn unavailable(e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Unavailable, e.to_string())
}

fn misconfigured(e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Config, e.to_string())
}

fn io(e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Io, e.to_string())
}

/// Link options of the configuration, for a client of this name.
fn link(config: &Config, url: String, name: &str) -> LinkOptions {
    LinkOptions {
        url,
        v311: config.mqtt.v311,
        client_id: format!("lesionwatch-{}-{}-{name}", config.site, config.device),
        login: config.mqtt.login.clone(),
        ca_file: config.mqtt.ca_file.clone(),
        will: None,
        subscribe: Vec::new(),
    }
}

impl Appliance {
    /// Starts everything. Nothing listens before the configuration, the bundle and the state folder were found good.
    ///
    /// # Errors
    /// What cannot start, with the key or file to look at.
    pub fn start(config: &Config) -> Result<Self, Failure> {
        let bundle = Arc::new(shipped::open(config.bundle.as_deref())?);
        let tls = match &config.dicom.tls {
            None => None,
            Some((listen, files)) => Some((*listen, Arc::new(Tls::open(files.clone()).map_err(misconfigured)?))),
        };
        let tenancy = Tenancy::take(&config.state.dir)?;
        let journal = Arc::new(Mutex::new(Journal::open(&config.state.dir).map_err(io)?));
        let ledger = Arc::new(Ledger::open(&config.state.dir).map_err(io)?);
        let spool = Arc::new(Spool::open(&config.state.dir.join("spool"), config.state.reserve_mib << 20).map_err(io)?);
        let choice = verdict::choose_remembered(&bundle, &config.engine.prefer, &config.state.dir).map_err(unavailable)?;

        // Back to front: first who hears, then who speaks, then who works, then who receives.
        let url = match &config.mqtt.broker {
            Broker::Embedded(address) => format!("mqtt://{}", broker::start(*address, config.mqtt.v311).map_err(unavailable)?),
            Broker::Url(url) => url.clone(),
        };
        let link_options = link(config, url, "appliance");
        let delivery_options = DeliveryOptions {
            link: link_options.clone(),
            site: config.site.clone(),
            device: config.device.clone(),
            expire: config.alert.expire,
        };
        let delivery = Arc::new(Delivery::start(delivery_options, Arc::clone(&journal)).map_err(misconfigured)?);

        let threads = config.engine.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let standby = choice.standby(Arc::new(select::started));
        let engine = standby.watch();
        let analyst = Analyst::new(Arc::clone(&bundle), choice.engine, threads, config.alert.min_score).with_standby(standby);
        let (events, inbox) = crossbeam_channel::bounded(QUEUE);
        let (stop, worked, origin) = (Arc::new(AtomicBool::new(false)), Arc::new(WorkerStats::default()), Instant::now());
        let notify = Arc::clone(&delivery);
        let admission = Admission {
            called_ae: config.dicom.require_called_ae.then(|| config.dicom.ae_title.clone()),
            peers: config.dicom.peers.clone(),
        };
        let backlog = Arc::new(Backlog::new(&admission.peers));
        let worker = Worker {
            analyst,
            journal: Arc::clone(&journal),
            spool: Arc::clone(&spool),
            backlog: Arc::clone(&backlog),
            admission: admission.clone(),
            quiet: Quiet { min: config.series.quiet_min, max: config.series.quiet_max },
            key_images: config.alert.key_images,
            spool_quota_bytes: config.state.spool_quota_mib << 20,
            stats: Arc::clone(&worked),
            notify: Box::new(move || notify.notify()),
            stop: Arc::clone(&stop),
            origin,
        };
        let worker = std::thread::Builder::new().name("worker".into()).spawn(move || worker.run(&inbox)).map_err(io)?;

        let courier = Courier {
            ledger: Arc::clone(&ledger),
            spool: Arc::clone(&spool),
            admission: admission.clone(),
            ae_title: config.dicom.ae_title.clone(),
            tls: tls.as_ref().map(|(_, tls)| Arc::clone(tls)),
            retry: config.dicom.commitment_retry,
        };
        let courier = courier.start().map_err(io)?;
        let prewriter = Prewriter::start(Arc::clone(&spool), config.state.write_ahead_mib << 20).map_err(io)?;
        let receive = ReceiveOptions {
            listen: config.dicom.listen,
            admission,
            max_associations: config.dicom.max_associations.into(),
            max_associations_per_peer: config.dicom.max_associations_per_peer.into(),
            idle_timeout: config.dicom.idle_timeout,
            max_object_bytes: config.dicom.max_object_mib << 20,
        };
        let listener =
            Listener::start(receive, tls, Arc::clone(&spool), Arc::clone(&ledger), Arc::clone(&backlog), events).map_err(unavailable)?;

        let watch = Watch {
            delivery: Arc::clone(&delivery),
            journal,
            spool,
            ledger,
            backlog,
            received: listener.stats(),
            worked,
            origin,
            reserve_mib: config.state.reserve_mib,
            engine,
            model: format!("{} {}", bundle.description.name, bundle.description.version),
        };
        let metrics = watch.clone();
        let dashboard = config
            .dashboard
            .map(|listen| start_dashboard(config, link_options.url.clone(), listen, Arc::new(move || metrics.metrics())))
            .transpose()?;
        watch.say();
        Ok(Self {
            listener,
            courier,
            prewriter,
            delivery,
            dashboard,
            worker,
            stop,
            watch,
            _tenancy: tenancy,
            link: link_options,
            trials: choice.trials,
        })
    }

    /// Where DICOM is received.
    #[must_use]
    pub fn dicom_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Where the page is, if there is one.
    #[must_use]
    pub fn dashboard_addr(&self) -> Option<SocketAddr> {
        self.dashboard.as_ref().map(Dashboard::local_addr)
    }

    /// Engine in use.
    #[must_use]
    pub fn engine(&self) -> String {
        self.watch.engine.status().running
    }

    /// One look at the health verdict.
    pub fn tend(&self) {
        self.watch.say();
    }

    /// Looks after the health verdict until `stop` is set. `hang_up` is SIGHUP's flag: certificates are read again, and the log says
    /// what is not.
    pub fn tend_until(&self, stop: &AtomicBool, hang_up: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if hang_up.swap(false, Ordering::Relaxed) {
                let done = if self.listener.refresh_certificates() {
                    "certificates of [dicom.tls] are read again where they changed"
                } else {
                    "nothing to reload"
                };
                log::warn!("SIGHUP: {done}; restart the service to apply a changed configuration");
            }
            self.tend();
            std::thread::park_timeout(HEALTH_EVERY);
        }
    }

    /// Stops front to back: no new objects, associations end, work in hand is left in the spool, the outbox is offered once more.
    pub fn stop(self) {
        self.listener.stop(DRAIN);
        self.courier.stop();
        self.prewriter.stop();
        self.stop.store(true, Ordering::Relaxed);
        if self.worker.join().is_err() {
            log::error!("worker had stopped");
        }
        self.delivery.stop(DRAIN);
    }
}

fn start_dashboard(
    config: &Config,
    url: String,
    listen: SocketAddr,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
) -> Result<Dashboard, Failure> {
    let options =
        DashboardOptions { listen, link: link(config, url, "dashboard"), site: config.site.clone(), device: config.device.clone() };
    Dashboard::start(options, metrics).map_err(unavailable)
}

impl Watch {
    fn facts(&self) -> health::Facts {
        let ticked = Duration::from_millis(self.worked.tick_ms.load(Ordering::Relaxed));
        let stalled = if self.origin.elapsed().saturating_sub(ticked) > STALLED_AFTER { vec!["analysis"] } else { Vec::new() };
        health::Facts {
            broker_connected: self.delivery.connected(),
            outbox_depth: self.depth(),
            free_mib: self.spool.free_bytes() >> 20,
            reserve_mib: self.reserve_mib,
            stalled,
            engine_fallback: self.engine.status().fallback,
            unwritten: self.worked.unwritten.load(Ordering::Relaxed),
        }
    }

    fn depth(&self) -> usize {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).depth().unwrap_or(0)
    }

    /// Hands the present verdict to delivery, which says it where it changed.
    fn say(&self) {
        let (verdict, reasons) = health::judge(&self.facts());
        self.delivery.set_status(StatusFacts {
            engine: self.engine.status().running,
            model: self.model.clone(),
            health: verdict.as_str().into(),
            reasons,
        });
    }

    /// Prometheus text.
    fn metrics(&self) -> String {
        let get = |v: &std::sync::atomic::AtomicU64| v.load(Ordering::Relaxed);
        let (r, w, facts) = (&self.received, &self.worked, self.facts());
        let mut out = String::new();
        let mut put = |name: &str, kind: &str, help: &str, value: u64| {
            out.push_str(&format!("# HELP lesionwatch_{name} {help}\n# TYPE lesionwatch_{name} {kind}\nlesionwatch_{name} {value}\n"));
        };
        put(
            "engine_demotions_total",
            "counter",
            "Engines replaced because they failed, hung or computed something wrong",
            get(&self.engine.demotions),
        );
        put("engine_recoveries_total", "counter", "Returns to the engine of first choice", get(&self.engine.recoveries));
        put("associations_total", "counter", "DICOM associations accepted", get(&r.associations));
        put("tls_handshakes_failed_total", "counter", "connections to the TLS port that were refused", get(&r.handshakes_failed));
        put("objects_stored_total", "counter", "objects answered with Success", get(&r.objects));
        put("objects_refused_total", "counter", "objects answered with a failure", get(&r.refused));
        put("received_bytes_total", "counter", "bytes of data sets stored", get(&r.bytes));
        let ledger = &self.ledger.stats;
        put("commitments_requested_total", "counter", "requests for storage commitment taken", get(&ledger.requested));
        put("commitments_reported_total", "counter", "requests for storage commitment whose result the peer has", get(&ledger.reported));
        put("commitments_given_up_total", "counter", "requests for storage commitment whose peer could not be told", get(&ledger.expired));
        put("commitments_pending", "gauge", "results of storage commitment that wait for their peer", self.ledger.depth());
        put("series_analysed_total", "counter", "series with outcome analysed", get(&w.series[0]));
        put("series_not_analysed_total", "counter", "series with outcome not_analysed", get(&w.series[1]));
        put("series_failed_total", "counter", "series with outcome failed", get(&w.series[2]));
        put("slots_encoded_total", "counter", "slots encoded", get(&w.slots));
        put("results_unwritten", "gauge", "settled series whose result could not be written yet", facts.unwritten);
        put("finish_milliseconds_total", "counter", "time from settled series to results", get(&w.finish_ms));
        put("outbox_depth", "gauge", "events that wait", facts.outbox_depth as u64);
        put("broker_connected", "gauge", "1 while the broker is there", u64::from(facts.broker_connected));
        put("disk_free_mebibytes", "gauge", "free space of the state folder", facts.free_mib);
        let accounts = self.backlog.accounts();
        for (name, kind, help, of) in [
            ("peer_quota_bytes", "gauge", "bytes of the spool that a peer may hold until they are analysed", 0),
            ("peer_held_bytes", "gauge", "bytes of the spool that a peer holds until they are analysed", 1),
            ("peer_quota_refusals_total", "counter", "objects refused because the quota of their peer was used up", 2),
        ] {
            if !accounts.is_empty() {
                out.push_str(&format!("# HELP lesionwatch_{name} {help}\n# TYPE lesionwatch_{name} {kind}\n"));
            }
            for (place, title, quota, held, refused) in &accounts {
                let value = [quota, held, refused][of];
                let title = title.replace(['\\', '"'], "_");
                out.push_str(&format!("lesionwatch_{name}{{number=\"{place}\",peer=\"{title}\"}} {value}\n"));
            }
        }
        out.push_str(&r.store_time.prometheus("lesionwatch_store_seconds", "from the command of a C-STORE to its response"));
        out.push_str("# HELP lesionwatch_associations_rejected_total DICOM associations rejected, by reason\n# TYPE lesionwatch_associations_rejected_total counter\n");
        for (refusal, counter) in Refusal::ALL.iter().zip(&r.rejected) {
            out.push_str(&format!("lesionwatch_associations_rejected_total{{reason=\"{}\"}} {}\n", refusal.name(), get(counter)));
        }
        out
    }
}

/// SIGTERM and SIGINT set the flag that comes back.
///
/// # Errors
/// [`Class::Internal`].
pub fn stop_on_signal() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    }
    Ok(flag)
}

/// `lesionwatch run`.
///
/// # Errors
/// As [`Appliance::start`].
pub fn run(config: &Config) -> Result<(), Failure> {
    let stop = stop_on_signal()?;
    let hang_up = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&hang_up))
        .map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    let appliance = Appliance::start(config)?;
    for trial in &appliance.trials {
        match &trial.outcome {
            Ok(took) => log::info!("engine name={} slot_ms={:.0}", trial.engine, took.as_secs_f64() * 1000.0),
            Err(reason) => log::warn!("engine name={} refused={reason:?}", trial.engine),
        }
    }
    log::info!(
        "started dicom={} ae={} broker={} engine={:?} state={}",
        appliance.dicom_addr(),
        config.dicom.ae_title,
        appliance.link.url,
        appliance.engine(),
        absolute(&config.state.dir)
    );
    if let Some(secure) = appliance.listener.tls_addr() {
        log::info!("dicom over TLS {secure}");
    }
    if let Some(page) = appliance.dashboard_addr() {
        log::info!("dashboard http://{page}/");
    }
    appliance.tend_until(&stop, &hang_up);
    log::info!("stopping");
    appliance.stop();
    log::info!("stopped");
    Ok(())
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// `lesionwatch dashboard`: the page alone.
///
/// # Errors
/// What cannot start.
pub fn dashboard_alone(config: &Config) -> Result<(), Failure> {
    let stop = stop_on_signal()?;
    let url = match &config.mqtt.broker {
        Broker::Embedded(address) => format!("mqtt://{address}"),
        Broker::Url(url) => url.clone(),
    };
    let Some(listen) = config.dashboard else {
        return Err(Failure::new(Class::Config, "dashboard.listen is \"\": give the page an address"));
    };
    let page = start_dashboard(config, url, listen, Arc::new(String::new))?;
    log::info!("dashboard http://{}/", page.local_addr());
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(HEALTH_EVERY);
    }
    Ok(())
}
