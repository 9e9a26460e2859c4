//! The pictures of one caller: their numbers and names, and the files that they are written to.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flux2::digest::sha256;
use flux2::image::ImageFormat;
use flux2_jobs::{JobId, JobState, JobView, Queue};
use flux2_session::names::{Reference, is_name};
use flux2_session::{Entry, History, HistoryOptions, Made, NewEntry, Picture};

use crate::desk::{Result, ToolError};
use crate::root::Root;

/// Jobs whose pictures are remembered by their ids.
const MAX_JOBS: usize = 1000;
/// Bytes of pictures that are kept in memory where there are no files.
const MAX_BYTES: usize = 64 << 20;
/// Longest name that a file gets from its prompt.
const MAX_STEM: usize = 40;

/// The pictures of one caller.
#[derive(Debug)]
pub struct Album {
    root: Option<Arc<Root>>,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    history: History,
    /// What was asked for beside the pictures of jobs that are not over.
    wanted: BTreeMap<JobId, Wanted>,
    /// Pictures of jobs that were taken in.
    kept: BTreeMap<JobId, Vec<Kept>>,
}

/// How pictures are to be kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Name of the first picture.
    pub name: Option<String>,
    /// Path of the file, below the root.
    pub output: Option<String>,
    /// Number of the picture that it is made from.
    pub parent: Option<u64>,
}

/// A picture that was taken in.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its number in the history.
    pub number: u64,
    /// Its name.
    pub name: Option<String>,
    /// Its file below the root.
    pub file: Option<String>,
}

impl Album {
    /// The album of a caller whose files are below `root`, or who has none. Pictures of the history whose files are
    /// elsewhere are not handed out.
    pub fn new(root: Option<Arc<Root>>, history: History) -> Self {
        let books = Books { history, wanted: BTreeMap::new(), kept: BTreeMap::new() };
        Album { root, books: Mutex::new(books) }
    }

