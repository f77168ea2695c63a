//! The engines on an NVIDIA GPU: whether there is one that can be used, why not, and how much memory it has free.
//!
//! A build without the feature `cuda` has none and says so. One with it starts on machines without CUDA, too: the libraries are loaded when they are
//! asked for, and each that is missing is a reason ([`Absent`]), since the bindings would panic. `board/build --cuda` makes that build.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;

use super::batch::{BatchNetwork, Batched};
use super::bundle::Bundle;
use super::device_net::{DeviceNet, Format, Free};
use super::guard::Guarded;
use super::{Engine, EngineError, Features, SlotInput};

const NAME: &str = "candle-cuda";
/// Whether this program has the GPU's engines at all.
pub const IN_THIS_BUILD: bool = cfg!(feature = "cuda");
/// What [`named`] says where there is none.
pub const NO_GPU: &str = "no GPU";
/// The driver compiles kernels when a device is first used, and keeps them where its cache can be written (`CUDA_CACHE_PATH`).
const START_WITHIN: Duration = Duration::from_secs(180);
/// A call stands behind one batch at most, and a batch takes well under a second on any GPU that is faster than the processor beside it.
const CALL_WITHIN: Duration = Duration::from_secs(20);
/// Time to say which GPU there is.
const NAMED_WITHIN: Duration = Duration::from_secs(10);
/// candle keeps some memory of every device that was opened with Q8_0 (its workspaces are never given back), so the number is bounded.
const MOST_STARTS: usize = 16;
/// Slot of the first run, which has the kernels compiled.
const FIRST_SLOT: (usize, usize) = (64, 96);

static STARTS: AtomicUsize = AtomicUsize::new(0);
static STUCK: AtomicBool = AtomicBool::new(false);

/// Why there is no GPU to compute on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// The feature `cuda` is off.
    #[error("not in this build: it has no CUDA support; let \"auto\" choose, or take a binary of `board/build --cuda`")]
    NotBuilt,
    /// `libcuda.so.1` cannot be loaded.
    #[error("no NVIDIA driver: libcuda.so.1 cannot be loaded; install the driver (a Jetson's comes with JetPack)")]
    Driver,
    /// The driver is there and has no device for us.
    #[error("the NVIDIA driver has no device: {0}; look at `nvidia-smi`, and whether this user may open /dev/nvidia*")]
    Device(String),
    /// The driver is older than the libraries that this program was built with.
    #[error("the NVIDIA driver is for CUDA {has}, this build needs {needs}; update it (on a Jetson: JetPack 7)")]
    OldDriver {
        /// Newest CUDA that it can do.
        has: String,
        /// What is asked for.
        needs: String,
    },
    /// One of CUDA's libraries cannot be loaded.
    #[error("{0} cannot be loaded; install CUDA's libraries (a Jetson's come with JetPack), or name their folder in LD_LIBRARY_PATH")]
    Library(&'static str),
    /// The kernels in this program are for other devices.
    #[error("the device has compute capability {has}, this build is for {built}: build it with `board/build --cuda --capability`")]
    Capability {
        /// The device's.
        has: String,
        /// This program's.
        built: String,
    },
    /// An earlier start is stuck in the driver.
    #[error("an earlier start never came back from the driver; restart the service, or the machine")]
    Stuck,
    /// [`MOST_STARTS`].
    #[error("started {MOST_STARTS} times by this process, and failed each time; restart the service")]
    Worn,
}

/// The engine in this format, on a thread of its own, with a limit to each call.
///
/// # Errors
/// [`EngineError::Unavailable`], mostly with what [`Absent`] says.
pub fn engine(bundle: &Bundle, format: Format) -> Result<Box<dyn Engine>, EngineError> {
    let unavailable = |reason: Absent| EngineError::Unavailable { engine: NAME, reason: reason.to_string() };
    if STUCK.load(Ordering::Relaxed) {
        return Err(unavailable(Absent::Stuck));
    }
    let spec = bundle.description.network.clone();
    let weights = if format == Format::Q8_0 { bundle.q8_0_weights() } else { &bundle.weights }.clone();
    let make = move || {
        let (device, free) = driver::open().map_err(|e| e.to_string())?;
        // Counted here: what was refused before has taken nothing.
        if STARTS.fetch_add(1, Ordering::Relaxed) >= MOST_STARTS {
            return Err(Absent::Worn.to_string());
        }
        let network = DeviceNet::new(&spec, &weights, format, device, free)?;
        first_run(&network)?;
        Ok(network)
    };
    let begin = Instant::now();
    let started = Batched::start(NAME, START_WITHIN, make);
    if started.is_err() && begin.elapsed() >= START_WITHIN {
        STUCK.store(true, Ordering::Relaxed);
    }
    Ok(Box::new(Guarded::new(Box::new(started?), CALL_WITHIN)))
}

