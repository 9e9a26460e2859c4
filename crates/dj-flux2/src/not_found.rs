//! The words for a name that leads to no model: what to do about it.

use flux2::find::FindError;
use flux2::variant::KLEIN_MINI;
use flux2::{ErrorKind, Variant};

use crate::failure::{Failure, code};
use crate::report::Size;

const FOLDER_OR_FILE: &str = "pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file";

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        let code = if error.kind() == ErrorKind::Usage { code::USAGE } else { code::MODEL_MISSING };
        let message = error.to_string();
        let hint = match error {
            FindError::Other(error) => return error.into(),
            FindError::NotFound { path, nearest, is_repository } => {
                let mut hint = FOLDER_OR_FILE.to_owned();
                if let Some(nearest) = nearest {
                    hint += &format!("; the nearest name of a model is {nearest}");
                }
                if is_repository {
                    let name = path.display();
                    hint += &format!("; to download a Hugging Face repository, run `dj-flux2 download {name}`");
                }
                hint
            }
            FindError::NotBuiltIn => {
                "build it with the feature `mini`, or pass -m PATH with the folder of a model".to_owned()
            }
            FindError::NotDownloaded { variant, .. } => how_to_get(variant),
            FindError::Incomplete { repository } => format!("download the rest with `dj-flux2 download {repository}`"),
            FindError::NoRepository => format!("use it with -m {KLEIN_MINI}"),
            FindError::SeveralSizes { .. } => "name one, as in klein-4b".to_owned(),
            FindError::UnknownName { nearest, .. } => {
                let names = || Variant::named().iter().map(|variant| variant.name).collect::<Vec<_>>().join(", ");
                let names = nearest.map_or_else(names, str::to_owned);
                format!("use {names}, or a repository as owner/name")
            }
            _ => FOLDER_OR_FILE.to_owned(),
        };
        Failure::new(code, message, hint)
    }
}

/// Where a published model can be had.
pub fn how_to_get(variant: &Variant) -> String {
    let Variant { name, repo, download_bytes, .. } = variant;
    match cfg!(feature = "hub") {
        true => {
            let size = Size(*download_bytes);
            format!("download it ({size}) with `dj-flux2 download {name}`, or pass its folder with -m PATH")
        }
        false => {
            let repo = repo.unwrap_or(name);
            format!("download {repo} from huggingface.co and pass its folder with -m PATH")
        }
    }
}
