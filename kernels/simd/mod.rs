//! One vector abstraction for all CPU kernels: a kernel is written once over [`Vector`] and compiled per
//! instruction set. [`dispatch`] runs it inside a function with that target feature, so whole loops are
//! inlined there.
//!
//! A [`Tier`] can only be obtained for an instruction set that this machine has.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pairs;
mod portable;
#[cfg(test)]
mod tests;
mod tile;
mod vector;

pub(crate) use bytes::{ByteKernel, ByteSums, ByteTiles, OUTPUTS, dispatch_bytes};
pub(crate) use pairs::{
    PAIR_BYTES, PairKernel, PairSums, RowTile, add_pairs, by_height, dispatch_pairs, row_tiles, write_rows,
};
pub(crate) use tile::{Bf16Pairs, Multiply, Widened, dot, dot_tile, widen};
pub(crate) use vector::{TileShape, Vector};

/// An instruction set that this machine supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tier(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    #[cfg_attr(all(target_arch = "aarch64", not(test)), expect(dead_code, reason = "NEON is always there"))]
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// With VNNI too.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// With products of bytes of which one has no sign, too.
    #[cfg(target_arch = "aarch64")]
    NeonBf16,
}

impl Tier {
    /// The widest instruction set of this machine.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512_bf16() {
                return Self(Level::Avx512Bf16);
            }
            if has_avx512_vnni() {
                return Self(Level::Avx512Vnni);
            }
            if has_avx512() {
                return Self(Level::Avx512);
            }
            if has_avx2() {
                return Self(Level::Avx2);
            }
            Self(Level::Portable)
        }
        #[cfg(target_arch = "aarch64")]
        {
            if has_neon_bf16() {
                return Self(Level::NeonBf16);
            }
            if has_neon_dotprod() {
                return Self(Level::NeonDotprod);
            }
            Self(Level::Neon)
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Self(Level::Portable)
    }

    /// Its name, for people.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => "avx512_vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "avx512_bf16",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => "neon_dotprod",
            #[cfg(target_arch = "aarch64")]
            Level::NeonBf16 => "neon_bf16",
        }
    }

    /// Does one instruction multiply and add pairs of bf16?
    pub(crate) fn has_bf16_products(self) -> bool {
        match self.0 {
            Level::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 | Level::Avx512Vnni => false,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => true,
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDotprod => false,
            #[cfg(target_arch = "aarch64")]
            Level::NeonBf16 => true,
        }
    }

    /// Every instruction set that this machine can run, the plainest first.
    #[cfg(test)]
    pub(crate) fn supported() -> Vec<Self> {
        #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_mut))]
        let mut tiers = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx2() {
                tiers.push(Self(Level::Avx2));
            }
            if has_avx512() {
                tiers.push(Self(Level::Avx512));
            }
            if has_avx512_vnni() {
                tiers.push(Self(Level::Avx512Vnni));
            }
            if has_avx512_bf16() {
                tiers.push(Self(Level::Avx512Bf16));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            tiers.push(Self(Level::Neon));
            if has_neon_dotprod() {
                tiers.push(Self(Level::NeonDotprod));
            }
            if has_neon_bf16() {
                tiers.push(Self(Level::NeonBf16));
            }
        }
        tiers
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2() && is_x86_feature_detected!("avx512f")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vnni() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    has_avx512_vnni() && is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn has_neon_dotprod() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// Processors have had bf16 and i8mm together.
#[cfg(target_arch = "aarch64")]
fn has_neon_bf16() -> bool {
    let (bf16, i8mm) =
        (std::arch::is_aarch64_feature_detected!("bf16"), std::arch::is_aarch64_feature_detected!("i8mm"));
    has_neon_dotprod() && bf16 && i8mm
}

/// Asks for a cache line to be brought into the second-level cache. Any address will do.
#[inline(always)]
#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "an intrinsic that takes a raw pointer, and assembly")
)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch never faults. As assembly, since the intrinsic is not stable.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) address.addr(), options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// A loop over vectors of any width. `run` must be `#[inline(always)]`, and so must all it calls.
#[expect(unsafe_code, reason = "vector instructions need their target feature")]
pub(crate) trait Kernel {
    /// Runs the loop.
    ///
    /// # Safety
    /// The machine has the instruction set of `V`, and the kernel's own pointers are valid.
    unsafe fn run<V: Vector>(self);
}

/// Runs `kernel` with the vectors of `tier`.
///
/// # Safety
/// The kernel's own pointers are valid; see its type.
#[expect(unsafe_code, reason = "enters functions with a target feature")]
pub(crate) unsafe fn dispatch<K: Kernel>(tier: Tier, kernel: K) {
    match tier.0 {
        // SAFETY: the portable vectors need no feature; the caller vouches for the kernel.
        Level::Portable => unsafe { kernel.run::<portable::Portable>() },
        // SAFETY: a `Tier` of this level exists only where the feature was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { run_avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => unsafe { run_avx512_bf16(kernel) },
        // SAFETY: these need no feature beyond the base instruction set; the caller vouches for the kernel.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDotprod => unsafe { kernel.run::<neon::Neon>() },
        // SAFETY: a `Tier` of this level exists only where the feature was detected.
        #[cfg(target_arch = "aarch64")]
        Level::NeonBf16 => unsafe { run_neon_bf16(kernel) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[expect(unsafe_code, reason = "a function with a target feature")]
unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<avx2::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
#[expect(unsafe_code, reason = "a function with a target feature")]
unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<avx512::Avx512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16,avx2,fma,f16c")]
#[expect(unsafe_code, reason = "a function with a target feature")]
unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<avx512::Avx512>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "bf16")]
#[expect(unsafe_code, reason = "a function with a target feature")]
unsafe fn run_neon_bf16<K: Kernel>(kernel: K) {
    // SAFETY: this function has the feature; the caller vouches for the kernel.
    unsafe { kernel.run::<neon::Neon>() }
}