/// The GPU itself, for training.
///
/// # Errors
/// Why there is none.
pub fn device() -> Result<Device, Absent> {
    driver::open().map(|(device, _)| device)
}

/// Once through both graphs, so that the calls that follow find the kernels ready.
fn first_run(network: &DeviceNet) -> Result<(), String> {
    let (height, width) = FIRST_SLOT;
    let features: Vec<Features> = network.encode(&[SlotInput { height, width, data: vec![0.4; height * width * 3] }])?;
    network.heads(&[features.iter().cycle().take(network.context()).cloned().collect()]).map(drop)
}

/// The GPU's name, or that there is none: part of what a verdict about the fastest engine holds for.
#[must_use]
pub fn named() -> String {
    let (told, heard) = crossbeam_channel::bounded(1);
    let looked = std::thread::Builder::new().name("cuda-name".into()).spawn(move || told.send(driver::name()));
    match looked.ok().and_then(|_| heard.recv_timeout(NAMED_WITHIN).ok()) {
        Some(Ok(name)) => name,
        _ => NO_GPU.into(),
    }
}

#[cfg(not(feature = "cuda"))]
mod driver {
    use super::{Absent, Device, Free};

    pub fn open() -> Result<(Device, Free), Absent> {
        Err(Absent::NotBuilt)
    }

    pub fn name() -> Result<String, Absent> {
        Err(Absent::NotBuilt)
    }
}

#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod driver {
    use std::fs;

    use cudarc::driver::sys::{self, CUdevice_attribute};
    use cudarc::driver::{CudaContext, result};

    use super::{Absent, Device, Free};

    /// Whose kernels are in this program; a number as in `sm_87`.
    const BUILT_FOR: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

    fn version(number: i32) -> String {
        format!("{}.{}", number / 1000, number % 1000 / 10)
    }

    /// The driver, that it has a device, and the libraries that candle asks for: whatever is not found here would be a panic there.
    fn look() -> Result<(), Absent> {
        // SAFETY: loads a library by its usual names and lets it go again; nothing of it is called but its initialisers.
        let (driver, cublas, curand) =
            unsafe { (sys::is_culib_present(), cudarc::cublas::sys::is_culib_present(), cudarc::curand::sys::is_culib_present()) };
        if !driver {
            return Err(Absent::Driver);
        }
        match CudaContext::device_count() {
            Ok(1..) => {}
            Ok(_) => return Err(Absent::Device("it counts none".into())),
            Err(e) => return Err(Absent::Device(e.to_string())),
        }
        let mut has = 0;
        // SAFETY: writes one integer to where it is told to.
        unsafe { sys::cuDriverGetVersion(&raw mut has) }.result().map_err(|e| Absent::Device(e.to_string()))?;
        let needs = i32::try_from(sys::CUDA_VERSION).unwrap_or(i32::MAX);
        if has < needs {
            return Err(Absent::OldDriver { has: version(has), needs: version(needs) });
        }
        for (there, library) in [(cublas, "libcublas"), (curand, "libcurand")] {
            if !there {
                return Err(Absent::Library(library));
            }
        }
        Ok(())
    }

    pub fn name() -> Result<String, Absent> {
        look()?;
        result::device::get(0).and_then(result::device::get_name).map_err(|e| Absent::Device(e.to_string()))
    }

    pub fn open() -> Result<(Device, Free), Absent> {
        look()?;
        let fault = |e: &dyn std::fmt::Display| Absent::Device(e.to_string());
        let device = Device::new_cuda(0).map_err(|e| fault(&e))?;
        let context = device.as_cuda_device().map_err(|e| fault(&e))?.cuda_stream().context().clone();
        let (major, minor) = context.compute_capability().map_err(|e| fault(&e))?;
        let built = BUILT_FOR.and_then(|b| b.trim_end_matches('a').parse::<i32>().ok());
        // Kernels run on devices of the same major number and at least the same minor one.
        if let Some(built) = built.filter(|b| (*b / 10, *b % 10) > (major, minor) || *b / 10 != major) {
            return Err(Absent::Capability { has: format!("{major}.{minor}"), built: format!("{}.{}", built / 10, built % 10) });
        }
        // What a Jetson's GPU counts as free leaves out what the system would give back.
        let shared = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED).is_ok_and(|v| v == 1);
        let free = move || if shared { available() } else { context.mem_get_info().ok().and_then(|(free, _)| u64::try_from(free).ok()) };
        Ok((device, Box::new(free)))
    }

    /// Bytes that the system could hand out (`MemAvailable`).
    fn available() -> Option<u64> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    }
}