    /// An album without files, which ends with the process.
    pub fn in_memory() -> Self {
        Self::new(None, History::in_memory(HistoryOptions { max_bytes: MAX_BYTES, ..HistoryOptions::default() }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of files, if there is one.
    pub fn root(&self) -> Option<&Root> {
        self.root.as_deref()
    }

    /// Check how pictures are to be kept, before they are drawn.
    ///
    /// # Errors
    /// If the name or the path is not possible.
    pub fn check(&self, wanted: &Wanted, format: Option<ImageFormat>) -> Result<()> {
        if let Some(name) = wanted.name.as_ref().filter(|name| !is_name(name)) {
            let hint = "a name has letters, digits and underscores, begins with a letter, and has no dollar sign";
            return Err(ToolError::new(format!("{name:?} is not a name"), hint));
        }
        let Some(output) = &wanted.output else { return Ok(()) };
        let Some(root) = self.root() else {
            return Err(ToolError::new("this server writes no files", "leave output out"));
        };
        root.check_new(output)?;
        let of_name = ImageFormat::from_path(output.as_ref())?;
        match format.filter(|format| *format != of_name) {
            None => Ok(()),
            Some(format) => {
                let message = format!("{output:?} is not the name of a {} file", format.name());
                Err(ToolError::new(message, "leave one of output and format out"))
            }
        }
    }

    /// Remember how the pictures of a job are to be kept.
    pub fn expect(&self, id: JobId, wanted: Wanted) {
        self.books().wanted.insert(id, wanted);
    }

    /// Take in the pictures of a job that is over, once: number them and write their files. Returns those that were
    /// taken in now or before; none of a job that is somebody else's or was made in another way.
    ///
    /// # Errors
    /// If a file cannot be written, or a picture is not kept any more.
    pub fn take_in(&self, jobs: &dyn Queue, job: &JobView) -> Result<Vec<Kept>> {
        let mut books = self.books();
        let Some(wanted) = books.wanted.get(&job.id).cloned() else {
            return Ok(books.kept.get(&job.id).cloned().unwrap_or_default());
        };
        if !job.state.is_final() {
            return Ok(Vec::new());
        }
        // After an error, the next call goes on with the picture that failed.
        let done = books.kept.get(&job.id).map_or(0, Vec::len);
        for image in job.images.iter().skip(done) {
            let picture = jobs.image(job.id, image.index)?;
            let picture = picture.ok_or_else(|| ToolError("the picture is not kept any more".into()))?;
            let made = Made::of_job(&job.spec, image);
            let name = wanted.name.as_ref().map(|name| match image.index {
                0 => name.clone(),
                index => format!("{name}_{}", index + 1),
            });
            let wanted = Wanted { name, ..wanted.clone() };
            let kept = self.keep(&mut books.history, &picture.bytes, image.format, &wanted, made)?;
            books.kept.entry(job.id).or_default().push(kept);
        }
        books.wanted.remove(&job.id);
        while books.kept.len() > MAX_JOBS {
            books.kept.pop_first();
        }
        Ok(books.kept.get(&job.id).cloned().unwrap_or_default())
    }

    /// Take in a picture that no job made.
    ///
    /// # Errors
    /// If its file cannot be written.
    pub fn add(&self, bytes: &[u8], format: ImageFormat, wanted: &Wanted, made: Made) -> Result<Kept> {
        self.keep(&mut self.books().history, bytes, format, wanted, made)
    }

    fn keep(
        &self,
        history: &mut History,
        bytes: &[u8],
        format: ImageFormat,
        wanted: &Wanted,
        made: Made,
    ) -> Result<Kept> {
        let (picture, file) = match self.root() {
            None => (Picture::Bytes(bytes.into()), None),
            Some(root) => {
                let usual = || format!("{}-{}.{}", stem(&made.prompt), made.seed, extension(format));
                let file = root.write_new(&wanted.output.clone().unwrap_or_else(usual), bytes)?;
                (Picture::File(root.path().join(&file)), Some(file))
            }
        };
        let entry = NewEntry { picture, name: wanted.name.clone(), made, parent: wanted.parent };
        let entry = history.add(entry).map_err(of_history)?;
        Ok(Kept { number: entry.number, name: entry.name.clone(), file })
    }

    /// The bytes and the entry of a picture that `text` refers to, as in `$3`, `$-1` or `$fox`.
    ///
    /// # Errors
    /// If there is none, or its file was changed, is not there any more, or has more than `most` bytes.
    pub fn picture(&self, text: &str, most: usize) -> Result<(Arc<[u8]>, Entry)> {
        let text: String = text.chars().take(100).collect();
        let reference = Reference::parse(&text).map_err(of_history)?;
        let entry = self.books().history.find(&reference).map_err(of_history)?.clone();
        let bytes: Arc<[u8]> = match &entry.picture {
            Picture::Bytes(bytes) => Arc::clone(bytes),
            // A session writes pictures anywhere, and the history is a file that others may have changed.
            Picture::File(_) => {
                let (root, file) = self.root().zip(self.file_of(&entry)).ok_or_else(|| {
                    let message = format!("picture {} is in no file below the folder of this server", entry.number);
                    ToolError::new(message, "ask the user to copy it there, and name it by its path")
                })?;
                root.read(&file, most)?.into()
            }
        };
        match sha256(&bytes) == entry.sha256 {
            true => Ok((bytes, entry)),
            false => Err(ToolError(format!("the file of picture {} was changed since it was drawn", entry.number))),
        }
    }

    /// A prompt with the pictures that it refers to: its text, and their numbers.
    ///
    /// # Errors
    /// If there is no such picture.
    pub fn resolve(&self, prompt: &str) -> Result<flux2_session::Resolved> {
        flux2_session::resolve(prompt, &self.books().history, 0).map_err(of_history)
    }

    /// The latest pictures that this caller may see, the newest first.
    pub fn latest(&self, most: usize) -> Vec<Entry> {
        let books = self.books();
        let is_shown = |entry: &&Entry| entry.path().is_none() || self.file_of(entry).is_some();
        books.history.entries().iter().rev().filter(is_shown).take(most).cloned().collect()
    }

    /// The path of an entry's file below the root, if it is there.
    pub fn file_of(&self, entry: &Entry) -> Option<String> {
        let (root, path) = (self.root()?.path(), entry.path()?);
        let is_plain = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let below =
            |path: &Path| path.strip_prefix(root).ok().filter(is_plain).and_then(Path::to_str).map(str::to_owned);
        // A session may know the folder by another path.
        let file = below(path).or_else(|| below(&path.canonicalize().ok()?))?;
        Some(file.replace(std::path::MAIN_SEPARATOR, "/"))
    }

    /// Forget how the pictures of a job were to be kept, if it ended without any.
    pub fn forget(&self, job: &JobView) {
        if job.state.is_final() && job.state != JobState::Done && job.images.is_empty() {
            self.books().wanted.remove(&job.id);
        }
    }
}

fn of_history(error: flux2_session::Error) -> ToolError {
    ToolError(error.to_string())
}

fn extension(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "png",
        ImageFormat::Jpeg => "jpg",
        ImageFormat::WebP => "webp",
    }
}

/// A file name for a prompt: its first words in lower case.
fn stem(prompt: &str) -> String {
    let mut name = String::new();
    for word in prompt.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if name.len() + word.len() >= MAX_STEM {
            break;
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&word.to_ascii_lowercase());
    }
    if name.is_empty() { "picture".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_prompt() {
        assert_eq!(stem("A red fox, in the snow!"), "a-red-fox-in-the-snow");
        assert_eq!(stem("../../etc/passwd"), "etc-passwd");
        assert_eq!(stem("狐"), "picture");
        assert_eq!(stem(&"word ".repeat(50)).len(), 39);
        assert_eq!(stem(&"x".repeat(500)), "picture");
    }

    #[test]
    fn pictures_have_numbers_names_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let (history, unread) = History::open(&folder.path().join("h"), HistoryOptions::default())?;
            assert_eq!(unread, 0);
            Ok::<_, flux2_session::Error>(Album::new(Some(Arc::new(Root::open(folder.path()).unwrap())), history))
        };
        let album = open().unwrap();
        let wanted = Wanted { name: Some("fox".into()), output: Some("a/fox.png".into()), parent: None };
        album.check(&wanted, Some(ImageFormat::Png)).unwrap();
        let made = Made { prompt: "p".into(), seed: 3, ..Made::default() };
        let first = album.add(b"1", ImageFormat::Png, &wanted, made.clone()).unwrap();
        assert_eq!(first, Kept { number: 1, name: Some("fox".into()), file: Some("a/fox.png".into()) });
        let second = album.add(b"2", ImageFormat::Jpeg, &Wanted::default(), made).unwrap();
        assert_eq!(second.file.as_deref(), Some("p-3.jpg"));
        assert_eq!(&*album.picture("$fox", 9).unwrap().0, b"1");
        assert_eq!(&*album.picture("$-1", 9).unwrap().0, b"2");
        assert!(album.picture("$9", 9).unwrap_err().0.contains("there are 1, 2"));
        assert!(matches!(open(), Err(flux2_session::Error::InUse { .. })));
        drop(album);
        let again = open().unwrap();
        assert_eq!(again.latest(9).len(), 2);
        std::fs::write(folder.path().join("p-3.jpg"), b"other").unwrap();
        assert!(again.picture("$2", 9).unwrap_err().0.contains("was changed"));
    }

