//! The binary in a folder of its own, with an empty environment.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

/// A picture that takes a moment: the smallest size, one step, a seed.
pub const QUICK: [&str; 8] = ["-W", "64", "-H", "64", "-s", "1", "-S", "7"];

/// A file of the repository's fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
        .canonicalize()
        .expect("the fixture is there")
}

/// A place to run the binary in.
pub struct Cli {
    folder: TempDir,
    model: Option<PathBuf>,
}

impl Cli {
    /// An environment in which `DJ_FLUX2_MODEL` names the tiny checkpoint.
    pub fn with_tiny_model() -> Self {
        Cli { folder: TempDir::new().unwrap(), model: Some(fixture("tiny/klein")) }
    }

    /// An environment in which nothing names a model.
    pub fn without_model() -> Self {
        Cli { model: None, ..Self::with_tiny_model() }
    }

    /// The command, not yet started.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dj-flux2"));
        command.args(args).current_dir(self.folder.path()).env_clear();
        command.envs(self.model.iter().map(|model| ("DJ_FLUX2_MODEL", model)));
        command
    }

    /// Runs the command and waits.
    pub fn output(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    /// Runs the command with `input` as standard input.
    pub fn output_with_input(&self, args: &[&str], input: impl Into<Vec<u8>>) -> Output {
        assert_cmd::Command::from_std(self.command(args)).write_stdin(input).output().expect("the binary starts")
    }

    /// Runs the command and returns exit code and output as text, for a snapshot.
    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        shown(&self.output(args))
    }

    /// Runs the command, which must succeed, and returns standard output.
    pub fn stdout(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a quick picture of a red fox in the file `name` and returns its bytes.
    pub fn fox(&self, name: &str, args: &[&str]) -> Vec<u8> {
        self.stdout(["a red fox", "-o", name].iter().chain(&QUICK).chain(args));
        self.read(name)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// All names in the folder, hidden ones included.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Exit code and both streams.
pub fn shown(output: &Output) -> String {
    let mut text = format!("exit code: {}\n", output.status.code().map_or("none".into(), |code| code.to_string()));
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            text += &format!("----- {name} -----\n{}", String::from_utf8_lossy(bytes));
        }
    }
    text
}

/// `assert_snapshot!` without what differs from run to run and from machine to machine.
#[macro_export]
macro_rules! snapshot {
    ($value:expr, @$expected:literal) => {
        insta::with_settings!({ filters => [
            (r"\d+\.\d+ s\b", "[TIME]"),
            (r"/\S*/fixtures/", "[FIXTURES]/"),
            (r"cpu, [a-z0-9-]+, \d+ threads?", "cpu, [SIMD]"),
            (r" in [a-z0-9-]+ (f32|bf16|int8)\b", " in [KERNEL]"),
            // Depends on the GPU and the libraries of the machine.
            (r"\s*(note: )?no GPU is used: .*", ""),
            (r"no device `(cuda\S*)`: .*\n.*hint: .*", "no device `$1`: [REASON]"),
            (r"dj-flux2 \d+\.\d+\.\d+", "dj-flux2 [VERSION]"),
            (r#"this is "\d+\.\d+\.\d+""#, "this is [VERSION]"),
            (r"\b[0-9a-f]{64}\b", "[SHA-256]"),
        ] }, {
            insta::assert_snapshot!($value, @$expected);
        });
    };
}
