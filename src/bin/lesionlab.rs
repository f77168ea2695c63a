//! The workbench: arguments → a verb → exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    lesionwatch::lab::cli::main()
}
