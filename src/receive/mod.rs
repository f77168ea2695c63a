//! DICOM in: associations, DIMSE, and the durable spool. Never parses pixels.

pub mod association;
pub mod backlog;
pub mod blocks;
pub mod caller;
pub mod commitment;
pub mod context;
pub mod courier;
pub mod dimse;
pub mod incoming;
pub mod latency;
pub mod ledger;
pub mod listener;
pub mod peek;
pub mod peers;
pub mod place;
pub mod prewriter;
pub mod roster;
pub mod services;
pub mod session;
pub mod spare;
pub mod spool;
pub mod stream;
pub mod tls;
pub mod traffic;
pub mod wire;

use std::path::PathBuf;
use std::time::SystemTime;

use self::peers::Priority;

/// One object that is durably in the spool (file and directory synced).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Part 10 file in the spool.
    pub path: PathBuf,
    /// (0020,000D)
    pub study_instance_uid: String,
    /// (0020,000E)
    pub series_instance_uid: String,
    /// (0008,0018)
    pub sop_instance_uid: String,
    /// (0008,0016)
    pub sop_class_uid: String,
    /// (0002,0010)
    pub transfer_syntax_uid: String,
    /// AE title of the sender.
    pub calling_ae: String,
    /// Whose turn it is.
    pub priority: Priority,
    /// Number of the association it came over; 0 for an object found in the spool at start-up.
    pub association: u64,
    /// When Success was sent (file time for an object found at start-up).
    pub received_at: SystemTime,
}

/// What the rest of the appliance learns from the receiving side, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiveEvent {
    /// A new object (not an identical repeat) is in the spool.
    Stored(StoredObject),
    /// An association ended; `released` is false after an abort or a lost connection.
    AssociationEnded {
        /// Its number.
        association: u64,
        /// A-RELEASE completed.
        released: bool,
    },
}
