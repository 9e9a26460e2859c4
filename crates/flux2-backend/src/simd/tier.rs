//! SIMD tiers: the instruction sets kernels are compiled for, and their detection.

/// A SIMD tier of the target architecture, ordered weakest first. Not cumulative: a processor may support a tier and
/// lack one below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The baseline of the architecture; plain loops only.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with 8-bit dot products (AVX-VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with 8-bit dot products (AVX512-VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX-512 with 8-bit and bf16 dot products (AVX512-VNNI, AVX512-BF16).
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with bf16 and 8-bit dot products (BF16, I8MM).
    #[cfg(target_arch = "aarch64")]
    NeonBf16,
}

impl Tier {
    /// All tiers of this architecture, weakest first.
    #[cfg(target_arch = "x86_64")]
    pub const ALL: [Tier; 6] =
        [Tier::Portable, Tier::Avx2, Tier::Avx2Vnni, Tier::Avx512, Tier::Avx512Vnni, Tier::Avx512Bf16];
    /// All tiers of this architecture, weakest first.
    #[cfg(target_arch = "aarch64")]
    pub const ALL: [Tier; 3] = [Tier::Portable, Tier::Neon, Tier::NeonBf16];
    /// All tiers of this architecture.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const ALL: [Tier; 1] = [Tier::Portable];

    /// The fastest tier this processor supports.
    pub fn detect() -> Self {
        // Intel processors run bf16 dot products at less than half the rate of f32 FMA (docs/performance.md).
        #[cfg(target_arch = "x86_64")]
        if is_intel() {
            return Tier::Avx512Vnni.lowered();
        }
        let [.., best] = Self::ALL;
        best.lowered()
    }

    /// This tier if the processor supports it, else the best supported tier below it.
    pub fn lowered(self) -> Self {
        Self::ALL.into_iter().rev().find(|tier| *tier <= self && tier.available()).unwrap_or(Tier::Portable)
    }

    /// Whether the processor supports this tier.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            // rustc's `avx512f` feature implies F16C.
            let avx512 = || {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            };
            let avx512_vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
            match self {
                Tier::Portable => true,
                Tier::Avx2 => avx2(),
                Tier::Avx2Vnni => avx2() && is_x86_feature_detected!("avxvnni"),
                Tier::Avx512 => avx512(),
                Tier::Avx512Vnni => avx512_vnni(),
                Tier::Avx512Bf16 => avx512_vnni() && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected;
            let neon = is_aarch64_feature_detected!("neon");
            match self {
                Tier::Portable => true,
                Tier::Neon => neon,
                Tier::NeonBf16 => neon && is_aarch64_feature_detected!("bf16") && is_aarch64_feature_detected!("i8mm"),
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Tier::Portable
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    #[allow(unused_unsafe)] // a safe function in later versions of the compiler
    // SAFETY: every x86-64 processor has CPUID leaf 0.
    let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
    [leaf.ebx, leaf.edx, leaf.ecx] == [b"Genu", b"ineI", b"ntel"].map(|part| u32::from_le_bytes(*part))
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tier::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2Vnni => "avx2-vnni",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Tier::NeonBf16 => "neon-bf16",
        })
    }
}
