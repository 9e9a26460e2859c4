//! Where pictures are written, and what is there already.

use std::fs;

use crate::cli::{Cli, QUICK, shown};
use crate::snapshot;

#[test]
fn without_a_name_no_picture_is_replaced() {
    let cli = Cli::with_tiny_model();
    let made = |args: &[&str]| cli.stdout(["a red fox"].iter().chain(&QUICK).chain(args));
    assert_eq!(made(&[]), "output.png\n");
    let first = cli.read("output.png");
    assert_eq!(made(&["-S", "8"]), "output-2.png\n");
    assert_eq!(made(&["-n", "2"]), "output-1.png\noutput-3.png\n");
    // Nothing is in the way of a name that no file has yet.
    assert_eq!(made(&["--no-clobber"]), "output-4.png\n");
    let json: serde_json::Value = serde_json::from_str(&made(&["--json"])).unwrap();
    assert_eq!(json["path"], "output-5.png");
    assert_eq!(cli.read("output.png"), first);
    assert_ne!(cli.read("output-2.png"), first);
}

#[test]
fn a_name_that_is_said_is_replaced() {
    let cli = Cli::with_tiny_model();
    let fox = |seed| cli.fox("output.png", &["-S", seed]);
    assert_ne!(fox("1"), fox("2"));
    assert_eq!(cli.files(), ["output.png"]);
}

#[test]
fn two_runs_at_once_lose_no_picture() {
    let cli = Cli::with_tiny_model();
    let start = || {
        let args = ["a red fox", "-q", "-n", "4"];
        cli.command(args.iter().chain(&QUICK)).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    for mut run in [start(), start(), start()] {
        assert!(run.wait().unwrap().success());
    }
    let mut names: Vec<String> = (1..=12).map(|number| format!("output-{number}.png")).collect();
    names.sort();
    assert_eq!(cli.files(), names);
}

#[test]
fn folders_are_made() {
    let cli = Cli::with_tiny_model();
    let made = |args: &[&str]| cli.stdout(["a red fox"].iter().chain(&QUICK).chain(args));
    assert_eq!(made(&["-n", "2", "-o", "out/{index}-{seed}.png"]), "out/1-7.png\nout/2-8.png\n");
    assert_eq!(made(&["-n", "2", "-o", "a/{index}/fox.png"]), "a/1/fox.png\na/2/fox.png\n");
    // A folder as such: names of time and seed in it, and none is replaced.
    let names: Vec<String> = ["new/", "new", "new", "."].iter().map(|folder| made(&["-o", folder])).collect();
    for (name, folder) in names.iter().zip(["new", "new", "new", "."]) {
        let name = name.trim_end();
        let in_folder = name.strip_prefix(&format!("{folder}/")).unwrap();
        assert!(in_folder[15..].starts_with("-7") && in_folder.starts_with("20"), "{name}");
        assert!(cli.path(name).is_file());
    }
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{names:?}");
    assert_eq!(made(&["-o", "{{a}}/fox.png"]), "{a}/fox.png\n");
    assert!(cli.path("{a}/fox.png").is_file());
    // A run that is refused makes none.
    let shown = cli.run(["a red fox", "-o", "b/c/fox.png", "-m", "nowhere"]);
    assert!(shown.starts_with("exit code: 3") && !cli.path("b").exists(), "{shown}");
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(cli: &Cli, name: &str) -> u32 {
        fs::metadata(cli.path(name)).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(cli: &Cli, name: &str, mode: u32) {
        fs::set_permissions(cli.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions() {
        let cli = Cli::with_tiny_model();
        cli.write("fox.png", "old");
        for bits in [0o600, 0o640, 0o666] {
            set_mode(&cli, "fox.png", bits);
            cli.fox("fox.png", &[]);
            assert_eq!(mode(&cli, "fox.png"), bits);
        }
    }

    #[test]
    fn a_read_only_file_is_replaced_by_force_only() {
        let cli = Cli::with_tiny_model();
        cli.write("fox.png", "precious");
        set_mode(&cli, "fox.png", 0o444);
        snapshot!(cli.run(["a red fox", "-o", "fox.png"].iter().chain(&QUICK)), @"
        exit code: 2
        ----- stderr -----
        error: fox.png is read-only
        hint: choose another name with -o, or add --force to replace it
        ");
        assert_eq!(cli.read("fox.png"), b"precious");
        assert_ne!(cli.fox("fox.png", &["--force"]), b"precious");
        assert_eq!(mode(&cli, "fox.png"), 0o444);
    }

    #[test]
    fn two_names_of_one_file_are_noticed_before_the_run() {
        let cli = Cli::with_tiny_model();
        symlink("fox-1.png", cli.path("fox-2.png")).unwrap();
        snapshot!(cli.run(["a red fox", "-n", "2", "-o", "fox.png"].iter().chain(&QUICK)), @"
        exit code: 2
        ----- stderr -----
        error: fox-1.png and fox-2.png are the same file
        hint: choose another name with -o: every picture of a run has its own file
        ");
        fs::create_dir(cli.path("1")).unwrap();
        symlink("1", cli.path("2")).unwrap();
        let shown = cli.run(["a red fox", "-n", "2", "-o", "{index}/fox.png"].iter().chain(&QUICK));
        assert!(shown.contains("error: 1/fox.png and 2/fox.png are the same file"), "{shown}");
        assert_eq!(cli.files(), ["1", "2", "fox-2.png"]);
    }

    #[test]
    fn no_file_that_the_run_reads_is_replaced() {
        let cli = Cli::with_tiny_model();
        cli.write("prompts.txt", "a red fox");
        cli.write("style.safetensors", "precious");
        symlink("prompts.txt", cli.path("a.png")).unwrap();
        symlink("style.safetensors", cli.path("b.png")).unwrap();
        for args in [
            &["--prompt-file", "prompts.txt", "-o", "a.png"],
            &["fox", "--lora", "style.safetensors:0.5", "-o", "b.png"][..],
        ] {
            let shown = cli.run(args.iter().chain(&QUICK));
            assert!(shown.starts_with("exit code: 2") && shown.contains("is an input of this run"), "{shown}");
        }
        assert_eq!((cli.read("prompts.txt"), cli.read("style.safetensors")), (b"a red fox".into(), b"precious".into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_closed_standard_output_takes_no_picture() {
        let cli = Cli::with_tiny_model();
        let run = |redirection: &str| {
            let line =
                format!("{} 'a red fox' -q -o - -s1 -S1 --size 64x64 {redirection}", env!("CARGO_BIN_EXE_dj-flux2"));
            let command = cli.command([""]);
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &line]).current_dir(command.get_current_dir().unwrap());
            let envs: Vec<_> = command.get_envs().filter_map(|(name, value)| Some((name, value?))).collect();
            shell.envs(envs);
            let output = shell.output().unwrap();
            shown(&output)
        };
        snapshot!(run(">&-"), @"
        exit code: 2
        ----- stderr -----
        error: standard output is closed
        hint: open it, or write a file, with -o NAME.png
        ");
        assert_eq!(run(">/dev/null"), "exit code: 0\n");
    }
}
