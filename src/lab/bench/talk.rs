//! A process that answers line by line, so that it takes its turn in every round.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One that runs; dropped, it ends.
pub struct Talk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Talk {
    /// Starts it; what it says of itself goes where `command` has its stderr.
    ///
    /// # Errors
    /// The system's.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { child, input, output: BufReader::new(output) }),
            _ => Err(io::Error::other("no pipes")),
        }
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// The system's, [`io::ErrorKind::UnexpectedEof`] where it ended.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a word")),
            _ => Ok(line.trim().to_owned()),
        }
    }

    /// One line there, one back.
    ///
    /// # Errors
    /// As [`Talk::line`].
    pub fn ask(&mut self, question: &str) -> io::Result<String> {
        writeln!(self.input, "{question}").and_then(|()| self.input.flush())?;
        self.line()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It ends with its input anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_line_by_line_until_it_ends() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read -r line; echo \"you said $line\""]);
        let mut talk = Talk::start(command).unwrap();
        assert_eq!(talk.line().unwrap(), "ready");
        assert_eq!(talk.ask("hello").unwrap(), "you said hello");
        assert_eq!(talk.line().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
