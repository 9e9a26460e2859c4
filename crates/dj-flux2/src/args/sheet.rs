//! Flags of `sheet` and `compare`, and those of `generate` that make a sheet.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Flags of `generate` that make a sheet of its pictures, or draw a grid of them.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SheetFlags {
    /// Draw a picture for each value of one or two settings; as in steps=2,4,8 or seed=1-4, or with an x between them,
    /// as in "steps=2,4 x guidance=1,3"; any flag that takes a value, also prompt, prompt-sr=WORD,OTHER,... and
    /// lora-scale
    #[arg(long, value_name = "AXIS=VALUES", help_heading = "Sheet", conflicts_with_all = ["count", "prompt_file"])]
    pub grid: Vec<String>,

    /// Write a labeled sheet of all pictures of the run [default: with --grid, a name made from that of the pictures]
    #[arg(long, value_name = "FILE", help_heading = "Sheet")]
    pub sheet: Option<PathBuf>,

    /// Dark background of the sheet
    #[arg(long, help_heading = "Sheet")]
    pub dark: bool,

    /// The picture of a sheet that --from starts from, by its column and row from 1, as in 2,3
    #[arg(long, value_name = "COLUMN,ROW", value_parser = parse_cell, requires = "from", help_heading = "Sheet")]
    pub cell: Option<(usize, usize)>,
}

/// Flags of `sheet`.
#[derive(clap::Args)]
pub struct SheetArgs {
    /// Pictures, in the order of their cells
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// File of the sheet, .png, .jpg or .webp; `-` is standard output [default: sheet.png, or the next sheet-2.png, ...
    /// that is not there]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Pictures in a row [default: as many as make the sheet about square]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub columns: Option<u32>,

    /// Dark background
    #[arg(long)]
    pub dark: bool,

    /// Show the sheet in the terminal, as sharp as it can
    #[arg(long)]
    pub show: bool,

    /// Do not store the parameters of the pictures in the sheet
    #[arg(long)]
    pub no_metadata: bool,

    /// Replace a read-only file too
    #[arg(long)]
    pub force: bool,

    /// Print only errors and the name of the sheet
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `compare`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("picture").args(["output", "show"]).multiple(true))]
pub struct CompareArgs {
    /// The first picture
    #[arg(value_name = "A")]
    pub a: PathBuf,

    /// The second picture; it is scaled if its size is another
    #[arg(value_name = "B")]
    pub b: PathBuf,

    /// Write the difference as a picture, four times as strong [default: only the numbers are printed]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Show the difference in the terminal, as sharp as it can
    #[arg(long)]
    pub show: bool,

    /// Write or show the left half of A and the right half of B in place of the difference
    #[arg(long, requires = "picture")]
    pub wipe: bool,

    /// Write or show A and B side by side in place of the difference
    #[arg(long, requires = "picture", conflicts_with = "wipe")]
    pub side_by_side: bool,

    /// Dark background
    #[arg(long, requires = "picture")]
    pub dark: bool,

    /// Replace a read-only file too
    #[arg(long)]
    pub force: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The arguments, where the words of a grid are one value of its flag: its quotes are easily forgotten, as in
/// `--grid seed=1-3 x steps=2,4`.
pub fn with_whole_grids(argv: Vec<OsString>) -> Vec<OsString> {
    let mut whole = Vec::<OsString>::with_capacity(argv.len());
    let mut words = argv.into_iter().peekable();
    while let Some(word) = words.next() {
        let value = match word.to_str() {
            Some("--") => {
                whole.push(word);
                whole.extend(words);
                return whole;
            }
            Some("--grid") => {
                whole.push(word);
                words.next()
            }
            Some(text) if text.starts_with("--grid=") => Some(word),
            _ => {
                whole.push(word);
                continue;
            }
        };
        let Some(mut value) = value else { continue };
        while words.peek().is_some_and(|word| ["x", "X", "×"].iter().any(|x| word == x)) {
            let (x, second) = (words.next().expect("it was seen"), words.next());
            value = [Some(value), Some(x), second].into_iter().flatten().collect::<Vec<_>>().join(OsStr::new(" "));
        }
        whole.push(value);
    }
    whole
}

/// Parses `2,3` into column and row.
fn parse_cell(text: &str) -> Result<(usize, usize), &'static str> {
    let number = |text: &str| text.trim().parse().ok().filter(|number| *number > 0);
    let pair = text.split_once(',').and_then(|(column, row)| Some((number(column)?, number(row)?)));
    pair.ok_or("a cell is its column and its row, from 1, as in 2,3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_grid_are_one_value() {
        let whole = |line: &str| {
            let words = with_whole_grids(line.split(' ').map(OsString::from).collect());
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join("|")
        };
        assert_eq!(whole("a --grid seed=1-3 x steps=2,4 -q"), "a|--grid|seed=1-3 x steps=2,4|-q");
        assert_eq!(whole("--grid=seed=1 × steps=2 a"), "--grid=seed=1 × steps=2|a");
        assert_eq!(whole("--grid seed x steps"), "--grid|seed x steps");
        assert_eq!(whole("--grid seed=1 a -- --grid x"), "--grid|seed=1|a|--|--grid|x");
        assert_eq!(whole("--grid"), "--grid");
    }

    #[test]
    fn a_cell_is_a_column_and_a_row() {
        assert_eq!(parse_cell("2,3"), Ok((2, 3)));
        assert_eq!(parse_cell("1, 12"), Ok((1, 12)));
        for wrong in ["", "2", "0,1", "1,0", "2x3", "2,3,4", "-1,2"] {
            assert!(parse_cell(wrong).is_err(), "{wrong}");
        }
    }
}
