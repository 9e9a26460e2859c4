//! What is stored with a picture about its source.

use super::{FEATHER_PX, Fill, Placed, Rule, SourceOptions};
use crate::image::{SourceParameters, hexadecimal};

impl From<&Placed> for SourceParameters {
    fn from(placed: &Placed) -> Self {
        let (source, region) = (placed.source(), placed.region());
        let SourceOptions {
            mask_from_alpha,
            mask_invert,
            mask_grow,
            outpaint,
            strength,
            feather,
            as_reference,
            rule,
            ..
        } = source.options();
        let fill = outpaint.as_ref().and_then(|outpaint| match outpaint.fill {
            Fill::Edge => None,
            Fill::Color(color) => Some(hexadecimal(color)),
        });
        SourceParameters {
            sha256: source.sha256().to_owned(),
            mask: source.mask_sha256().map(str::to_owned),
            mask_from_alpha: *mask_from_alpha,
            mask_invert: *mask_invert,
            mask_grow: *mask_grow,
            outpaint: source.outpainted(),
            outpaint_fill: fill,
            strength: *strength,
            feather: (*rule == Rule::Own && source.has_mask()).then(|| feather.unwrap_or(FEATHER_PX)),
            is_reference: *as_reference,
            region: region.edges,
            drawn: region.drawn,
            rule: (*rule == Rule::Diffusers).then(|| "diffusers".to_owned()),
        }
    }
}
