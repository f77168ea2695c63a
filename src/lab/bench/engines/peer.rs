//! Processes that answer questions line by line: our own workers, and a Python with onnxruntime.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::bench::talk::Talk;

/// The peer's row that ratios refer to.
pub const ONNXRUNTIME: &str = "onnxruntime f32";
/// The peer on our int8 graphs.
pub const ONNXRUNTIME_INT8: &str = "onnxruntime int8";
/// The peer's side.
const SCRIPT: &str = include_str!("onnxruntime.py");

/// A process, or why there is none.
pub struct Contestant {
    /// Engine and format.
    pub name: String,
    state: Result<Talk, String>,
    answers: HashMap<String, Vec<f64>>,
}

/// A worker of this program.
pub fn ours(name: &str, model: Option<&Path>, folder: &Path, [h, w]: [usize; 2]) -> Contestant {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "lesionlab".into()));
    command.args(["bench", "worker", "--engine", name, "--height", &h.to_string(), "--width", &w.to_string(), "--folder"]).arg(folder);
    if let Some(model) = model {
        command.arg("--model").arg(model);
    }
    Contestant::start(name, command)
}

/// onnxruntime on two graphs.
pub fn python(name: &str, python: &Path, folder: &Path, [h, w]: [usize; 2], cores: usize, graphs: [&Path; 2]) -> Contestant {
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(folder.join(super::worker::SLOTS)).args(graphs).args([h, w, cores].map(|n| n.to_string()));
    Contestant::start(name, command)
}

impl Contestant {
    /// One that is not here.
    pub fn absent(name: &str, why: &str) -> Self {
        Self { name: name.into(), state: Err(why.into()), answers: HashMap::new() }
    }

    fn start(name: &str, mut command: Command) -> Self {
        let mut this = Self::absent(name, "");
        command.stderr(Stdio::null());
        this.state = Talk::start(command).map_err(|e| e.to_string());
        // `ready NAME`, or the reason why not.
        match this.line(None) {
            Ok(line) => match line.split_once(' ') {
                Some(("ready", name)) => this.name = name.to_owned(),
                _ => this.end(&line),
            },
            Err(reason) => this.end(&reason),
        }
        this
    }

    fn end(&mut self, reason: &str) {
        if self.state.is_ok() {
            self.state = Err(reason.to_owned());
        }
    }

    fn line(&mut self, question: Option<&str>) -> Result<String, String> {
        let talk = self.state.as_mut().map_err(|e| e.clone())?;
        let said = match question {
            Some(question) => talk.ask(question),
            None => talk.line(),
        };
        said.map_err(|e| e.to_string())
    }

    /// Asks and keeps the answer, seconds.
    pub fn ask(&mut self, question: &str) {
        if let Some(seconds) = self.once(question) {
            self.answers.entry(question.to_owned()).or_default().push(seconds);
        }
    }

    /// As [`Contestant::ask`], and keeps the processor time that the answer took under `cpu`.
    pub fn ask_with_cpu(&mut self, question: &str) {
        let before = self.once("cpu");
        self.ask(question);
        if let Some((before, after)) = before.zip(self.once("cpu")) {
            self.answers.entry("cpu".into()).or_default().push(after - before);
        }
    }

    /// Keeps what was measured of it from outside, of one that is here.
    pub fn keep(&mut self, what: &str, number: Option<f64>) {
        if let (Ok(_), Some(number)) = (&self.state, number) {
            self.answers.entry(what.to_owned()).or_default().push(number);
        }
    }

    /// Asks for one number; who gives none is out.
    pub fn once(&mut self, question: &str) -> Option<f64> {
        self.state.as_ref().ok()?;
        let answer = self.line(Some(question));
        match answer.as_ref().map(|a| a.parse::<f64>()) {
            Ok(Ok(number)) => Some(number),
            _ => {
                let reason = answer.unwrap_or_else(|e| e);
                self.end(&reason);
                None
            }
        }
    }

    /// What was answered to a question.
    pub fn answers(&self, question: &str) -> &[f64] {
        self.answers.get(question).map_or(&[], Vec::as_slice)
    }

    /// Why it is not here.
    pub fn absent_because(&self) -> Option<String> {
        self.state.as_ref().err().cloned()
    }
}
