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
fn what_could_not_be_drawn_is_not_set() {
    let cli = Cli::without_model();
    let set = |config: &str, args: &[&str]| {
        let output = run(&cli, config, &[&["config", "set"], args].concat());
        let is_same = cli.read(".config/dj-flux2/config.toml") == config.as_bytes();
        (shown(&output), is_same)
    };
    for (args, message) in [
        (&["width", "1000"][..], "width 1000 is not a multiple of 16"),
        (&["steps", "0"], "0 steps"),
        (&["preset", "hihg"], "no preset is called hihg"),
        (&["template", "watercolour"], "the nearest name is watercolor"),
        (&["grid", "steps=1,2"], "grid belongs to one run and cannot be set in a file"),
        (&["sheet", "x.png"], "sheet belongs to one run and cannot be set in a file"),
        (&["sampler", "euler"], "there is no sampler to choose"),
        (&["model", "klien-4b"], "the nearest name of a model is klein-4b"),
        (&["noise", "pink"], "pink"),
        (&["variant", "klein-5b"], "klein-5b"),
        (&["output", "x.gif"], "x.gif"),
        (&["allow-quantize", "true"], "there is no limit"),
        (&["negative-prompt", "blur"], "takes no negative prompt"),
        (&["input", "no-such.png"], "no-such.png"),
        (&["presets.mine.height", "70"], "preset mine: "),
        (&["presets.mine.inherits", "nothing"], "no preset is called nothing"),
        (&["templates.ink", "{subject"], "template ink: "),
        (&["templates.ink", "ink"], "has no {subject}"),
        #[cfg(feature = "serve")]
        (&["serve.port", "99999"], "invalid value '99999' for '--port <PORT>'"),
        #[cfg(feature = "serve")]
        (&["serve.model", "klien-4b"], "the nearest name of a model is klein-4b"),
        #[cfg(feature = "session")]
        (&["session.set", "stpes=4"], "there is no setting stpes"),
        #[cfg(feature = "mcp")]
        (&["mcp.max-count", "3"], "there is no setting max-count"),
    ] {
        let (shown, is_same) = set("steps = 2\n", args);
        assert!(is_same && !shown.starts_with("exit code: 0") && shown.contains(message), "{args:?}: {shown}");
    }
    for args in [&["model", "klein-4b"][..], &["strength", "0.5"], &["lora", "x.safetensors"], &["upscale", "2"]] {
        let (shown, is_same) = set("", args);
        assert!(shown.starts_with("exit code: 0") && !is_same, "{args:?}: {shown}");
    }
    // What was wrong before stays, and does not keep other settings from being changed.
    let (shown, is_same) = set("width = 1000\n", &["steps", "3"]);
    assert!(shown.starts_with("exit code: 0") && !is_same, "{shown}");
}

#[cfg(feature = "mini")]
#[test]
fn show_has_the_tables_of_the_files() {
    let cli = Cli::without_model();
    let config = "strength = 0.5\n[serve]\nport = 8191\n[mcp]\nroot = 'x'\n[session]\nkeep-going = true\n\
                  [presets.poster]\ninherits = 'high'\nsteps = 3\n[templates]\nink = '{subject} in ink'\n";
    let output = run(&cli, config, &["config", "show", "--json", "--origin"]);
    let rows: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| {
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}"));
        format!("{} {} {}", row["value"].as_str().unwrap(), row["origin"].as_str().unwrap(), row["line"])
    };
    assert_eq!(of("strength"), "0.5 user 1");
    #[cfg(feature = "serve")]
    assert_eq!([of("serve.port"), of("serve.bind")], ["8191 user 3", "127.0.0.1 default null"]);
    #[cfg(feature = "mcp")]
    assert_eq!([of("mcp.root"), of("mcp.idle-unload")], ["x user 5", "900 default null"]);
    #[cfg(feature = "session")]
    assert_eq!(of("session.keep-going"), "true user 7");
    assert_eq!([of("presets.poster.inherits"), of("presets.poster.steps")], ["high user 9", "3 user 10"]);
    assert_eq!(of("templates.ink"), "{subject} in ink user 12");
    let missing = ["presets.high.area", "sampler", "grid", "serve.fake-step-ms", "source"];
    assert!(!rows.iter().any(|row| missing.contains(&row["name"].as_str().unwrap())));
}

#[cfg(feature = "mcp")]
#[test]
fn mcp_reads_its_table() {
    let cli = Cli::without_model();
    let config = "[mcp]\nroot = './agent'\nbackend = 'fake'\n";
    let said = shown(&run(&cli, config, &["mcp"]));
    assert!(said.contains(".config/dj-flux2/agent"), "{said}");
    let said = shown(&run(&cli, config, &["mcp", "--root", "typed"]));
    assert!(said.contains("/typed") && !said.contains("agent"), "{said}");
    let said = shown(&run(&cli, "[mcp]\nrot = 'x'\n", &["mcp"]));
    assert!(said.contains("config.toml:2: there is no setting rot"), "{said}");
}

#[cfg(all(feature = "session", feature = "mini"))]
#[test]
fn a_session_reads_its_table() {
    let cli = Cli::without_model();
    cli.write("script", "a cat\n");
    let config = "[session]\nset = ['steps=1', 'size=64x64', 'seed=3']\noutput = 'mine.png'\n";
    let session = |args: &[&str]| {
        fs::write(cli.path(".config/dj-flux2/config.toml"), config).unwrap();
        let mut command = cli.command([&["session"], args].concat());
        command.env("HOME", cli.path("")).stdin(fs::File::open(cli.path("script")).unwrap()).output().unwrap()
    };
    fs::create_dir_all(cli.path(".config/dj-flux2")).unwrap();
    let output = session(&[]);
    assert!(output.status.success(), "{}", shown(&output));
    let made = cli.files().into_iter().find(|name| name.starts_with("mine")).expect("its table names the file");
    assert_eq!((&parameters(&cli, &made)["steps"], &parameters(&cli, &made)["width"]), (&1.into(), &64.into()));
    assert!(session(&["-o", "typed.png"]).status.success());
    assert!(cli.files().iter().any(|name| name.starts_with("typed")));
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
