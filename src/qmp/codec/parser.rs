//! Tokens to a value.

use serde_json::{Map, Number, Value};

use super::lexer::Token;

/// The value that these tokens are; a description of the fault if they are none.
pub(super) fn parse(tokens: Vec<Token>) -> Result<Value, String> {
    let mut parser = Parser {
        tokens: tokens.into_iter(),
    };
    let first = parser.next()?;
    parser.value(first)
}

struct Parser {
    tokens: std::vec::IntoIter<Token>,
}

impl Parser {
    fn next(&mut self) -> Result<Token, String> {
        self.tokens.next().ok_or_else(|| "premature EOI".to_owned())
    }

    /// The depth is bounded by the decoder.
    fn value(&mut self, first: Token) -> Result<Value, String> {
        match first {
            Token::Mark(b'{') => self.object(),
            Token::Mark(b'[') => self.array(),
            Token::Mark(_) => Err("expecting value".to_owned()),
            Token::Word(word) => match word.as_str() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                "null" => Ok(Value::Null),
                _ => Err(format!("invalid keyword '{word}'")),
            },
            Token::Number(text) => number(&text),
            Token::Text(raw) => Ok(Value::String(text(&raw)?)),
        }
    }

    fn object(&mut self) -> Result<Value, String> {
        let mut members = Map::new();
        let mut token = self.next()?;
        if token == Token::Mark(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            let Value::String(key) = self.value(token)? else {
                return Err("key is not a string in object".to_owned());
            };
            if self.next()? != Token::Mark(b':') {
                return Err("missing : in object pair".to_owned());
            }
            let first = self.next()?;
            let value = self.value(first)?;
            if members.insert(key, value).is_some() {
                return Err("duplicate key".to_owned());
            }
            match self.next()? {
                Token::Mark(b'}') => return Ok(Value::Object(members)),
                Token::Mark(b',') => token = self.next()?,
                _ => return Err("expected separator in dict".to_owned()),
            }
        }
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        let mut token = self.next()?;
        if token == Token::Mark(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(token)?);
            match self.next()? {
                Token::Mark(b']') => return Ok(Value::Array(items)),
                Token::Mark(b',') => token = self.next()?,
                _ => return Err("expected separator in list".to_owned()),
            }
        }
    }
}

/// Integers that fit 64 bits stay integers, the rest become floating point.
fn number(text: &str) -> Result<Value, String> {
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number.into());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Ok(number.into());
    }
    let number = text.parse::<f64>().ok().and_then(Number::from_f64);
    number
        .map(Value::Number)
        .ok_or_else(|| format!("number '{text}' is out of range"))
}

/// Resolves a string's escapes.
fn text(raw: &[u8]) -> Result<String, String> {
    let raw = str::from_utf8(raw).map_err(|_| "invalid UTF-8 sequence in string".to_owned())?;
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match rest.next() {
            Some(c @ ('"' | '\'' | '\\' | '/')) => c,
            Some('b') => '\x08',
            Some('f') => '\x0c',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => unicode(&mut rest)?,
            _ => return Err("invalid escape sequence in string".to_owned()),
        });
    }
    Ok(out)
}

/// The character behind `\u`, of one unit or a surrogate pair.
fn unicode(rest: &mut std::str::Chars<'_>) -> Result<char, String> {
    let first = unit(rest)?;
    let mut code = u32::from(first);
    if (0xd800..0xdc00).contains(&first) {
        let mut behind = rest.clone();
        if (behind.next(), behind.next()) == (Some('\\'), Some('u'))
            && let Ok(second @ 0xdc00..=0xdfff) = unit(&mut behind)
        {
            code = 0x1_0000 + ((code - 0xd800) << 10) + (u32::from(second) - 0xdc00);
            *rest = behind;
        }
    }
    char::from_u32(code).ok_or_else(|| format!("\\u{first:04x} is not a valid Unicode character"))
}

fn unit(rest: &mut std::str::Chars<'_>) -> Result<u16, String> {
    let mut code = 0;
    for _ in 0..4 {
        let digit = rest.next().and_then(|c| c.to_digit(16));
        code = code << 4 | digit.ok_or("invalid hex escape in string")?;
    }
    // four digits
    Ok(code as u16)
}
