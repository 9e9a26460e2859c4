//! Completions of shells, manual pages, and the two kinds of help.

use std::fs;
use std::process::Command;

use crate::cli::{Cli, shown};

/// What a shell is told for the last of `words`.
fn candidates(cli: &Cli, words: &[&str]) -> Vec<String> {
    let args = ["--"].iter().chain(words);
    let mut command = cli.command(args);
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    command.env("_CLAP_IFS", "\n").env("HOME", cli.path(""));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn flags_and_values_are_completed() {
    let cli = Cli::with_tiny_model();
    let has = |words: &[&str], expected: &str| {
        let found = candidates(&cli, words);
        assert!(found.iter().any(|candidate| candidate == expected), "{words:?}: {found:?}");
    };
    has(&["dj-flux2", "gen"], "generate");
    has(&["dj-flux2", "generate", "--prom"], "--prompt-file");
    // `generate` need not be typed.
    has(&["dj-flux2", "--prom"], "--prompt-file");
    has(&["dj-flux2", "a fox", "--prese"], "--preset");
    has(&["dj-flux2", "generate", "--preset", "wi"], "wide");
    has(&["dj-flux2", "generate", "--preset", "high,wi"], "high,wide");
    has(&["dj-flux2", "generate", "-t", "water"], "watercolor");
    has(&["dj-flux2", "generate", "--dtype", "b"], "bf16");
    has(&["dj-flux2", "serve", "--log-l"], "--log-level");
    #[cfg(feature = "mini")]
    has(&["dj-flux2", "generate", "-m", "kl"], "klein-mini");
    cli.write("style.safetensors", "");
    cli.write("notes.txt", "");
    has(&["dj-flux2", "generate", "--lora", ""], "style.safetensors");
    let loras = candidates(&cli, &["dj-flux2", "generate", "--lora", ""]);
    assert!(!loras.iter().any(|candidate| candidate == "notes.txt"), "{loras:?}");
    // The user's own presets and templates.
    fs::create_dir_all(cli.path(".config/dj-flux2")).unwrap();
    cli.write(".config/dj-flux2/config.toml", "[presets.zebra]\nsteps = 1\n[templates]\nzigzag = '{subject}'");
    has(&["dj-flux2", "generate", "--preset", "ze"], "zebra");
    has(&["dj-flux2", "generate", "-t", "zi"], "zigzag");
}

#[test]
fn every_shell_has_a_script() {
    let cli = Cli::with_tiny_model();
    for (shell, word) in [
        ("bash", "complete "),
        ("zsh", "#compdef dj-flux2"),
        ("fish", "complete "),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
        ("nushell", "export extern"),
    ] {
        let script = cli.stdout(["completions", shell]);
        assert!(script.contains(word) && script.contains("dj-flux2"), "{shell}: {script}");
    }
}

#[test]
fn scripts_are_installed_where_the_shell_looks() {
    let cli = Cli::with_tiny_model();
    let install = |args: &[&str], shell: &str| {
        let args = [&["completions", "install"], args].concat();
        cli.command(args).env("HOME", cli.path("")).env("SHELL", shell).output().unwrap()
    };
    let output = install(&[], "/usr/bin/fish");
    assert!(output.status.success(), "{}", shown(&output));
    let file = ".config/fish/completions/dj-flux2.fish";
    assert!(shown(&output).contains(file) && !cli.read(file).is_empty());
    assert!(install(&["bash"], "").status.success());
    assert!(!cli.read(".local/share/bash-completion/completions/dj-flux2").is_empty());
    let folder = cli.path(".local/share/zsh/site-functions");
    let line = format!("fpath=({} $fpath)", folder.display());
    let zsh = shown(&install(&["zsh"], ""));
    let next = format!("put `{line}; autoload -Uz compinit; compinit` into {}", cli.path(".zshrc").display());
    assert!(zsh.contains(&next) && !cli.read(".local/share/zsh/site-functions/_dj-flux2").is_empty(), "{zsh}");
    cli.write(".zshrc", "autoload -Uz compinit && compinit\n");
    let zsh = shown(&install(&["zsh"], ""));
    assert!(zsh.contains(&format!("put `{line}` into {}, before compinit", cli.path(".zshrc").display())), "{zsh}");
    cli.write(".zshrc", format!("{line}\ncompinit\n"));
    assert!(!shown(&install(&["zsh"], "")).contains("put `"));
    // Folders that zsh says it has, and settings that are elsewhere.
    let mut command = cli.command(["completions", "install", "zsh"]);
    let own = format!("/usr/share/zsh:{}", cli.path("functions").display());
    let output = command.env("HOME", cli.path("")).env("FPATH", own).output().unwrap();
    assert!(!cli.read("functions/_dj-flux2").is_empty() && !shown(&output).contains("put `"), "{}", shown(&output));
    let mut command = cli.command(["completions", "install", "zsh"]);
    let output = command.env("HOME", cli.path("")).env("ZDOTDIR", cli.path("zdot")).output().unwrap();
    let rc = cli.path("zdot/.zshrc").display().to_string();
    assert!(shown(&output).contains(&rc), "{}", shown(&output));
    assert!(install(&["nushell"], "").status.success());
    assert!(shown(&install(&[], "/bin/false")).starts_with("exit code: 2"));
}

/// What a program says, and whether it ended well.
fn run(program: &str, args: &[&str], cli: &Cli) -> String {
    let own = env!("CARGO_BIN_EXE_dj-flux2").trim_end_matches("/dj-flux2");
    let path = format!("{own}:{}", std::env::var("PATH").unwrap_or_default());
    let home = cli.path("");
    let command = Command::new(program).args(args).current_dir(&home).env("PATH", path).env("HOME", &home).output();
    let output = command.unwrap_or_else(|error| panic!("these tests need {program}, install it: {error}"));
    assert!(output.status.success(), "{program}: {}", shown(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn shells_understand_their_scripts() {
    let cli = Cli::without_model();
    for shell in ["bash", "zsh", "fish"] {
        cli.write("script", cli.stdout(["completions", shell]));
        run(shell, &["-n", "script"], &cli);
    }
}

/// zsh in a terminal of its own, into which keys are typed: the first Tab completes.
#[test]
fn zsh_completes_after_the_installation() {
    let cli = Cli::without_model();
    run(env!("CARGO_BIN_EXE_dj-flux2"), &["completions", "install", "zsh"], &cli);
    let typed = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell 'PS1=; fpath=(~/.local/share/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D'
        zpty -w -n shell $'dj-flux2 generate --preset wid\t'
        for i in {1..600}; do
            while zpty -r -t shell part; do all+=$part; done
            [[ $all == *'--preset wide'* ]] && exit
            sleep 0.1
        done
        print -r -- $all
        exit 1
    "#;
    run("zsh", &["-f", "-c", typed], &cli);
}

#[test]
fn fish_completes_with_its_script() {
    let cli = Cli::without_model();
    cli.write("script", cli.stdout(["completions", "fish"]));
    let found =
        run("fish", &["--no-config", "-c", "source script; complete -C 'dj-flux2 generate --preset wid'"], &cli);
    assert!(found.starts_with("wide"), "{found}");
}

/// Nushell is in few distributions: where it is, it runs the script.
#[test]
fn nushell_asks_for_values() {
    let cli = Cli::without_model();
    let script = cli.stdout(["completions", "nushell"]);
    for flag in ["--model(-m)", "--lora", "--preset", "--template(-t)"] {
        let name = flag.trim_start_matches('-').split('(').next().unwrap();
        let lines: Vec<&str> =
            script.lines().filter(|line| line.trim_start().starts_with(&format!("{flag}: "))).collect();
        let asks = format!("{flag}: string@\"nu-complete dj-flux2 values of {name}\" #");
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(&asks)), "{flag}: {lines:?}");
    }
    // `generate` need not be typed.
    let program = script.split("export extern dj-flux2 [").nth(1).unwrap().split(']').next().unwrap();
    assert!(program.contains("--prompt-file"), "{program}");
    if Command::new("nu").arg("--version").output().is_err() {
        return;
    }
    let inner = script.split_once("module completions {").unwrap().1.rsplit_once("\n}").unwrap().0;
    cli.write(
        "inner.nu",
        format!("{inner}\nprint (nu-complete dj-flux2 values of preset 'dj-flux2 x --preset hi,wi')\n"),
    );
    cli.write("script.nu", format!("{script}\nprint done\n"));
    assert!(run("nu", &["-n", "script.nu"], &cli).ends_with("done\n"));
    let found = run("nu", &["-n", "inner.nu"], &cli);
    assert!(found.contains("hi,wide"), "{found}");
}

#[test]
fn the_manual_has_a_page_for_each_subcommand() {
    let cli = Cli::with_tiny_model();
    cli.stdout(["man-pages", "man/man1"]);
    let page = |name: &str| String::from_utf8(cli.read(&format!("man/man1/{name}.1"))).unwrap();
    assert!(page("dj-flux2").contains("generate"));
    let generate = page("dj-flux2-generate");
    assert!(generate.contains("max\\-memory") && generate.contains("no\\-text\\-cache"), "all flags are in it");
    assert!(!page("dj-flux2-config-set").is_empty());
}

#[test]
fn help_has_the_main_flags_and_help_all_the_rest() {
    let cli = Cli::with_tiny_model();
    let (brief, all) = (cli.stdout(["generate", "--help"]), cli.stdout(["generate", "--help-all"]));
    let lines = brief.lines().count();
    assert!((20..=40).contains(&lines), "{lines} lines");
    for flag in ["--steps", "--preset", "--help-all"] {
        assert!(brief.contains(flag) && all.contains(flag), "{flag}");
    }
    for flag in ["--text-encoder", "--no-clobber", "--wildcards", "--config"] {
        assert!(!brief.contains(flag) && all.contains(flag), "{flag}");
    }
    assert_eq!(cli.stdout(["--help-all"]), all);
    // It is a prompt behind `--`.
    assert!(cli.run(["--dry-run", "-S", "1", "--", "--help-all"]).contains("seed 1: --help-all"));
}
