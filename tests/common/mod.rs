//! What the whole-appliance tests share: a rig of the real binary, a real Mosquitto, and its subscriber.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod objects;
pub mod orthanc;
pub mod pki;
pub mod webdriver;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Generous: CI machines are slow, and what is waited for is a condition, not a time.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for `what`, saying its name when it does not come.
pub fn wait_for<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {name}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// A child that does not outlive its test.
pub struct Process(pub Child);

impl Process {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
    // DCMTK as Debian ships it waits for delayed acknowledgements otherwise.
    command.env("TCP_NODELAY", "1");
    command
}

/// What candle names the threads of the pool that waits by spinning.
pub const SPINNING_POOL: &str = "candle-bp-";

/// Names of the threads that a process has now; none where it has ended.
pub fn thread_names(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok()).map(|name| name.trim().to_owned()).collect()
}

pub fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: is it installed? tests/run installs the peers"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// A real broker on its own port.
pub fn mosquitto(dir: &Path, port: u16) -> Process {
    let config = dir.join("mosquitto.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 4194304\n")).unwrap();
    let child = tool("mosquitto").arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let process = Process(child);
    wait_for("mosquitto", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

/// `mosquitto_sub` on everything but images: topic and document of each message.
pub struct Subscriber {
    _process: Process,
    lines: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Subscriber {
    pub fn new(port: u16) -> Self {
        let mut command = tool("mosquitto_sub");
        command.args(["-V", "5", "-h", "127.0.0.1", "-q", "1", "-p", &port.to_string(), "-F", "%t %p"]);
        for topic in ["status", "alerts", "alerts/open", "results", "cmd/+/response"] {
            command.args(["-t", &format!("lesionwatch/site/ct1/{topic}")]);
        }
        // Told of itself: a subscriber that is not connected yet misses what is not retained.
        command.args(["-t", "ready"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some((topic, payload)) = line.split_once(' ') {
                    let value = serde_json::from_str(payload).unwrap_or(Value::Null);
                    sink.lock().unwrap().push((topic.to_owned(), value));
                }
            }
        });
        let subscriber = Self { _process: Process(child), lines };
        wait_for("the subscriber", || {
            publish(port, "ready", "{}");
            subscriber.lines.lock().unwrap().iter().any(|(t, _)| t == "ready").then_some(())
        });
        subscriber
    }

    /// Documents of a topic below the base, so far.
    pub fn of(&self, topic: &str) -> Vec<Value> {
        let full = format!("lesionwatch/site/ct1/{topic}");
        self.lines.lock().unwrap().iter().filter(|(t, _)| *t == full).map(|(_, v)| v.clone()).collect()
    }

    /// Results of one series.
    pub fn results(&self, series: &str) -> Vec<Value> {
        self.of("results").into_iter().filter(|d| d["series"]["series_instance_uid"] == series).collect()
    }
}

pub fn publish(port: u16, topic: &str, payload: &str) {
    let (ok, text) =
        run(tool("mosquitto_pub").args(["-V", "5", "-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", topic, "-m", payload]));
    assert!(ok, "{text}");
}

/// The tiny bundle, written once a test.
pub fn tiny_bundle(dir: &Path) -> PathBuf {
    let folder = dir.join("bundle");
    lesionwatch::detect::tiny::write(&folder).unwrap();
    folder
}

/// The appliance as a process, on its own ports and folder.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub dicom: u16,
    pub mqtt: u16,
    pub page: u16,
    config: PathBuf,
    process: Option<Process>,
    /// `RUST_LOG`.
    pub log_level: String,
    /// Runs the appliance inside of this.
    wrapper: Vec<String>,
}

impl Rig {
    /// `mqtt` is an external broker's port. `more` is appended to the configuration.
    pub fn new(mqtt: u16, more: &str) -> Self {
        Self::with_page(mqtt, more, true)
    }

    /// Without the page, so that nobody but the test acknowledges.
    pub fn without_page(mqtt: u16, more: &str) -> Self {
        Self::with_page(mqtt, more, false)
    }

    fn with_page(mqtt: u16, more: &str, with_page: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (dicom, page) = (free_port(), free_port());
        let bundle = tiny_bundle(dir.path());
        let listen = if with_page { format!("127.0.0.1:{page}") } else { String::new() };
        let config = dir.path().join("lesionwatch.toml");
        let text = format!(
            "[dicom]\nlisten = \"127.0.0.1:{dicom}\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:{mqtt}\"\n[dashboard]\nlisten = \"{listen}\"\n[state]\ndir = \"{}\"\nreserve_mib = 1\nwrite_ahead_mib = 8\n[model]\nbundle = \"{}\"\n[engine]\nprefer = \"candle-cpu\"\n{more}\n",
            dir.path().join("state").display(),
            bundle.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut rig = Self { dir, dicom, mqtt, page, config, process: None, log_level: "info".into(), wrapper: Vec::new() };
        rig.start();
        rig
    }

    /// As [`Rig::without_page`], with a state folder of `mib` on a disk of its own, in a mount namespace of its own.
    pub fn on_small_disk(mqtt: u16, more: &str, mib: usize) -> Self {
        let mut rig = Self::without_page(mqtt, more);
        rig.terminate();
        let state = rig.dir.path().join("state");
        let options: &[&str] = if run(Command::new("id").arg("-u")).1.trim() == "0" { &["-m"] } else { &["-U", "-r", "-m"] };
        let script = format!("mount -t tmpfs -o size={mib}m tmpfs {} && exec \"$0\" \"$@\"", state.display());
        let words = [&["unshare"], options, &["sh", "-c", script.as_str()]].concat();
        rig.wrapper = words.into_iter().map(str::to_owned).collect();
        rig.start();
        rig
    }

    /// The state folder as the appliance sees it.
    pub fn state(&self) -> PathBuf {
        let inside = self.dir.path().join("state");
        Path::new("/proc").join(self.pid().to_string()).join("root").join(inside.strip_prefix("/").unwrap())
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// `kill -SIGNAL`.
    pub fn signal(&self, signal: &str) {
        let (ok, text) = run(Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()));
        assert!(ok, "{text}");
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let binary = env!("CARGO_BIN_EXE_lesionwatch").to_owned();
        let words: Vec<&String> = self.wrapper.iter().chain([&binary]).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .env("RUST_LOG", &self.log_level)
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(Process(child));
        let port = self.dicom;
        wait_for(&format!("the appliance; its log:\n{}", self.log()), || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// Replaces text of the configuration; the next start reads it.
    pub fn configure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from));
        std::fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().unwrap();
        let (ok, text) = run(Command::new("kill").arg(process.0.id().to_string()));
        assert!(ok, "{text}");
        process.0.wait().unwrap()
    }

