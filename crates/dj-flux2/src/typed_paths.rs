//! Paths as they were typed: `-` for standard input, addresses of the web, and files that stand for their folder.

use std::io::{self, Read as _};
use std::path::Path;

use flux2::Error;
use flux2::image::codec::{self, MAX_FILE_BYTES};
use flux2::weights::{Location, Part};

use crate::args::GenerateArgs;
use crate::failure::{Failure, Result, code};

/// Reads the file of a picture; `-` is standard input.
pub fn read_picture(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        return read_standard_input();
    }
    refuse_address(path, code::BAD_IMAGE, "download it and pass the file")?;
    codec::read_file(path).map_err(Failure::image)
}

/// What errors call the picture at `path`.
pub fn name_of(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn read_standard_input() -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let read = io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    let path = "standard input".into();
    match read {
        Err(source) => Err(Failure::image(Error::Io { path, source })),
        Ok(read) if read as u64 > MAX_FILE_BYTES => {
            Err(Failure::image(Error::ImageFileTooLarge { path, bytes: read as u64, max: MAX_FILE_BYTES }))
        }
        Ok(_) => Ok(bytes),
    }
}

/// Standard input can be read once.
pub fn check_standard_input(args: &GenerateArgs) -> Result<()> {
    let prompts = args.typed_prompt().first().filter(|prompt| *prompt == "-").into_iter().map(|_| "the prompt");
    let dash = |path: &&std::path::PathBuf| path.as_path() == Path::new("-");
    let readers: Vec<&str> = prompts
        .chain(args.prompt_file.iter().filter(dash).map(|_| "--prompt-file"))
        .chain(args.batch.iter().filter(dash).map(|_| "--batch"))
        .chain(args.from.iter().filter(dash).map(|_| "--from"))
        .chain(args.input.iter().filter(dash).map(|_| "-i"))
        .chain(args.canvas.source.iter().filter(dash).map(|_| "--source"))
        .chain(args.canvas.mask.iter().filter(dash).map(|_| "--mask"))
        .collect();
    match readers.as_slice() {
        [first, second, ..] => Err(Failure::usage(
            format!("{first} and {second} both read standard input"),
            "pass a file in place of one of the dashes",
        )),
        _ => Ok(()),
    }
}

/// The model that is meant by `named`: the index of a folder stands for the folder.
pub fn model(named: &Location) -> Result<Location> {
    let path = named.path();
    refuse_address(path, code::MODEL_MISSING, "pass a folder, a file, or a repository of the hub as owner/name")?;
    match path.parent() {
        Some(folder) if path.ends_with("model_index.json") && path.is_file() => {
            Ok(Location::from(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }))
        }
        _ => Ok(named.clone()),
    }
}

/// The network that is meant by `named`: the one in the folder of a model, if that is what was named.
pub fn network(named: Location, part: Part) -> Result<Location> {
    let model = model(&named)?;
    let folder = match part {
        Part::Transformer => "transformer",
        Part::TextEncoder => "text_encoder",
        Part::Vae => "vae",
    };
    let inner = model.path().join(folder);
    let is_model = model.path().join("model_index.json").is_file() || !model.path().join("config.json").exists();
    Ok(if is_model && inner.is_dir() { Location::from(inner) } else { named })
}

/// Refuses the address of a LoRA.
pub fn check_lora(named: &Location) -> Result<()> {
    refuse_address(named.path(), code::MODEL_MISSING, "download it and pass the file")
}

/// Nothing is downloaded by address.
fn refuse_address(path: &Path, code: u8, hint: &str) -> Result<()> {
    let text = path.to_string_lossy();
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http" | "https" | "ftp" | "s3" | "data" | "file") if !path.exists() => {
            let shown: String = text.chars().take(100).collect();
            Err(Failure::new(code, format!("{shown} is an address, and nothing is fetched from it"), hint))
        }
        _ => Ok(()),
    }
}
