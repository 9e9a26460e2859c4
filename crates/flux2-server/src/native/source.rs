//! Fields of a request that paints into a picture.

use flux2::canvas::{Fill, Side};
use flux2::image::SourceParameters;
use flux2_jobs::Painting;
use flux2_jobs::canvas::{fill_text, parse_fill};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::wire::JobRequest;
use crate::drawing::{Image, SourceOrder};
use crate::error::{ApiError, Result};

impl JobRequest {
    /// The picture to paint into, if there is one: `file` and `mask_file` came with a form.
    ///
    /// # Errors
    /// 400 for a value that is not allowed, or one that means something only with a source.
    pub fn source_order(&self, file: Option<Image>, mask_file: Option<Image>) -> Result<Option<SourceOrder>> {
        let image = |text: &Option<String>, field| text.as_deref().map(|text| Image::of_text(text, field)).transpose();
        let source = image(&self.source, "source")?.or(file);
        let mask = image(&self.mask, "mask")?.or(mask_file);
        let Some(source) = source else { return self.refuse_without_source(mask.is_some()) };
        let from_alpha = self.mask_from_alpha.unwrap_or(false);
        if from_alpha && mask.is_some() {
            return Err(ApiError::invalid("mask_from_alpha", "a mask is given too").hint("give only one of them"));
        }
        let fill = self.outpaint_fill.as_deref().map(|text| {
            let invalid = || ApiError::invalid("outpaint_fill", format!("{text:?} is neither `edge` nor #RRGGBB"));
            parse_fill(text).ok_or_else(invalid)
        });
        let usual = Painting::default();
        let painting = Painting {
            mask_from_alpha: from_alpha,
            mask_invert: self.mask_invert.unwrap_or(false),
            mask_grow: self.mask_grow.unwrap_or(0),
            feather: self.feather,
            outpaint: self.outpaint.as_ref().map(sides).transpose()?,
            outpaint_fill: fill.transpose()?.unwrap_or_default(),
            strength: self.strength.unwrap_or(usual.strength),
            source_reference: self.source_reference.unwrap_or(usual.source_reference),
        };
        Ok(Some(SourceOrder { source, mask, painting }))
    }

    /// Without a source, what is said about one has no effect.
    fn refuse_without_source(&self, has_mask: bool) -> Result<Option<SourceOrder>> {
        let given = [
            ("mask", has_mask),
            ("mask_from_alpha", self.mask_from_alpha.is_some()),
            ("mask_invert", self.mask_invert.is_some()),
            ("mask_grow", self.mask_grow.is_some()),
            ("feather", self.feather.is_some()),
            ("outpaint", self.outpaint.is_some()),
            ("outpaint_fill", self.outpaint_fill.is_some()),
            ("strength", self.strength.is_some()),
            ("source_reference", self.source_reference.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((field, _)) => Err(ApiError::invalid(field, format!("{field} means nothing without a source"))),
            None => Ok(None),
        }
    }
}

/// Left, top, right and bottom: a text as `64,0,25%,0`, or a list of numbers and texts.
fn sides(value: &Value) -> Result<[Side; 4]> {
    let texts: Vec<String> = match value {
        Value::String(text) => text.split(',').map(str::to_owned).collect(),
        Value::Array(values) => {
            values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect()
        }
        other => vec![other.to_string()],
    };
    let invalid = |message: String| ApiError::invalid("outpaint", message).hint("give left, top, right and bottom");
    let sides = texts.iter().map(|text| text.parse().map_err(|error| invalid(format!("{error}"))));
    let sides: Vec<Side> = sides.collect::<Result<_>>()?;
    sides.try_into().map_err(|sides: Vec<Side>| invalid(format!("{} sides", sides.len())))
}

/// The picture that a job paints into, and how.
#[derive(Debug, Serialize, ToSchema)]
pub struct SourceView {
    /// SHA-256 of its file.
    pub sha256: String,
    /// SHA-256 of the file of its mask.
    pub mask: Option<String>,
    /// Whether its transparency is the mask.
    pub mask_from_alpha: bool,
    /// Whether the mask is inverted.
    pub mask_invert: bool,
    /// Pixels by which the repainted part grows.
    pub mask_grow: u32,
    /// Width in pixels of the transition inside the mask; null for the default.
    pub feather: Option<u32>,
    /// What is added at the left, the top, the right and the bottom.
    pub outpaint: Option<Vec<String>>,
    /// The color of added pixels: `edge`, or `#RRGGBB`.
    pub outpaint_fill: String,
    /// Strength: 1 starts from noise.
    pub strength: f64,
    /// Whether the model sees it as the first reference image.
    pub source_reference: bool,
}

impl From<&flux2_jobs::SourceSpec> for SourceView {
    fn from(spec: &flux2_jobs::SourceSpec) -> Self {
        let Painting {
            mask_from_alpha,
            mask_invert,
            mask_grow,
            feather,
            outpaint,
            outpaint_fill,
            strength,
            source_reference,
        } = &spec.painting;
        SourceView {
            sha256: spec.source.clone(),
            mask: spec.mask.clone(),
            mask_from_alpha: *mask_from_alpha,
            mask_invert: *mask_invert,
            mask_grow: *mask_grow,
            feather: *feather,
            outpaint: outpaint.map(|sides| sides.iter().map(Side::to_string).collect()),
            outpaint_fill: fill_text(outpaint_fill),
            strength: *strength,
            source_reference: *source_reference,
        }
    }
}

impl From<SourceParameters> for SourceView {
    fn from(known: SourceParameters) -> Self {
        SourceView {
            sha256: known.sha256,
            mask: known.mask,
            mask_from_alpha: known.mask_from_alpha,
            mask_invert: known.mask_invert,
            mask_grow: known.mask_grow,
            feather: known.feather,
            outpaint: known.outpaint.map(|sides| sides.iter().map(u32::to_string).collect()),
            outpaint_fill: known.outpaint_fill.unwrap_or_else(|| fill_text(&Fill::Edge)),
            strength: known.strength,
            source_reference: known.is_reference,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sides_are_a_text_or_a_list() {
        let expected = [Side::Px(64), Side::Px(0), Side::Percent(25.0), Side::Px(8)];
        assert_eq!(sides(&json!("64, 0,25%,8")).unwrap(), expected);
        assert_eq!(sides(&json!([64, 0, "25%", "8"])).unwrap(), expected);
        for wrong in [json!("64"), json!(64), json!([1, 2, 3]), json!([-1, 0, 0, 0]), json!([1.5, 0, 0, 0]), json!({})]
        {
            assert_eq!(sides(&wrong).unwrap_err().param.as_deref(), Some("outpaint"), "{wrong}");
        }
    }
}
