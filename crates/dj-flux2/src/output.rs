//! Names of pictures, checked before any work, and the writing of finished ones.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use flux2::Error;
use flux2::image::ImageFormat;
use flux2::image::codec::{self, IfExists};

use crate::failure::{Failure, Result, code};

/// Held for reading while a picture is written. A second Ctrl-C takes it for writing, so that the process does not end
/// with a temporary file left behind.
pub static WRITING: RwLock<()> = RwLock::new(());

/// Name of a picture, before a number and the extension, if nobody says otherwise.
const STEM: &str = "output";

/// Where the pictures of a run are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One PNG on standard output.
    Stdout,
    /// Files that were named.
    Files {
        /// Name with the placeholders `{seed}` and `{index}`; different for every picture of the run.
        template: String,
        format: ImageFormat,
        existing: Existing,
    },
    /// PNG files under names that no other file has: `output.png`, `output-2.png` and so on in the current folder, and
    /// names with the time and the seed in a folder that was named.
    New {
        /// What stands for `output`.
        stem: &'static str,
        /// With the same placeholders; empty if none was named.
        folder: String,
        /// Whether the run makes several, which are numbered from 1.
        several: bool,
    },
}

/// What happens to a file that has the name of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    Keep,
    /// Replace it, unless it is read-only.
    #[default]
    Replace,
    ReplaceReadOnly,
}

impl From<Existing> for IfExists {
    fn from(existing: Existing) -> Self {
        match existing {
            Existing::Keep => IfExists::Fail,
            Existing::Replace | Existing::ReplaceReadOnly => IfExists::Replace,
        }
    }
}

impl Output {
    /// Reads the value of `-o` for a run of `pictures` pictures. If there are several and the name has no placeholder,
    /// `-{index}` is inserted before the extension. `is_folder` tells whether a folder exists.
    pub fn new(output: Option<&Path>, pictures: u64, existing: Existing, is_folder: fn(&Path) -> bool) -> Result<Self> {
        let several = pictures > 1;
        let Some(output) = output else { return Ok(Output::New { stem: STEM, folder: String::new(), several }) };
        if output == Path::new("-") {
            return match several {
                false => Ok(Output::Stdout),
                true => Err(Failure::usage(
                    format!("standard output takes one picture, not {pictures}"),
                    "write files, with -o NAME.png, or make one picture",
                )),
            };
        }
        let Some(name) = output.to_str() else {
            let message = format!("the output name {} is not UTF-8", output.display());
            return Err(Failure::usage(message, "choose another name with -o"));
        };
        if let Some(unknown) = unknown_placeholder(name) {
            let message = format!("unknown placeholder {unknown} in the output name {name}");
            return Err(Failure::usage(message, "use {seed} or {index}; a brace in the name is {{ or }}"));
        }
        let format = ImageFormat::from_path(output);
        if name.ends_with(std::path::is_separator) || (format.is_err() && is_folder(Path::new(&fill(name, 1, 0)))) {
            return Ok(Output::New { stem: STEM, folder: name.to_owned(), several });
        }
        let format = format?;
        let mut template = name.to_owned();
        if several && fill(name, 1, 0) == fill(name, 2, 1) {
            let stem = name.rfind('.').expect("a name whose format is known has an extension");
            template.insert_str(stem, "-{index}");
        }
        Ok(Output::Files { template, format, existing })
    }

    /// A PNG in the current folder, under a name that no other file has: `sheet.png`, `sheet-2.png` and so on.
    pub fn new_file(stem: &'static str) -> Self {
        Output::New { stem, folder: String::new(), several: false }
    }

    /// The same for a series whose end is not known: a name without a placeholder gets the number of the picture, and
    /// names that are to be new are those of single pictures.
    #[cfg(feature = "session")]
    pub fn numbered(mut self) -> Self {
        match &mut self {
            Output::Files { template, .. } if fill(template, 1, 0) == fill(template, 2, 1) => {
                let stem = template.rfind('.').expect("a name whose format is known has an extension");
                template.insert_str(stem, "-{index}");
            }
            Output::New { several, .. } => *several = false,
            Output::Files { .. } | Output::Stdout => {}
        }
        self
    }

