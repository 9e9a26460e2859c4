use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flux2::image::{RgbImage, decode};

use super::answers::Answers;
use super::blocks::{Colors, of_256};
use super::environment::Environment;
use super::size::{Fit, Window};
use super::{Display, Method, Place, kitty, tmux};

const WINDOW: Window = Window { columns: 80, rows: 24, cell_px: [10, 20] };

fn environment(variables: &[(&str, &str)]) -> Environment {
    let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Environment::read(get)
}

/// A gradient with a square in it.
fn picture(width: u32, height: u32) -> RgbImage {
    let pixel = |x: u32, y: u32| match x < width / 2 && y < height / 2 {
        true => [250, 30, 20],
        false => [(x * 255 / width) as u8, (y * 255 / height) as u8, 128],
    };
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

fn shown(method: Method, picture: &RgbImage) -> Vec<u8> {
    let mut out = Vec::new();
    Display { method, window: WINDOW }.show(picture, &mut out).unwrap();
    out
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

// ---- what the environment says ----

#[test]
fn a_terminal_that_cannot_show_pictures_is_left_alone() {
    for variables in [
        &[][..],
        &[("TERM", "")],
        &[("TERM", "dumb")],
        &[("TERM", "xterm-256color"), ("LANG", "de_DE.ISO-8859-1")],
        &[("TERM", "xterm"), ("LC_ALL", "ja_JP.eucJP"), ("LANG", "ja_JP.UTF-8")],
    ] {
        assert_eq!(environment(variables).can_show(), cfg!(windows) && variables.len() < 2, "{variables:?}");
    }
    for locale in ["C", "C.UTF-8", "de_DE.utf8", "de_DE.UTF-8@euro", ""] {
        assert!(environment(&[("TERM", "xterm"), ("LANG", locale)]).can_show(), "{locale}");
    }
}

#[test]
fn a_terminal_is_asked_what_it_does_not_show_as_text() {
    let question = |variables: &[(&str, &str)]| environment(variables).question().map(text);
    let all = "\x1b7\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[16t\x1b[>q\x1b[c\x1b8\x1b[K";
    assert_eq!(question(&[("TERM", "xterm-256color")]).as_deref(), Some(all));
    // tmux and screen would take the question about graphics for a title.
    let attributes = Some("\x1b7\x1b[c\x1b8\x1b[K");
    assert_eq!(question(&[("TERM", "tmux-256color")]).as_deref(), attributes);
    assert_eq!(question(&[("TERM", "screen.xterm")]).as_deref(), attributes);
    assert_eq!(question(&[("TERM", "xterm"), ("TMUX", "/tmp/tmux-0/default,1,0")]).as_deref(), attributes);
    assert_eq!(question(&[("TERM", "linux")]), None);
    assert_eq!(question(&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "Apple_Terminal")]), None);
}

#[test]
fn colors_are_those_of_the_terminal() {
    for (variables, colors) in [
        (&[("TERM", "xterm")][..], Colors::Table16),
        (&[("TERM", "linux")], Colors::Table16),
        (&[("TERM", "xterm-256color")], Colors::Table256),
        (&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], Colors::True),
        (&[("TERM", "xterm-direct")], Colors::True),
        (&[("TERM", "screen-256color"), ("TMUX", "x")], Colors::True),
        (&[("TERM", "vt100")], Colors::None),
        (&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor"), ("NO_COLOR", "1")], Colors::None),
        (&[("TERM", "xterm-256color"), ("NO_COLOR", "")], Colors::Table256),
    ] {
        assert_eq!(environment(variables).colors(), colors, "{variables:?}");
    }
}

// ---- what the terminal says ----

