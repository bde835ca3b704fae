//! QEMU's option values: `key=value,key=value`, or a JSON object.
//!
//! Syntax only: what the keys mean is the business of the option families,
//! which take the keys they know and then call [`KeyVals::finish`], so that a
//! key nobody asked for is an error with a suggestion.
//!
//! The rules, as QEMU's manual gives them:
//! - `,,` in a value stands for one comma;
//! - the first value may go without its key (the *implied* key);
//! - a key alone means `key=on`, and `nokey` alone means `key=off`;
//! - where the option allows it, a value that starts with `{` is a JSON object,
//!   whose nested objects and lists become dotted keys (`cache.direct`, `fds.0`).

use std::fmt;

use serde_json::Value as Json;
use thiserror::Error;

use super::error::Shown;
use super::suggest::nearest;

/// What is wrong with an option's value; the option's name goes in front.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyvalError {
    /// Nothing at all.
    #[error("The value is empty; -help shows what it can be")]
    Empty,
    /// `=value` or `,,` where a key belongs.
    #[error("A key is missing before {}; write key=value,key=value", Shown(.0))]
    EmptyKey(String),
    /// The same key twice, and the option takes one.
    #[error("Key '{0}' is given more than once; leave one")]
    Duplicate(String),
    /// Keys that each say all there is to say.
    #[error("Only one of {0} makes sense; leave one")]
    SeveralOf(&'static str),
    /// A key without a value that is no on/off key.
    #[error("Key '{0}' has no value; write {0}=VALUE")]
    NoValue(String),
    /// A key that must be there is not.
    #[error("Key '{0}' is missing; add {0}={1}")]
    Missing(&'static str, &'static str),
    /// A key that the option does not know.
    #[error("Unknown key {}; {}", Shown(.key), .hint)]
    Unknown {
        /// The key as given.
        key: String,
        /// What to write instead.
        hint: String,
    },
    /// A value of the wrong kind.
    #[error("{}={}: {expected}", .key, Shown(.value))]
    Invalid {
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What would do.
        expected: String,
    },
    /// Text that starts like JSON and is none.
    #[error("Not valid JSON at column {column}; quote keys and text with \"")]
    Json {
        /// Column of the first fault, from 1.
        column: usize,
    },
}

/// One value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// Text, or a JSON string or number.
    Text(String),
    /// A key alone.
    Bare,
    /// JSON `true` or `false`.
    Bool(bool),
    /// JSON `null`.
    Null,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    key: String,
    value: Value,
    taken: bool,
}

/// A parsed option value, from which the families take what they know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyVals {
    entries: Vec<Entry>,
    /// Every key asked for, for suggestions.
    asked: Vec<String>,
}