    /// The file of one picture; `None` for standard output. A name that is to be new is where the search begins.
    pub fn path(&self, index: u64, seed: u64) -> Option<PathBuf> {
        match self {
            Output::Stdout => None,
            Output::Files { template, .. } => Some(fill(template, index, seed).into()),
            Output::New { folder, .. } if !folder.is_empty() => {
                Some(Path::new(&fill(folder, index, seed)).join(format!("{}-{seed}.png", time())))
            }
            Output::New { stem, folder, several } => {
                let number = if *several { Some(index) } else { None };
                Some(Path::new(&fill(folder, index, seed)).join(numbered(stem, number)))
            }
        }
    }

    /// Checks that pictures can be written to `paths`, each to a file of its own, and that none of them would replace
    /// one of `inputs`.
    pub fn check(&self, paths: impl Iterator<Item = PathBuf>, inputs: &[PathBuf]) -> Result<()> {
        match self {
            Output::Stdout if io::stdout().is_terminal() => Err(Failure::usage(
                "standard output is a terminal, which cannot show a PNG",
                "send it to a file or program, as in `-o - > picture.png`",
            )),
            Output::Stdout if is_closed_stdout() => {
                Err(Failure::usage("standard output is closed", "open it, or write a file, with -o NAME.png"))
            }
            Output::Stdout => Ok(()),
            Output::New { .. } => {
                let mut checked = HashSet::new();
                paths
                    .map(|path| parent(&path).to_owned())
                    .filter(|folder| checked.insert(folder.clone()))
                    .try_for_each(|folder| check_folder(&folder.join(numbered(STEM, None)), &folder))
            }
            Output::Files { existing, .. } => {
                let inputs: Vec<PathBuf> = inputs.iter().filter_map(|input| fs::canonicalize(input).ok()).collect();
                let mut folders = HashMap::new();
                let mut files: HashMap<PathBuf, PathBuf> = HashMap::new();
                paths.into_iter().try_for_each(|path| {
                    check_path(&path, *existing, &inputs)?;
                    match files.insert(resolve(&path, &mut folders), path.clone()) {
                        None => Ok(()),
                        Some(other) => Err(Failure::usage(
                            format!("{} and {} are the same file", other.display(), path.display()),
                            "choose another name with -o: every picture of a run has its own file",
                        )),
                    }
                })
            }
        }
    }

    /// Image format of the pictures.
    pub fn format(&self) -> ImageFormat {
        match self {
            Output::Stdout | Output::New { .. } => ImageFormat::Png,
            Output::Files { format, .. } => *format,
        }
    }

    /// Writes an encoded picture to `path`, or to standard output, and returns the file that it is in. Folders that are
    /// missing are made.
    pub fn write(&self, path: Option<&Path>, bytes: &[u8]) -> Result<Option<PathBuf>> {
        let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = path else {
            let mut stdout = io::stdout().lock();
            return stdout.write_all(bytes).and_then(|()| stdout.flush()).map(|()| None).map_err(|e| {
                Failure::new(code::FAILURE, format!("standard output: {e}"), "write a file, with -o NAME.png")
            });
        };
        let folder = parent(path);
        fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
        let existing = match self {
            Output::Files { existing, .. } => existing,
            Output::New { folder, .. } if !folder.is_empty() => return save_in_folder(path, bytes).map(Some),
            Output::New { stem, .. } => return save_new(stem, path, bytes).map(Some),
            Output::Stdout => return save_new(STEM, path, bytes).map(Some),
        };
        // It may have become read-only since the check.
        check_read_only(path, *existing)?;
        codec::save(path, bytes, (*existing).into())?;
        Ok(Some(path.to_owned()))
    }
}

/// Replaces the preview at `path`. It need not outlive a crash of the system.
pub fn write_preview(path: &Path, bytes: &[u8]) -> flux2::Result<()> {
    let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
    codec::save_for_now(path, bytes)
}

/// Checks that previews can be written to `path`, and that it is none of `files`, which this run reads or writes.
pub fn check_preview(path: &Path, files: impl Iterator<Item = PathBuf>) -> Result<()> {
    let mut folders = HashMap::new();
    let resolved = resolve(path, &mut folders);
    if let Some(file) = files.into_iter().find(|file| resolve(file, &mut folders) == resolved) {
        let message = format!("{} is also {} of this run", path.display(), file.display());
        return Err(Failure::usage(message, "choose another name for --preview"));
    }
    if path.is_dir() {
        return Err(Failure::usage(format!("{} is a folder", path.display()), "name a file with --preview"));
    }
    Ok(codec::check_save(path, IfExists::Replace)?)
}

