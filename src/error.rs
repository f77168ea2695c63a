//! Classes of failure and their exit codes (sysexits.h).

use std::fmt;

/// Why a verb could not do its work; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wrong command line.
    Usage,
    /// Input data that cannot be used.
    Data,
    /// A service or a device is not there.
    Unavailable,
    /// A defect of this program.
    Internal,
    /// Reading or writing failed.
    Io,
    /// Wrong configuration.
    Config,
    /// Ran to its end without what was asked for (`demo --once` without an alert).
    NotMet,
}

impl Class {
    /// Exit code of the process.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::NotMet => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Io => 74,
            Self::Config => 78,
        }
    }
}

/// A failure as the person at the terminal sees it: what happened, to which value, what to do.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub class: Class,
    /// One or a few lines.
    pub message: String,
}

impl Failure {
    /// A failure of `class` with a message.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_sysexits() {
        let codes = [Class::Usage, Class::Data, Class::Unavailable, Class::Internal, Class::Io, Class::Config].map(Class::exit_code);
        assert_eq!(codes, [64, 65, 69, 70, 74, 78]);
    }
}