#[test]
fn answers_are_read_in_any_order_and_between_keys() {
    let full = b"\x1b_Gi=31;OK\x1b\\\x1b[6;21;9t\x1bP>|kitty(0.35.2)\x1b\\\x1b[?62;4;22c";
    let answers = Answers::parse(full);
    let expected = Answers {
        kitty: true,
        sixel: true,
        name: "kitty(0.35.2)".into(),
        cell_px: Some([9, 21]),
        is_complete: true,
        typed: String::new(),
    };
    assert_eq!(answers, expected);
    let mixed = b"ls\x1b[?62;4;22cq\x1b[A\x1bP>|kitty(0.35.2)\x07\x1bOP\x1b[6;21;9t\x1bx\x1b_Gi=31;OK\x1b\\\r";
    assert_eq!(Answers::parse(mixed), Answers { typed: "lsq\n".into(), ..expected });
    let typed = |bytes: &[u8]| Answers::parse(bytes).typed;
    assert_eq!(typed("a fax\x7f\x7fox\ns\x1b[?62;4cüß".as_bytes()), "a fox\nsüß");
    assert_eq!(typed(b"\x7f!undo\r\x7f\x7f\x03\x1b[?62;4"), "!undo\n");
    // The first number of the attributes is the kind of terminal.
    assert!(!Answers::parse(b"\x1b[?4;6c").sixel);
    assert!(!Answers::parse(b"\x1b_Gi=31;ENOTSUPPORTED:no\x1b\\\x1b[?1;2c").kitty);
    assert_eq!(Answers::parse(b"\x1b[6;0;0t\x1b[6;99999;1t\x1b[6t\x1b[8;24;80t\x1b[?1c").cell_px, None);
}

#[test]
fn no_answer_is_mistaken_for_one() {
    let full = b"\x1b_Gi=31;OK\x1b\\\x1b[6;21;9t\x1bP>|kitty(0.35.2)\x1b\\\x1b[?62;4;22c";
    for len in 0..full.len() {
        assert!(!Answers::parse(&full[..len]).is_complete, "{len}");
    }
    let mut state = 1u32;
    for _ in 0..2000 {
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"\x1b\x1b[_P?>;|\\\x07cGt0159OK\xff"[(state >> 8) as usize % 21]
        };
        let bytes: Vec<u8> = (0..40).map(|_| random()).collect();
        Answers::parse(&bytes);
    }
    assert!(Answers::parse(&[b'x'; 5000]).is_complete, "somebody holds a key down");
}

#[test]
fn the_best_that_is_understood_is_chosen() {
    let plain = environment(&[("TERM", "xterm-256color")]);
    let method = |environment: &Environment, answer: &[u8], outer: Option<&str>| {
        Display::decide(environment, &Answers::parse(answer), outer, WINDOW).method
    };
    let blocks = Method::Blocks(Colors::Table256);
    assert_eq!(method(&plain, b"", None), blocks);
    assert_eq!(method(&plain, b"\x1b[?62;22c", None), blocks);
    assert_eq!(method(&plain, b"\x1b[?62;4;22c", None), Method::Sixel);
    assert_eq!(method(&plain, b"\x1bP>|WezTerm 20240203\x1b\\\x1b[?65;4c", None), Method::Iterm);
    assert_eq!(method(&plain, b"\x1bP>|priority\x1b\\\x1b[?65c", None), blocks);
    assert_eq!(method(&plain, b"\x1b_Gi=31;OK\x1b\\\x1bP>|iTerm2 3.6.0\x1b\\\x1b[?64;4c", None), Method::Kitty);
    let iterm = environment(&[("TERM", "xterm-256color"), ("LC_TERMINAL", "iTerm2")]);
    assert_eq!(method(&iterm, b"\x1b[?62;4c", None), Method::Iterm);

    let tmux = environment(&[("TERM", "tmux-256color"), ("TMUX", "x"), ("LC_TERMINAL", "iTerm2")]);
    assert_eq!(method(&tmux, b"\x1b[?1;2;4c", None), Method::Sixel);
    assert_eq!(method(&tmux, b"\x1b[?1;2c", None), Method::Blocks(Colors::True));
    assert_eq!(method(&tmux, b"\x1b[?1;2c", Some("xterm-kitty kitty(0.35.2)")), Method::KittyInTmux);
    assert_eq!(method(&tmux, b"\x1b[?1;2c", Some("xterm-256color ghostty 1.2")), Method::KittyInTmux);
    // These speak the protocol, and show placeholders as characters.
    assert_eq!(method(&tmux, b"\x1b[?1;2c", Some("xterm-256color WezTerm 2024")), Method::Blocks(Colors::True));
}

