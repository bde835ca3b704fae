//! The line editor of a human's monitor: echo, rubbing out, ending a line. No I/O.

/// A line in the making.
#[derive(Debug, Default)]
pub(super) struct Readline {
    line: Vec<u8>,
    /// The byte before was a carriage return, so a line feed belongs to it.
    returned: bool,
}

/// What is shown before each line.
pub(super) const PROMPT: &str = "(xenner) ";
/// The longest line, in bytes.
const MAX_LINE: usize = 4096;

/// What a typed byte led to: text to show, and a line if it is complete.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) echo: Vec<u8>,
    pub(super) line: Option<String>,
}

impl Readline {
    pub(super) fn typed(&mut self, byte: u8) -> Typed {
        let mut typed = Typed::default();
        let returned = std::mem::replace(&mut self.returned, byte == b'\r');
        match byte {
            b'\n' if returned => {}
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.line);
                typed.echo = b"\r\n".to_vec();
                typed.line = Some(String::from_utf8_lossy(&line).into_owned());
            }
            0x08 | 0x7f if self.rub_out() => typed.echo = b"\x08 \x08".to_vec(),
            // Ctrl-u: the whole line
            0x15 => {
                while self.rub_out() {
                    typed.echo.extend(b"\x08 \x08");
                }
            }
            0x20..=0x7e | 0x80.. if self.line.len() < MAX_LINE => {
                self.line.push(byte);
                typed.echo.push(byte);
            }
            _ => {}
        }
        typed
    }

    /// Removes the last character, which may be several bytes of UTF-8.
    fn rub_out(&mut self) -> bool {
        while let Some(byte) = self.line.pop() {
            if byte & 0xc0 != 0x80 {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_edited_and_echoed() {
        let mut readline = Readline::default();
        let (mut echo, mut lines) = (Vec::new(), Vec::new());
        for byte in "\x7fstoq\x7fp\r\nin\u{e9}\x08fo\x15quit\n\n".bytes() {
            let typed = readline.typed(byte);
            echo.extend(typed.echo);
            lines.extend(typed.line);
        }
        assert_eq!(lines, ["stop", "quit", ""]);
        let rub = "\x08 \x08";
        let expected = format!("stoq{rub}p\r\nin\u{e9}{rub}fo{rub}{rub}{rub}{rub}quit\r\n\r\n");
        assert_eq!(String::from_utf8(echo).unwrap(), expected);
    }
}
