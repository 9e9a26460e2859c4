//! Names of pictures, checked before any work, and the writing of finished ones.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use flux2::image::ImageFormat;
use flux2::image::codec::{self, IfExists};

use crate::failure::{Failure, Result, code};

/// Held for reading while a picture is written. A second Ctrl-C takes it for writing, so that the process does not end
/// with a temporary file left behind.
pub static WRITING: RwLock<()> = RwLock::new(());

/// Where the pictures of a run are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One PNG on standard output.
    Stdout,
    /// Files.
    Files {
        /// Name with the placeholders `{seed}` and `{index}`; different for every picture of the run.
        template: String,
        format: ImageFormat,
        if_exists: IfExists,
    },
}

impl Output {
    /// Reads the value of `-o` for a run of `pictures` pictures. If there are several and the name has no placeholder,
    /// `-{index}` is inserted before the extension.
    pub fn new(output: &Path, pictures: u64, if_exists: IfExists) -> Result<Self> {
        if output == Path::new("-") {
            return match pictures {
                1 => Ok(Output::Stdout),
                _ => Err(Failure::usage(
                    format!("standard output takes one picture, not {pictures}"),
                    "write files, with -o NAME.png, or make one picture",
                )),
            };
        }
        let Some(name) = output.to_str() else {
            let message = format!("the output name {} is not UTF-8", output.display());
            return Err(Failure::usage(message, "choose another name with -o"));
        };
        let format = ImageFormat::from_path(output)?;
        if let Some(unknown) = placeholders(name).find(|p| !["{seed}", "{index}"].contains(p)) {
            let message = format!("unknown placeholder {unknown} in the output name {name}");
            return Err(Failure::usage(message, "use {seed} or {index}"));
        }
        let mut template = name.to_owned();
        if pictures > 1 && placeholders(name).next().is_none() {
            let stem = name.rfind('.').expect("a name whose format is known has an extension");
            template.insert_str(stem, "-{index}");
        }
        Ok(Output::Files { template, format, if_exists })
    }

    /// The file of one picture; `None` for standard output.
    pub fn path(&self, index: u64, seed: u64) -> Option<PathBuf> {
        match self {
            Output::Stdout => None,
            Output::Files { template, .. } => {
                Some(template.replace("{seed}", &seed.to_string()).replace("{index}", &index.to_string()).into())
            }
        }
    }

    /// Checks that pictures can be written to `paths` and that none of them would replace one of `inputs`.
    pub fn check(&self, paths: impl Iterator<Item = PathBuf>, inputs: &[PathBuf]) -> Result<()> {
        let Output::Files { if_exists, .. } = self else {
            return match io::stdout().is_terminal() {
                true => Err(Failure::usage(
                    "standard output is a terminal, which cannot show a PNG",
                    "send it to a file or program, as in `-o - > picture.png`",
                )),
                false => Ok(()),
            };
        };
        let inputs: Vec<PathBuf> = inputs.iter().filter_map(|input| fs::canonicalize(input).ok()).collect();
        for path in paths {
            check_path(&path, *if_exists, &inputs)?;
        }
        Ok(())
    }

    /// Image format of the pictures.
    pub fn format(&self) -> ImageFormat {
        match self {
            Output::Stdout => ImageFormat::Png,
            Output::Files { format, .. } => *format,
        }
    }

    /// Writes an encoded picture to `path`, or to standard output.
    pub fn write(&self, path: Option<&Path>, bytes: &[u8]) -> Result<()> {
        let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
        match (self, path) {
            (Output::Files { if_exists, .. }, Some(path)) => Ok(codec::save(path, bytes, *if_exists)?),
            _ => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| {
                    Failure::new(code::FAILURE, format!("standard output: {e}"), "write a file, with -o NAME.png")
                })
            }
        }
    }
}

/// All placeholders `{word}` in a name.
fn placeholders(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('{').filter_map(|(start, _)| Some(&name[start..=start + name[start..].find('}')?]))
}

fn check_path(path: &Path, if_exists: IfExists, inputs: &[PathBuf]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let message = format!("cannot write {}: {} is not a folder", path.display(), folder.display());
        return Err(Failure::usage(message, format!("create it: mkdir -p {}", folder.display())));
    }
    if path.is_dir() {
        return Err(Failure::usage(format!("{} is a folder", path.display()), "choose another name with -o"));
    }
    codec::check_save(path, if_exists)?;
    if fs::canonicalize(path).is_ok_and(|found| inputs.contains(&found)) {
        let message = format!("{} is an input of this run and would be replaced", path.display());
        return Err(Failure::usage(message, "choose another name with -o"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(output: &str, pictures: u64) -> Vec<String> {
        let output = Output::new(Path::new(output), pictures, IfExists::Replace).unwrap();
        (1..=pictures).map(|i| output.path(i, 40 + i).unwrap().display().to_string()).collect()
    }

    #[test]
    fn one_picture_has_the_name_it_was_given() {
        assert_eq!(names("a/fox.png", 1), ["a/fox.png"]);
        assert_eq!(names("fox-{seed}-{index}.jpg", 1), ["fox-41-1.jpg"]);
    }

    #[test]
    fn several_pictures_never_share_a_name() {
        assert_eq!(names("fox.png", 3), ["fox-1.png", "fox-2.png", "fox-3.png"]);
        assert_eq!(names("fox.old.png", 2), ["fox.old-1.png", "fox.old-2.png"]);
        assert_eq!(names("{seed}.webp", 2), ["41.webp", "42.webp"]);
        assert_eq!(names("{index}/fox.png", 2), ["1/fox.png", "2/fox.png"]);
    }

    #[test]
    fn a_misspelt_placeholder_is_no_file_name() {
        let error = |name| Output::new(Path::new(name), 1, IfExists::Replace).unwrap_err();
        assert_eq!(error("{sede}.png").message, "unknown placeholder {sede} in the output name {sede}.png");
        assert_eq!(error("{seed}{}.png").message, "unknown placeholder {} in the output name {seed}{}.png");
        // A brace alone is a character like any other.
        assert_eq!(names("a{b.png", 1), ["a{b.png"]);
    }

    #[test]
    fn standard_output_takes_one_picture() {
        assert_eq!(Output::new(Path::new("-"), 1, IfExists::Replace), Ok(Output::Stdout));
        assert_eq!(Output::new(Path::new("-"), 2, IfExists::Replace).unwrap_err().code, code::USAGE);
    }
}
