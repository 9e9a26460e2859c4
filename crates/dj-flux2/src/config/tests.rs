//! Files of settings on a disk, up to the choices that they make.

use std::fs;

use clap::CommandFactory as _;
use tempfile::TempDir;

use super::*;
use crate::failure::Failure;

/// A home folder with a project in it.
struct World {
    root: TempDir,
}

impl World {
    fn new() -> Self {
        let world = World { root: TempDir::new().unwrap() };
        fs::create_dir_all(world.path("home/project/sub")).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn user(self, text: &str) -> Self {
        self.with("home/.config/dj-flux2/config.toml", text)
    }

    fn project(self, text: &str) -> Self {
        self.with("home/project/.dj-flux2.toml", text)
    }

    fn with(self, name: &str, text: &str) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn load(&self) -> Result<Config> {
        let home = self.path("home");
        let env = |name: &str| (name == "HOME").then(|| home.clone().into_os_string());
        load_from(None, env, Some(&self.path("home/project/sub")))
    }

    fn choices(&self, presets: &[&str]) -> Result<Choices> {
        let presets: Vec<String> = presets.iter().map(|name| (*name).to_owned()).collect();
        self.load()?.choices(&presets, |_| false)
    }

    /// The error, with the folder of the test cut from its paths.
    fn refused(&self) -> Failure {
        let failure = self.choices(&[]).unwrap_err();
        let root = format!("{}/", self.root.path().display());
        Failure { message: failure.message.replace(&root, ""), ..failure }
    }
}

#[test]
fn project_goes_before_user_and_a_preset_before_both() {
    let world = World::new()
        .user("steps = 8\nguidance = 2.5\nseed = 1\n[presets.quick]\nsteps = 2\n")
        .project("seed = 5\nsteps = 6\n");
    let choices = world.choices(&["quick"]).unwrap();
    let (user, project) = (world.path("home/.config/dj-flux2/config.toml"), world.path("home/project/.dj-flux2.toml"));
    assert_eq!(choices.steps, Some(Origin::Preset("quick".into()).of(2)));
    assert_eq!(choices.seed, Some(Origin::Project(project.clone()).of(crate::args::Seed::Number(5))));
    assert_eq!(choices.guidance, Some(Origin::User(user).of(2.5)));
    assert_eq!(world.choices(&[]).unwrap().steps, Some(Origin::Project(project).of(6)));
}

#[test]
fn a_preset_that_a_file_chooses_is_below_the_rest_of_that_file() {
    let world = World::new().user("preset = 'high,wide'\nsteps = 3\n[presets.high]\nsteps = 9\narea = '2x'\n");
    let choices = world.choices(&[]).unwrap();
    assert_eq!(choices.steps.unwrap().value, 3);
    assert_eq!(choices.area.unwrap().origin, Origin::Preset("high,wide".into()));
    assert!(choices.aspect.is_some());
    // The project's choice replaces the user's, and a typed one both.
    let world = world.project("preset = 'phone'");
    let choices = world.choices(&[]).unwrap();
    assert!(choices.area.is_none() && choices.aspect.is_some());
    assert!(world.choices(&["draft"]).unwrap().aspect.is_none());
}

#[test]
fn a_switch_that_is_off_hides_one_below() {
    let world = World::new().user("json = true\nno-metadata = true").project("json = false");
    let choices = world.choices(&[]).unwrap();
    assert_eq!((choices.json, choices.metadata.unwrap().value), (None, false));
}

#[test]
fn every_kind_of_value_is_read() {
    let world = World::new().user(
        "model = 'klein-4b'\nsize = '512x768'\nlora = ['a.safetensors:0.5', 'b']\nseed = '1,4-5'\nguidance = 3\n\
         verbose = true\nmax-memory = '6GiB'\nallow-quantize = true\ndtype = 'f32'\nvar = ['light=dusk']\n\
         noise = 'torch-cpu'",
    );
    let choices = world.choices(&[]).unwrap();
    assert_eq!((choices.width.unwrap().value, choices.height.unwrap().value), (512, 768));
    assert_eq!(choices.loras.unwrap().value.unwrap().len(), 2);
    assert_eq!(choices.seed.unwrap().value, crate::args::Seed::List(vec![1, 4, 5]));
    assert_eq!(choices.variables.unwrap().value, [("light".to_owned(), "dusk".to_owned())]);
    assert_eq!(choices.max_memory.unwrap().value, 6 << 30);
}

const SCHEDULER: &str =
    "there is no scheduler to choose: the noise levels of FLUX.2 follow from the size and the steps";

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let file = "home/.config/dj-flux2/config.toml";
    for (text, line, message) in [
        ("steps = 4\nstpes = 4", 2, "there is no setting stpes"),
        ("steps = 'many'", 1, "invalid value 'many' for '--steps <N>': it is no whole number from 0 on"),
        ("\n\nsteps = -1", 3, "invalid value '-1' for '--steps <N>': -1 is not in 0..=4294967295"),
        ("json = 1", 1, "json is true or false"),
        ("steps = [1, 2]", 1, "steps has one value, not a list"),
        ("steps = 2026-01-01", 1, "steps is not a text or a number"),
        ("size = '64x64'\nwidth = 64", 2, "the argument '--size <WxH>' cannot be used with '--width <PX>'"),
        ("prompt = 'a fox'", 1, "prompt belongs to one run and cannot be set in a file"),
        ("dry-run = true", 1, "dry-run belongs to one run and cannot be set in a file"),
        ("source = 'a.png'", 1, "source belongs to one run and cannot be set in a file"),
        ("mask = 'a.png'", 1, "mask belongs to one run and cannot be set in a file"),
        ("grid = 'steps=1,2'", 1, "grid belongs to one run and cannot be set in a file"),
        (
            "sampler_name = 1",
            1,
            "there is no sampler to choose: FLUX.2 [klein] is a flow model, drawn with Euler steps",
        ),
        ("scheduler = 'karras'", 1, SCHEDULER),
        ("[presets.a]\nscheduler = 'karras'", 2, SCHEDULER),
        ("[templates]\nx = {txt = 'a'}", 2, "txt is no part of a template"),
        ("serve = 4", 1, "serve is a table, not a value"),
        ("[presets.a]\npreset = 'high'", 2, "a preset cannot choose a preset"),
        ("[presets.a]\nstpes = 1", 2, "there is no setting stpes"),
        ("steps = 4\nsteps = 5", 2, "duplicate key"),
        ("steps 4", 1, "key with no value, expected `=`"),
        ("[templates]\nx = 5", 2, "x is not a text"),
    ] {
        let failure = World::new().user(text).refused();
        assert_eq!(failure.message, format!("{file}:{line}: {message}"), "{text}");
        assert_eq!(failure.code, crate::failure::code::USAGE, "{text}");
    }
    assert_eq!(World::new().user("stpes = 4").refused().hint.unwrap(), "the nearest name is steps");
}

