//! PyTorch as a peer: a Python process that builds and times what it is told, one JSON line a request, so that it takes its turn in every round.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::error::{Class, Failure};

const SCRIPT: &str = include_str!("peer_torch.py");

/// A running PyTorch.
pub struct Torch {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
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
        let mut child =
            Command::new(python).args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| gone(&e))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return Err(gone(&"no pipes")) };
        let mut torch = Self { child, input, output: BufReader::new(output), version: String::new() };
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
        writeln!(self.input, "{request}").and_then(|()| self.input.flush()).map_err(|_| ended())?;
        let mut line = String::new();
        if self.output.read_line(&mut line).map_err(|_| ended())? == 0 {
            return Err(ended());
        }
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

impl Drop for Torch {
    fn drop(&mut self) {
        // It ends with its input anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