    #[test]
    fn a_changed_history_leads_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), b"s").unwrap();
        let root = Arc::new(Root::open(&folder.path().join("root")).unwrap());
        let kept = root.path().join("h");
        let open = || {
            let (history, _) = History::open(&kept, HistoryOptions::default()).unwrap();
            Album::new(Some(Arc::clone(&root)), history)
        };
        let made = Made { prompt: "p".into(), ..Made::default() };
        open().add(b"1", ImageFormat::Png, &Wanted::default(), made).unwrap();
        let file = kept.join("history.jsonl");
        let text = std::fs::read_to_string(&file).unwrap();
        let own = root.path().join("p-0.png").display().to_string();
        for other in [folder.path().join("secret"), root.path().join("../secret"), "/etc/passwd".into()] {
            std::fs::write(&file, text.replace(&own, &other.display().to_string())).unwrap();
            let album = open();
            let error = album.picture("$1", 99).unwrap_err().0;
            assert!(!error.contains("was changed"), "it was read: {error}");
            assert!(album.latest(9).is_empty(), "{}", other.display());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_picture_of_the_folder_may_be_known_by_another_path() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        let root = Arc::new(Root::open(&real).unwrap());
        std::os::unix::fs::symlink(&real, &link).unwrap();
        std::fs::write(real.join("a.png"), b"1").unwrap();
        let mut history = History::in_memory(HistoryOptions::default());
        let entry = |path| NewEntry { picture: Picture::File(path), name: None, made: Made::default(), parent: None };
        history.add(entry(link.join("a.png"))).unwrap();
        std::fs::write(folder.path().join("b.png"), b"2").unwrap();
        history.add(entry(folder.path().join("b.png"))).unwrap();
        let album = Album::new(Some(root), history);
        assert_eq!(&*album.picture("$1", 9).unwrap().0, b"1");
        let error = album.picture("$2", 9).unwrap_err().0;
        assert!(error.starts_with("picture 2 is in no file below the folder of this server"), "{error}");
        assert_eq!(album.latest(9).iter().map(|entry| entry.number).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_before_it_is_drawn() {
        let album = Album::in_memory();
        let refused = |wanted: Wanted| album.check(&wanted, None).unwrap_err().0;
        assert!(refused(Wanted { name: Some("$a b".into()), ..Wanted::default() }).contains("is not a name"));
        assert!(refused(Wanted { output: Some("a.png".into()), ..Wanted::default() }).contains("writes no files"));
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(folder.path()).unwrap());
        let album = Album::new(Some(root), History::in_memory(HistoryOptions::default()));
        let check =
            |output: &str, format| album.check(&Wanted { output: Some(output.into()), ..Wanted::default() }, format);
        assert!(check("a.png", Some(ImageFormat::Png)).is_ok());
        assert!(check("a.png", Some(ImageFormat::WebP)).is_err());
        assert!(check("a.txt", None).is_err());
        assert!(check("../a.png", None).is_err());
    }
}