#[test]
fn paths_are_relative_to_the_file_where_they_say_so() {
    let world = World::new().user("model = './m'\nlora = ['~/l.safetensors:0.5', 'plain']\noutput = '../out/'");
    let choices = world.choices(&[]).unwrap();
    let config = world.path("home/.config/dj-flux2");
    assert_eq!(choices.model.unwrap().value.path(), config.join("m"));
    let loras = choices.loras.unwrap().value.unwrap();
    assert_eq!(loras[0].location.path(), world.path("home/l.safetensors"));
    assert_eq!((loras[0].scale, loras[1].location.path()), (0.5, Path::new("plain")));
    assert_eq!(choices.output.unwrap().value, config.join("../out/"));
}

#[cfg(unix)]
#[test]
fn the_file_of_a_project_stays_inside_of_the_project() {
    let link = |world: &World| std::os::unix::fs::symlink(world.path("home"), world.path("home/project/out")).unwrap();
    for (text, what) in [
        ("output = '/tmp/x.png'", "output to /tmp/x.png"),
        ("output = '../../x.png'", "output to "),
        ("output = './../x.png'", "output to "),
        ("output = 'new/../../../x.png'", "output to new/../../../x.png"),
        ("output = './out/x.png'", "output to "),
        ("input = ['a.png', '~/secret.png']", "input to "),
        ("lora = ['/etc/x:0.5']", "lora to /etc/x:0.5"),
        ("[presets.high]\nmodel = '/dev/zero'", "model to /dev/zero"),
    ] {
        let world = World::new().project(text);
        link(&world);
        let message = world.refused().message;
        assert!(message.starts_with("home/project/.dj-flux2.toml:"), "{message}");
        assert!(message.contains(&format!("cannot set {what}")), "{text}: {message}");
        assert!(message.ends_with("which is outside of its folder"), "{message}");
    }
    for text in
        ["model = 'klein-4b'", "output = 'out-{seed}.png'", "lora = ['./loras/x.safetensors']", "output = './a/b/'"]
    {
        World::new().project(text).choices(&[]).unwrap_or_else(|failure| panic!("{text}: {failure:?}"));
    }
}

