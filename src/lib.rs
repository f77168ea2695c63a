//! lesionwatch: the firmware of an inference appliance beside a CT scanner.
//!
//! ```text
//!  scanner ─C-STORE─▶ receive ─object─▶ series ─slice─▶ volume ─slot─▶ detect ─boxes─▶ lesion ─findings─▶ alert ─MQTT─▶ reading room
//! ```
//!
//! The rooms stand in the order of the flow, and no room depends on a later one:
//!
//! | room | duty | deliberately absent |
//! |---|---|---|
//! | [`receive`] | DICOM associations, durable spool | pixels |
//! | [`series`] | which slices belong together, when a series is complete, whether it can be analysed | sockets, pixels |
//! | [`volume`] | stored pixels → HU → the detector's grid and windows | I/O beyond one file, clocks |
//! | [`detect`] | the network, its engines, boxes of one slot, the model bundle | DICOM |
//! | [`lesion`] | boxes → lesions in 3-D, measured and scored | I/O, clocks |
//! | [`alert`] | documents, outbox, MQTT | pixels (beyond finished key images) |
//! | [`dashboard`] | the reading room's page, itself a subscriber | access to the appliance's state |
//!
//! [`analysis`] carries one series through volume, detect and lesion; [`appliance`] is the wiring diagram.
//!
//! # Glossary
//! - **association**: one DICOM connection between two application entities (PS3.8).
//! - **instance**: one DICOM object; **slice**: an instance that is one axial CT image.
//! - **series**: the slices that share a Series Instance UID; **stack**: those of them with one orientation and frame.
//! - **slot**: one plane of the detector's z grid, about 2 mm from the next; made of one slice or two.
//! - **window**: an HU interval mapped to 0..1; three of them are a slot's channels.
//! - **candidate**: one box in one slot, before any threshold.
//! - **lesion**: candidates of neighbouring slots linked to one object, with one score and RECIST axes.
//! - **alert**: what the reading room is told about one series; versioned, open until acknowledged.
//! - **bundle**: the model with everything needed to run and judge it.

pub mod alert;
pub mod analysis;
pub mod appliance;
pub mod check;
pub mod cli;
pub mod config;
pub mod conformance;
pub mod dashboard;
pub mod demo;
pub mod detect;
pub mod elements;
pub mod error;
pub mod files;
pub mod health;
#[cfg(feature = "lab")]
pub mod lab;
pub mod lesion;
pub mod receive;
pub mod scan;
pub mod series;
pub mod shipped;
pub mod tenancy;
pub mod volume;
pub mod worker;
