//! `lesionwatch demo`: the whole path on one machine, with nothing faked: the appliance with its embedded broker and dashboard on free loopback
//! ports, the sample CT pushed over C-STORE ([`sender`]), the alert received by an MQTT subscriber of its own.

pub mod sender;

use std::io::{Cursor, Read};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::RecvTimeoutError;
use indicatif::{ProgressBar, ProgressStyle};

use crate::alert::document::{Ack, Action, Event, ResultDocument};
use crate::alert::mqtt::{Happened, Link, LinkOptions};
use crate::appliance::Appliance;
use crate::config::Config;
use crate::detect::select;
use crate::error::{Class, Failure};

/// The sample CT, packed by the build script. See `sample/ATTRIBUTION.md`.
static SAMPLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sample.tar"));
/// Names whose data the sample is, as its licence asks.
const ATTRIBUTION: &str =
    "Armato III et al. (2015), Data From LIDC-IDRI, The Cancer Imaging Archive, doi.org/10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0";

/// The sample's files: name, Part 10 bytes.
///
/// # Errors
/// An I/O error where the packed sample cannot be read (a broken build).
pub fn sample() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(Cursor::new(SAMPLE)).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.push((name, bytes));
    }
    Ok(files)
}

/// The `most` files in the middle, in order; all of them where there are fewer.
fn excerpt(mut files: Vec<(String, Vec<u8>)>, most: NonZeroUsize) -> Vec<(String, Vec<u8>)> {
    let most = most.get().min(files.len());
    let first = (files.len() - most) / 2;
    files.drain(first..first + most).collect()
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Exit 0 once a subscriber received an alert; 1 with the reason when none came in time
    #[arg(long)]
    pub once: bool,
    /// Keep the state folder and say where it is
    #[arg(long)]
    pub keep: bool,
    /// Model bundle (folder or .tar) instead of the built-in one
    #[arg(long, value_name = "BUNDLE")]
    pub model: Option<PathBuf>,
    /// Which engine; a name alone computes in f32, auto takes what passes the self-test and is fastest here
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = select::NAMES)]
    pub engine: String,
    /// Send only the N slices in the middle of the sample, for machines that take minutes over all of it
    #[arg(long, value_name = "N")]
    pub slices: Option<NonZeroUsize>,
    /// Give up after this many seconds (with --once)
    #[arg(long, value_name = "S", default_value_t = 180)]
    pub limit_s: u64,
    /// Pause between two slices, as a scanner makes
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub pause_ms: u64,
}

/// Runs the verb.
///
/// # Errors
/// What cannot start; [`Class::NotMet`] where `--once` saw no alert in time.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let io = |e: std::io::Error| Failure::new(Class::Io, format!("demo: {e}"));
    let stop = crate::appliance::stop_on_signal()?;
    let mut files = sample().map_err(io)?;
    let whole = files.len();
    if let Some(most) = args.slices {
        files = excerpt(files, most);
    }
    let state = std::env::temp_dir().join(format!("lesionwatch-demo-{}", uuid::Uuid::now_v7()));
    let mut config = Config::parse(FREE_PORTS, "demo")?;
    config.state.dir.clone_from(&state);
    config.bundle.clone_from(&args.model);
    config.engine.prefer.clone_from(&args.engine);
    let appliance = Appliance::start(&config)?;
    println!("lesionwatch {} demo. Research use: a triage aid, not a diagnosis.", env!("CARGO_PKG_VERSION"));
    println!("  DICOM      {} (AE {})", appliance.dicom_addr(), config.dicom.ae_title);
    println!("  MQTT 5     {}", appliance.link.url);
    if let Some(page) = appliance.dashboard_addr() {
        println!("  dashboard  http://{page}/");
    }
    println!("  engine     {}", appliance.engine());
    println!("  sample     {} of {whole} slices: {ATTRIBUTION}", files.len());

    let outcome = watch(&appliance, &config, &files, args, &stop);
    appliance.stop();
    if args.keep {
        println!("state kept in {}", state.display());
    } else if let Err(e) = std::fs::remove_dir_all(&state) {
        eprintln!("{}: not removed: {e}", state.display());
    }
    outcome
}

/// Everything on a free loopback port.
const FREE_PORTS: &str = r#"
[dicom]
listen = "127.0.0.1:0"
[mqtt]
embedded_listen = "127.0.0.1:0"
[dashboard]
listen = "127.0.0.1:0"
"#;

