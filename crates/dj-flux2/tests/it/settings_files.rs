//! Files of settings, presets and the subcommand `config`, as their users see them.

use std::fs;
use std::process::Output;

use crate::cli::{Cli, QUICK, shown};
use crate::snapshot;

/// Runs a command with a home folder, which is the current one, and its file of settings.
fn run(cli: &Cli, config: &str, args: &[&str]) -> Output {
    fs::create_dir_all(cli.path(".config/dj-flux2")).unwrap();
    cli.write(".config/dj-flux2/config.toml", config);
    cli.command(args).env("HOME", cli.path("")).output().unwrap()
}

/// The parameters of a picture.
fn parameters(cli: &Cli, file: &str) -> serde_json::Value {
    serde_json::from_str(&cli.stdout(["info", "--json", file])).unwrap()
}

#[test]
fn a_picture_is_made_as_the_files_say() {
    let cli = Cli::with_tiny_model();
    let config = "size = '64x64'\nsteps = 1\nseed = 11\noutput = 'mine.png'\n[presets.two]\nsteps = 2\n";
    let output = run(&cli, config, &["a red fox", "--preset", "two"]);
    assert!(output.status.success(), "{}", shown(&output));
    let made = parameters(&cli, "mine.png");
    assert_eq!((&made["steps"], &made["seed"], &made["width"]), (&2.into(), &11.into(), &64.into()));
    // A flag goes before the files, and these are read for a plan too.
    let output = run(&cli, config, &["a red fox", "-S", "12", "-s", "1"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        (&parameters(&cli, "mine.png")["seed"], &parameters(&cli, "mine.png")["steps"]),
        (&12.into(), &1.into())
    );
    let plan = run(&cli, config, &["plan", "--json"]);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&plan.stdout).unwrap()["width"], 64);
    let off = run(&cli, config, &["plan", "--json", "--config", "off"]);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&off.stdout).unwrap()["width"], 512);
}

#[test]
fn a_picture_goes_before_presets_and_files() {
    let cli = Cli::with_tiny_model();
    cli.fox("fox.png", &[]);
    let args = ["generate", "--from", "fox.png", "-o", "again.png", "--preset", "high"];
    let output = run(&cli, "size = '128x128'\nseed = 99\n", &args);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(cli.read("again.png"), cli.read("fox.png"));
}

#[test]
fn the_environment_goes_before_the_file() {
    let cli = Cli::with_tiny_model();
    let output = run(&cli, "model = '/such/model'\n", &[&["a red fox"], &QUICK[..]].concat());
    assert!(output.status.success(), "{}", shown(&output));
}