impl KeyVals {
    /// Splits `text`; `implied` is the key of a first value that has none.
    ///
    /// # Errors
    ///
    /// Says where a key is missing.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Self, KeyvalError> {
        if text.is_empty() {
            return Err(KeyvalError::Empty);
        }
        let mut parsed = Self::default();
        parsed.read_pairs(text, implied)?;
        Ok(parsed)
    }

    /// As [`Self::parse`], for the options whose value may be a JSON object.
    ///
    /// # Errors
    ///
    /// Says where a key is missing or where JSON breaks off.
    pub fn parse_or_json(text: &str, implied: Option<&str>) -> Result<Self, KeyvalError> {
        if !text.trim_start().starts_with('{') {
            return Self::parse(text, implied);
        }
        let mut parsed = Self::default();
        parsed.read_json(text)?;
        Ok(parsed)
    }

    /// Adds the keys of a later value of the same option (`-machine a -machine b=c`).
    pub fn append(&mut self, later: Self) {
        self.entries.extend(later.entries);
    }

    fn read_pairs(&mut self, text: &str, implied: Option<&str>) -> Result<(), KeyvalError> {
        let mut rest = text;
        let mut first = true;
        while !rest.is_empty() {
            let key_end = rest.find(['=', ',']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(key_end);
            let implied_here = implied.filter(|_| first && !after.starts_with('='));
            first = false;
            if let Some(key) = implied_here {
                let (value, remaining) = split_value(rest);
                self.push(key.to_owned(), Value::Text(value));
                rest = remaining;
                continue;
            }
            if key.is_empty() {
                return Err(KeyvalError::EmptyKey(rest.to_owned()));
            }
            match after.strip_prefix('=') {
                Some(after) => {
                    let (value, remaining) = split_value(after);
                    self.push(key.to_owned(), Value::Text(value));
                    rest = remaining;
                }
                None => {
                    self.push(key.to_owned(), Value::Bare);
                    rest = after.strip_prefix(',').unwrap_or(after);
                }
            }
        }
        Ok(())
    }

    fn read_json(&mut self, text: &str) -> Result<(), KeyvalError> {
        let json = serde_json::from_str(text).map_err(|error| KeyvalError::Json {
            column: error.column(),
        })?;
        self.flatten(String::new(), json);
        Ok(())
    }

    /// serde_json bounds the depth of what it reads, so this recursion ends.
    fn flatten(&mut self, key: String, json: Json) {
        let join = |part: &str| match key.as_str() {
            "" => part.to_owned(),
            prefix => format!("{prefix}.{part}"),
        };
        match json {
            Json::Object(members) => {
                for (name, member) in members {
                    self.flatten(join(&name), member);
                }
            }
            Json::Array(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.flatten(join(&index.to_string()), item);
                }
            }
            Json::String(text) => self.push(key, Value::Text(text)),
            Json::Number(number) => self.push(key, Value::Text(number.to_string())),
            Json::Bool(on) => self.push(key, Value::Bool(on)),
            Json::Null => self.push(key, Value::Null),
        }
    }

    fn push(&mut self, key: String, value: Value) {
        self.entries.push(Entry {
            key,
            value,
            taken: false,
        });
    }

    /// Takes the one value of `key`.
    fn take(&mut self, key: &str) -> Result<Option<Value>, KeyvalError> {
        self.note_asked(key);
        let mut found = None;
        for entry in self.entries.iter_mut().filter(|entry| entry.key == key) {
            entry.taken = true;
            if found.replace(entry.value.clone()).is_some() {
                return Err(KeyvalError::Duplicate(key.to_owned()));
            }
        }
        Ok(found.filter(|value| *value != Value::Null))
    }

    fn note_asked(&mut self, key: &str) {
        if !self.asked.iter().any(|known| known == key) {
            self.asked.push(key.to_owned());
        }
    }

    /// The text of `key`, if given.
    ///
    /// # Errors
    ///
    /// The key is given twice or without a value.
    pub fn take_text(&mut self, key: &str) -> Result<Option<String>, KeyvalError> {
        Ok(match self.take(key)? {
            None | Some(Value::Null) => None,
            Some(Value::Text(text)) => Some(text),
            Some(Value::Bool(on)) => Some(if on { "on" } else { "off" }.to_owned()),
            Some(Value::Bare) => return Err(KeyvalError::NoValue(key.to_owned())),
        })
    }

    /// All texts of a key that may be given more than once, in order: `key=a,key=b`, or in JSON a
    /// list of texts or of objects with the member `str`.
    ///
    /// # Errors
    ///
    /// One of them has no value.
    pub fn take_all(&mut self, key: &str) -> Result<Vec<String>, KeyvalError> {
        self.note_asked(key);
        let is_item = |name: &str| {
            let item = name
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('.'));
            let index = item.map(|item| item.strip_suffix(".str").unwrap_or(item));
            index.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let mut all = Vec::new();
        for entry in &mut self.entries {
            if entry.taken || !(entry.key == key || is_item(&entry.key)) {
                continue;
            }
            entry.taken = true;
            match &entry.value {
                Value::Text(text) => all.push(text.clone()),
                Value::Null => {}
                Value::Bare | Value::Bool(_) => return Err(KeyvalError::NoValue(key.to_owned())),
            }
        }
        Ok(all)
    }

    /// The text of a key that must be there; `example` goes into the error.
    ///
    /// # Errors
    ///
    /// As [`Self::take_text`], and when the key is absent or empty.
    pub fn need_text(
        &mut self,
        key: &'static str,
        example: &'static str,
    ) -> Result<String, KeyvalError> {
        self.take_text(key)?
            .filter(|text| !text.is_empty())
            .ok_or(KeyvalError::Missing(key, example))
    }

    /// `on`/`off` (also `yes`, `no`, `true`, `false`, the key alone, and
    /// `no` in front of the key alone).
    ///
    /// # Errors
    ///
    /// The key is given twice (in either form) or is neither on nor off.
    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>, KeyvalError> {
        let negated = format!("no{key}");
        let off = self
            .entries
            .iter_mut()
            .find(|entry| !entry.taken && entry.key == negated && entry.value == Value::Bare)
            .map(|entry| entry.taken = true)
            .is_some();
        let given = match self.take(key)? {
            None | Some(Value::Null) => None,
            Some(Value::Bare) => Some(true),
            Some(Value::Bool(on)) => Some(on),
            Some(Value::Text(text)) => Some(
                parse_bool(&text)
                    .ok_or_else(|| invalid(key, &text, "neither on nor off; write one of them"))?,
            ),
        };
        match (given, off) {
            (Some(_), true) => Err(KeyvalError::Duplicate(key.to_owned())),
            (None, true) => Ok(Some(false)),
            (given, false) => Ok(given),
        }
    }

    /// A whole number, decimal or `0x` hexadecimal.
    ///
    /// # Errors
    ///
    /// The key is given twice, or its value is no number that fits `T`.
    pub fn take_number<T: TryFrom<u64>>(&mut self, key: &str) -> Result<Option<T>, KeyvalError> {
        let Some(text) = self.take_text(key)? else {
            return Ok(None);
        };
        parse_number(&text)
            .and_then(|number| T::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| {
                invalid(
                    key,
                    &text,
                    "not a whole number in range; write digits alone",
                )
            })
    }

    /// A size in bytes; a number without a suffix counts units of `unit` bytes.
    ///
    /// # Errors
    ///
    /// The key is given twice, or its value is no size below 16 EiB.
    pub fn take_size(&mut self, key: &str, unit: u64) -> Result<Option<u64>, KeyvalError> {
        let Some(text) = self.take_text(key)? else {
            return Ok(None);
        };
        parse_size(&text, unit).map(Some).ok_or_else(|| {
            invalid(
                key,
                &text,
                "not a size; write a number with K, M, G or T, like 512M",
            )
        })
    }

    /// One word of a list, mapped to what it stands for.
    ///
    /// # Errors
    ///
    /// The key is given twice, or the word is not in the list.
    pub fn take_word<T: Copy>(
        &mut self,
        key: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, KeyvalError> {
        let Some(text) = self.take_text(key)? else {
            return Ok(None);
        };
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            invalid(
                key,
                &text,
                &format!("not known; write one of {}", known.join(", ")),
            )
        })
    }

    /// Takes keys that are understood and mean nothing here, whatever they say.
    pub fn accept(&mut self, keys: &[&str]) {
        for key in keys {
            self.note_asked(key);
            let negated = format!("no{key}");
            for entry in &mut self.entries {
                // `cache` accepts `cache.direct` too: JSON's nested objects.
                let nested = entry
                    .key
                    .strip_prefix(key)
                    .is_some_and(|rest| rest.starts_with('.'));
                let off = entry.key == negated && entry.value == Value::Bare;
                entry.taken |= entry.key == *key || nested || off;
            }
        }
    }

    /// Takes the keys of an object inside: `file.driver=...` is `driver=...` of the object `file`.
    pub fn take_object(&mut self, key: &str) -> Option<Self> {
        self.note_asked(key);
        let mut object = Self::default();
        for entry in self.entries.iter_mut().filter(|entry| !entry.taken) {
            let inner = entry.key.strip_prefix(key);
            if let Some(inner) = inner.and_then(|rest| rest.strip_prefix('.')) {
                object.push(inner.to_owned(), entry.value.clone());
                entry.taken = true;
            }
        }
        (!object.entries.is_empty()).then_some(object)
    }

    /// Whether the key is JSON's `null`, which takes it.
    pub fn take_null(&mut self, key: &str) -> bool {
        let mut entries = self.entries.iter_mut();
        let null = entries.find(|entry| entry.key == key && entry.value == Value::Null);
        null.map(|entry| entry.taken = true).is_some()
    }

    /// Takes everything that is left, as texts, in the order given.
    pub fn take_rest(&mut self) -> Vec<(String, String)> {
        let left = self.entries.iter_mut().filter(|entry| !entry.taken);
        left.map(|entry| {
            entry.taken = true;
            let text = match &entry.value {
                Value::Text(text) => text.clone(),
                Value::Bare | Value::Bool(true) => "on".to_owned(),
                Value::Bool(false) => "off".to_owned(),
                Value::Null => String::new(),
            };
            (entry.key.clone(), text)
        })
        .collect()
    }

    /// Ends the taking: a key that nobody took is unknown.
    ///
    /// # Errors
    ///
    /// Names the first such key and the nearest known one.
    pub fn finish(self) -> Result<(), KeyvalError> {
        let Some(entry) = self.entries.iter().find(|entry| !entry.taken) else {
            return Ok(());
        };
        let known = || self.asked.iter().map(String::as_str);
        let hint = match nearest(&entry.key, known()) {
            Some(near) => format!("did you mean '{near}'?"),
            None if self.asked.is_empty() => "it takes none".to_owned(),
            None if self.asked.len() <= LISTED_KEYS => {
                format!("known are {}", known().collect::<Vec<_>>().join(", "))
            }
            None => "-help shows those there are".to_owned(),
        };
        Err(KeyvalError::Unknown {
            key: entry.key.clone(),
            hint,
        })
    }
}

