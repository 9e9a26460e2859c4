//! Random lines, from a seeded generator, drawn by a server that draws no model: each is answered, and the session goes
//! on.

use serde_json::Value;

use crate::cli::{Cli, shown};
use crate::serve::Server;

/// Lines of a script.
const LINES: usize = 160;
/// A line whose answer is known.
const MARK: &str = "!help undo";

/// What is drawn at random.
struct Random(fastrand::Rng);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end)
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn picture(&mut self) -> &'static str {
        self.one_of(&["$1", "$-1", "$2", "$cat", "$-3", "$0", "$99", "$1st", "$", "$$5", "$-", "$ünï", "cat"])
    }

    fn prompt(&mut self) -> String {
        let words = ["a cat", "füchse", "狐", "\u{202e}", "{red|blue}", "__animal__", "--steps", "\"", "'", ",", "!x"];
        let word = |random: &mut Random| match random.below(3) {
            0 => random.picture(),
            _ => random.one_of(&words),
        };
        (0..random_count(self)).map(|_| word(self)).collect::<Vec<_>>().join(" ")
    }

    fn value(&mut self) -> &'static str {
        let numbers = ["1", "0", "-1", "2", "0.5", "1e9", "NaN", "99999999999999999999", "64x64", "96x80", "1000x1000"];
        let texts =
            ["on", "off", "16:9", "0:0", "random", "1-3", "cpu", "a.jpg", "b_{index}", "-", "x.txt", "c:1", "ü"];
        let names =
            ["draft", "klein-4b", "watercolor", "lanczos", "light=dusk", "bf16", "$1", "$cat", "12.5%", ";", ""];
        match self.below(3) {
            0 => self.one_of(&numbers),
            1 => self.one_of(&texts),
            _ => self.one_of(&names),
        }
    }

    fn line(&mut self) -> String {
        let settings = [
            "seed",
            "size",
            "width",
            "aspect",
            "guidance",
            "noise",
            "strength",
            "feather",
            "source",
            "mask",
            "input",
            "outpaint",
            "watermark",
            "no-metadata",
            "output",
            "preset",
            "template",
            "var",
            "expand",
            "lora",
            "model",
            "upscaler",
            "dtype",
            "device",
            "steps",
            "preview",
            "open",
            "nothing",
            "--",
            "=",
        ];
        match self.below(19) {
            0..4 => self.prompt(),
            4 => format!("!edit {}", self.prompt()),
            5 => format!("!explore {} {}", self.one_of(&["", "2", "1", "99", "-2"]), self.prompt()),
            6 => format!("!pick {}", self.one_of(&["1", "2 1", "9", "0", "one", ""])),
            7 => format!("!mask {} {}", self.one_of(&["$1", "gone.png", "'", "$cat"]), self.prompt()),
            8 => format!("!upscale {} {}", self.one_of(&["", "2", "1.5x", "0", "-1", "inf", "NaN"]), self.picture()),
            9 => format!("!size {}", self.value()),
            10 => format!("!seed {}", self.value()),
            // The program would be opened that shows pictures.
            11 | 12 => format!("!set {} {}", self.one_of(&settings), self.value()).replace("!set open on", "!set open"),
            13 => format!("!unset {}", self.one_of(&settings)),
            14 => format!("!name {} {}", self.one_of(&["cat", "$cat", "1st", "ünï", "a b", ""]), self.picture()),
            15 => {
                format!("!save {} {}", self.one_of(&["s.png", "s.webp", "'a b.jpg'", "s.txt", "-", ""]), self.picture())
            }
            16 => format!("!{} {}", self.one_of(&["undo", "history", "show", "help", "udno", ""]), self.picture()),
            17 => format!("!history {}", self.value()),
            _ => self.one_of(&["", "#", "\\", "\\!", "1", "1 2", "!", "\u{feff}", "\t", "\\$cat", "$1", "$-1"]).into(),
        }
    }

    /// A line, sometimes with bytes that are changed. None of them makes the path of another folder.
    fn bytes(&mut self) -> Vec<u8> {
        let mut line = self.line().into_bytes();
        for _ in 0..self.below(8).saturating_sub(5) {
            let (at, byte) = (self.below(line.len() + 1), self.below(256) as u8);
            line.insert(at, if b"/\n".contains(&byte) { b'$' } else { byte });
        }
        line
    }
}

fn random_count(random: &mut Random) -> usize {
    random.below(5)
}

#[test]
fn every_random_line_is_answered() {
    let cli = Cli::without_model();
    let server = Server::fake(&cli, &["-m", "klein-4b"]);
    let mut random = Random(fastrand::Rng::with_seed(0x5eed));
    let mut script = Vec::new();
    for _ in 0..LINES {
        script.extend(random.bytes());
        script.extend(b"\n");
        // Pictures stay small.
        script.extend(format!("!unset count\n!size 64x64\n!unset upscale\n{MARK}\n").bytes());
    }
    let args = ["session", "--connect", &server.address, "--json", "--keep-going", "--set", "size=64x64"];
    let output = cli.output_with_input(&args, script);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{errors}");
    assert_eq!(output.status.code(), Some(7), "{}", shown(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let count = |is: &dyn Fn(&Value) -> bool| answers.iter().filter(|answer| is(answer)).count();
    let marks = count(&|answer| answer["text"].as_str().is_some_and(|text| text.starts_with("!undo : ")));
    assert!(marks >= LINES, "{marks} of {LINES} lines were answered");
    assert!(count(&|answer| answer["picture"].is_u64()) > 10, "{text}");
    let failures: Vec<&Value> = answers.iter().filter(|answer| answer["error"].is_object()).collect();
    assert!(failures.len() > 20 && failures.iter().all(|failure| failure["line"].is_u64()), "{text}");
    for failure in failures {
        assert!(failure["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{failure}");
    }
}
