//! Pictures in the terminal.
//!
//! In:  a picture; what the environment, the terminal and tmux say of the terminal that standard output is.
//! Out: the bytes that show it: by a graphics protocol if the terminal speaks one, else in half blocks of color.
//!
//! ```text
//! environment   variables                 answers   what a terminal answers      tty      asks it, with a time limit
//! tmux          the terminal around tmux  size      columns and rows             kitty, iterm, sixel, blocks  encoders
//! ```
//!
//! A terminal is only sent what it says it understands, or what any terminal with colors shows.

mod answers;
mod blocks;
mod environment;
mod iterm;
mod kitty;
mod sixel;
mod size;
#[cfg(test)]
mod tests;
mod tmux;
#[cfg(unix)]
mod tty;

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use flux2::image::RgbImage;
use flux2::image::resize::resize_lanczos;

use answers::Answers;
use blocks::Colors;
use environment::Environment;
use size::{Fit, Window};

/// Longest time that the terminal has to answer. Those that answer do so at once, or after a round trip over SSH.
const LIMIT: Duration = Duration::from_secs(1);

/// How a picture becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// kitty's graphics protocol.
    Kitty,
    /// The same through tmux, which moves the picture as text of placeholders.
    KittyInTmux,
    /// iTerm2's inline images.
    Iterm,
    /// Sixel graphics.
    Sixel,
    /// A character for two pixels.
    Blocks(Colors),
}

/// A terminal that can show pictures, and how.
#[derive(Clone, Debug)]
pub struct Display {
    method: Method,
    window: Window,
}

/// A place above the cursor in which pictures replace one another.
#[derive(Debug, Default)]
pub struct Place {
    /// What it holds.
    held: Option<Held>,
}

/// A picture that is shown.
#[derive(Clone, Copy, Debug)]
struct Held {
    rows: u16,
    /// The number by which the terminal knows it, if it has one.
    id: Option<u32>,
    window: Window,
}

impl Place {
    /// What it shows stays, as something else was printed below it: the next picture is shown below that.
    pub fn leave(&mut self) {
        self.held = None;
    }
}

impl Display {
    /// How standard output shows pictures; `None` if it is no terminal, or one that cannot. The terminal may be asked,
    /// which takes a second if it does not answer. The second value is what was typed until then: nobody else reads it.
    pub fn detect() -> (Option<Display>, String) {
        if !io::stdout().is_terminal() {
            return (None, String::new());
        }
        let environment = Environment::read(|name| std::env::var(name).ok());
        if !environment.can_show() {
            return (None, String::new());
        }
        let answers = environment.question().map(ask).unwrap_or_default();
        let outer = if environment.in_tmux { tmux::outer() } else { None };
        let window = Window::of_stdout(answers.cell_px);
        (Some(Display::decide(&environment, &answers, outer.as_deref(), window)), answers.typed)
    }

    /// The best of what the terminal understands. `outer` names the terminal around tmux, if it can be reached.
    fn decide(environment: &Environment, answers: &Answers, outer: Option<&str>, window: Window) -> Display {
        let method = match outer {
            Some(outer) if kitty::has_placeholders(outer) => Method::KittyInTmux,
            _ if answers.kitty => Method::Kitty,
            _ if !environment.is_multiplexed() && iterm::is_spoken(environment, answers) => Method::Iterm,
            _ if answers.sixel => Method::Sixel,
            _ => Method::Blocks(environment.colors()),
        };
        Display { method, window }
    }

    /// Writes the bytes that show `picture` from the cursor, which must be at the start of a line. It is left at the
    /// start of the line below.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn show(&self, picture: &RgbImage, out: &mut impl Write) -> io::Result<()> {
        self.show_in(&mut Place::default(), picture, [picture.width(), picture.height()], out)
    }

    /// Shows `picture` in the place of the one before, as large as a picture of `like` pixels.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn show_in(
        &self,
        place: &mut Place,
        picture: &RgbImage,
        like: [u32; 2],
        out: &mut impl Write,
    ) -> io::Result<()> {
        let window = self.window.now();
        let fit = match self.method {
            Method::Blocks(_) => window.fit_blocks(like),
            Method::KittyInTmux => window.of_at_most(kitty::MAX_ROWS).fit(like),
            _ => window.fit(like),
        };
        let mut bytes = Vec::new();
        // A window of another size has moved the lines.
        if let Some(held) = place.held.filter(|held| held.window == window) {
            if let Some(id) = held.id {
                kitty::delete(&mut bytes, id, self.method == Method::KittyInTmux)?;
            }
            write!(bytes, "\x1b[{}A\r\x1b[J", held.rows)?;
        }
        let id = self.draw(picture, fit, &mut bytes)?;
        place.held = Some(Held { rows: fit.rows, id, window });
        // In one piece, so that nothing is printed inside of a sequence.
        out.write_all(&bytes)?;
        out.flush()
    }

    /// The bytes of a picture. Returns the number by which the terminal knows it.
    fn draw(&self, picture: &RgbImage, fit: Fit, out: &mut Vec<u8>) -> io::Result<Option<u32>> {
        let [width, height] = fit.px;
        let scaled = match [picture.width(), picture.height()] == fit.px {
            true => None,
            false => Some(resize_lanczos(picture, width, height).map_err(io::Error::other)?),
        };
        let picture = scaled.as_ref().unwrap_or(picture);
        match self.method {
            Method::Blocks(colors) => blocks::draw(picture, colors, out).map(|()| None),
            Method::KittyInTmux => kitty::draw_in_tmux(picture, fit, out).map(Some),
            Method::Kitty => in_room(fit.rows, out, |out| kitty::draw(picture, out)).map(Some),
            Method::Iterm => in_room(fit.rows, out, |out| iterm::draw(picture, fit, out)).map(|()| None),
            Method::Sixel => in_room(fit.rows, out, |out| sixel::draw(picture, out)).map(|()| None),
        }
    }
}

/// Makes room of `rows` lines, draws at their top, and puts the cursor below them, wherever drawing left it.
fn in_room<T>(rows: u16, out: &mut Vec<u8>, draw: impl FnOnce(&mut Vec<u8>) -> io::Result<T>) -> io::Result<T> {
    out.extend(std::iter::repeat_n(b'\n', rows.into()));
    write!(out, "\x1b[{rows}A\x1b7")?;
    let drawn = draw(out)?;
    write!(out, "\x1b8\x1b[{rows}B\r")?;
    Ok(drawn)
}

/// What the terminal answers.
#[cfg(unix)]
fn ask(question: Vec<u8>) -> Answers {
    let is_enough = |bytes: &[u8]| Answers::parse(bytes).is_complete;
    tty::ask(&question, LIMIT, is_enough).map(|bytes| Answers::parse(&bytes)).unwrap_or_default()
}

/// Consoles of Windows are not asked: nothing reads their answers here.
#[cfg(not(unix))]
fn ask(_: Vec<u8>) -> Answers {
    Answers::default()
}
