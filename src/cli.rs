//! The verbs and their help text.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::demo::DemoArgs;
use crate::error::{Class, Failure};
use crate::scan::ScanArgs;

/// Triage appliance beside a CT scanner: DICOM in, universal lesion detection, MQTT out. For research use.
#[derive(Debug, Parser)]
#[command(name = "lesionwatch", version, max_term_width = 110, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 `demo --once` saw no alert, 64 usage, 65 bad input data, 69 a service is unavailable, 70 internal, 74 I/O, 78 configuration.\n\
The log goes to stderr; RUST_LOG sets its level (error, warn, info, debug)."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The daemon: receives DICOM, detects, alerts over MQTT (SIGTERM drains)
    Run(ConfigArg),
    /// Broker, appliance and dashboard on free loopback ports, fed with the built-in sample CT over real C-STORE
    Demo(DemoArgs),
    /// Offline: analyse folders or files of DICOM
    Scan(ScanArgs),
    /// The reading room's page alone, on any machine that reaches the broker
    Dashboard(ConfigArg),
    /// Validate configuration, bundle, engines, broker and disk; say what would run
    Check(ConfigArg),
    /// The DICOM conformance statement of the configuration, as Markdown on stdout
    Conformance(ConfigArg),
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// TOML configuration; every key has a default that runs on a laptop
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Parses the command line, runs the verb, reports a failure in one place.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let asked = !e.use_stderr();
            // The message is for a terminal that may be gone: nothing is left to tell then.
            let _ = e.print();
            return ExitCode::from(if asked { 0 } else { Class::Usage.exit_code() });
        }
    };
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lesionwatch: {failure}");
            ExitCode::from(failure.class.exit_code())
        }
    }
}

fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Run(arg) => {
            start_log("info");
            crate::appliance::run(&Config::load(arg.config.as_deref())?)
        }
        Verb::Demo(args) => {
            start_log("warn");
            crate::demo::run(&args)
        }
        Verb::Scan(args) => {
            start_log("warn");
            crate::scan::run(&args)
        }
        Verb::Dashboard(arg) => {
            start_log("info");
            crate::appliance::dashboard_alone(&Config::load(arg.config.as_deref())?)
        }
        Verb::Check(arg) => {
            start_log("warn");
            crate::check::run(&Config::load(arg.config.as_deref())?)
        }
        Verb::Conformance(arg) => {
            start_log("warn");
            crate::conformance::run(&Config::load(arg.config.as_deref())?)
        }
    }
}

/// One line per event; under systemd (`JOURNAL_STREAM`) with syslog priorities and without times, which the journal has.
fn start_log(level: &str) {
    use std::io::Write;
    // Libraries narrate under their own names; what matters of theirs comes back to us as an error and is logged here.
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let quiet = ["rumqttd", "rumqttc", "tracing", "tract_onnx", "tract_core", "tract_linalg", "tract_hir", "dicom_ul", "dicom_object"];
    let filter = quiet.iter().filter(|name| !asked.contains(**name)).fold(asked.clone(), |filter, name| format!("{filter},{name}=off"));
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filter);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.format(|out, record| {
            let priority = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{priority}>{}", record.args())
        });
    }
    // A logger that is already there (tests) stays.
    let _ = builder.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::calibrated_score;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_score_lies_between_0_and_1() {
        for wrong in ["-0.1", "1.01", "7", "NaN", "inf", "-inf", "", "half"] {
            assert!(calibrated_score(wrong).is_err(), "{wrong}");
        }
        assert_eq!(["0", "0.25", "1"].map(calibrated_score), [Ok(0.0), Ok(0.25), Ok(1.0)]);
    }
}
