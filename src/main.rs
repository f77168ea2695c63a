//! Arguments → config → a verb → exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    lesionwatch::cli::main()
}
