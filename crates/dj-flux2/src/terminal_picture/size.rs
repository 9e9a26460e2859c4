//! How many columns and rows a picture takes.

/// Rows that stay free: the line about the file, its name, and the prompt of the shell.
const FREE_ROWS: u16 = 3;
/// Pixels of a character, if the terminal does not say.
const USUAL_CELL: [u16; 2] = [8, 16];

/// The window of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub columns: u16,
    pub rows: u16,
    /// Width and height of a character in pixels.
    pub cell_px: [u16; 2],
}

/// The part of the window that a picture takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Width and height in pixels. A row of characters has two of half blocks.
    pub px: [u32; 2],
    pub columns: u16,
    pub rows: u16,
}

impl Window {
    /// The window of standard output. `cell_px` is what the terminal said, if it was asked.
    pub fn of_stdout(cell_px: Option<[u16; 2]>) -> Self {
        let unknown = Window { columns: 80, rows: 24, cell_px: cell_px.unwrap_or(USUAL_CELL) };
        let Some([columns, rows, width, height]) = measure() else { return unknown };
        let of_window = [width / columns, height / rows];
        let own = Some(of_window).filter(|cell| cell.iter().all(|side| *side > 0));
        Window { columns, rows, cell_px: cell_px.or(own).unwrap_or(USUAL_CELL) }
    }

    /// The same window with the size that it has now.
    pub fn now(self) -> Self {
        match measure().filter(|_| !cfg!(test)) {
            Some([columns, rows, ..]) => Window { columns, rows, ..self },
            None => self,
        }
    }

    /// The same window, or one in which a picture has `rows` at most.
    pub fn of_at_most(self, rows: u16) -> Self {
        Window { rows: self.rows.min(rows + FREE_ROWS), ..self }
    }

    /// Columns and rows for pictures. The last column stays free: some terminals begin a new line after it.
    fn room(self) -> [u16; 2] {
        [self.columns.saturating_sub(1).max(1), self.rows.saturating_sub(FREE_ROWS).max(1)]
    }

    /// The pixels of a picture as they are, reduced to the window. A small one is enlarged by a whole number as long as
    /// it takes at most half of the window.
    pub fn fit(self, [width, height]: [u32; 2]) -> Fit {
        let [columns, rows] = self.room();
        let [cell_width, cell_height] = self.cell_px.map(f64::from);
        let (room_width, room_height) = (f64::from(columns) * cell_width, f64::from(rows) * cell_height);
        let most = (room_width / f64::from(width)).min(room_height / f64::from(height));
        let px = scaled([width, height], if most < 1.0 { most } else { (most / 2.0).floor().max(1.0) });
        let cells = |px: u32, cell: f64, most: u16| ((f64::from(px) / cell).ceil() as u16).clamp(1, most);
        Fit { px, columns: cells(px[0], cell_width, columns), rows: cells(px[1], cell_height, rows) }
    }

    /// Two pixels for each character, one above the other.
    pub fn fit_blocks(self, [width, height]: [u32; 2]) -> Fit {
        let [columns, rows] = self.room();
        let most = (f64::from(columns) / f64::from(width)).min(2.0 * f64::from(rows) / f64::from(height));
        let px = scaled([width, height], most.min(1.0));
        Fit { px, columns: px[0] as u16, rows: px[1].div_ceil(2) as u16 }
    }
}

fn scaled(sides: [u32; 2], factor: f64) -> [u32; 2] {
    sides.map(|side| ((f64::from(side) * factor).round() as u32).max(1))
}

/// Columns, rows, and width and height in pixels of the window of standard output; the pixels may be 0.
#[cfg(unix)]
fn measure() -> Option<[u16; 4]> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some([size.ws_col, size.ws_row, size.ws_xpixel, size.ws_ypixel])
}

#[cfg(not(unix))]
fn measure() -> Option<[u16; 4]> {
    None
}
