//! Bytes to tokens, one byte at a time.

/// A token of the dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// One of `{}[]:,`.
    Mark(u8),
    /// Lower-case letters: a keyword if it is one.
    Word(String),
    /// A number as written.
    Number(String),
    /// A string as written, without its quotes.
    Text(Vec<u8>),
}

impl Token {
    /// Bytes that it stands for, about.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Mark(_) => 1,
            Self::Word(text) | Self::Number(text) => text.len(),
            Self::Text(text) => text.len() + 2,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Word,
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Text(u8),
    Escape(u8),
    /// After a fault: up to a structural character.
    Recovery,
}

/// What a byte completes: a token, or a fault with its description.
pub(super) type Step = Option<Result<Token, String>>;

/// The state between two bytes.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    seen: Vec<u8>,
}

impl Lexer {
    /// Bytes of the token that has begun.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Forgets the token that has begun and skips to where another can begin.
    pub(super) fn recover(&mut self) {
        self.seen = Vec::new();
        self.state = State::Recovery;
    }

    /// Takes one byte; says whether it was used up (if not, it comes again) and what it completes.
    pub(super) fn step(&mut self, byte: u8) -> (bool, Step) {
        match self.state {
            State::Start => self.begin(byte),
            State::Recovery => {
                if byte < 0x20 || is_mark(byte) {
                    self.state = State::Start;
                    return (false, None);
                }
                (true, None)
            }
            State::Text(quote) => self.in_text(quote, byte),
            State::Escape(quote) => match byte {
                0x20..=0xfd => self.go_on(State::Text(quote), byte),
                _ => self.stray(byte),
            },
            State::Word if byte.is_ascii_lowercase() => self.go_on(State::Word, byte),
            State::Word => (false, self.end(Token::Word)),
            _ => self.in_number(byte),
        }
    }

    fn begin(&mut self, byte: u8) -> (bool, Step) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => (true, None),
            b'"' | b'\'' => {
                // the quote is kept for the message about a stray token
                self.go_on(State::Text(byte), byte)
            }
            b'-' => self.go_on(State::Minus, byte),
            b'0' => self.go_on(State::Zero, byte),
            b'1'..=b'9' => self.go_on(State::Digits, byte),
            b'a'..=b'z' => self.go_on(State::Word, byte),
            _ if is_mark(byte) => (true, Some(Ok(Token::Mark(byte)))),
            _ => self.stray(byte),
        }
    }

    fn in_text(&mut self, quote: u8, byte: u8) -> (bool, Step) {
        match byte {
            _ if byte == quote => {
                self.state = State::Start;
                let mut text = std::mem::take(&mut self.seen);
                text.remove(0);
                (true, Some(Ok(Token::Text(text))))
            }
            b'\\' => self.go_on(State::Escape(quote), byte),
            0x20..=0xfd => self.go_on(self.state, byte),
            _ => self.stray(byte),
        }
    }

    fn in_number(&mut self, byte: u8) -> (bool, Step) {
        use State::{Digits, Exponent, ExponentDigits, ExponentSign, Fraction, Minus, Point, Zero};
        let next = match (self.state, byte) {
            (Minus, b'0') => Zero,
            (Minus | Digits, b'0'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Zero, b'0'..=b'9') | (Minus | Point | Exponent | ExponentSign, _) => {
                return self.stray(byte);
            }
            _ => return (false, self.end(Token::Number)),
        };
        self.go_on(next, byte)
    }

    fn go_on(&mut self, state: State, byte: u8) -> (bool, Step) {
        self.state = state;
        self.seen.push(byte);
        (true, None)
    }

    fn end(&mut self, token: fn(String) -> Token) -> Step {
        self.state = State::Start;
        let seen = std::mem::take(&mut self.seen);
        // words and numbers are ASCII
        Some(Ok(token(String::from_utf8_lossy(&seen).into_owned())))
    }

    fn stray(&mut self, byte: u8) -> (bool, Step) {
        /// Bytes of a token that a message shows.
        const SHOWN: usize = 100;
        self.seen.push(byte);
        let shown = &self.seen[..self.seen.len().min(SHOWN)];
        let fault = format!("stray '{}'", String::from_utf8_lossy(shown));
        self.recover();
        (true, Some(Err(fault)))
    }
}

fn is_mark(byte: u8) -> bool {
    b"{}[]:,".contains(&byte)
}
