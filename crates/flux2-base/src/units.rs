//! Sizes and times as people read them.
//!
//! The crates `bytesize` and `indicatif` print such sizes too, but with decimals where we print none (`168.0 MB`,
//! `96.00 MiB`) and without the choice of units per kind: files are counted in powers of 1000, memory in powers of
//! 1024.

use std::fmt;
use std::time::Duration;

/// Bytes of files and transfers, in powers of 1000: `168 MB`, `7.8 GB`.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1000 => write!(f, "{} bytes", self.0),
            1000..999_500 => write!(f, "{:.0} kB", bytes / 1e3),
            999_500..9_950_000 => write!(f, "{:.1} MB", bytes / 1e6),
            9_950_000..999_500_000 => write!(f, "{:.0} MB", bytes / 1e6),
            _ => write!(f, "{:.1} GB", bytes / 1e9),
        }
    }
}

/// Bytes of memory, in powers of 1024: `96 MiB`, `7.5 GiB`.
pub struct Memory(pub usize);

impl Memory {
    /// The least that is as much or more, once it is printed: for limits, which people type as they read them.
    pub fn rounded_up(self) -> Self {
        const MIB: usize = 1 << 20;
        let tenth_of_gib = 1024.0 * MIB as f64 / 10.0;
        match self.0.div_ceil(MIB) {
            small @ 0..1000 => Memory(small * MIB),
            _ => Memory(((self.0 as f64 / tenth_of_gib).ceil() * tenth_of_gib) as usize),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1 << 20) as f64;
        match self.0 as f64 / MIB {
            small if small < 999.5 => write!(f, "{small:.0} MiB"),
            large => write!(f, "{:.1} GiB", large / 1024.0),
        }
    }
}

/// A duration: `0.42 s`, `12.0 s`, `3 min 05 s`.
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..10 => write!(f, "{:.2} s", self.0.as_secs_f64()),
            10..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            _ => write!(f, "{} min {:02} s", seconds / 60, seconds % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_rounded_up_is_enough_as_it_is_printed() {
        for (bytes, printed) in [(0, "0 MiB"), (1, "1 MiB"), (115 << 20, "115 MiB"), ((115 << 20) + 1, "116 MiB")] {
            assert_eq!(Memory(bytes).rounded_up().to_string(), printed);
        }
        for (mib, printed) in [(999, "999 MiB"), (1000, "1.0 GiB"), (1024, "1.0 GiB"), (1025, "1.1 GiB")] {
            assert_eq!(Memory(mib << 20).rounded_up().to_string(), printed);
        }
    }

    #[test]
    fn times_read_as_people_say_them() {
        let time = |seconds| Time(Duration::from_secs_f64(seconds)).to_string();
        assert_eq!([time(0.04), time(12.34), time(185.0)], ["0.04 s", "12.3 s", "3 min 05 s"]);
    }

    #[test]
    fn sizes_have_a_decimal_only_where_it_tells_something() {
        let bytes = [999, 168_000, 4_200_000, 168_000_000, 7_800_000_000].map(|n| Bytes(n).to_string());
        assert_eq!(bytes, ["999 bytes", "168 kB", "4.2 MB", "168 MB", "7.8 GB"]);
        assert_eq!([96 << 20, 7680 << 20].map(|n| Memory(n).to_string()), ["96 MiB", "7.5 GiB"]);
    }
}