/// The time at which the run began, in UTC, as in `20261201-093000`.
fn time() -> &'static str {
    static TIME: OnceLock<String> = OnceLock::new();
    TIME.get_or_init(|| {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        time.chars().filter(|c| !matches!(c, '-' | ':' | 'Z')).map(|c| if c == 'T' { '-' } else { c }).collect()
    })
}

/// Saves `bytes` at `path`, or with the next number behind its name that no file has.
fn save_in_folder(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or(STEM);
    let numbered = (2u64..).map(|number| path.with_file_name(format!("{stem}-{number}.png")));
    for path in std::iter::once(path.to_owned()).chain(numbered) {
        match codec::save(&path, bytes, IfExists::Fail) {
            Err(Error::OutputExists { .. }) => {}
            result => return result.map(|()| path).map_err(Failure::from),
        }
    }
    unreachable!("a folder does not hold 2^64 files")
}

/// Saves `bytes` at `path`, or under the next number that no file has. Other runs may do the same at the same time:
/// whoever creates a name first has it.
fn save_new(stem: &str, path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or(STEM);
    let first: u64 = name.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(1);
    let mut path = path.to_owned();
    for number in first + 1.. {
        match codec::save(&path, bytes, IfExists::Fail) {
            Err(Error::OutputExists { .. }) => path.set_file_name(numbered(stem, Some(number))),
            result => return result.map(|()| path).map_err(Failure::from),
        }
    }
    unreachable!("a folder does not hold 2^64 files")
}

fn numbered(stem: &str, number: Option<u64>) -> String {
    number.map_or_else(|| format!("{stem}.png"), |number| format!("{stem}-{number}.png"))
}

/// The pieces of a name: text, in which a brace that was doubled is single, and placeholders, which begin with one and
/// are marked.
fn pieces(name: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let at = rest.find(['{', '}']).unwrap_or(rest.len());
        if at > 0 || rest.is_empty() {
            let text = &rest[..at];
            rest = &rest[at..];
            return (at > 0).then_some((text, false));
        }
        let brace = &rest[..1];
        if rest[1..].starts_with(brace) {
            rest = &rest[2..];
            return Some((brace, false));
        }
        let end = rest.find('}').filter(|_| brace == "{");
        let (piece, behind) = rest.split_at(end.map_or(1, |end| end + 1));
        rest = behind;
        Some((piece, end.is_some()))
    })
}

fn unknown_placeholder(name: &str) -> Option<&str> {
    pieces(name)
        .find(|(piece, is_placeholder)| *is_placeholder && !["{seed}", "{index}"].contains(piece))
        .map(|(p, _)| p)
}

/// The name that `template` stands for.
fn fill(template: &str, index: u64, seed: u64) -> String {
    pieces(template)
        .map(|piece| match piece {
            ("{seed}", true) => seed.to_string(),
            ("{index}", true) => index.to_string(),
            (text, _) => text.to_owned(),
        })
        .collect()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_path(path: &Path, existing: Existing, inputs: &[PathBuf]) -> Result<()> {
    if path.is_dir() {
        return Err(Failure::usage(format!("{} is a folder", path.display()), "choose another name with -o"));
    }
    if fs::canonicalize(path).is_ok_and(|found| inputs.contains(&found)) {
        let message = format!("{} is an input of this run and would be replaced", path.display());
        return Err(Failure::usage(message, "choose another name with -o"));
    }
    check_read_only(path, existing)?;
    match parent(path) {
        folder if folder.is_dir() => Ok(codec::check_save(path, existing.into())?),
        folder => check_folder(path, folder),
    }
}

/// Checks that `folder` can be written to, or made in the nearest one above that is there.
fn check_folder(path: &Path, folder: &Path) -> Result<()> {
    let above = folder.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("."));
    if !above.is_dir() {
        let message = format!("cannot write {}: {} is not a folder", path.display(), above.display());
        return Err(Failure::usage(message, "choose another name with -o"));
    }
    codec::check_save(&above.join(".dj-flux2.png"), IfExists::Replace).map_err(|error| match error {
        Error::Io { source, .. } => Error::Io { path: path.to_owned(), source }.into(),
        error => error.into(),
    })
}

/// A file without the right to be written was protected by someone: a rename would replace it all the same.
fn check_read_only(path: &Path, existing: Existing) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if existing == Existing::Replace && found.is_file() && found.permissions().readonly() => {
            Err(Failure::usage(
                format!("{} is read-only", path.display()),
                "choose another name with -o, or add --force to replace it",
            ))
        }
        _ => Ok(()),
    }
}

