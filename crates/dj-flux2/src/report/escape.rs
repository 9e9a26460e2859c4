//! Characters from files that could change how a line looks or drive the terminal.

/// `text` with such characters escaped, as in `\n` and `\u{202e}`.
pub fn shown(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        match is_unsafe(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
        line
    })
}

/// `json` with such characters as `\u` escapes. They occur only in strings, where an escape means the same.
pub fn json(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut line, c| {
        match is_unsafe(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| line.push_str(&format!("\\u{unit:04x}"))),
            false => line.push(c),
        }
        line
    })
}

/// Control characters, line separators, bidirectional controls, and what is invisible and changes no letter. The joiners
/// and variation selectors of emoji and of several scripts are left as they are.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_drive_the_terminal_or_turn_around() {
        assert_eq!(shown("Füchse\n\x1b[2J\u{9b}5m"), "Füchse\\n\\u{1b}[2J\\u{9b}5m");
        assert_eq!(shown("a\u{202e}gnp.exe\u{2066}\u{61c}\u{2028}"), "a\\u{202e}gnp.exe\\u{2066}\\u{61c}\\u{2028}");
        assert_eq!(shown("👩\u{200d}🚀 ❤\u{fe0f} नक्\u{200d}ष"), "👩\u{200d}🚀 ❤\u{fe0f} नक्\u{200d}ष");
    }

    #[test]
    fn json_means_the_same() {
        let value = serde_json::json!({"prompt": "\u{202e}\u{7f}\u{9b}\u{e0041} é\n"});
        let escaped = json(&value.to_string());
        assert_eq!(escaped, r#"{"prompt":"\u202e\u007f\u009b\udb40\udc41 é\n"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
