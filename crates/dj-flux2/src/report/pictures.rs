//! Pictures in the terminal, beside the bars and between the lines.

use std::cell::RefCell;
use std::io;
use std::sync::PoisonError;

use flux2::image::RgbImage;

use super::Report;
use crate::output::WRITING;
use crate::terminal_picture::{Display, Place};

/// The terminal that pictures are shown in.
pub(super) struct Screen {
    display: Display,
    shown: RefCell<Shown>,
}

/// What is shown last.
#[derive(Default)]
struct Shown {
    /// The picture whose steps are shown. Steps of others are not shown until it is finished.
    picture: Option<u64>,
    place: Place,
}

impl Report {
    /// Pictures are shown in the terminal from now on, if it can show them. What keeps it from that is a note where
    /// somebody `asked` in this command.
    pub fn show_pictures(&mut self, asked: bool) {
        self.pictures = Display::detect().0.map(|display| Screen { display, shown: RefCell::default() });
        if self.pictures.is_none() && asked {
            self.note("pictures are not shown: standard output is no terminal that can");
        }
    }

    /// Whether pictures are shown.
    pub fn shows_pictures(&self) -> bool {
        self.pictures.is_some()
    }

    /// Shows what picture `number` of the run looks like so far, as large as it will be at `size`.
    pub fn show_step(&self, number: u64, preview: &RgbImage, size: [u32; 2]) {
        let Some(screen) = &self.pictures else { return };
        if *screen.shown.borrow_mut().picture.get_or_insert(number) == number {
            self.draw(screen, preview, size);
        }
    }

    /// Shows finished picture `number` of the run, in the place of its steps.
    pub fn show_finished(&self, number: u64, picture: &RgbImage) {
        let Some(screen) = &self.pictures else { return };
        let has_steps = screen.shown.borrow().picture == Some(number);
        match has_steps {
            true => self.draw(screen, picture, [picture.width(), picture.height()]),
            false => self.write(|out| screen.display.show(picture, out)),
        }
        self.leave_pictures();
        self.stop_showing(number);
    }

    /// Picture `number` of the run is over: its steps make room for those of another.
    pub fn stop_showing(&self, number: u64) {
        if let Some(screen) = &self.pictures {
            let mut shown = screen.shown.borrow_mut();
            shown.picture = shown.picture.filter(|shown| *shown != number);
        }
    }

    /// What is shown stays where it is, since something is printed below it.
    pub(super) fn leave_pictures(&self) {
        if let Some(screen) = &self.pictures {
            screen.shown.borrow_mut().place.leave();
        }
    }

    fn draw(&self, screen: &Screen, picture: &RgbImage, size: [u32; 2]) {
        let place = &mut screen.shown.borrow_mut().place;
        self.write(|out| screen.display.show_in(place, picture, size, out));
    }

    /// Writes beside the bars. A terminal that is gone shows nothing; the picture is in its file.
    fn write(&self, write: impl FnOnce(&mut io::StdoutLock) -> io::Result<()>) {
        // Half a sequence would leave the terminal waiting for the rest.
        let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
        let _ = self.beside_bars(|| write(&mut io::stdout().lock()));
    }
}
