//! `lesionwatch check`: says what would run, and what stands in its way, without starting it.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use crate::config::{Broker, Config};
use crate::detect::{select, tract_engine};
use crate::error::{Class, Failure};
use crate::receive::spool::free_bytes;
use crate::receive::tls::Tls;
use crate::shipped;
use crate::tenancy::Tenancy;

/// A broker that does not answer within this is not there.
const BROKER_WITHIN: Duration = Duration::from_secs(3);

/// Checks everything, prints a line each, fails with the class of the first failure.
///
/// # Errors
/// The first thing that stands in the way.
pub fn run(config: &Config) -> Result<(), Failure> {
    println!("configuration  good: site {} device {}", config.site, config.device);
    let mut failures = Vec::new();
    let mut line = |name: &str, result: Result<String, Failure>| match result {
        Ok(text) => println!("{name:<14} {text}"),
        Err(failure) => {
            println!("{name:<14} FAILS: {failure}");
            failures.push(failure);
        }
    };
    line("state", state(config));
    line(
        "DICOM port",
        port(config.dicom.listen, "[dicom] listen").map(|()| format!("{} free, AE {}", config.dicom.listen, config.dicom.ae_title)),
    );
    if let Some((listen, files)) = &config.dicom.tls {
        let opened = Tls::open(files.clone()).map_err(|e| Failure::new(Class::Config, e.to_string()));
        line(
            "DICOM TLS",
            opened.and_then(|_| port(*listen, "[dicom.tls] listen")).map(|()| format!("{listen} free, client certificates required")),
        );
    }
    line("DICOM peers", Ok(peers(config)));
    line("broker", broker(config));
    if let Some(listen) = config.dashboard {
        line("dashboard", port(listen, "[dashboard] listen").map(|()| format!("http://{listen}/")));
    }
    // Names of another processor here mean that this one was not recognised.
    let kernels = tract_engine::kernels().map(|(operands, kernel)| format!("{operands} {}", kernel.unwrap_or_else(|| "none".into())));
    line("tract kernels", Ok(kernels.join(", ")));
    match shipped::open(config.bundle.as_deref()) {
        Err(failure) => line("bundle", Err(failure)),
        Ok(bundle) => {
            let d = &bundle.description;
            let point = bundle.operating_point().map_or_else(String::new, |p| {
                format!(", reports from score {:.2} ({:.2} false positives an image on {})", p.score, p.fp_per_image, p.measured_on)
            });
            line("bundle", Ok(format!("{} {} sha256 {}…{point}", d.name, d.version, &bundle.weights_sha256[..12])));
            match select::choose_or_stand_in(&bundle, &config.engine.prefer) {
                Ok(choice) => {
                    let together = match choice.at_once {
                        1 => "on one engine".to_owned(),
                        n => format!("out of {n} at once"),
                    };
                    for trial in &choice.trials {
                        let text = match &trial.outcome {
                            Ok(took) => {
                                format!("{:<16} self-test passed, {:.0} ms a slot {together}", trial.engine, took.as_secs_f64() * 1000.0)
                            }
                            Err(reason) => format!("{:<16} {reason}", trial.engine),
                        };
                        line("engine", Ok(text));
                    }
                    let missed = choice.missed.iter().map(|(name, _)| format!(", and {name} as soon as it starts")).collect::<String>();
                    line("would run", Ok(format!("{} {}{missed}", choice.engine.name(), choice.engine.quantization())));
                }
                Err(e) => line("engine", Err(Failure::new(Class::Unavailable, e.to_string()))),
            }
        }
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// Who will be answered.
fn peers(config: &Config) -> String {
    let dicom = &config.dicom;
    let called = if dicom.require_called_ae { format!("calling {}", dicom.ae_title) } else { "calling any title".to_owned() };
    if dicom.peers.is_empty() {
        return format!("none configured: anyone who reaches the port, {called}; see [[dicom.peer]]");
    }
    let peers = dicom.peers.iter().map(|p| {
        let addresses: Vec<String> = p.addresses.iter().map(ToString::to_string).collect();
        let from = if addresses.is_empty() { "anywhere".to_owned() } else { addresses.join(" ") };
        format!("{} from {from}", p.calling_ae.as_deref().unwrap_or("any title"))
    });
    format!("{}, {called}", peers.collect::<Vec<_>>().join("; "))
}

/// Looks without touching: a daemon may be running on this folder.
fn state(config: &Config) -> Result<String, Failure> {
    let dir = &config.state.dir;
    let there = dir.ancestors().find(|a| a.exists()).unwrap_or(Path::new("."));
    let advice = |e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}; check [state] dir and its owner", there.display()));
    if !there.is_dir() {
        return Err(advice(&"is not a folder"));
    }
    rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(|e| advice(&e))?;
    let free_mib = free_bytes(there) >> 20;
    if free_mib <= config.state.reserve_mib {
        return Err(Failure::new(
            Class::Io,
            format!(
                "{}: {free_mib} MiB free, {} MiB are reserved: every object would be refused",
                there.display(),
                config.state.reserve_mib
            ),
        ));
    }
    if there != dir {
        return Ok(format!("{} will be made, {free_mib} MiB free", dir.display()));
    }
    // Only a folder that has been used has a lock; it is let go at once.
    let taken = if dir.join("state.db").exists() { Tenancy::take(dir).map(drop) } else { Ok(()) };
    taken.map(|()| format!("{} writable, {free_mib} MiB free", dir.display()))
}

fn port(address: SocketAddr, key: &str) -> Result<(), Failure> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|e| Failure::new(Class::Unavailable, format!("{address}: {e}; is another program there? change {key}")))
}

fn broker(config: &Config) -> Result<String, Failure> {
    match &config.mqtt.broker {
        Broker::Embedded(address) => port(*address, "[mqtt] embedded_listen").map(|()| format!("embedded, {address}")),
        Broker::Url(url) => {
            let authority = url.split_once("://").map_or(url.as_str(), |(_, a)| a).trim_end_matches('/');
            let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:1883") };
            let reached =
                with_port.to_socket_addrs().ok().into_iter().flatten().any(|a| TcpStream::connect_timeout(&a, BROKER_WITHIN).is_ok());
            if reached {
                Ok(format!("{url} answers"))
            } else {
                Err(Failure::new(Class::Unavailable, format!("{url} does not answer; is the broker running, and is mqtt.url right?")))
            }
        }
    }
}
