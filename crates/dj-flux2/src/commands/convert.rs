//! `dj-flux2 convert`: writes a model in another number format.

use std::path::Path;

use flux2::weights::convert::Conversion;
use flux2::weights::{Error, Part};

use crate::args::{Component, ConvertArgs};
use crate::failure::{Failure, Result};
use crate::interrupt::cancelled_by_signals;
use crate::prepare::find_model;
use crate::report::{Report, Size, print};
use crate::settings::{Detail, formats};

/// Converts the model or network that `args` name.
pub fn run(args: &ConvertArgs) -> Result<()> {
    let model = find_model(&args.model.clone().into())?;
    // The built-in model is not on the disk.
    let is_whole = !model.path().exists() || model.path().join("model_index.json").is_file();
    if args.component.is_none() && is_whole && has_file_name(&args.out) {
        return Err(Failure::usage(
            format!("{} is the name of a file, and a whole model becomes a folder", args.out.display()),
            "name a folder, or convert one network to that file, as in --component transformer",
        ));
    }
    let conversion = Conversion {
        model,
        part: args.component.map(|component| match component {
            Component::Transformer => Part::Transformer,
            Component::TextEncoder => Part::TextEncoder,
            Component::Vae => Part::Vae,
        }),
        format: formats::format(args.to),
        out: args.out.clone(),
        replace: args.force,
        threads: formats::threads(args.threads),
    };
    let mut report = Report::new(if args.quiet { Detail::Quiet } else { Detail::Normal }, false);
    report.threads(conversion.threads);
    let result = conversion.run(&mut report, &cancelled_by_signals());
    if matches!(result, Err(Error::Cancelled(_) | Error::Io { .. })) {
        report.note("finished tensors are kept; the same command continues from there");
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

/// Whether a path ends as files of weights do. A folder that is there under such a name is one all the same.
fn has_file_name(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    !path.is_dir() && matches!(extension.as_deref(), Some("gguf" | "safetensors" | "sft"))
}
