//! The receivers: how each is started as a process of its own, and what it has done when it answers Success.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Request;
use super::peer::{Peer, free_port};
use crate::error::{Class, Failure};

/// Who receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// `lesionwatch run`.
    Ours,
    /// The same with nothing written ahead in the pause: what it does once that is used up.
    OursNothingAhead,
    /// DCMTK's storescp, a process an association.
    Dcmtk,
    /// The same with PDUs as long as ours; as it ships they are of 16 KiB.
    DcmtkLongPdus,
    /// dicom-rs' storescp.
    DicomRs,
    /// Orthanc.
    Orthanc,
    /// pynetdicom's storescp.
    Pynetdicom,
}

impl Receiver {
    /// All of them, ours first.
    pub const ALL: [Self; 7] =
        [Self::Ours, Self::OursNothingAhead, Self::Dcmtk, Self::DcmtkLongPdus, Self::DicomRs, Self::Orthanc, Self::Pynetdicom];

    /// Its name in table and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "lesionwatch",
            Self::OursNothingAhead => "lesionwatch, nothing written ahead",
            Self::Dcmtk => "dcmtk storescp",
            Self::DcmtkLongPdus => "dcmtk storescp -pdu 131072",
            Self::DicomRs => "dicom-storescp",
            Self::Orthanc => "Orthanc",
            Self::Pynetdicom => "pynetdicom storescp",
        }
    }

    /// Whether it is the appliance.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursNothingAhead)
    }

    /// What it has done with an object when it answers Success.
    #[must_use]
    pub const fn durable(self) -> &'static str {
        match self {
            Self::Ours | Self::OursNothingAhead => "synced under a durable name",
            Self::Orthanc => "file synced",
            Self::Dcmtk | Self::DcmtkLongPdus | Self::DicomRs | Self::Pynetdicom => "written, not synced",
        }
    }

    /// Its program and arguments for `port`, with its objects below `dir`; `None` where it is not installed.
    fn command(self, request: &Request, dir: &Path, port: u16) -> Result<Option<Command>, Failure> {
        let Some(program) = self.program(request) else { return Ok(None) };
        let mut command = Command::new(program);
        // Backtraces of errors that are no faults, where the one who measures has asked for them: no part of receiving.
        command.current_dir(dir).env_remove("RUST_BACKTRACE");
        let number = port.to_string();
        let objects = self.objects(dir);
        match self {
            Self::Ours | Self::OursNothingAhead => {
                let config = dir.join("lesionwatch.toml");
                let state = if self == Self::Ours { "" } else { "write_ahead_mib = 0\n" };
                write(&config, &ours(dir, port, free_port()?, state))?;
                command.args(["run", "--config"]).arg(config).env("RUST_LOG", "warn");
            }
            Self::Dcmtk => drop(command.args(["+B", "--fork", "-od"]).arg(objects).arg(number).env("TCP_NODELAY", "1")),
            Self::DcmtkLongPdus => {
                command.args(["+B", "--fork", "-pdu", "131072", "-od"]).arg(objects).arg(number).env("TCP_NODELAY", "1");
            }
            Self::DicomRs => drop(command.args(["-n", "-o"]).arg(objects).args(["-p", &number])),
            Self::Orthanc => {
                let config = dir.join("orthanc.json");
                write(&config, &orthanc(&objects, &dir.join("index"), port))?;
                command.arg(config).env("TCP_NODELAY", "1");
            }
            Self::Pynetdicom => drop(command.args(["-m", "pynetdicom", "storescp", "-q", "-od"]).arg(objects).arg(number)),
        }
        Ok(Some(command))
    }

    /// Where its objects are once it runs in `dir`, and nothing else of their size but what ours writes ahead.
    pub fn objects(self, dir: &Path) -> PathBuf {
        dir.join(if self.is_ours() { "state/spool" } else { "objects" })
    }

    fn program(self, request: &Request) -> Option<PathBuf> {
        let beside = |name: &str| Some(std::env::current_exe().ok()?.parent()?.join(name)).filter(|p| p.exists());
        let own = |name: &str| Some(request.peers.join(name)).filter(|p| p.exists()).and_then(|p| std::path::absolute(p).ok());
        match self {
            Self::Ours | Self::OursNothingAhead => beside("lesionwatch"),
            Self::Dcmtk | Self::DcmtkLongPdus => installed("storescp"),
            Self::DicomRs => own("bin/dicom-storescp").or_else(|| installed("dicom-storescp")),
            Self::Orthanc => installed("Orthanc"),
            Self::Pynetdicom => own("venv/bin/python"),
        }
    }

    /// Starts it; `None` where it is not installed.
    ///
    /// # Errors
    /// It is installed and does not start.
    pub fn start(self, request: &Request, dir: &Path) -> Result<Option<(Peer, u16)>, Failure> {
        let port = free_port()?;
        let Some(mut command) = self.command(request, dir, port)? else { return Ok(None) };
        Ok(Some((Peer::start(&mut command, port, &dir.join("log"))?, port)))
    }
}

/// A program of the search path, `sbin` included.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|f| f.join(name)).find(|p| p.is_file())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))
}

/// As shipped, but for ports, folder, and associations enough for the largest run from one address.
fn ours(dir: &Path, port: u16, mqtt: u16, state: &str) -> String {
    format!(
        "[dicom]\nlisten = \"127.0.0.1:{port}\"\nmax_associations = 64\nmax_associations_per_peer = 64\n[mqtt]\nembedded_listen = \"127.0.0.1:{mqtt}\"\n\
         [dashboard]\nlisten = \"\"\n[state]\ndir = \"{}\"\n{state}[engine]\nprefer = \"tract\"\n",
        dir.join("state").display()
    )
}

/// As shipped, but for ports, folder, no HTTP, no plugins, and threads enough for the largest run.
fn orthanc(objects: &Path, index: &Path, port: u16) -> String {
    serde_json::json!({
        "Name": "bench", "DicomPort": port, "HttpServerEnabled": false, "Plugins": [], "DicomThreadsCount": 32,
        "StorageDirectory": objects, "IndexDirectory": index, "DicomAlwaysAllowStore": true, "DicomAlwaysAllowEcho": true,
        "DicomCheckCalledAet": false, "SyncStorageArea": true,
    })
    .to_string()
}

/// Versions of what was run, as each says itself; of what is not installed there is none.
pub fn versions(request: &Request) -> Vec<(&'static str, String)> {
    let mut all = vec![("lesionwatch", env!("CARGO_PKG_VERSION").to_owned())];
    for (name, receiver, arguments) in [
        ("dcmtk", Receiver::Dcmtk, &["--version"][..]),
        ("dicom-storescp", Receiver::DicomRs, &["--version"]),
        ("Orthanc", Receiver::Orthanc, &["--version"]),
        ("pynetdicom", Receiver::Pynetdicom, &["-c", "import pynetdicom; print(pynetdicom.__version__)"]),
    ] {
        let output = receiver.program(request).and_then(|program| Command::new(program).args(arguments).output().ok());
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        // The first word that begins with a digit or v and a digit.
        let word = text.split_ascii_whitespace().map(|w| w.trim_start_matches('v')).find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        if let Some(word) = word {
            all.push((name, word.to_owned()));
        }
    }
    all
}