/// The most keys that an error message lists.
const LISTED_KEYS: usize = 12;

/// Writes the pairs back in QEMU's form, commas doubled.
impl fmt::Display for KeyVals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match &entry.value {
                Value::Text(text) => write!(f, "{}={}", entry.key, text.replace(',', ",,"))?,
                Value::Bare => f.write_str(&entry.key)?,
                Value::Bool(on) => {
                    write!(f, "{}={}", entry.key, if *on { "on" } else { "off" })?;
                }
                Value::Null => write!(f, "{}=", entry.key)?,
            }
        }
        Ok(())
    }
}

/// The value up to the first single comma, and what follows that comma.
fn split_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        value.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, rest),
        }
    }
    value.push_str(rest);
    (value, "")
}

fn invalid(key: &str, value: &str, expected: &str) -> KeyvalError {
    KeyvalError::Invalid {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

/// `on`, `yes`, `true` and `y`, and their opposites, as QEMU has them.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// A decimal or `0x` hexadecimal number; no sign, no blanks.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix alone would take a plus sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A size in bytes: digits, an optional fraction, and B, K, M, G, T, P or E.
pub(super) fn parse_size(text: &str, unit: u64) -> Option<u64> {
    if text.starts_with("0x") || text.starts_with("0X") {
        return parse_number(text)?.checked_mul(unit);
    }
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let unit = match suffix {
        "" => unit,
        "B" | "b" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "T" | "t" => 1 << 40,
        "P" | "p" => 1 << 50,
        "E" | "e" => 1 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = u128::from(parse_number(whole)?);
    let places = u32::try_from(fraction.len())
        .ok()
        .filter(|places| *places <= 18)?;
    let fraction = u128::from(parse_number(fraction)?);
    let unit = u128::from(unit);
    u64::try_from(whole * unit + fraction * unit / 10_u128.pow(places)).ok()
}