    /// `/metrics` of the page.
    pub fn metrics(&self) -> String {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.page)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// One value of `/metrics`, by its name with labels below `lesionwatch_`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let start = format!("lesionwatch_{name} ");
        let value = text.lines().find_map(|l| l.strip_prefix(&start)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        value.trim().parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().0.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Whole objects in the spool.
    pub fn spooled(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        let mut stack = vec![self.dir.path().join("state/spool")];
        while let Some(dir) = stack.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    stack.push(path);
                } else if path.extension().is_some_and(|e| e == "dcm") {
                    all.push(path);
                }
            }
        }
        all
    }
}

pub fn sample_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/LIDC-IDRI-0314")
}

/// Every `step`th sample slice as a series of its own: new UIDs by DCMTK's dcmodify. Returns files and the Series Instance UID.
pub fn series(dir: &Path, name: &str, step: usize) -> (Vec<PathBuf>, String) {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let number: u32 = name.bytes().fold(7u32, |n, b| n.wrapping_mul(31).wrapping_add(b.into())) % 1_000_000;
    let (study, series) = (format!("1.2.826.0.1.3680043.2.1.{number}"), format!("1.2.826.0.1.3680043.2.2.{number}"));
    let mut files: Vec<PathBuf> = Vec::new();
    let mut sources: Vec<PathBuf> = std::fs::read_dir(sample_folder()).unwrap().map(|e| e.unwrap().path()).collect();
    sources.sort();
    for (i, source) in sources.iter().step_by(step).enumerate() {
        let file = folder.join(format!("{i:04}.dcm"));
        std::fs::copy(source, &file).unwrap();
        let (ok, text) = run(tool("dcmodify")
            .args(["-nb", "-m"])
            .arg(format!("StudyInstanceUID={study}"))
            .arg("-m")
            .arg(format!("SeriesInstanceUID={series}"))
            .arg("-m")
            .arg(format!("SOPInstanceUID={series}.{i}"))
            .arg(&file));
        assert!(ok, "{text}");
        files.push(file);
    }
    (files, series)
}

/// One association of storescu with JPEG-LS proposed; true when every object was accepted.
pub fn store(port: u16, files: &[PathBuf]) -> (bool, String) {
    run(tool("storescu").args(["-xt", "-aec", "LESIONWATCH", "127.0.0.1", &port.to_string()]).args(files))
}

/// An A-ASSOCIATE-RQ for `class` in Implicit VR Little Endian.
pub fn associate_request(calling: &str, called: &str, class: &str) -> Vec<u8> {
    let request = dicom_ul::pdu::AssociationRQ {
        protocol_version: 1,
        calling_ae_title: calling.into(),
        called_ae_title: called.into(),
        application_context_name: "1.2.840.10008.3.1.1.1".into(),
        presentation_contexts: vec![dicom_ul::pdu::PresentationContextProposed {
            id: 1,
            abstract_syntax: class.into(),
            transfer_syntaxes: vec!["1.2.840.10008.1.2".into()],
        }],
        user_variables: vec![dicom_ul::pdu::UserVariableItem::MaxLength(16_384)],
    };
    let mut bytes = Vec::new();
    dicom_ul::pdu::write_pdu(&mut bytes, &dicom_ul::pdu::Pdu::AssociationRQ(request)).unwrap();
    bytes
}

/// A script of `tests/peers` in the interpreter that tests/run sets up.
pub fn peer_script(name: &str) -> Command {
    let mut command = Command::new(installed("peers-venv/bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    command
}

/// A peer from crates.io that tests/run sets up.
pub fn cargo_peer(name: &str) -> Command {
    Command::new(installed(&format!("peers-cargo/bin/{name}")))
}

/// A program below the build folder.
fn installed(program: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let path = target.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from).join(program);
    assert!(path.exists(), "{} is not there: tests/run installs the peers", path.display());
    path
}

/// Asserts that `document` fits `schemas/<name>.json`.
pub fn check_schema(name: &str, document: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.json"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(document).map(|e| format!("{} at {}", e, e.instance_path)).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}\n{document:#}");
}
