//! Values of flags: names of formats and networks, sizes, amounts of memory.

use clap::ValueEnum;
use clap::builder::RangedI64ValueParser;

/// Values of `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
    Int8,
    Fp8,
}

/// Values of `--quantize`, and of `convert --to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    Bf16,
    Int8,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_k")]
    Q4K,
}

/// Values of `bench generate --batching`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Batching {
    SameBytes,
    Fast,
}

impl From<Batching> for flux2::Batching {
    fn from(batching: Batching) -> Self {
        match batching {
            Batching::SameBytes => flux2::Batching::SameBytes,
            Batching::Fast => flux2::Batching::Fast,
        }
    }
}

/// Values of `convert --component`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Component {
    Transformer,
    TextEncoder,
    Vae,
}

/// Values of `--compat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    Diffusers,
    Bfl,
    Comfy,
    Sdcpp,
    #[value(name = "dj-flux2")]
    DjFlux2,
}

impl From<Compat> for flux2::Compat {
    fn from(compat: Compat) -> Self {
        match compat {
            Compat::Diffusers => flux2::Compat::Diffusers,
            Compat::Bfl => flux2::Compat::Bfl,
            Compat::Comfy => flux2::Compat::Comfy,
            Compat::Sdcpp => flux2::Compat::StableDiffusionCpp,
            Compat::DjFlux2 => flux2::Compat::DjFlux2,
        }
    }
}

/// Value of `--seed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    Number(u64),
    /// As if the flag had been left out; it replaces the seed of `--from`.
    Random,
}

/// Parses a seed; `-1` is a random one, as in other programs.
pub fn parse_seed(text: &str) -> Result<Seed, &'static str> {
    match text {
        "-1" => Ok(Seed::Random),
        _ => text.parse().map(Seed::Number).map_err(|_| "a seed is 0 to 18446744073709551615, or -1 for a random one"),
    }
}

/// Parses `--threads`.
pub fn thread_count() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=1024)
}

/// Parses an opaque color: its CSS name or hexadecimal digits.
pub fn parse_color(text: &str) -> Result<[u8; 3], &'static str> {
    let color = csscolorparser::parse(text).map_err(|_| "a color is a name, as white, or #RRGGBB, as #ff8800")?;
    match color.to_rgba8() {
        [r, g, b, 255] => Ok([r, g, b]),
        _ => Err("the color must be opaque: transparent parts show it"),
    }
}

/// Parses `1024x768` into width and height.
pub fn parse_size(text: &str) -> Result<(u32, u32), &'static str> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.ok_or("a size is two numbers with an x between them, as in 1024x768")
}

/// Parses a number with a unit into bytes. `G` is short for `GiB` and `GB` is decimal, as in other tools' memory
/// limits; the crates that parse sizes read `G` as `GB`, or both as binary.
pub fn parse_memory(text: &str) -> Result<usize, &'static str> {
    let at = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let bytes = match unit.trim().to_ascii_lowercase().as_str() {
        // A bare number is taken for GiB by some programs and for bytes by others.
        "" if !number.is_empty() => return Err("the number needs a unit, as in 6GiB, 800MB or 1000000B"),
        "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err("the unit is KiB, MiB, GiB, KB, MB or GB, as in 6GiB"),
    };
    let number: f64 = number.parse().map_err(|_| "a size is a number and a unit, as in 6GiB")?;
    Ok((number * bytes) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_number_and_a_unit() {
        for (text, bytes) in
            [("6GiB", 6 << 30), ("1.5g", 3 << 29), ("800 MB", 800_000_000), ("4096B", 4096), ("0.5KiB", 512)]
        {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "3", "4096", "1.5", "GiB", "6 apples", "-6GiB", "1.2.3G", "6e9"] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn colors_have_names_or_digits() {
        for (text, color) in
            [("white", [255; 3]), ("#fF8800", [255, 136, 0]), ("#123", [17, 34, 51]), ("RebeccaPurple", [102, 51, 153])]
        {
            assert_eq!(parse_color(text), Ok(color), "{text}");
        }
        for wrong in ["", "whit", "#12", "#ff880080", "transparent", "none"] {
            assert!(parse_color(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_two_numbers() {
        assert_eq!(parse_size("1024x768"), Ok((1024, 768)));
        for wrong in ["1024", "1024x", "x768", "-64x64", "1024*768", "64x64x64"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
