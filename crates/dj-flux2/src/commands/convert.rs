//! `dj-flux2 convert`: a model in another number format.

use flux2::weights::convert::Conversion;
use flux2::weights::{Error, Part};

use super::find::find_model;
use super::generate::cancelled_by_signals;
use crate::args::{Component, ConvertArgs};
use crate::failure::Result;
use crate::report::{Report, Size, print};
use crate::settings::{self, Detail};

/// Write what `args` name.
pub fn run(args: &ConvertArgs) -> Result<()> {
    let conversion = Conversion {
        model: find_model(&args.model.clone().into())?,
        part: args.component.map(|component| match component {
            Component::Transformer => Part::Transformer,
            Component::TextEncoder => Part::TextEncoder,
            Component::Vae => Part::Vae,
        }),
        format: settings::format(args.to),
        out: args.out.clone(),
        replace: args.force,
        threads: settings::threads(args.threads),
    };
    let mut report = Report::new(if args.quiet { Detail::Quiet } else { Detail::Normal }, false);
    let result = conversion.run(&mut report, &cancelled_by_signals());
    if matches!(result, Err(Error::Cancelled(_))) {
        report.note("what is done is kept; the same command goes on from there");
    }
    let converted = result?;
    if converted.left > 0 {
        let all = converted.rounded + converted.left;
        report.warning(format_args!(
            "{} of {all} matrices are left as they were: their rows are not whole blocks of {} values",
            converted.left,
            conversion.format.dtype().map_or(1, |dtype| dtype.block_len()),
        ));
    }
    report.note(format_args!("{}, {} tensors rounded", Size(converted.bytes), converted.rounded));
    print(&args.out.display().to_string())
}
