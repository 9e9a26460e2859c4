//! Templates of prompts that come with the program, and wildcards in a folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use crate::config::file::{self, NamedTemplate};
use crate::failure::{Failure, Result, code};

/// The templates of the program.
const BUILT_IN: &str = include_str!("templates.toml");

/// Most bytes of a file of wildcards.
const MAX_BYTES: u64 = 1 << 20;

/// The templates of the program by name.
pub fn built_in() -> BTreeMap<String, NamedTemplate> {
    file::parse(BUILT_IN, Path::new("templates")).expect("the templates of the program are right").templates
}

/// The lines of the wildcard `name`, a file in `folder`; empty lines and those that begin with `#` are skipped. `None`
/// if there is no such file.
pub fn read_wildcard(folder: &Path, name: &str) -> Result<Option<Arc<[String]>>> {
    let path = folder.join(format!("{name}.txt"));
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Failure::usage(format!("{} is not UTF-8", path.display()), "save it as UTF-8"));
        }
        Err(error) => {
            let message = format!("{}: {error}", path.display());
            return Err(Failure::new(code::FAILURE, message, "name another folder with --wildcards"));
        }
        Ok(bytes) if bytes as u64 > MAX_BYTES => {
            return Err(Failure::usage(format!("{} has more than {MAX_BYTES} bytes", path.display()), "shorten it"));
        }
        Ok(_) => {}
    }
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    Ok(Some(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use flux2::template::{Context, Template};

    use super::*;

    #[test]
    fn every_template_of_the_program_takes_a_subject_and_nothing_else() {
        let templates = built_in();
        assert!(templates.len() >= 20, "{}", templates.len());
        let variables = BTreeMap::from([("subject".to_owned(), "a red fox".to_owned())]);
        for (name, template) in templates {
            let parsed = Template::parse(&template.text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!template.about.is_empty(), "{name}");
            let context = Context { variables: &variables, wildcard: &|_| None };
            for seed in 0..20 {
                let prompt = parsed.prompt(&context, seed).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(prompt.contains("a red fox") && !prompt.contains(['{', '|']), "{name}: {prompt}");
                // FLUX.2 has no negative prompt in the text: what is named is drawn.
                let words: Vec<&str> = prompt.split_whitespace().collect();
                assert!(!words.iter().any(|word| ["no", "not", "without", "never"].contains(word)), "{name}: {prompt}");
            }
        }
    }

    #[test]
    fn a_wildcard_is_a_file_of_lines() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("animal.txt"), "\u{feff}a cat\r\n\n# not this\n  a dog  \n").unwrap();
        let lines = read_wildcard(folder.path(), "animal").unwrap().unwrap();
        assert_eq!(&*lines, ["a cat", "a dog"]);
        assert_eq!(read_wildcard(folder.path(), "plant").unwrap(), None);
        std::fs::write(folder.path().join("large.txt"), "x".repeat(MAX_BYTES as usize + 1)).unwrap();
        assert!(read_wildcard(folder.path(), "large").unwrap_err().message.contains("more than 1048576 bytes"));
    }
}
