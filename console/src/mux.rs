//! The escape keys of a multiplexed end: QEMU's, with Ctrl-a as the default prefix.
//!
//! A pure state machine: bytes in, bytes and actions out. It also puts time stamps before lines of
//! output when the user asked for them.

use std::time::Duration;

/// The default escape key, Ctrl-a.
pub const ESCAPE: u8 = 0x01;

/// What one typed byte means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// A byte for the guest.
    Byte(u8),
    /// Nothing yet, or an escape sequence that means nothing.
    Nothing,
    /// `h` or `?`: show the keys.
    Help,
    /// `x`: end the domain at once.
    Quit,
    /// `s`: write the changes of temporary disks back to their images.
    Commit,
    /// `b`: send a break.
    Break,
    /// `c`: change between the console and the monitor.
    Monitor,
    /// `t`: time stamps were turned on or off.
    Timestamps(bool),
}

/// The state of one multiplexed end.
#[derive(Debug)]
pub struct Mux {
    escape: u8,
    escaped: bool,
    timestamps: bool,
    line_start: bool,
}

impl Mux {
    /// A state machine with this escape key ([`ESCAPE`] if nothing else was asked for).
    pub fn new(escape: u8) -> Self {
        Self {
            escape,
            escaped: false,
            timestamps: false,
            line_start: true,
        }
    }

    /// Whether lines of output get a time stamp.
    pub fn timestamps(&self) -> bool {
        self.timestamps
    }

    /// Takes one typed byte.
    pub fn typed(&mut self, byte: u8) -> Typed {
        if !std::mem::take(&mut self.escaped) {
            self.escaped = byte == self.escape;
            return if self.escaped {
                Typed::Nothing
            } else {
                Typed::Byte(byte)
            };
        }
        match byte {
            byte if byte == self.escape => Typed::Byte(byte),
            b'h' | b'?' => Typed::Help,
            b'x' => Typed::Quit,
            b's' => Typed::Commit,
            b'b' => Typed::Break,
            b'c' => Typed::Monitor,
            b't' => {
                self.timestamps = !self.timestamps;
                Typed::Timestamps(self.timestamps)
            }
            _ => Typed::Nothing,
        }
    }

    /// Copies `data` to `out` with `now`, the time since the domain's start, before each line.
    pub fn stamp(&mut self, data: &[u8], now: Duration, out: &mut Vec<u8>) {
        for &byte in data {
            if self.line_start {
                let (secs, millis) = (now.as_secs(), now.subsec_millis());
                let (hours, mins) = (secs / 3600, secs / 60 % 60);
                let stamp = format!("[{hours:02}:{mins:02}:{:02}.{millis:03}] ", secs % 60);
                out.extend(stamp.as_bytes());
            }
            self.line_start = byte == b'\n';
            out.push(byte);
        }
    }

    /// Follows output that goes out without time stamps, to know where lines begin.
    pub fn follow(&mut self, data: &[u8]) {
        if let Some(&last) = data.last() {
            self.line_start = last == b'\n';
        }
    }

    /// The text that shows the keys.
    pub fn help(&self) -> String {
        let key = key_name(self.escape);
        let keys = [
            ("h".to_owned(), "show these keys"),
            ("x".to_owned(), "end the domain at once"),
            (
                "s".to_owned(),
                "write temporary disks (snapshot=on) back to their images",
            ),
            ("t".to_owned(), "time stamps on or off"),
            ("b".to_owned(), "send a break (then a key: magic sysrq)"),
            ("c".to_owned(), "change between console and monitor"),
            (key.clone(), "send the escape key itself"),
        ];
        let lines = keys.map(|(second, what)| format!("{key} {second:<5} {what}\r\n"));
        format!("\r\n{}", lines.concat())
    }
}

/// A key as the help text names it: `C-a` for 1, `C-]` for 29.
pub fn key_name(key: u8) -> String {
    match key {
        0x01..=0x1a => format!("C-{}", char::from(key + 0x60)),
        0x00 | 0x1b..=0x1f => format!("C-{}", char::from(key + 0x40)),
        0x20..=0x7e => char::from(key).to_string(),
        _ => format!("{key:#04x}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn typed(mux: &mut Mux, keys: &[u8]) -> Vec<Typed> {
        let all = keys.iter().map(|&key| mux.typed(key));
        all.filter(|typed| *typed != Typed::Nothing).collect()
    }

    #[test]
    fn every_escape_key_has_its_meaning() {
        let mut mux = Mux::new(ESCAPE);
        let keys = b"a\x01h\x01?\x01x\x01s\x01b\x01c\x01t\x01t\x01\x01h\x01zx";
        use Typed::{Break, Byte, Commit, Help, Monitor, Quit, Timestamps};
        let expected = [
            Byte(b'a'),
            Help,
            Help,
            Quit,
            Commit,
            Break,
            Monitor,
            Timestamps(true),
            Timestamps(false),
            Byte(1),
            Byte(b'h'),
            Byte(b'x'),
        ];
        assert_eq!(typed(&mut mux, keys), expected);
    }

    #[test]
    fn another_escape_key_leaves_control_a_alone() {
        let mut mux = Mux::new(0x14);
        assert_eq!(
            typed(&mut mux, b"\x01x\x14x"),
            [Typed::Byte(1), Typed::Byte(b'x'), Typed::Quit]
        );
        assert!(mux.help().contains("C-t x"));
    }

    #[test]
    fn stamps_are_put_before_lines() {
        let mut mux = Mux::new(ESCAPE);
        let mut out = Vec::new();
        mux.stamp(b"a\r\n\nb", Duration::from_millis(3_723_045), &mut out);
        let stamp = "[01:02:03.045] ";
        let expected = format!("{stamp}a\r\n{stamp}\n{stamp}b");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        mux.follow(b"end\n");
        let mut out = Vec::new();
        mux.stamp(b"c", Duration::ZERO, &mut out);
        assert_eq!(out, b"[00:00:00.000] c");
    }

    #[test]
    fn keys_have_names() {
        let names = [
            (1, "C-a"),
            (0x1d, "C-]"),
            (0, "C-@"),
            (b'~', "~"),
            (0xff, "0xff"),
        ];
        for (key, name) in names {
            assert_eq!(key_name(key), name);
        }
    }

    proptest! {
        #[test]
        fn doubled_escape_keys_make_any_text_pass(text: Vec<u8>, escape: u8) {
            let mut mux = Mux::new(escape);
            let doubled: Vec<u8> = text
                .iter()
                .flat_map(|&byte| std::iter::repeat_n(byte, if byte == escape { 2 } else { 1 }))
                .collect();
            let expected: Vec<Typed> = text.iter().map(|&byte| Typed::Byte(byte)).collect();
            prop_assert_eq!(typed(&mut mux, &doubled), expected);
        }
    }
}
