//! JSON as QEMU takes it: a stream of bytes in, one value after the other out.
//!
//! The dialect is QEMU's (`docs/interop/qmp-spec`, `qobject/json-lexer.c` for the facts): strings may
//! stand in single quotes, keys may not repeat, values need no separator, and after a fault the
//! stream goes on at the next structural character. That is why no general JSON parser serves.
//! Nothing here knows commands.

mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use serde_json::Value;

use lexer::{Lexer, Token};

/// The most bytes of one value, white space not counted. (QEMU takes 64 MiB; the largest request
/// that a client has reason to send has some kilobytes.)
pub const MAX_BYTES: usize = 4 << 20;
/// The most tokens of one value.
pub const MAX_TOKENS: usize = 200_000;
/// The deepest nesting of arrays and objects, QEMU's.
pub const MAX_DEPTH: usize = 1024;

/// A fault in the stream; the sentence is QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A token or an arrangement of tokens that is not JSON.
    #[error("JSON parse error, {0}")]
    Syntax(String),
    /// Too long.
    #[error("JSON token size limit exceeded")]
    TooLong,
    /// Too many tokens.
    #[error("JSON token count limit exceeded")]
    TooMany,
    /// Nested too deep.
    #[error("JSON nesting depth limit exceeded")]
    TooDeep,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub struct Decoder {
    lexer: Lexer,
    tokens: Vec<Token>,
    bytes: usize,
    braces: isize,
    brackets: isize,
}

impl Decoder {
    /// Takes the next bytes of the stream; returns how many were used and the value or fault that
    /// they complete. Without one, all bytes were used.
    pub fn decode(&mut self, input: &[u8]) -> (usize, Option<Result<Value, JsonError>>) {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            let (consumed, step) = self.lexer.step(byte);
            at += usize::from(consumed);
            let done = match step {
                None if self.bytes + self.lexer.len() > MAX_BYTES => Some(Err(JsonError::TooLong)),
                None => None,
                Some(Ok(token)) => self.take(token),
                Some(Err(fault)) => Some(Err(JsonError::Syntax(fault))),
            };
            if let Some(Err(fault)) = &done {
                if !matches!(fault, JsonError::Syntax(_)) {
                    self.lexer.recover();
                }
                self.reset();
            }
            if done.is_some() {
                return (at, done);
            }
        }
        (at, None)
    }

    /// Whether a value has begun and not ended.
    pub fn is_amid(&self) -> bool {
        !self.tokens.is_empty() || self.lexer.len() > 0
    }

    fn reset(&mut self) {
        self.tokens.clear();
        self.tokens.shrink_to(64);
        (self.bytes, self.braces, self.brackets) = (0, 0, 0);
    }

    /// Adds a token; the value if it is complete.
    fn take(&mut self, token: Token) -> Option<Result<Value, JsonError>> {
        match token {
            Token::Mark(b'{') => self.braces += 1,
            Token::Mark(b'}') => self.braces -= 1,
            Token::Mark(b'[') => self.brackets += 1,
            Token::Mark(b']') => self.brackets -= 1,
            _ => {}
        }
        self.bytes += token.len();
        self.tokens.push(token);
        let open = self.braces + self.brackets;
        if self.braces < 0 || self.brackets < 0 || open == 0 {
            let value = parser::parse(std::mem::take(&mut self.tokens)).map_err(JsonError::Syntax);
            self.reset();
            return Some(value);
        }
        if self.tokens.len() > MAX_TOKENS {
            return Some(Err(JsonError::TooMany));
        }
        (open > MAX_DEPTH as isize).then_some(Err(JsonError::TooDeep))
    }
}
