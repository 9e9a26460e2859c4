//! The picture that a job paints into, as it is stored: files by their digests, and what is done with them.

use flux2::canvas::{Fill, Outpaint, Side, SourceOptions};
use flux2::image::hexadecimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A source, its mask, and how it is painted into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSpec {
    /// SHA-256 of the source's bytes, in lower-case hexadecimal.
    pub source: String,
    /// The same of the mask's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// How it is painted into.
    #[serde(flatten)]
    pub painting: Painting,
}

/// How a source is painted into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Painting {
    /// Whether the transparency of the source is the mask.
    pub mask_from_alpha: bool,
    /// Whether the mask is inverted.
    pub mask_invert: bool,
    /// Pixels by which the repainted part grows.
    pub mask_grow: u32,
    /// Width in pixels of the transition inside the mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feather: Option<u32>,
    /// What is added at the left, the top, the right and the bottom.
    #[serde(skip_serializing_if = "Option::is_none", with = "sides")]
    pub outpaint: Option<[Side; 4]>,
    /// The color of added pixels.
    #[serde(with = "fill")]
    pub outpaint_fill: Fill,
    /// Strength: 1 starts from noise.
    pub strength: f64,
    /// Whether the model sees the source as its first reference image.
    pub source_reference: bool,
}

impl Default for Painting {
    fn default() -> Self {
        Painting {
            mask_from_alpha: false,
            mask_invert: false,
            mask_grow: 0,
            feather: None,
            outpaint: None,
            outpaint_fill: Fill::Edge,
            strength: 1.0,
            source_reference: true,
        }
    }
}

impl Painting {
    /// The same for the library.
    pub fn options(&self) -> SourceOptions {
        let outpaint = self.outpaint.map(|sides| Outpaint { fill: self.outpaint_fill, ..Outpaint::new(sides) });
        SourceOptions {
            mask_from_alpha: self.mask_from_alpha,
            mask_invert: self.mask_invert,
            mask_grow: self.mask_grow,
            outpaint,
            strength: self.strength,
            feather: self.feather,
            as_reference: self.source_reference,
            ..SourceOptions::default()
        }
    }
}

impl SourceSpec {
    /// Digests of its files.
    pub fn digests(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.source).chain(&self.mask)
    }
}

/// Sides are stored as texts, as in `["64", "0", "25%", "0"]`.
mod sides {
    use super::*;

    pub fn serialize<S: Serializer>(sides: &Option<[Side; 4]>, serializer: S) -> Result<S::Ok, S::Error> {
        sides.map(|sides| sides.map(|side| side.to_string())).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[Side; 4]>, D::Error> {
        let Some(texts) = Option::<[String; 4]>::deserialize(deserializer)? else { return Ok(None) };
        let mut sides = [Side::Px(0); 4];
        for (side, text) in sides.iter_mut().zip(&texts) {
            *side = text.parse().map_err(serde::de::Error::custom)?;
        }
        Ok(Some(sides))
    }
}

/// Colors are stored as `edge` or `#rrggbb`.
mod fill {
    use super::*;

    pub fn serialize<S: Serializer>(fill: &Fill, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&fill_text(fill))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Fill, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_fill(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is neither `edge` nor #RRGGBB")))
    }
}

/// What [`parse_fill`] reads.
pub fn fill_text(fill: &Fill) -> String {
    match fill {
        Fill::Edge => "edge".to_owned(),
        Fill::Color(color) => hexadecimal(*color),
    }
}

/// The color of new pixels: `edge`, or `#RRGGBB`.
pub fn parse_fill(text: &str) -> Option<Fill> {
    if text == "edge" {
        return Some(Fill::Edge);
    }
    let digits = text
        .strip_prefix('#')
        .filter(|digits| digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    let channel = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    Some(Fill::Color([channel(0)?, channel(2)?, channel(4)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_as_it_is_stored() {
        let painting = Painting {
            mask_invert: true,
            mask_grow: 3,
            feather: Some(0),
            outpaint: Some([Side::Px(64), Side::Percent(12.5), Side::Px(0), Side::Px(1)]),
            outpaint_fill: Fill::Color([0, 255, 16]),
            strength: 0.3,
            source_reference: false,
            ..Painting::default()
        };
        let spec = SourceSpec { source: "a".into(), mask: Some("b".into()), painting };
        let json = serde_json::to_string(&spec).unwrap();
        assert!(json.contains(r##""outpaint":["64","12.5%","0","1"],"outpaint_fill":"#00ff10""##), "{json}");
        assert_eq!(serde_json::from_str::<SourceSpec>(&json).unwrap(), spec);
        let least: SourceSpec = serde_json::from_str(r#"{"source": "a"}"#).unwrap();
        assert_eq!(least, SourceSpec { source: "a".into(), mask: None, painting: Painting::default() });
    }

    #[test]
    fn a_color_has_six_digits() {
        assert_eq!(parse_fill("#0a0BfF"), Some(Fill::Color([10, 11, 255])));
        for text in ["", "#", "#12345", "#+12345", "12345678", "#ééé", "white"] {
            assert_eq!(parse_fill(text), None, "{text}");
        }
    }
}
