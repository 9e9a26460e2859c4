//! Flags of `explain`.

use std::path::PathBuf;

use flux2::explain::Blocks;

use super::GenerateArgs;

/// Flags of `explain`: those of `generate`, and what is explained.
#[derive(clap::Args)]
#[command(mut_arg("output", |arg| arg.value_name("FILE").help(
    "File of the page; `-` is standard output [default: explain.html]"
)))]
#[command(mut_arg("json", |arg| arg.help(
    "Print everything as one JSON object; the page is written only where -o names its file"
)))]
#[command(mut_arg("open", |arg| arg.help("Open the page in the desktop's program for it")))]
pub struct ExplainArgs {
    #[command(flatten)]
    pub generate: GenerateArgs,

    /// Also write the pictures and plots of the page to this folder, as PNG and SVG
    #[arg(long, value_name = "DIR", help_heading = "Explaining")]
    pub plots: Option<PathBuf>,

    /// Blocks whose attention is read: all, none, or names as in double.0,single.3 [default: all]
    #[arg(long, value_name = "BLOCKS", value_parser = parse_blocks, help_heading = "Explaining")]
    pub attention_blocks: Option<Blocks>,
}

fn parse_blocks(text: &str) -> Result<Blocks, &'static str> {
    match text {
        "all" => Ok(Blocks::All),
        "none" => Ok(Blocks::None),
        names => names.split(',').map(str::parse).collect::<Result<_, _>>().map(Blocks::These),
    }
}

#[cfg(test)]
mod tests {
    use flux2::explain::BlockName::{Double, Single};

    use super::*;

    #[test]
    fn blocks_are_all_none_or_names() {
        assert_eq!(parse_blocks("all"), Ok(Blocks::All));
        assert_eq!(parse_blocks("none"), Ok(Blocks::None));
        assert_eq!(parse_blocks("double.0,single.3"), Ok(Blocks::These(vec![Double(0), Single(3)])));
        assert!(parse_blocks("").is_err() && parse_blocks("double.0,").is_err() && parse_blocks("3").is_err());
    }
}
