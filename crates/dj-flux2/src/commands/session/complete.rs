//! Completion of a line: commands, pictures, settings and their values, files.

use std::fs;
use std::path::Path;

use flux2_session::line::COMMANDS;

/// What a line can be completed with.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// References to pictures, with their dollar signs.
    pub pictures: Vec<String>,
    /// Names of settings.
    pub settings: Vec<String>,
    /// Settings whose values are paths.
    pub paths: Vec<String>,
    /// Values of settings by their names.
    pub values: Vec<(&'static str, Vec<String>)>,
}

/// Where the word begins that ends a line, and what it can become.
pub fn complete(line: &str, words: &Words) -> (usize, Vec<String>) {
    let start =
        line.rfind(char::is_whitespace).map_or(0, |at| at + line[at..].chars().next().map_or(1, char::len_utf8));
    let (before, word) = line.split_at(start);
    let begin = |names: &mut dyn Iterator<Item = String>| -> Vec<String> {
        names.filter(|name| name.starts_with(word)).collect()
    };
    if word.starts_with('$') {
        return (start, begin(&mut words.pictures.iter().cloned()));
    }
    let before: Vec<&str> = before.split_whitespace().collect();
    let commands = || COMMANDS.iter().map(|command| format!("!{}", command.name));
    let found = match before.as_slice() {
        [] if word.starts_with('!') => begin(&mut commands()),
        ["!help"] => begin(&mut commands().flat_map(|name| [name[1..].to_owned(), name])),
        ["!set" | "!unset"] => begin(&mut words.settings.iter().cloned()),
        ["!set", name] => {
            let known = words.values.iter().find(|(known, _)| known == name).map(|(_, values)| values);
            let mut found = begin(&mut known.into_iter().flatten().cloned());
            if words.paths.iter().any(|path| path == name) {
                found.extend(files(word));
            }
            found
        }
        ["!seed"] => begin(&mut ["random".to_owned()].into_iter()),
        ["!size"] => begin(&mut ["off".to_owned()].into_iter()),
        ["!save" | "!mask"] => files(word),
        _ => Vec::new(),
    };
    (start, found)
}

/// Files and folders whose path begins so; folders end in a slash.
fn files(typed: &str) -> Vec<String> {
    let (folder, name) =
        typed.rsplit_once('/').map_or(("", typed), |(_, name)| (&typed[..typed.len() - name.len()], name));
    let place = if folder.is_empty() { Path::new(".") } else { Path::new(folder) };
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    let found = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let found = entry.file_name().into_string().ok()?;
        // Hidden files only where a dot was typed.
        let fits = found.starts_with(name) && (name.starts_with('.') || !found.starts_with('.'));
        let slash = if entry.path().is_dir() { "/" } else { "" };
        fits.then(|| format!("{folder}{found}{slash}"))
    });
    let mut found: Vec<String> = found.collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        Words {
            pictures: ["$1", "$2", "$-1", "$cat"].map(str::to_owned).into(),
            settings: ["steps", "seed", "size"].map(str::to_owned).into(),
            paths: vec!["model".into()],
            values: vec![("preset", vec!["draft".into(), "high".into()])],
        }
    }

    #[test]
    fn what_can_follow_is_found() {
        for (line, start, found) in [
            ("!s", 0, vec!["!size", "!seed", "!set", "!save", "!show"]),
            ("!ex", 0, vec!["!explore"]),
            ("a hat on $c", 9, vec!["$cat"]),
            ("!show $", 6, vec!["$1", "$2", "$-1", "$cat"]),
            ("!set s", 5, vec!["steps", "seed", "size"]),
            ("!unset st", 7, vec!["steps"]),
            ("!set preset d", 12, vec!["draft"]),
            ("!help q", 6, vec!["quit"]),
            ("a red f", 6, vec![]),
            ("", 0, vec![]),
            ("füchse\u{3000}$2", 10, vec!["$2"]),
        ] {
            let expected = (start, found.into_iter().map(str::to_owned).collect());
            assert_eq!(complete(line, &words()), expected, "{line}");
        }
    }

    #[test]
    fn files_are_found_in_folders() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("fog")).unwrap();
        fs::write(folder.path().join("fox.png"), "").unwrap();
        fs::write(folder.path().join(".fox"), "").unwrap();
        let line = format!("!mask {}/fo", folder.path().display());
        let names: Vec<String> = complete(&line, &words()).1;
        let names: Vec<&str> =
            names.iter().map(|name| &name[folder.path().display().to_string().len() + 1..]).collect();
        assert_eq!(names, ["fog/", "fox.png"]);
        assert_eq!(complete("!save /nowhere/at/all", &words()).1, Vec::<String>::new());
    }
}
