//! From the arguments of a tool to a draft for the engine.

use flux2::canvas::Side;
use flux2_jobs::{Draft, LoraKey, ModelChoice, Painting, SourceSpec, UpscaleChoice};

use crate::album::Album;
use crate::desk::{Desk, Result, ToolError};
use crate::input::{Drawing, References};
use crate::picture;

/// A draft, and the picture of the history that it starts from, the first of several.
#[derive(Debug)]
pub struct Drafted {
    /// The draft; its images are uploads.
    pub draft: Draft,
    /// Number of the picture that it starts from.
    pub parent: Option<u64>,
}

/// The draft of a drawing without images.
pub fn of(prompt: String, drawing: Drawing) -> Draft {
    let loras = drawing.loras.into_iter().map(|name| LoraKey { name, scale: 1.0 }).collect();
    let upscale = drawing.upscale.filter(|by| *by != 1.0);
    Draft {
        model: ModelChoice { name: drawing.model, loras, precision: None },
        prompt,
        negative_prompt: drawing.negative_prompt,
        width: drawing.width,
        height: drawing.height,
        steps: drawing.steps,
        guidance: drawing.guidance,
        seed: drawing.seed,
        count: drawing.count,
        format: drawing.format.map(Into::into),
        watermark: drawing.watermark,
        upscale: upscale.map(|by| UpscaleChoice { by, upscaler: drawing.upscaler }),
        ..Draft::default()
    }
}

/// The same with its images, which are read and handed to the engine (blocks on the disk). Without any, those that the
/// prompt names count, as in `put a hat on $fox`.
///
/// # Errors
/// If one cannot be read, or an argument is not possible.
pub fn with_images(draft: Draft, references: References, desk: &dyn Desk, album: &Album) -> Result<Drafted> {
    let mut images = Images { desk, album, parent: None };
    let mut draft = draft;
    let limit = desk.limits().references;
    let mut names = references.references.clone();
    if names.is_empty() && references.source.is_none() {
        let resolved = album.resolve(&draft.prompt)?;
        names = resolved.numbers.iter().map(|number| format!("${number}")).collect();
        draft.prompt = resolved.text;
    }
    if names.len() > limit {
        return Err(ToolError::new(
            format!("there are {} references", names.len()),
            format_args!("use at most {limit}"),
        ));
    }
    draft.references = names.iter().map(|name| images.upload(name, "references")).collect::<Result<_>>()?;
    draft.source = source(&references, &mut images)?;
    Ok(Drafted { draft, parent: images.parent })
}

/// Reads images, and remembers which one of the history came first.
struct Images<'a> {
    desk: &'a dyn Desk,
    album: &'a Album,
    parent: Option<u64>,
}

impl Images<'_> {
    /// The digest of an image, which the engine then has.
    fn upload(&mut self, text: &str, field: &str) -> Result<String> {
        let named = picture::find(text, field, self.album, self.desk.limits().image_bytes)?;
        self.parent = self.parent.or(named.number);
        Ok(self.desk.jobs().put_blob(&named.bytes)?)
    }
}

fn source(references: &References, images: &mut Images) -> Result<Option<SourceSpec>> {
    let Some(source) = &references.source else { return refuse_without_source(references) };
    let usual = Painting::default();
    let painting = Painting {
        mask_invert: references.mask_invert.unwrap_or(false),
        mask_grow: references.mask_grow.unwrap_or(0),
        feather: references.feather,
        outpaint: references.outpaint.as_deref().map(sides).transpose()?,
        strength: references.strength.unwrap_or(usual.strength),
        ..usual
    };
    let source = images.upload(source, "source")?;
    let mask = references.mask.as_ref().map(|mask| images.upload(mask, "mask")).transpose()?;
    Ok(Some(SourceSpec { source, mask, painting }))
}

/// Without a source, what is said about one has no effect.
fn refuse_without_source(references: &References) -> Result<Option<SourceSpec>> {
    let given = [
        ("mask", references.mask.is_some()),
        ("mask_invert", references.mask_invert.is_some()),
        ("mask_grow", references.mask_grow.is_some()),
        ("feather", references.feather.is_some()),
        ("outpaint", references.outpaint.is_some()),
        ("strength", references.strength.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((field, _)) => {
            Err(ToolError::new(format!("{field} means nothing without a source"), "name the picture in source"))
        }
        None => Ok(None),
    }
}

/// Left, top, right and bottom, as in `64,0,25%,0`.
fn sides(text: &str) -> Result<[Side; 4]> {
    let invalid = || {
        let text: String = text.chars().take(60).collect();
        ToolError::new(format!("outpaint is {text:?}"), "give left, top, right and bottom, as in 64,0,25%,0")
    };
    let sides = text.split(',').take(5).map(|side| side.trim().parse().map_err(|_| invalid()));
    sides.collect::<Result<Vec<Side>>>()?.try_into().map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_four() {
        assert_eq!(sides("64, 0,25%,8").unwrap(), [Side::Px(64), Side::Px(0), Side::Percent(25.0), Side::Px(8)]);
        for wrong in ["", "64", "1,2,3", "1,2,3,4,5", "-1,0,0,0", "a,0,0,0", &"1,".repeat(100_000)] {
            assert!(sides(wrong).unwrap_err().0.len() < 200, "{wrong}");
        }
    }

    #[test]
    fn what_means_nothing_without_a_source_is_refused() {
        let references = References { strength: Some(0.5), ..References::default() };
        assert!(refuse_without_source(&references).unwrap_err().0.starts_with("strength means nothing"));
    }
}