fn watch(
    appliance: &Appliance,
    config: &Config,
    files: &[(String, Vec<u8>)],
    args: &DemoArgs,
    stop: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    let base = format!("lesionwatch/{}/{}", config.site, config.device);
    let options = LinkOptions {
        client_id: format!("demo-{}", uuid::Uuid::now_v7()),
        subscribe: vec![format!("{base}/alerts"), format!("{base}/results")],
        ..appliance.link.clone()
    };
    let (link, happened) = Link::open(options).map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    // Subscribed before the first slice is sent: what the demo shows has come over the wire.
    match happened.recv_timeout(Duration::from_secs(20)) {
        Ok(Happened::Connected) => {}
        other => return Err(Failure::new(Class::Unavailable, format!("the embedded broker was not reached: {other:?}"))),
    }
    push(appliance, files, args.pause_ms, stop)?;
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    let pushed = Instant::now();
    let deadline = pushed + Duration::from_secs(args.limit_s);
    let mut alerts = 0;
    while !stop.load(Ordering::Relaxed) {
        appliance.tend();
        match happened.recv_timeout(Duration::from_millis(200)) {
            Ok(Happened::Message { topic, payload }) if topic.ends_with("/alerts") => {
                let Ok(event) = serde_json::from_slice::<Event>(&payload) else { continue };
                println!("\nalert after {:.2} s, over MQTT:", pushed.elapsed().as_secs_f64());
                print_event(&event);
                // The demo's own subscriber has it: delivery is done.
                let ack = Ack {
                    alert_id: event.alert_id,
                    version: event.version,
                    action: Action::Received,
                    by: "demo".into(),
                    role: "software".into(),
                    at: String::new(),
                };
                let _ = link.publish(0, format!("{base}/ack"), serde_json::to_vec(&ack).unwrap_or_default(), false);
                alerts += 1;
                if args.once {
                    return Ok(());
                }
            }
            Ok(Happened::Message { payload, .. }) => {
                let Ok(result) = serde_json::from_slice::<ResultDocument>(&payload) else { continue };
                println!(
                    "\nresult: {} ({} lesions) {}",
                    result.body.outcome,
                    result.body.lesions.len(),
                    result.body.reason.map(|r| r.text).unwrap_or_default()
                );
                if args.once && result.body.lesions.is_empty() {
                    return Err(Failure::new(
                        Class::NotMet,
                        "the sample was analysed and nothing reached the operating point, so there is no alert",
                    ));
                }
                if !args.once {
                    println!("running until Ctrl-C");
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::new(Class::Internal, "the subscriber stopped")),
        }
        if args.once && Instant::now() > deadline {
            return Err(Failure::new(Class::NotMet, format!("no alert within {} s ({alerts} seen)", args.limit_s)));
        }
    }
    Ok(())
}

fn push(appliance: &Appliance, files: &[(String, Vec<u8>)], pause_ms: u64, stop: &AtomicBool) -> Result<(), Failure> {
    let style = ProgressStyle::with_template("sending {bar:40} {pos}/{len} slices  {per_sec}")
        .map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    let bar = ProgressBar::new(files.len() as u64).with_style(style);
    let sent = sender::send(appliance.dicom_addr(), "LESIONWATCH", files, |n| {
        bar.set_position(n as u64);
        if pause_ms > 0 {
            std::thread::sleep(Duration::from_millis(pause_ms));
        }
        !stop.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    sent.map_err(|e| Failure::new(Class::Unavailable, e.to_string()))?;
    println!("sent {} slices over C-STORE", files.len());
    Ok(())
}

fn print_event(event: &Event) {
    let t = &event.body.timing_ms;
    println!("  {:?} {} priority {} version {}", event.event_type, event.alert_id, event.priority, event.version);
    println!("  series {} slices, {} {}", event.body.series.slices, event.body.model.name, event.body.model.version);
    for l in &event.body.lesions {
        println!(
            "  {:>2}  {:<12} {:>5.1} × {:>4.1} mm  score {:.2}  instance {}",
            l.number,
            l.lesion_type,
            l.long_axis_mm,
            l.short_axis_mm,
            l.score,
            l.key_image.instance_number.map_or_else(|| "-".into(), |n| n.to_string())
        );
    }
    println!(
        "  timing ms since the first slice: last slice {}, settled {}, analysed {}, offered {}",
        t.last_slice,
        t.settled,
        t.analysed,
        t.offered.map_or_else(|| "-".into(), |o| o.to_string())
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_the_middle_in_order() {
        let files = |n: usize| (0..n).map(|i| (i.to_string(), Vec::new())).collect::<Vec<_>>();
        let names = |n: usize, most: usize| -> Vec<String> {
            excerpt(files(n), NonZeroUsize::new(most).unwrap()).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(7, 3), ["2", "3", "4"]);
        assert_eq!(names(6, 3), ["1", "2", "3"]);
        assert_eq!(names(3, 3), ["0", "1", "2"]);
        assert_eq!(names(3, 9), ["0", "1", "2"]);
        assert_eq!(names(0, 1), [""; 0]);
    }
}
