//! Numbers that stand for identities in what is written.

/// Numbers of a written series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Numbers {
    /// From 1, by hash.
    pub patient: usize,
    /// From 1, by date.
    pub study: usize,
    /// From 1, by series number.
    pub series: usize,
}

impl Numbers {
    /// Name of its folder.
    #[must_use]
    pub fn folder(self) -> String {
        format!("{:06}_{:02}_{:02}", self.patient, self.study, self.series)
    }
}
