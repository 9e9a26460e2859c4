//! `dj-flux2 completions`: the completions of a shell, printed or installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap_complete::env::Shells;

use crate::args::{CompletionsArgs, What};
use crate::completion::{VARIABLE, command};
use crate::failure::{Failure, Result, code};
use crate::report::print;

/// Prints or installs the script of a shell.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let env = |name: &str| std::env::var_os(name);
    match (args.what, args.shell) {
        (What::Install, shell) => install(shell.map_or_else(|| usual_shell(env), Ok)?, env),
        (_, Some(_)) => Err(Failure::usage("two shells are named", "name one, or begin with `install`")),
        (shell, None) => print(script(shell)?.trim_end()),
    }
}

/// The script that a shell runs at its start. It asks the program for values.
fn script(shell: What) -> Result<String> {
    let mut script = Vec::new();
    if shell == What::Nushell {
        clap_complete::generate(clap_complete_nushell::Nushell, &mut command(), "dj-flux2", &mut script);
    } else {
        let shells = Shells::builtins();
        let completer = shells.completer(name(shell)?).expect("each of the shells has a completer");
        let written = completer.write_registration(VARIABLE, "dj-flux2", "dj-flux2", "dj-flux2", &mut script);
        written.map_err(|error| Failure::new(code::FAILURE, error.to_string(), "print it again"))?;
    }
    let script = String::from_utf8(script).expect("a script is text");
    Ok(match shell {
        What::Nushell => nushell(&script),
        What::Zsh => zsh(&script),
        _ => script,
    })
}

/// Flags whose values nushell asks the program for.
const ASKED: [&str; 4] = ["model", "lora", "preset", "template"];

/// What asks the program for the values of `flag` that begin like the last word of the line. It answers in the way that
/// it answers bash.
const NUSHELL_VALUES: &str = r#"
  def "nu-complete dj-flux2 values" [flag: string, line: string] {
    let typed = ($line | split row " " | last)
    let words = [dj-flux2 generate $"--($flag)" $typed]
    let asked = { COMPLETE: bash, _CLAP_COMPLETE_INDEX: "3", _CLAP_IFS: "\n" }
    with-env $asked { ^dj-flux2 -- ...$words } | lines | str trim
  }
"#;

/// The script of nushell, whose generator knows no values of the moment, with these.
fn nushell(script: &str) -> String {
    let mut lines = script.lines();
    let mut all = vec![lines.next().unwrap_or_default().to_owned(), NUSHELL_VALUES.to_owned()];
    for flag in ASKED {
        let function = format!("def \"nu-complete dj-flux2 values of {flag}\" [line: string]");
        all.push(format!("  {function} {{ nu-complete dj-flux2 values {flag} $line }}\n"));
    }
    all.extend(lines.map(|line| {
        let asked = ASKED.iter().find(|flag| {
            let rest = line.trim_start().strip_prefix("--").and_then(|line| line.strip_prefix(**flag));
            rest.is_some_and(|rest| rest.starts_with(['(', ':']))
        });
        let Some((flag, (before, after))) = asked.zip(line.split_once(": ")) else { return line.to_owned() };
        let about = after.split_once('#').map_or(String::new(), |(_, about)| format!(" #{about}"));
        format!("{before}: string@\"nu-complete dj-flux2 values of {flag}\"{about}")
    }));
    all.join("\n")
}

/// The script of zsh. When zsh loads it for the first Tab, it must also complete.
fn zsh(script: &str) -> String {
    let (script, registration) = script.trim_end().rsplit_once('\n').expect("it has several lines");
    let function = registration.split_whitespace().nth(1).expect("the last line names the function");
    format!(
        "{script}\nif [[ $funcstack[1] == _dj-flux2 ]]; then\n    {function} \"$@\"\nelse\n    {registration}\nfi\n"
    )
}