#[test]
fn the_file_of_a_project_cannot_do_what_only_the_user_may() {
    for (text, message) in [
        ("force = true", "the file of a project cannot set force"),
        ("open = true", "the file of a project cannot set open"),
        ("[serve]\nbind = '0.0.0.0'", "the file of a project cannot have a table [serve]"),
        ("[mcp]\nroot = '/'", "the file of a project cannot have a table [mcp]"),
    ] {
        let failure = World::new().project(text).refused();
        assert!(failure.message.ends_with(message), "{failure:?}");
    }
}

#[test]
fn presets_have_files_of_their_own_too() {
    let world =
        World::new().with("home/.config/dj-flux2/presets/mine.toml", "about = 'x'\ninherits = 'wide'\nsteps = 2");
    let choices = world.choices(&["mine"]).unwrap();
    assert!(choices.aspect.is_some() && choices.steps.is_some());
}

#[test]
fn off_reads_no_file_and_a_named_one_must_be_there() {
    let world = World::new().user("steps = 3").project("steps = 4");
    let load = |typed: &str| load_from(Some(Path::new(typed)), |_| None, Some(&world.path("home/project")));
    assert!(load("off").unwrap().choices(&[], |_| false).unwrap().steps.is_none());
    assert!(load("/such/file").unwrap_err().message.contains("no file of settings at /such/file"));
    let other = World::new().with("other.toml", "steps = 9");
    let named = load_from(other.path("other.toml").as_path().into(), |_| None, None).unwrap();
    assert_eq!(named.choices(&[], |_| false).unwrap().steps.unwrap().value, 9);
}

/// A value for every flag that takes one, so that a new flag has an effect from a file or is refused there.
#[test]
fn every_flag_of_generate_is_a_setting_or_is_refused() {
    let program = crate::args::Args::command();
    let generate = program.find_subcommand("generate").unwrap();
    let (mut settings, mut refused) = (0, 0);
    for arg in generate.get_arguments() {
        let Some(name) = arg.get_long().filter(|name| *name != "preset") else { continue };
        let samples = match flags::takes_value(arg) {
            false => vec!["true"],
            true => vec![
                "'1'",
                "'64x64'",
                "'16:9'",
                "'white'",
                "'a=b'",
                "'bf16'",
                "'1GiB'",
                "'diffusers'",
                "'cpu'",
                "'1,1'",
                "'1,1,1,1'",
                "'444'",
            ],
        };
        let outcomes: Vec<Result<Choices>> =
            samples.iter().map(|sample| World::new().user(&format!("{name} = {sample}")).choices(&[])).collect();
        let nothing = format!("{:?}", Choices::default());
        if outcomes.iter().flatten().any(|choices| format!("{choices:?}") != nothing) {
            settings += 1;
        } else {
            let failures: Vec<String> = outcomes.into_iter().map(|outcome| outcome.unwrap_err().message).collect();
            let is_refusal = |message: &&String| {
                ["belongs to one run", "required arguments were not provided", "FLUX.2"]
                    .iter()
                    .any(|part| message.contains(part))
            };
            let is_refused = failures.iter().any(|message| is_refusal(&message));
            assert!(is_refused, "{name}: {failures:?}");
            refused += 1;
        }
    }
    assert!(settings > 35 && refused > 5, "{settings} settings, {refused} refused");
}

