//! Text: how wide it is, where it is cut or wrapped, and its pixels.
//!
//! The font is DejaVu Sans with its Latin, Greek and Cyrillic characters. Any other character is a box.

use std::sync::OnceLock;

use ab_glyph::{Font as _, FontRef, GlyphId, PxScale, ScaleFont as _, point};

use super::canvas::Canvas;

/// Most characters of a text that are looked at.
const MAX_CHARS: usize = 4096;
/// Width of the box for a character that the font does not have, in heights of the text.
const BOX: f32 = 0.6;
/// What stands for the rest of a text that is cut.
const CUT: char = '…';

fn font() -> &'static FontRef<'static> {
    static FONT: OnceLock<FontRef<'static>> = OnceLock::new();
    let bytes = include_bytes!("../../assets/font/DejaVuSans.ttf");
    FONT.get_or_init(|| FontRef::try_from_slice(bytes).expect("the built-in font is a font"))
}

/// The glyph of a character, or `None` if it becomes a box.
fn glyph_of(c: char) -> Option<GlyphId> {
    Some(font().glyph_id(c)).filter(|id| id.0 != 0)
}

/// The characters of a text that are drawn: line breaks and other control characters are spaces.
fn drawn(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c })
}

fn advance(c: char, height: u32) -> f32 {
    match glyph_of(c) {
        Some(id) => font().as_scaled(PxScale::from(height as f32)).h_advance(id),
        None => BOX * height as f32,
    }
}

/// Width of a text of `height` pixels, in pixels.
pub(super) fn width(text: &str, height: u32) -> u32 {
    drawn(text).map(|c| advance(c, height)).sum::<f32>().ceil() as u32
}

/// The text on one line of at most `most` pixels, cut with an ellipsis if it is longer.
pub(super) fn fit(text: &str, height: u32, most: u32) -> String {
    if width(text, height) <= most && text.chars().nth(MAX_CHARS).is_none() {
        return drawn(text).collect();
    }
    let mut left = most as f32 - advance(CUT, height);
    let mut fitted: String = drawn(text)
        .take_while(|&c| {
            left -= advance(c, height);
            left >= 0.0
        })
        .collect();
    fitted.truncate(fitted.trim_end().len());
    fitted.push(CUT);
    fitted
}

/// The text on at most `lines` lines of at most `most` pixels, broken at spaces where there are some.
pub(super) fn wrap(text: &str, height: u32, most: u32, lines: usize) -> Vec<String> {
    let text: String = drawn(text).collect();
    let mut wrapped = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() && wrapped.len() < lines {
        let mut used = 0.0;
        let over = rest.char_indices().find(|&(_, c)| {
            used += advance(c, height);
            used > most as f32
        });
        let end = match over {
            None => rest.len(),
            Some(_) if wrapped.len() + 1 == lines => {
                wrapped.push(fit(rest, height, most));
                break;
            }
            Some((at, _)) => {
                let at = at.max(rest.chars().next().map_or(0, char::len_utf8));
                // The space itself needs no room.
                let spaces = rest[at..].starts_with(' ').then_some(at);
                spaces.or_else(|| rest[..at].rfind(' ').filter(|space| *space > 0)).unwrap_or(at)
            }
        };
        wrapped.push(rest[..end].trim_end().to_owned());
        rest = rest[end..].trim_start();
    }
    wrapped
}

/// Draws a text on one line whose upper left corner is at `x`, `y`.
pub(super) fn draw(canvas: &mut Canvas, text: &str, [x, y]: [u32; 2], height: u32, color: [u8; 3]) {
    let scale = PxScale::from(height as f32);
    let baseline = y as f32 + font().as_scaled(scale).ascent();
    let mut at = x as f32;
    for c in drawn(text) {
        match glyph_of(c) {
            Some(id) => {
                let glyph = id.with_scale_and_position(scale, point(at, baseline));
                if let Some(outline) = font().outline_glyph(glyph) {
                    let corner = outline.px_bounds().min;
                    let (left, top) = (corner.x as i64, corner.y as i64);
                    outline.draw(|x, y, coverage| {
                        canvas.blend(left + i64::from(x), top + i64::from(y), color, coverage);
                    });
                }
            }
            None => draw_box(canvas, [at as u32, y], height, color),
        }
        at += advance(c, height);
    }
}

/// The outline of a box, one pixel wide.
fn draw_box(canvas: &mut Canvas, [x, y]: [u32; 2], height: u32, color: [u8; 3]) {
    let (width, top, tall) = ((BOX * height as f32) as u32 - 2, y + height / 6, height * 2 / 3);
    canvas.fill([x + 1, top], [width, 1], color);
    canvas.fill([x + 1, top + tall - 1], [width, 1], color);
    canvas.fill([x + 1, top], [1, tall], color);
    canvas.fill([x + width, top], [1, tall], color);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_where_the_line_ends() {
        let all = "a red fox in the snow";
        assert_eq!(fit(all, 16, 1000), all);
        for most in [40, 80, 120] {
            let cut = fit(all, 16, most);
            assert!(cut.ends_with('…') && width(&cut, 16) <= most, "{cut:?} at {most}");
            assert!(all.starts_with(cut.trim_end_matches('…')));
        }
        assert_eq!(fit("a\nb\u{7}c", 16, 1000), "a b c");
    }

    #[test]
    fn lines_are_broken_at_spaces_and_the_last_one_is_cut() {
        let lines = wrap("a red fox in the deep white snow of a long winter", 16, 90, 3);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines.iter().all(|line| width(line, 16) <= 90), "{lines:?}");
        assert!(lines[0] == "a red fox" || lines[0].starts_with("a red fox "), "{lines:?}");
        assert!(lines[2].ends_with('…'));
        assert_eq!(wrap("fox", 16, 90, 3), ["fox"]);
        assert!(wrap("", 16, 90, 3).is_empty());
        // A word that is wider than a line, and a line that is narrower than a character.
        assert!(wrap(&"m".repeat(50), 16, 90, 9).len() > 4);
        assert_eq!(wrap("mm", 16, 1, 9), ["m", "m"]);
    }

    #[test]
    fn letters_of_the_font_are_drawn_and_others_are_boxes() {
        for c in "AzÄßéłőşžĐΩжЯ–—…€×→≤".chars() {
            assert!(glyph_of(c).is_some(), "{c}");
        }
        for c in ['狐', '🦊', '\u{202e}'] {
            assert!(glyph_of(c).is_none(), "{c}");
            assert_eq!(width(&c.to_string(), 20), 12);
        }
        let ink = |text: &str| {
            let mut canvas = Canvas::new(60, 24, [255; 3]).unwrap();
            draw(&mut canvas, text, [2, 2], 20, [0; 3]);
            canvas.finish().unwrap().pixels().iter().filter(|&&byte| byte < 128).count()
        };
        assert_eq!(ink("   "), 0);
        assert!(ink("W") > 60 && ink("狐") > 60, "{} {}", ink("W"), ink("狐"));
        // What lies outside is left out.
        let mut canvas = Canvas::new(4, 4, [255; 3]).unwrap();
        draw(&mut canvas, "a long text 狐", [2, 2], 20, [0; 3]);
    }
}
