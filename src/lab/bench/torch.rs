//! PyTorch as a peer: a Python process that builds and times what it is told, one JSON line a request, so that it takes its turn in every round.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::talk::Talk;
use crate::error::{Class, Failure};

const SCRIPT: &str = include_str!("peer_torch.py");

/// A running PyTorch.
pub struct Torch {
    talk: Talk,
    /// Its version.
    pub version: String,
}

impl Torch {
    /// Starts `python`, which must have torch, with this many threads.
    ///
    /// # Errors
    /// No such program, no torch in it.
    pub fn start(python: &Path, threads: usize) -> Result<Self, Failure> {
        let gone = |e: &dyn std::fmt::Display| Failure::new(Class::Unavailable, format!("{}: {e}", python.display()));
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]);
        let mut torch = Self { talk: Talk::start(command).map_err(|e| gone(&e))?, version: String::new() };
        let hello = torch.ask(&json!({ "what": "hello", "threads": threads }))?;
        torch.version = hello["version"].as_str().unwrap_or_default().to_owned();
        Ok(torch)
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// It ended, or answered no JSON; what it says of itself is on stderr.
    pub fn ask(&mut self, request: &Value) -> Result<Value, Failure> {
        let ended =
            || Failure::new(Class::Unavailable, "the Python peer ended: it needs torch (`pip install torch`); its own words are above");
        let line = self.talk.ask(&request.to_string()).map_err(|_| ended())?;
        serde_json::from_str(&line).map_err(|e| Failure::new(Class::Unavailable, format!("the Python peer answers {line:?}: {e}")))
    }

    /// As [`Torch::ask`], for milliseconds.
    ///
    /// # Errors
    /// As [`Torch::ask`]; no such number in the answer.
    pub fn milliseconds(&mut self, request: &Value) -> Result<f64, Failure> {
        let answer = self.ask(request)?;
        answer["ms"].as_f64().ok_or_else(|| Failure::new(Class::Unavailable, format!("the Python peer answers {answer}")))
    }
}