#[test]
fn tmux_is_believed_only_where_it_lets_sequences_through() {
    assert_eq!(tmux::reachable("on xterm-kitty kitty(0.35.2)\n").as_deref(), Some("xterm-kitty kitty(0.35.2)"));
    assert_eq!(tmux::reachable("1 xterm-kitty \n").as_deref(), Some("xterm-kitty"));
    for answer in ["off xterm-kitty kitty", "0 xterm-kitty", " xterm-kitty", "", "\n"] {
        assert_eq!(tmux::reachable(answer), None, "{answer:?}");
    }
}

// ---- sizes ----

#[test]
fn a_picture_fits_the_window() {
    let fit = |px, columns, rows| Fit { px, columns, rows };
    // 790 by 420 pixels are free.
    assert_eq!(WINDOW.fit([128, 128]), fit([128, 128], 13, 7));
    assert_eq!(WINDOW.fit([1024, 1024]), fit([420, 420], 42, 21));
    assert_eq!(WINDOW.fit([4096, 64]), fit([790, 12], 79, 1));
    assert_eq!(WINDOW.fit([64, 64]), fit([192, 192], 20, 10), "a small one is enlarged");
    assert_eq!(WINDOW.fit([1, 100_000]), fit([1, 420], 1, 21));
    assert_eq!(WINDOW.fit_blocks([128, 128]), fit([42, 42], 42, 21));
    assert_eq!(WINDOW.fit_blocks([16, 9]), fit([16, 9], 16, 5));
    let tiny = Window { columns: 1, rows: 1, cell_px: [10, 20] };
    assert_eq!(tiny.fit([512, 512]), fit([10, 10], 1, 1));
    assert_eq!(tiny.fit_blocks([512, 512]), fit([1, 1], 1, 1));
    assert_eq!(Window { rows: 500, ..WINDOW }.of_at_most(kitty::MAX_ROWS).fit([100, 9000]).rows, 96);
}

// ---- bytes ----

/// The payload of kitty's sequences and the keys of the first one.
fn of_kitty(bytes: &str) -> (String, RgbImage) {
    let sequences: Vec<&str> = bytes.split("\x1b_G").skip(1).map(|rest| rest.split("\x1b\\").next().unwrap()).collect();
    let parts: Vec<(&str, &str)> = sequences.iter().map(|sequence| sequence.split_once(';').unwrap()).collect();
    for (i, (keys, chunk)) in parts.iter().enumerate() {
        let more = if i + 1 < parts.len() { "m=1" } else { "m=0" };
        assert!(keys.ends_with(more) && chunk.len() <= 4096, "{keys}, {}", chunk.len());
        assert!(i == 0 || *keys == more, "only the first has other keys");
    }
    let data: String = parts.iter().map(|(_, chunk)| *chunk).collect();
    (parts[0].0.to_owned(), decode(&STANDARD.decode(data).unwrap(), "kitty").unwrap())
}

#[test]
fn kitty_gets_the_pixels_as_they_are() {
    let picture = picture(300, 200);
    let bytes = text(shown(Method::Kitty, &picture));
    let (keys, received) = of_kitty(&bytes);
    assert_eq!(received, picture);
    assert!(keys.starts_with("a=T,f=100,q=2,C=1,i="), "{keys}");
    // Room is made, and the cursor ends below the picture.
    assert!(bytes.starts_with(&format!("{}\x1b[10A\x1b7\x1b_G", "\n".repeat(10))), "{:?}", &bytes[..40]);
    assert!(bytes.ends_with("\x1b\\\x1b8\x1b[10B\r"));
    let large = of_kitty(&text(shown(Method::Kitty, &super::tests::picture(2000, 2000)))).1;
    assert_eq!([large.width(), large.height()], [420, 420], "no more pixels are sent than are shown");
}