#[test]
fn a_mistake_names_the_line() {
    let cli = Cli::with_tiny_model();
    let output = run(&cli, "steps = 1\nstpes = 2\n", &["a red fox"]);
    let shown = shown(&output).replace(&cli.path("").display().to_string(), "");
    insta::assert_snapshot!(shown, @"
    exit code: 2
    ----- stderr -----
    error: .config/dj-flux2/config.toml:2: there is no setting stpes
    hint: the nearest name is steps
    ");
    snapshot!(cli.run(["a red fox", "--preset", "hihg"]), @"
    exit code: 2
    ----- stderr -----
    error: no preset is called hihg
    hint: the nearest name is high; `dj-flux2 presets` lists them
    ");
    snapshot!(cli.run(["a red fox", "--config", "such.toml"]), @"
    exit code: 2
    ----- stderr -----
    error: there is no file of settings at such.toml
    hint: name another one with --config or DJ_FLUX2_CONFIG, or use `off` for none
    ");
}

#[test]
fn show_names_every_origin() {
    let cli = Cli::with_tiny_model();
    cli.fox("fox.png", &[]);
    cli.write(".dj-flux2.toml", "noise = 'torch-cpu'\ncount = 2\n");
    let args = ["config", "show", "--json", "--origin", "-S", "5", "--from", "fox.png", "--preset", "wide"];
    let output = run(&cli, "count = 3\nquiet = true\n", &args);
    assert!(output.status.success(), "{}", shown(&output));
    let rows: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| {
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}"));
        (row["value"].as_str().unwrap().to_owned(), row["origin"].as_str().unwrap().to_owned())
    };
    let is = |name: &str, value: &str, origin: &str| assert_eq!(of(name), (value.to_owned(), origin.to_owned()));
    is("seed", "5", "flag");
    assert_eq!(of("model").1, "environment");
    is("steps", "1", "picture");
    is("noise", "philox", "picture");
    is("aspect", "16:9", "preset");
    is("count", "2", "project");
    is("quiet", "true", "user");
    is("dtype", "bf16", "picture");
    is("background", "white", "default");
    let line = rows.iter().find(|row| row["name"] == "count").unwrap();
    assert_eq!(line["line"], 2);
}

#[test]
fn set_unset_path_and_edit() {
    let cli = Cli::with_tiny_model();
    let of = |args: &[&str]| {
        let output = cli.command(args).env("HOME", cli.path("")).env("EDITOR", "./editor").output().unwrap();
        shown(&output).replace(&cli.path("").display().to_string(), "")
    };
    let ok = "exit code: 0\n";
    assert_eq!(of(&["config", "set", "steps", "2"]), ok);
    assert_eq!(of(&["config", "set", "seed", "-1"]), ok);
    assert_eq!(cli.read(".config/dj-flux2/config.toml"), b"steps = 2\nseed = -1\n");
    assert_eq!(of(&["config", "unset", "steps"]), ok);
    assert!(of(&["config", "unset", "steps"]).contains("does not set steps"));
    assert_eq!(of(&["config", "path"]), "exit code: 0\n----- stdout -----\nuser      .config/dj-flux2/config.toml\n");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        cli.write("editor", "#!/bin/sh\necho 'steps = 77' > \"$1\"\n");
        fs::set_permissions(cli.path("editor"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(of(&["config", "edit"]), ok);
        assert_eq!(cli.read(".config/dj-flux2/config.toml"), b"steps = 77\n");
        cli.write("editor", "#!/bin/sh\necho 'steps = x' > \"$1\"\n");
        assert!(of(&["config", "edit"]).contains("config.toml:1: "));
    }
}

#[cfg(feature = "mini")]
#[test]
fn presets_are_predicted_for_this_machine() {
    let cli = Cli::without_model();
    let lines = cli.stdout(["presets", "--json"]);
    let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    let [draft, high] = ["draft", "high"].map(of);
    assert_eq!((&draft["width"], &high["width"]), (&64.into(), &256.into()));
    for key in ["seconds", "peak_bytes"] {
        let [small, large] = [draft, high].map(|row| row[key].as_f64().unwrap());
        assert!(0.0 < small && small < large, "{key}: {small} {large}");
    }
    assert!(cli.stdout(["presets"]).contains("wide"));
    assert!(!cli.stdout(["presets", "--fast"]).contains("64x64"));
}

#[cfg(feature = "serve")]
#[test]
fn serve_reads_its_table() {
    let cli = Cli::without_model();
    let config = "[serve]\nbackend = 'fake'\nmodel = ['a', 'b']\npreload = 'c'\nport = 0\n";
    let output = run(&cli, config, &["serve"]);
    assert!(shown(&output).contains("--preload c: no model of this name is served"), "{}", shown(&output));
    // What is typed goes before it, and replaces a list.
    let output = run(&cli, config, &["serve", "-m", "x"]);
    assert!(shown(&output).contains("use one of x\n"), "{}", shown(&output));
    let output = run(&cli, "[serve]\nbackend = 'fake'\nmax-count = 0\n", &["serve"]);
    assert!(shown(&output).contains("config.toml:3: invalid value '0' for '--max-count <N>'"), "{}", shown(&output));
    let output = run(&cli, "[serve]\nprot = 1\n", &["serve"]);
    assert!(shown(&output).contains("config.toml:2: there is no setting prot"), "{}", shown(&output));
    // One flag of the file needs another.
    let output = run(&cli, "[serve]\nbackend = 'fake'\ntls-cert = 'x.pem'\n", &["serve"]);
    assert!(shown(&output).contains("--tls-key <FILE>"), "{}", shown(&output));
}

#[cfg(feature = "mini")]
#[test]
fn the_guide_has_the_size_of_every_preset() {
    let cli = Cli::without_model();
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/config.md")).unwrap();
    let list = cli.stdout(["presets", "--fast", "--json"]);
    for preset in list.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        let name = preset["name"].as_str().unwrap();
        let is_row = |line: &&str| line.contains(&format!("`{name}`")) && line.contains("GiB");
        let row = guide.lines().find(is_row).unwrap_or_else(|| panic!("{name} is missing"));
        for model in ["klein-mini", "klein-4b"] {
            let planned = cli.stdout(["a", "--preset", name, "-m", model, "--dry-run"]);
            let (width, height) = planned.split([' ', ',']).nth(1).unwrap().split_once('x').unwrap();
            // Upright and across share a row.
            let is_there = row.contains(&format!(" {width}x{height} ")) || row.contains(&format!(" {height}x{width} "));
            assert!(is_there && planned.contains(" 4 steps"), "{name}, {model}: {planned}{row}");
        }
    }
}
