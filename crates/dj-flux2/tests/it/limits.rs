//! Limits of the system: on the size of files, on processes. A run fails with a sentence, and leaves nothing half-done.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::{fs, path::Path};

use crate::cli::Cli;

/// Runs the program in a shell that sets `limit` first.
fn limited(cli: &Cli, limit: &str, args: &[&str]) -> Output {
    limited_program(cli, limit, Path::new(env!("CARGO_BIN_EXE_dj-flux2")), args).output().unwrap()
}

fn limited_program(cli: &Cli, limit: &str, program: &Path, args: &[&str]) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]).arg(program).args(args);
    shell.env_clear().current_dir(cli.path("."));
    shell
}

#[test]
fn a_file_over_the_limit_on_sizes_is_an_error() {
    let cli = Cli::without_model();
    for name in ["cat.png", "cat.webp"] {
        let output = limited(&cli, "-f 4", &["a cat", "-S", "7", "-o", name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{:?} {said}", output.status);
        assert!(said.contains(&format!("error: {name}: file too large")), "{said}");
        assert!(said.contains("raise the limit on the size of files"), "{said}");
        assert_eq!(cli.files(), [""; 0]);
    }
}

/// What was converted until then is kept for the next run, as after Ctrl-C.
#[test]
fn a_conversion_over_the_limit_on_sizes_resumes() {
    let cli = Cli::without_model();
    let convert = ["convert", "klein-mini", "small", "--to", "q8_0"];
    let output = limited(&cli, "-f 1000", &convert);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{:?} {said}", output.status);
    assert!(said.contains("File too large") && said.contains("the same command continues from there"), "{said}");
    assert!(!cli.path("small").exists() && !cli.path("small.lock").exists(), "{:?}", cli.files());
    cli.stdout(convert);
    assert_eq!(cli.files(), ["small"]);
}

/// As a user whose processes are at the limit already. The superuser has none.
#[test]
fn without_any_thread_a_run_fails_with_a_sentence() {
    let cli = Cli::without_model();
    let program = cli.path("program");
    fs::copy(env!("CARGO_BIN_EXE_dj-flux2"), &program).unwrap();
    fs::set_permissions(cli.path("."), fs::Permissions::from_mode(0o777)).unwrap();
    for args in [&["a cat", "-o", "cat.png"][..], &["convert", "klein-mini", "small", "--to", "q8_0"]] {
        let mut command = limited_program(&cli, "-u 1", &program, args);
        if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{:?} {said}", output.status);
        assert!(said.contains("no thread could be started") && said.contains("raise the limits"), "{said}");
    }
}
