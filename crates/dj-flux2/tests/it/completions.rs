//! Completions of shells, manual pages, and the two kinds of help.

use std::fs;

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
    let zsh = shown(&install(&["zsh"], ""));
    assert!(zsh.contains("fpath+=("), "{zsh}");
    assert!(install(&["nushell"], "").status.success());
    assert!(shown(&install(&[], "/bin/false")).starts_with("exit code: 2"));
}

#[test]
fn bash_runs_the_script() {
    let cli = Cli::with_tiny_model();
    let script = cli.stdout(["completions", "bash"]);
    cli.write("script", script);
    let output = std::process::Command::new("bash").arg("-n").arg(cli.path("script")).output();
    let Ok(output) = output else { return };
    assert!(output.status.success(), "{}", shown(&output));
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
