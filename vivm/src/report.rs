//! What is said about a conversion: on standard error, and at the top of the file that is edited.

use std::error::Error;
use std::fmt::Write;

use crate::convert::Conversion;

/// The first line of the comment, by which it is known again.
const MARK: &str = "<!-- xenner-vivm: this comment is taken out before the domain is defined.";

/// An error with its causes.
pub fn failure(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The changes and what has to be decided, in lines.
pub fn lines(conversion: &Conversion) -> String {
    let mut text = String::new();
    list(&mut text, "To be decided", &conversion.decisions);
    list(&mut text, "Changed", &conversion.changes);
    text
}

fn list<T: std::fmt::Display>(text: &mut String, title: &str, items: &[T]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}:");
    for item in items {
        let _ = writeln!(text, "  - {item}");
    }
}

/// The document with a comment at its top that says all this, and what was wrong the last time.
pub fn with_comment(xml: &str, report: &str, problem: Option<&str>) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "It is defined when you save it and leave the editor; empty it to give up."
    );
    if let Some(problem) = problem {
        let _ = writeln!(text, "\nNot defined so far:\n{}", problem.trim_end());
    }
    if !report.is_empty() {
        let _ = writeln!(text, "\n{}", report.trim_end());
    }
    // Two hyphens may not be in a comment.
    while text.contains("--") {
        text = text.replace("--", "- -");
    }
    let (declaration, rest) = xml.split_at(declaration(xml));
    format!("{declaration}{MARK}\n{text}-->\n{rest}")
}

/// The document without that comment.
pub fn without_comment(text: &str) -> String {
    let Some(start) = text.find(MARK) else {
        return text.to_owned();
    };
    let Some(length) = text[start..].find("-->") else {
        return text.to_owned();
    };
    let rest = &text[start + length + "-->".len()..];
    format!(
        "{}{}",
        &text[..start],
        rest.strip_prefix('\n').unwrap_or(rest)
    )
}

/// How long the XML declaration is with its line, before which nothing may stand.
fn declaration(xml: &str) -> usize {
    if !xml.starts_with("<?xml") {
        return 0;
    }
    let Some(end) = xml.find("?>") else { return 0 };
    let end = end + "?>".len();
    if xml[end..].starts_with('\n') {
        end + 1
    } else {
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_comes_and_goes() {
        for xml in [
            "<domain/>\n",
            "<?xml version='1.0'?>\n<domain/>",
            "<!-- a -->\n<domain/>",
        ] {
            let text = with_comment(xml, "Changed:\n  - a --kernel -->\n", Some("no --- end-"));
            assert!(text.contains("no - - - end-"), "{text}");
            assert!(roxmltree::Document::parse(&text).is_ok(), "{text}");
            assert_eq!(without_comment(&text), xml);
        }
        assert_eq!(without_comment("<domain/>"), "<domain/>");
    }
}
