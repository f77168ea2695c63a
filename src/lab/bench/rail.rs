//! The rail that feeds a board: its power as the board's own monitor has it (TI INA3221 behind Linux's hwmon: millivolts and milliamperes), and with it the
//! energy of what runs meanwhile. It is the whole board's, at rest too.
//!
//! Only boards with one rail for everything: `VDD_IN` of Jetson Orin Nano, Orin NX, Xavier NX and TX2, `POM_5V_IN` of the Nano. AGX Orin measures parts of itself
//! and not their sum.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Names of rails that everything else is fed from.
const INPUTS: [&str; 2] = ["VDD_IN", "POM_5V_IN"];
/// Channels of a monitor.
const CHANNELS: std::ops::RangeInclusive<usize> = 1..=3;
/// Between two looks; the monitor has a new value every few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One rail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rail {
    millivolts: PathBuf,
    milliamperes: PathBuf,
}

impl Rail {
    /// The input rail below `sysfs` (`/sys` but in tests); `None` where no monitor names one.
    #[must_use]
    pub fn find(sysfs: &Path) -> Option<Self> {
        let monitors = fs::read_dir(sysfs.join("class/hwmon")).ok()?.flatten().map(|e| e.path());
        let on = |monitor: PathBuf| {
            CHANNELS.filter_map(move |n| {
                let label = fs::read_to_string(monitor.join(format!("in{n}_label"))).ok()?;
                let rail = Self { millivolts: monitor.join(format!("in{n}_input")), milliamperes: monitor.join(format!("curr{n}_input")) };
                (INPUTS.contains(&label.trim()) && rail.watts().is_some()).then_some(rail)
            })
        };
        monitors.flat_map(on).next()
    }

    /// Power now; `None` where the monitor does not say.
    #[must_use]
    pub fn watts(&self) -> Option<f64> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
        Some(number(&self.millivolts)? * number(&self.milliamperes)? / 1e6)
    }

    /// Does `what`, and says how many joules the board took meanwhile; `None` where the monitor was silent.
    pub fn during<T>(&self, what: impl FnOnce() -> T) -> (T, Option<f64>) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let meter = scope.spawn(|| self.joules_until(&done));
            // Set by a panic too: the scope would wait for the meter forever.
            let end = End(&done);
            let result = what();
            drop(end);
            (result, meter.join().ok().flatten())
        })
    }

    /// The sum of power over time, straight between looks.
    fn joules_until(&self, done: &AtomicBool) -> Option<f64> {
        let (mut last, mut at, mut joules) = (self.watts()?, Instant::now(), 0.0);
        loop {
            let ends = done.load(Ordering::Acquire);
            let (watts, now) = (self.watts()?, Instant::now());
            joules += f64::midpoint(last, watts) * (now - at).as_secs_f64();
            (last, at) = (watts, now);
            if ends {
                return Some(joules);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A monitor as Linux shows it: label, mV and mA a channel.
    fn monitor(sysfs: &Path, name: &str, channels: &[(usize, &str, &str, &str)]) {
        let at = sysfs.join("class/hwmon").join(name);
        fs::create_dir_all(&at).unwrap();
        for (n, label, mv, ma) in channels {
            fs::write(at.join(format!("in{n}_label")), format!("{label}\n")).unwrap();
            fs::write(at.join(format!("in{n}_input")), format!("{mv}\n")).unwrap();
            fs::write(at.join(format!("curr{n}_input")), format!("{ma}\n")).unwrap();
        }
    }

    #[test]
    fn the_input_rail_is_found_among_others_and_is_volts_times_amperes() {
        let sysfs = tempfile::tempdir().unwrap();
        assert_eq!(Rail::find(sysfs.path()), None);
        monitor(sysfs.path(), "hwmon0", &[(1, "VDD_GPU_SOC", "19000", "200"), (2, "VDD_CPU_CV", "19000", "100")]);
        assert_eq!(Rail::find(sysfs.path()), None, "AGX Orin has no rail for everything");
        monitor(sysfs.path(), "hwmon1", &[(1, "VDD_CPU_GPU_CV", "4900", "900"), (2, "VDD_IN", "5000", "1500")]);
        let rail = Rail::find(sysfs.path()).unwrap();
        assert!((rail.watts().unwrap() - 7.5).abs() < 1e-9);
        fs::write(&rail.milliamperes, "no number").unwrap();
        assert_eq!(Rail::find(sysfs.path()), None);
    }

    #[test]
    fn joules_are_watts_times_seconds() {
        let sysfs = tempfile::tempdir().unwrap();
        monitor(sysfs.path(), "hwmon3", &[(1, "VDD_IN", "5000", "2000")]);
        let rail = Rail::find(sysfs.path()).unwrap();
        let begun = Instant::now();
        let (five, joules) = rail.during(|| {
            std::thread::sleep(Duration::from_millis(60));
            5
        });
        let (joules, most) = (joules.unwrap(), begun.elapsed().as_secs_f64() * 10.0);
        // The meter is a thread: it begins a little later, and ends a little later.
        assert!(five == 5 && joules > 0.3 && joules <= most, "{joules} J of {most}");
        // A monitor that falls silent makes no number.
        let (_, joules) = rail.during(|| fs::remove_file(&rail.millivolts).unwrap());
        assert_eq!(joules, None);
    }
}
