//! The command lines of the documents are ones that clap takes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{parse, with_subcommand};

/// What ends a command in a line of a shell, or is no argument of it.
const ENDS: [&str; 11] = ["|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "\\"];

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guides = fs::read_dir(root.join("docs/guide")).unwrap().map(|entry| entry.unwrap().path());
    let more = ["how-it-works.md", "mini.md", "performance.md", "reference/bench.md", "reference/cli.md"];
    let more = more.map(|name| format!("docs/{name}")).into_iter().chain(["README.md".to_owned()]);
    guides.chain(more.map(|name| root.join(name))).filter(|path| path.extension().is_some_and(|e| e == "md")).collect()
}

/// The lines in the code blocks of a document, each with its number; one that ends in a backslash goes on in the next.
fn code(text: &str) -> Vec<(usize, String)> {
    let (mut lines, mut inside, mut open) = (Vec::<(usize, String)>::new(), false, false);
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            continue;
        }
        if !inside {
            continue;
        }
        let line = line.trim_start().trim_start_matches("$ ");
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| open) {
            Some((_, whole)) => *whole += part,
            None => lines.push((number + 1, part.to_owned())),
        }
        open = goes_on;
    }
    lines
}

/// The commands of this program in a line, without the name of the program.
fn commands(line: &str) -> Vec<Vec<String>> {
    let Some(words) = shlex::split(line) else { return Vec::new() };
    let words: Vec<String> = words
        .into_iter()
        .flat_map(|word| match word.strip_suffix(';') {
            Some(rest) if !rest.is_empty() => vec![rest.to_owned(), ";".to_owned()],
            _ => vec![word],
        })
        .collect();
    let parts = words.split(|word| ENDS.contains(&word.as_str()));
    let of_program = |part: &[String]| {
        let is_variable = |word: &&String| word.contains('=') && !word.ends_with("/dj-flux2");
        let first = part.iter().take_while(is_variable).count();
        let (program, arguments) = part.get(first..)?.split_first()?;
        let is_it = program == "dj-flux2" || program.ends_with("/dj-flux2");
        (is_it && !arguments.is_empty()).then(|| arguments.to_vec())
    };
    parts.filter_map(of_program).collect()
}

#[test]
fn every_command_of_the_documents_is_taken() {
    let mut count = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (number, line) in code(&text) {
            // A synopsis, or a mistake that the example is about.
            let is_pattern = line.contains(" [") || line.contains(" (") || line.contains("...");
            let is_mistake = ["stpes", "config set stpes"].iter().any(|word| line.contains(word));
            if is_pattern || is_mistake {
                continue;
            }
            for arguments in commands(&line) {
                let argv = std::iter::once("dj-flux2".to_owned()).chain(arguments.clone()).map(OsString::from);
                if let Err(error) = parse(with_subcommand(argv).0) {
                    panic!("{}:{number}: {}\n{error}", document.display(), arguments.join(" "));
                }
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count} commands are too few");
}

#[test]
fn commands_are_found_in_lines_of_a_shell() {
    let of = |line: &str| commands(line).iter().map(|words| words.join("|")).collect::<Vec<_>>();
    assert_eq!(of("dj-flux2 'a b' -S 7  # why"), ["a b|-S|7"]);
    assert_eq!(of("A=1 dj-flux2 info x.png | jq .; dj-flux2 models > list"), ["info|x.png", "models"]);
    assert_eq!(of("ExecStart=/usr/bin/dj-flux2 serve"), ["serve"]);
    assert_eq!(of("cargo install dj-flux2 && cd dj-flux2"), [""; 0]);
    assert_eq!(code("```\na \\\n  b\n```\nc\n```sh\n$ d\n```"), [(2, "a b".to_owned()), (7, "d".to_owned())]);
}
