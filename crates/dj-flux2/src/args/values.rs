//! Values of flags: names of formats and networks, sizes, amounts of memory.

use clap::ValueEnum;
use clap::builder::RangedI64ValueParser;
use flux2::canvas::{Fill, Side};

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

/// Values of `--backend`.
#[cfg(any(feature = "mcp", feature = "serve"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    Engine,
    Fake,
}

/// Parses `NAME=VALUE`.
#[cfg(any(feature = "mcp", feature = "serve"))]
pub fn parse_pair(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a name and a value are needed, with = between them"),
    }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    /// The first of a run; each picture has the next one.
    Number(u64),
    /// As if the flag had been left out; it replaces the seed of `--from`.
    Random,
    /// Each prompt is drawn with each of them.
    List(Vec<u64>),
}

/// Most seeds of a list.
const MOST_SEEDS: u64 = 10_000;

/// Parses a seed, or a list of seeds and ranges; `-1` is a random one, as in other programs.
pub fn parse_seed(text: &str) -> Result<Seed, String> {
    const ONE: &str = "a seed is 0 to 18446744073709551615, or -1 for a random one";
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| ONE.to_owned());
    if text == "-1" {
        return Ok(Seed::Random);
    }
    if !text.contains([',', '-']) {
        return number(text).map(Seed::Number);
    }
    let mut seeds = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first {
            return Err(format!("the range {part} ends before it begins"));
        }
        if (last - first).saturating_add(seeds.len() as u64) >= MOST_SEEDS {
            return Err(format!("a list has at most {MOST_SEEDS} seeds"));
        }
        seeds.extend(first..=last);
    }
    Ok(Seed::List(seeds))
}

/// Width to height of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aspect {
    pub width: f64,
    pub height: f64,
}

/// Parses `16:9`.
pub fn parse_aspect(text: &str) -> Result<Aspect, &'static str> {
    const WRONG: &str =
        "a shape is two numbers with a colon between them, as in 16:9, at most 64 times as long as wide";
    let (width, height) = text.split_once([':', '/', 'x']).ok_or(WRONG)?;
    let side = |text: &str| text.trim().parse::<f64>().ok().filter(|side| side.is_finite() && *side > 0.0).ok_or(WRONG);
    let aspect = Aspect { width: side(width)?, height: side(height)? };
    if !(1.0 / 64.0..=64.0).contains(&(aspect.width / aspect.height)) {
        return Err(WRONG);
    }
    Ok(aspect)
}

/// A number of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Area {
    Pixels(u64),
    /// Times those of the picture that is made without it.
    Times(f64),
}

/// Parses `1024x1024`, which is the number of its pixels, or `4x`.
pub fn parse_area(text: &str) -> Result<Area, &'static str> {
    const WRONG: &str = "an area is that of a size, as in 1024x1024, or a factor of the usual one, as in 4x";
    if let Some(factor) = text.strip_suffix(['x', 'X']) {
        let factor = factor.parse::<f64>().ok().filter(|factor| (0.001..=10_000.0).contains(factor));
        return factor.map(Area::Times).ok_or(WRONG);
    }
    let (width, height) = parse_size(text).map_err(|_| WRONG)?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 { Err(WRONG) } else { Ok(Area::Pixels(pixels)) }
}

/// Parses `NAME=VALUE` of a template's variable.
pub fn parse_variable(text: &str) -> Result<(String, String), &'static str> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    match text.split_once('=') {
        Some((name, value)) if is_name(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a name and its value are needed, as in light=dusk"),
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

/// Parses the sides of `--outpaint`: left, top, right and bottom.
pub fn parse_sides(text: &str) -> Result<[Side; 4], String> {
    let sides = text.split(',').map(|side| side.parse().map_err(|e: flux2::canvas::ParseSideError| e.to_string()));
    let sides: Vec<Side> = sides.collect::<Result<_, _>>()?;
    let count = sides.len();
    sides.try_into().map_err(|_| format!("{count} of the 4 sides left,top,right,bottom, as in 64,0,25%,0"))
}

/// Parses the color of `--outpaint-fill`.
pub fn parse_fill(text: &str) -> Result<Fill, &'static str> {
    match text {
        "edge" => Ok(Fill::Edge),
        color => parse_color(color).map(Fill::Color).map_err(|_| "a fill is `edge`, a color name, or #RRGGBB"),
    }
}

/// Parses `--strength`, without rounding it to a smaller type.
pub fn parse_strength(text: &str) -> Result<f64, &'static str> {
    let strength = text.parse().ok().filter(|strength| *strength > 0.0 && *strength <= 1.0);
    strength.ok_or("a strength is over 0 and at most 1: 1 starts from noise, less keeps more of the source")
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
    fn seeds_are_numbers_lists_and_ranges() {
        let list = |text| match parse_seed(text) {
            Ok(Seed::List(seeds)) => seeds,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(list("1,5,10-12"), [1, 5, 10, 11, 12]);
        assert_eq!(list("7-7"), [7]);
        assert_eq!(list("3, 1"), [3, 1]);
        assert_eq!(list("18446744073709551615,0"), [u64::MAX, 0]);
        assert_eq!(parse_seed("5"), Ok(Seed::Number(5)));
        assert_eq!(parse_seed("-1"), Ok(Seed::Random));
        for wrong in ["", "1,", ",", "5-1", "-2", "1-", "1--2", "0-10000", "0-18446744073709551615", "1,-1", "1.5"] {
            assert!(parse_seed(wrong).is_err(), "{wrong}");
        }
        assert_eq!(list("0-9999").len(), 10_000);
    }

    #[test]
    fn shapes_and_areas_are_read() {
        assert_eq!(parse_aspect("16:9"), Ok(Aspect { width: 16.0, height: 9.0 }));
        assert_eq!(parse_aspect("2.39:1"), Ok(Aspect { width: 2.39, height: 1.0 }));
        for wrong in ["", "16", "16:", "0:1", "-1:1", "1:100", "nan:1", "inf:1", "a:b"] {
            assert!(parse_aspect(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_area("1024x512"), Ok(Area::Pixels(1 << 19)));
        assert_eq!(parse_area("0.25x"), Ok(Area::Times(0.25)));
        assert_eq!(parse_area("4294967295x4294967295"), Ok(Area::Pixels(18_446_744_065_119_617_025)));
        for wrong in ["", "x", "0x", "-1x", "nanx", "1e9x", "0x0", "4", "1024"] {
            assert!(parse_area(wrong).is_err(), "{wrong}");
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
    fn sides_are_four() {
        let sides = [Side::Px(64), Side::Px(0), Side::Percent(25.0), Side::Px(1)];
        assert_eq!(parse_sides("64,0,25%,1"), Ok(sides));
        for wrong in ["", "64", "1,2,3", "1,2,3,4,5", "1,2,3,-4", "a,b,c,d"] {
            assert!(parse_sides(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_strength_is_over_0_and_at_most_1() {
        assert_eq!([parse_strength("0.3"), parse_strength("1")], [Ok(0.3), Ok(1.0)]);
        for wrong in ["0", "-0.5", "1.01", "NaN", "inf", "much"] {
            assert!(parse_strength(wrong).is_err(), "{wrong}");
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