#[test]
fn placeholders_in_tmux_name_their_row_and_the_picture() {
    let picture = picture(128, 128);
    let bytes = text(shown(Method::KittyInTmux, &picture));
    let (sequences, lines) = bytes.rsplit_once("\x1b\x1b\\\x1b\\").unwrap();
    let sequences = format!("{sequences}\x1b\x1b\\").replace("\x1b\\\x1bPtmux;", "").replace("\x1bPtmux;", "");
    let (keys, received) = of_kitty(&sequences.replace("\x1b\x1b", "\x1b"));
    assert_eq!(received, picture);
    assert!(keys.contains("U=1") && keys.contains(",c=13,r=7,"), "{keys}");
    let id: u32 = keys.split("i=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let (high, low) = ((id >> 24) as usize, id & 0xff);
    assert_eq!(id & 0x00ff_ff00, 0, "placeholders have no room for these bytes");
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 7);
    for (row, line) in lines.iter().enumerate() {
        let cell = '\u{10eeee}';
        let [row, column, high] = [row, 0, high].map(|number| kitty::DIACRITICS[number]);
        let rest = cell.to_string().repeat(12);
        assert_eq!(*line, format!("\x1b[38;5;{low}m{cell}{row}{column}{high}{rest}\x1b[39m"));
    }
}

#[test]
fn iterm_gets_a_file_with_its_length_and_cells() {
    let picture = picture(300, 200);
    let bytes = text(shown(Method::Iterm, &picture));
    let inner = bytes.split("\x1b]1337;File=").nth(1).unwrap().split('\x07').next().unwrap();
    let (keys, data) = inner.split_once(':').unwrap();
    let file = STANDARD.decode(data).unwrap();
    let len = file.len();
    assert_eq!(decode(&file, "iterm").unwrap(), picture);
    assert_eq!(keys, format!("inline=1;size={len};width=30;height=10;preserveAspectRatio=1;doNotMoveCursor=1"));
}

/// Draws sixels as a terminal does.
fn of_sixel(bytes: &str) -> RgbImage {
    let inner = bytes.split("\x1bP0;1q\"1;1;").nth(1).unwrap().split("\x1b\\").next().unwrap();
    let sides_end = inner.find('#').unwrap();
    let sides: Vec<usize> = inner[..sides_end].split(';').map(|side| side.parse().unwrap()).collect();
    let (width, height) = (sides[0], sides[1]);
    let mut colors = vec![[0u8; 3]; 256];
    let mut pixels = vec![None; width * (height + 6)];
    let (mut x, mut y, mut color) = (0, 0, 0);
    let mut rest = &inner[sides_end..];
    let number = |rest: &mut &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = rest[..end].parse::<usize>().unwrap();
        *rest = &rest[end..];
        number
    };
    while let Some(first) = rest.chars().next() {
        rest = &rest[1..];
        let (count, sixel) = match first {
            '#' => {
                color = number(&mut rest);
                if rest.starts_with(';') {
                    let mut values = [0; 4];
                    for value in &mut values {
                        rest = &rest[1..];
                        *value = number(&mut rest);
                    }
                    assert!(values[0] == 2 && values.iter().all(|value| *value <= 100), "{values:?}");
                    colors[color] = [1, 2, 3].map(|at| (values[at] * 255 / 100) as u8);
                }
                continue;
            }
            '$' => {
                x = 0;
                continue;
            }
            '-' => {
                (x, y) = (0, y + 6);
                continue;
            }
            '!' => {
                let count = number(&mut rest);
                let sixel = rest.chars().next().unwrap();
                rest = &rest[1..];
                (count, sixel)
            }
            sixel => (1, sixel),
        };
        let bits = sixel as u8 - b'?';
        for _ in 0..count {
            assert!(x < width && bits < 64);
            for row in (0..6).filter(|row| bits >> row & 1 == 1) {
                assert!(pixels[(y + row) * width + x].replace(colors[color]).is_none(), "drawn once");
            }
            x += 1;
        }
    }
    assert!(pixels[width * height..].iter().all(Option::is_none), "nothing is below the picture");
    let pixels = pixels[..width * height].iter().flat_map(|pixel| pixel.expect("every pixel is drawn")).collect();
    RgbImage::new(width as u32, height as u32, pixels).unwrap()
}

