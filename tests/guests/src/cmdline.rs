//! The kernel's command line: `key=value` words apart by blanks.

/// Value of the last word `key=value`, or `None`.
#[must_use]
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .filter_map(|w| w.split_once('='))
        .filter(|(k, _)| *k == key)
        .map(|(_, v)| v)
        .next_back()
}

/// Whether the word stands on the line by itself.
#[must_use]
pub fn has(line: &str, word: &str) -> bool {
    line.split_ascii_whitespace().any(|w| w == word)
}

/// Value of `key=number`, or `default` if it is not there or not a number.
#[must_use]
pub fn number(line: &str, key: &str, default: u64) -> u64 {
    value(line, key)
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Whether a test is chosen by `pattern`: names apart by commas, a `*` at the
/// end matches every rest, `-` before a name leaves it out.
#[must_use]
pub fn chosen(pattern: &str, name: &str) -> bool {
    let mut yes = false;
    for p in pattern.split(',') {
        let (out, p) = p.strip_prefix('-').map_or((false, p), |p| (true, p));
        let hit = match p.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == p || p == "all",
        };
        if hit {
            yes = !out;
        }
    }
    yes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_values() {
        let l = "root=/dev/xvda test=boot  n=12 list";
        assert_eq!(value(l, "test"), Some("boot"));
        assert_eq!(value(l, "tes"), None);
        assert!(has(l, "list"));
        assert!(!has(l, "n"));
        assert_eq!(number(l, "n", 3), 12);
        assert_eq!(number(l, "m", 3), 3);
    }

    #[test]
    fn patterns() {
        assert!(chosen("all", "boot"));
        assert!(chosen("trap-*,boot", "trap-bp"));
        assert!(!chosen("trap-*", "boot"));
        assert!(!chosen("all,-boot", "boot"));
    }
}
