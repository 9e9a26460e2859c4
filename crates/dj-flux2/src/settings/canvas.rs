//! The picture that a run paints into.

use std::path::PathBuf;

use flux2::canvas::{Outpaint, Rule, SourceOptions};
use flux2::image::Transparency;

use super::value;
use crate::choices::CanvasChoices;
use crate::failure::{Failure, Result};

/// A picture to paint into, decided.
#[derive(Debug)]
pub struct SourceSettings {
    /// File of the source.
    pub source: PathBuf,
    /// File of the mask.
    pub mask: Option<PathBuf>,
    /// How it is painted into.
    pub options: SourceOptions,
}

/// Gives the choices their meaning; `None` if there is no source. `recorded` says that the picture of `--from` has one.
pub fn decide(choices: CanvasChoices, transparency: Transparency, recorded: bool) -> Result<Option<SourceSettings>> {
    let (asked, choices) = (choices.of_one_run(), choices.without_waiting());
    let Some(source) = value(choices.source) else {
        return match recorded {
            true => Err(Failure::usage(
                "the picture of --from was painted into another one, which is not given",
                "pass the files it was made with, --source and, if it had one, --mask",
            )),
            // What files say waits for a source.
            false => match asked {
                Some(name) => {
                    let message = format!("{name} is about a picture that is painted into, and there is none");
                    Err(Failure::usage(message, "add the picture with --source FILE"))
                }
                None => Ok(None),
            },
        };
    };
    let fill = value(choices.fill).transpose()?.unwrap_or_default();
    let outpaint = value(choices.outpaint).map(|sides| Outpaint { fill, ..Outpaint::new(sides) });
    let usual = SourceOptions::default();
    let options = SourceOptions {
        mask_from_alpha: value(choices.from_alpha).unwrap_or(false),
        mask_invert: value(choices.invert).unwrap_or(false),
        mask_grow: value(choices.grow).unwrap_or(0),
        outpaint,
        strength: value(choices.strength).unwrap_or(usual.strength),
        feather: value(choices.feather),
        as_reference: value(choices.as_reference).unwrap_or(true),
        transparency,
        rule: value(choices.rule).transpose()?.unwrap_or(Rule::Own),
        ..usual
    };
    options.check()?;
    let mask = value(choices.mask);
    check_effects(&options, mask.is_some())?;
    Ok(Some(SourceSettings { source, mask, options }))
}

/// Refuses flags of a mask where there is none.
fn check_effects(options: &SourceOptions, has_file: bool) -> Result<()> {
    let has_mask = has_file || options.mask_from_alpha;
    let of_mask = [("--mask-invert", options.mask_invert), ("--mask-grow", options.mask_grow > 0)];
    let of_edge = ("--feather", options.feather.is_some() && options.outpaint.is_none());
    match of_mask.into_iter().chain([of_edge]).find(|(_, is_given)| *is_given && !has_mask) {
        Some((flag, _)) => Err(Failure::usage(format!("{flag} has no effect without a mask"), "add --mask FILE")),
        None => Ok(()),
    }
}