fn name(shell: What) -> Result<&'static str> {
    Ok(match shell {
        What::Bash => "bash",
        What::Zsh => "zsh",
        What::Fish => "fish",
        What::Powershell => "powershell",
        What::Elvish => "elvish",
        What::Nushell => "nushell",
        What::Install => return Err(Failure::usage("install is no shell", "name one, as in `install bash`")),
    })
}

/// The shell that `SHELL` names.
fn usual_shell(env: impl Fn(&str) -> Option<OsString>) -> Result<What> {
    let shell = env("SHELL").map(PathBuf::from);
    let name = shell.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    Ok(match name {
        "bash" => What::Bash,
        "zsh" => What::Zsh,
        "fish" => What::Fish,
        "pwsh" => What::Powershell,
        "elvish" => What::Elvish,
        "nu" => What::Nushell,
        _ => {
            let message = "SHELL names no shell that has completions here";
            return Err(Failure::usage(message, "name it, as in `dj-flux2 completions install bash`"));
        }
    })
}

/// The file that a shell looks for, and what is left to do for the user.
fn place(shell: What, env: impl Fn(&str) -> Option<OsString>) -> Result<(PathBuf, Option<String>)> {
    let folder_of = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || -> Result<PathBuf> {
        folder_of("HOME")
            .or_else(|| folder_of("USERPROFILE"))
            .ok_or_else(|| Failure::usage("HOME is not set", "print the script and put it where the shell reads it"))
    };
    let below_home = |variable: &str, usual: &str| -> Result<PathBuf> {
        folder_of(variable).map_or_else(|| Ok(home()?.join(usual)), Ok)
    };
    let data = || below_home("XDG_DATA_HOME", ".local/share");
    let config = || below_home("XDG_CONFIG_HOME", ".config");
    Ok(match shell {
        What::Bash => (data()?.join("bash-completion/completions/dj-flux2"), None),
        What::Zsh => {
            // zsh does not tell its folders to other programs unless a user exports them.
            let home = home()?;
            let told = env("FPATH").unwrap_or_default();
            let own = std::env::split_paths(&told).find(|folder| folder.starts_with(&home));
            let folder = own.clone().map_or_else(|| Ok(data()?.join("zsh/site-functions")), Ok::<_, Failure>)?;
            let settings = folder_of("ZDOTDIR").unwrap_or(home).join(".zshrc");
            let text = std::fs::read_to_string(&settings).unwrap_or_default();
            let line = format!("fpath=({} $fpath)", folder.display());
            let next = match text.contains("compinit") {
                true => format!("put `{line}` into {}, before compinit", settings.display()),
                false => format!("put `{line}; autoload -Uz compinit; compinit` into {}", settings.display()),
            };
            (folder.join("_dj-flux2"), Some(next).filter(|_| own.is_none() && !text.contains(&line)))
        }
        What::Fish => (config()?.join("fish/completions/dj-flux2.fish"), None),
        What::Nushell => (config()?.join("nushell/autoload/dj-flux2.nu"), None),
        What::Elvish => (config()?.join("elvish/lib/dj-flux2.elv"), Some("put `use dj-flux2` into rc.elv".into())),
        What::Powershell => {
            let file = config()?.join("powershell/dj-flux2.ps1");
            let line = format!("put `. {}` into the file that $PROFILE names", file.display());
            (file, Some(line))
        }
        What::Install => return name(shell).map(|_| unreachable!("it is no shell")),
    })
}

fn install(shell: What, env: impl Fn(&str) -> Option<OsString>) -> Result<()> {
    let script = script(shell)?;
    let (file, next) = place(shell, env)?;
    let written = match file.parent() {
        Some(folder) => std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, script)),
        None => std::fs::write(&file, script),
    };
    written.map_err(|error| {
        let hint = format!("`dj-flux2 completions {}` prints the script", name(shell).unwrap_or_default());
        Failure::new(code::FAILURE, format!("{}: {error}", file.display()), hint)
    })?;
    print(&file.display().to_string())?;
    next.iter().try_for_each(|line| print(line))?;
    print("start the shell again to use them")
}