/// Where a write to `path` ends, through links of files and folders; `folders` are those already resolved.
fn resolve(path: &Path, folders: &mut HashMap<PathBuf, PathBuf>) -> PathBuf {
    if let Ok(found) = fs::canonicalize(path) {
        return found;
    }
    // A link to a file that is not there yet.
    let target = fs::read_link(path).map_or_else(|_| path.to_owned(), |link| parent(path).join(link));
    let folder = parent(&target);
    let real = folders
        .entry(folder.to_owned())
        .or_insert_with_key(|folder| fs::canonicalize(folder).unwrap_or_else(|_| folder.clone()));
    real.join(target.file_name().unwrap_or_default())
}

/// Whether standard output was closed when the program was started. The standard library then opens /dev/null in its
/// place, for reading and writing; a shell that discards output opens it for writing only.
fn is_closed_stdout() -> bool {
    let is_null = fs::read_link("/proc/self/fd/1").is_ok_and(|file| file == Path::new("/dev/null"));
    is_null && fs::read_to_string("/proc/self/fdinfo/1").is_ok_and(|info| opened_to_read_and_write(&info))
}

/// Reads the access mode, which is the last octal digit of the flags: 0 to read, 1 to write, 2 for both.
fn opened_to_read_and_write(fdinfo: &str) -> bool {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 3 == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(output: &str, pictures: u64) -> Result<Output> {
        Output::new(Some(Path::new(output)), pictures, Existing::Replace, |path| path == Path::new("there"))
    }

    fn names(output: &str, pictures: u64) -> Vec<String> {
        let output = made(output, pictures).unwrap();
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
        let error = |name| made(name, 1).unwrap_err();
        assert_eq!(error("{sede}.png").message, "unknown placeholder {sede} in the output name {sede}.png");
        assert_eq!(error("{seed}{}.png").message, "unknown placeholder {} in the output name {seed}{}.png");
        // A brace alone is a character like any other.
        assert_eq!(names("a{b.png", 1), ["a{b.png"]);
    }

    #[test]
    fn standard_output_takes_one_picture() {
        assert_eq!(made("-", 1), Ok(Output::Stdout));
        assert_eq!(made("-", 2).unwrap_err().code, code::USAGE);
    }

    #[test]
    fn doubled_braces_are_braces() {
        assert_eq!(names("{{a}}/{{seed}}-{seed}.png", 1), ["{a}/{seed}-41.png"]);
        assert_eq!(names("{{index}}.png", 2), ["{index}-1.png", "{index}-2.png"]);
        assert_eq!(names("{{{seed}}}.png", 1), ["{41}.png"]);
    }

    #[test]
    fn names_in_a_folder_are_time_and_seed() {
        let time = time();
        assert!(time.len() == 15 && time.chars().all(|c| c.is_ascii_digit() || c == '-'), "{time}");
        assert_eq!(names("out/", 2), [format!("out/{time}-41.png"), format!("out/{time}-42.png")]);
        assert_eq!(names("there", 1), [format!("there/{time}-41.png")]);
        assert!(made("nowhere", 1).is_err());
        let folder = tempfile::tempdir().unwrap();
        let save = || save_in_folder(&folder.path().join("x-41.png"), b"x").unwrap();
        let made = [save(), save(), save()].map(|path| path.file_name().unwrap().to_owned());
        assert_eq!(made, ["x-41.png", "x-41-2.png", "x-41-3.png"]);
    }

    #[test]
    fn a_name_that_is_taken_leads_to_the_next_number() {
        let folder = tempfile::tempdir().unwrap();
        let save =
            |name: &str| save_new(STEM, &folder.path().join(name), b"x").unwrap().file_name().unwrap().to_owned();
        let made = ["output.png", "output.png", "output.png", "output-1.png", "output-1.png", "output-2.png"].map(save);
        assert_eq!(
            made,
            ["output.png", "output-2.png", "output-3.png", "output-1.png", "output-4.png", "output-5.png"]
        );
    }

    #[test]
    fn the_access_mode_is_the_last_digit_of_the_flags() {
        assert!(opened_to_read_and_write("pos:\t0\nflags:\t0100002\nmnt_id:\t1\n"));
        assert!(!opened_to_read_and_write("pos:\t0\nflags:\t0100001\n"));
        assert!(!opened_to_read_and_write(""));
    }
}