/// Mean of 4x4 pixels, which dithering keeps.
fn means(picture: &RgbImage) -> Vec<[i32; 3]> {
    let mean =
        |x: u32, y: u32, c: usize| (0..16).map(|i| i32::from(picture.pixel(x + i % 4, y + i / 4)[c])).sum::<i32>() / 16;
    let rows = (0..picture.height() / 4).map(|y| y * 4);
    rows.flat_map(|y| (0..picture.width() / 4).map(move |x| [0, 1, 2].map(|c| mean(x * 4, y, c)))).collect()
}

#[test]
fn sixels_show_the_picture() {
    for (width, height) in [(128, 128), (100, 45), (64, 6)] {
        let picture = picture(width, height);
        let bytes = text(shown(Method::Sixel, &picture));
        let received = of_sixel(&bytes);
        let sent = Display { method: Method::Sixel, window: WINDOW }.window.fit([width, height]).px;
        assert_eq!([received.width(), received.height()], sent);
        if sent != [width, height] {
            continue;
        }
        let pairs = means(&received).into_iter().zip(means(&picture));
        let off: Vec<i32> = pairs.flat_map(|(a, b)| [0, 1, 2].map(|c| (a[c] - b[c]).abs())).collect();
        // Dithering hands on what a pixel is off, also across the edge of the square.
        let (worst, mean) = (off.iter().max().unwrap(), f64::from(off.iter().sum::<i32>()) / off.len() as f64);
        assert!(*worst < 32 && mean < 3.0, "{width}x{height}: means are {mean} levels off, at most {worst}");
    }
}

#[test]
fn half_blocks_are_two_pixels() {
    let pixels = vec![255, 0, 0, 0, 0, 255, 255, 0, 0, 0, 255, 0, 9, 9, 9, 9, 9, 9];
    let picture = RgbImage::new(2, 3, pixels).unwrap();
    let shown = |colors| text(shown(Method::Blocks(colors), &picture));
    assert_eq!(
        shown(Colors::True),
        "\x1b[38;2;255;0;0;48;2;255;0;0m▀\x1b[38;2;0;0;255;48;2;0;255;0m▀\x1b[0m\n\x1b[38;2;9;9;9;49m▀▀\x1b[0m\n"
    );
    assert_eq!(
        shown(Colors::Table256),
        "\x1b[38;5;196;48;5;196m▀\x1b[38;5;21;48;5;46m▀\x1b[0m\n\x1b[38;5;232;49m▀▀\x1b[0m\n"
    );
    assert_eq!(shown(Colors::Table16), "\x1b[91;101m▀\x1b[34;102m▀\x1b[0m\n\x1b[30;49m▀▀\x1b[0m\n");
    assert_eq!(shown(Colors::None), "░░\n  \n");
    assert_eq!([of_256([128; 3]), of_256([255; 3]), of_256([0; 3]), of_256([95, 135, 175])], [244, 231, 16, 67]);
}

#[test]
fn a_step_is_shown_in_the_place_of_the_one_before() {
    let steps = |method: Method| {
        let (display, mut place) = (Display { method, window: WINDOW }, Place::default());
        let mut next = |px: u32, leave: bool| {
            let mut out = Vec::new();
            if leave {
                place.leave();
            }
            display.show_in(&mut place, &picture(px, px), [128, 128], &mut out).unwrap();
            text(out)
        };
        [next(16, false), next(16, false), next(128, false), next(16, true)]
    };
    let [first, second, finished, other] = steps(Method::Blocks(Colors::True));
    assert!(first.starts_with("\x1b[38;2;") && first.matches('\n').count() == 21, "as large as the finished one");
    assert!(second.starts_with("\x1b[21A\r\x1b[J\x1b[38;2;") && finished.starts_with("\x1b[21A\r\x1b[J"));
    assert!(other.starts_with("\x1b[38;2;"), "something was printed below the one before");

    let [first, second, finished, other] = steps(Method::Kitty);
    let id = |bytes: &str| of_kitty(bytes).0.split("i=").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let removal = format!("\x1b_Ga=d,d=I,q=2,i={}\x1b\\", id(&first));
    let second = second.strip_prefix(&removal).unwrap();
    let rest = finished.strip_prefix(&format!("\x1b_Ga=d,d=I,q=2,i={}\x1b\\", id(second))).unwrap();
    assert!(rest.starts_with("\x1b[7A\r\x1b[J") && !other.contains("a=d"));
}
