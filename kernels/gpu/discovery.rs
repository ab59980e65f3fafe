//! Which GPU there is, and why it cannot be used if it cannot.

use cudarc::driver::{DriverError, result, sys};

use super::Capacity;
use super::cuda::Context;

/// The version of CUDA that the kernels are compiled with, as the driver counts: 1000 * major + 10 * minor.
const TOOLKIT: i32 = 13_000;
/// The oldest architecture that the kernels are compiled for: compute capability 8.0.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);
/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The driver is not installed.
    #[error("there is no NVIDIA driver on this machine: libcuda.so.1 was not found")]
    NoDriver,
    /// The driver knows no GPU of this number.
    #[error("there is no GPU {ordinal}: the driver finds {count}")]
    NoDevice {
        /// As asked for.
        ordinal: usize,
        /// GPUs that there are.
        count: usize,
    },
    /// The driver is older than the compiler of the kernels.
    #[error("the driver is for CUDA {found}, but the kernels need {needed} or later: update the NVIDIA driver")]
    OldDriver {
        /// What it supports.
        found: String,
        /// What it should support.
        needed: String,
    },
    /// The GPU is older than the kernels.
    #[error("{name} has compute capability {found}, but the kernels need {needed} or later")]
    OldDevice {
        /// The GPU's name.
        name: String,
        /// Its capability.
        found: String,
        /// The capability it should have.
        needed: String,
    },
    /// Anything else.
    #[error("the GPU cannot be opened: {0}")]
    Failed(String),
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// As the driver calls it.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (i32, i32),
    /// Version of CUDA that the driver supports, such as "13.0".
    pub driver: String,
    /// Bytes of its memory.
    pub total_memory: u64,
    /// Bytes that are free.
    pub free_memory: u64,
}

/// What GPU `ordinal` is, or why it cannot be used.
pub fn properties(ordinal: usize) -> Result<Properties, Unusable> {
    let device = find(ordinal)?;
    let context = Context::retain(device)?;
    // SAFETY: the device was found, and its context is current.
    let described = unsafe {
        (|| {
            let name = result::device::get_name(device)?;
            let (free, total) = result::mem_get_info()?;
            Ok::<_, DriverError>((name, capability(device)?, free, total))
        })()
    };
    let (name, capability, free, total) = described.map_err(failed)?;
    drop(context);
    let driver = version(driver_version()?);
    let properties = Properties { name, capability, driver, total_memory: total as u64, free_memory: free as u64 };
    properties.check()?;
    Ok(properties)
}

impl Properties {
    fn check(&self) -> Result<(), Unusable> {
        if self.capability < OLDEST_CAPABILITY {
            let text = |(major, minor)| format!("{major}.{minor}");
            return Err(Unusable::OldDevice {
                name: self.name.clone(),
                found: text(self.capability),
                needed: text(OLDEST_CAPABILITY),
            });
        }
        Ok(())
    }
}

/// The device of this number, if the driver is there, new enough, and knows it.
pub(super) fn find(ordinal: usize) -> Result<sys::CUdevice, Unusable> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unusable::NoDriver);
    }
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(Unusable::NoDevice { ordinal, count: 0 }),
        other => other.map_err(failed)?,
    }
    let supported = driver_version()?;
    if supported < TOOLKIT {
        return Err(Unusable::OldDriver { found: version(supported), needed: version(TOOLKIT) });
    }
    let count = result::device::get_count().map_err(failed)? as usize;
    if ordinal >= count {
        return Err(Unusable::NoDevice { ordinal, count });
    }
    result::device::get(ordinal as i32).map_err(failed)
}

fn driver_version() -> Result<i32, Unusable> {
    let mut supported = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut supported) }.result().map_err(failed)?;
    Ok(supported)
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// # Safety
/// The driver knows the device.
unsafe fn capability(device: sys::CUdevice) -> Result<(i32, i32), DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: the caller says so.
    unsafe { Ok((result::device::get_attribute(device, MAJOR)?, result::device::get_attribute(device, MINOR)?)) }
}

/// What an opened device has room for.
pub(super) fn capacity(device: sys::CUdevice) -> Result<Capacity, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
    };
    // SAFETY: the driver knows an opened device.
    let get = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map(|value| value as usize);
    Ok(Capacity { multiprocessors: get(MULTIPROCESSORS)?, block_shared_bytes: get(SHARED)? })
}

pub(super) fn failed(error: DriverError) -> Unusable {
    Unusable::Failed(describe(&error))
}

pub(super) fn describe(error: &DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing() {
        assert_eq!(version(13_000), "13.0");
        assert_eq!(version(12_080), "12.8");
        let old = Properties {
            name: "Tesla V100".to_owned(),
            capability: (7, 0),
            driver: version(TOOLKIT),
            total_memory: 0,
            free_memory: 0,
        };
        let error = old.check().unwrap_err().to_string();
        assert_eq!(error, "Tesla V100 has compute capability 7.0, but the kernels need 8.0 or later");
        assert!(Properties { capability: (12, 0), ..old }.check().is_ok());
    }
}
