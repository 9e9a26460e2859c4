//! Choices about a picture that is painted into.

use std::path::PathBuf;

use flux2::Compat;
use flux2::canvas::{Fill, Rule, Side};
use flux2::image::SourceParameters;

use super::{Choice, Origin, unknown};
use crate::args::{CanvasArgs, parse_color};
use crate::failure::Result;

/// What a layer says about a picture that is painted into, each field with its origin.
#[derive(Clone, Debug, Default)]
pub struct CanvasChoices {
    /// File of the source.
    pub source: Choice<PathBuf>,
    /// File of the mask.
    pub mask: Choice<PathBuf>,
    pub from_alpha: Choice<bool>,
    pub invert: Choice<bool>,
    /// Pixels by which the mask grows.
    pub grow: Choice<u32>,
    /// Pixels of the transition.
    pub feather: Choice<u32>,
    /// Whether the source is a reference too.
    pub as_reference: Choice<bool>,
    pub outpaint: Choice<[Side; 4]>,
    pub fill: Choice<Result<Fill>>,
    pub strength: Choice<f64>,
    /// Whose rules are kept.
    pub rule: Choice<Result<Rule>>,
}

impl CanvasChoices {
    /// These choices, and those of `lower` for fields that are missing here.
    pub fn or(self, lower: CanvasChoices) -> CanvasChoices {
        // A mask from a file and one from transparency exclude each other, across layers too.
        let lower_mask = lower.mask.filter(|_| self.from_alpha.is_none());
        let lower_alpha = lower.from_alpha.filter(|_| self.mask.is_none());
        CanvasChoices {
            source: self.source.or(lower.source),
            mask: self.mask.or(lower_mask),
            from_alpha: self.from_alpha.or(lower_alpha),
            invert: self.invert.or(lower.invert),
            grow: self.grow.or(lower.grow),
            feather: self.feather.or(lower.feather),
            as_reference: self.as_reference.or(lower.as_reference),
            outpaint: self.outpaint.or(lower.outpaint),
            fill: self.fill.or(lower.fill),
            strength: self.strength.or(lower.strength),
            rule: self.rule.or(lower.rule),
        }
    }

    /// The first setting that needs a source and is there for this run alone.
    pub fn of_one_run(&self) -> Option<&'static str> {
        fn of<T>(name: &'static str, choice: &Choice<T>) -> Option<&'static str> {
            choice.as_ref().filter(|choice| choice.origin.is_of_one_run()).map(|_| name)
        }
        of("mask", &self.mask)
            .or(of("mask-from-alpha", &self.from_alpha))
            .or(of("mask-invert", &self.invert))
            .or(of("mask-grow", &self.grow))
            .or(of("feather", &self.feather))
            .or(of("no-source-reference", &self.as_reference))
            .or(of("outpaint", &self.outpaint))
            .or(of("outpaint-fill", &self.fill))
            .or(of("strength", &self.strength))
    }

    /// Leaves out what files say about a mask, where there is none.
    pub fn without_waiting(self) -> CanvasChoices {
        fn asked<T>(choice: Choice<T>) -> Choice<T> {
            choice.filter(|choice| matches!(choice.origin, Origin::Line | Origin::Flag | Origin::Picture(_)))
        }
        let has_edge = self.outpaint.is_some();
        if self.mask.is_some() || self.from_alpha.is_some() {
            return self;
        }
        CanvasChoices {
            invert: asked(self.invert),
            grow: asked(self.grow),
            feather: if has_edge { self.feather } else { asked(self.feather) },
            ..self
        }
    }

    /// Flags that come from `flag`.
    pub fn from_args(flag: &Origin, args: &CanvasArgs, compat: Option<Compat>) -> CanvasChoices {
        let CanvasArgs { source, mask, mask_grow, feather, outpaint, outpaint_fill, strength, .. } = args;
        CanvasChoices {
            source: flag.choice(source.clone()),
            mask: flag.choice(mask.clone()),
            from_alpha: flag.choice(args.mask_from_alpha.then_some(true)),
            invert: flag.choice(args.mask_invert.then_some(true)),
            grow: flag.choice(*mask_grow),
            feather: flag.choice(*feather),
            as_reference: flag.choice(args.no_source_reference.then_some(false)),
            outpaint: flag.choice(*outpaint),
            fill: flag.choice(outpaint_fill.map(Ok)),
            strength: flag.choice(*strength),
            rule: flag.choice(compat.filter(|compat| *compat == Compat::Diffusers).map(|_| Ok(Rule::Diffusers))),
        }
    }

    /// What a picture records. Its files are not named, so they must come from another layer.
    pub fn from_parameters(made: &SourceParameters, origin: &Origin) -> CanvasChoices {
        let rule = match made.rule.as_deref() {
            None => Ok(Rule::Own),
            Some("diffusers") => Ok(Rule::Diffusers),
            Some(other) => Err(unknown("compat", other, "--compat diffusers")),
        };
        let fill = made.outpaint_fill.as_deref().map(|color| match parse_color(color) {
            Ok(color) => Ok(Fill::Color(color)),
            Err(_) => Err(unknown("outpaint fill", color, "--outpaint-fill edge")),
        });
        CanvasChoices {
            source: None,
            mask: None,
            from_alpha: origin.choice(made.mask_from_alpha.then_some(true)),
            invert: origin.choice(made.mask_invert.then_some(true)),
            grow: origin.choice(Some(made.mask_grow).filter(|grow| *grow > 0)),
            feather: origin.choice(made.feather),
            as_reference: origin.choice(Some(made.is_reference)),
            outpaint: origin.choice(made.outpaint.map(|sides| sides.map(Side::Px))),
            fill: origin.choice(fill),
            strength: origin.choice(Some(made.strength)),
            rule: origin.choice(Some(rule)),
        }
    }
}