#[test]
fn what_is_about_a_source_waits_for_one() {
    let text = "strength = 0.5\nfeather = 4\nmask-grow = 8\noutpaint-fill = 'white'\nsize = '64x64'";
    let choices = World::new().user(text).choices(&[]).unwrap();
    assert_eq!((choices.canvas.strength.unwrap().value, choices.width.unwrap().value), (0.5, 64));
    assert!(choices.canvas.source.is_none() && choices.canvas.outpaint.is_none() && choices.canvas.fill.is_some());
}

mod editing {
    use super::*;

    fn edited(before: &str, change: impl Fn(&Path) -> Result<()>) -> Result<String> {
        let world = World::new().user(before);
        let path = world.path("home/.config/dj-flux2/config.toml");
        change(&path)?;
        Ok(fs::read_to_string(path).unwrap())
    }

    fn set(before: &str, name: &str, values: &[&str]) -> Result<String> {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        edited(before, |path| edit::set(path, name, &values, |_| Ok(())))
    }

    #[test]
    fn comments_and_order_stay() {
        let before = "# mine\nsteps = 4 # fast\nseed = 7\n";
        assert_eq!(set(before, "steps", &["8"]).unwrap(), "# mine\nsteps = 8 # fast\nseed = 7\n");
        assert_eq!(edited(before, |path| edit::unset(path, "seed")).unwrap(), "# mine\nsteps = 4 # fast\n");
    }

    #[test]
    fn values_have_the_type_of_their_flag() {
        for (name, values, line) in [
            ("json", &["true"][..], "json = true"),
            ("seed", &["007"], "seed = \"007\""),
            ("guidance", &["2.5"], "guidance = \"2.5\""),
            ("lora", &["a", "b:2"], "lora = [\"a\", \"b:2\"]"),
            ("lora", &["a"], "lora = [\"a\"]"),
            ("presets.mine.aspect", &["16:9"], "[presets.mine]\naspect = \"16:9\""),
            ("templates.ink", &["{subject} in ink"], "[templates]\nink = \"{subject} in ink\""),
        ] {
            assert_eq!(set("", name, values).unwrap().trim(), line);
        }
        #[cfg(feature = "serve")]
        assert_eq!(set("", "serve.port", &["8191"]).unwrap().trim(), "[serve]\nport = 8191");
    }

    #[test]
    fn what_cannot_be_read_again_is_not_written() {
        for (name, value) in
            [("stpes", "4"), ("steps", "many"), ("json", "maybe"), ("a.b.c", "1"), ("prompt", "x"), ("", "x")]
        {
            assert!(set("steps = 4\n", name, &[value]).is_err(), "{name}");
        }
        for name in ["mcp.idle-unload", "session.set", "serve.port"] {
            set("", name, &["7"]).unwrap();
        }
        let world = World::new().user("steps = \n");
        let path = world.path("home/.config/dj-flux2/config.toml");
        assert!(edit::set(&path, "steps", &["4".into()], |_| Ok(())).is_err());
        assert_eq!(fs::read_to_string(path).unwrap(), "steps = \n");
    }
}
