//! Changes to the text of an XML document, by the places of its nodes: whatever is not changed stays
//! as it was typed, to the last blank and comment.
//!
//! It parses nothing itself and knows nothing of domains.

use std::ops::Range;

use roxmltree::{Document, Node, NodeId};

/// One replacement in the text.
#[derive(Debug)]
struct Edit {
    range: Range<usize>,
    new: String,
}

/// An element that is to be put into another.
#[derive(Debug)]
struct Insert {
    parent: NodeId,
    first: bool,
    xml: String,
}

/// The changes to one document, until [`Edits::finish`].
#[derive(Debug)]
pub struct Edits<'d, 'i> {
    doc: &'d Document<'i>,
    edits: Vec<Edit>,
    inserts: Vec<Insert>,
}

impl<'d, 'i> Edits<'d, 'i> {
    /// No changes yet.
    pub fn new(doc: &'d Document<'i>) -> Self {
        Self {
            doc,
            edits: Vec::new(),
            inserts: Vec::new(),
        }
    }

    fn text(&self) -> &'d str {
        self.doc.input_text()
    }

    fn replace(&mut self, range: Range<usize>, new: String) {
        self.edits.push(Edit { range, new });
    }

    /// Takes a node out, with its line if nothing else is on it.
    pub fn remove(&mut self, node: Node<'_, '_>) {
        let range = whole_lines(self.text(), node.range());
        self.replace(range, String::new());
    }

    /// Is this node, or one around it, taken out?
    pub fn is_removed(&self, node: Node<'_, '_>) -> bool {
        let inside = |edit: &Edit| edit.new.is_empty() && contains(&edit.range, &node.range());
        self.edits.iter().any(inside)
    }

    /// Gives an attribute this value; adds it if there is none.
    pub fn set_attribute(&mut self, node: Node<'_, '_>, name: &str, value: &str) {
        if let Some(attribute) = node.attribute_node(name) {
            self.replace(attribute.range_value(), escaped(value));
            return;
        }
        let last = node.attributes().next_back();
        let place = last.map_or_else(|| self.name_end(node), |last| last.range().end);
        self.replace(place..place, format!(" {name}='{}'", escaped(value)));
    }

    /// Takes an attribute out, if it is there.
    pub fn remove_attribute(&mut self, node: Node<'_, '_>, name: &str) {
        let Some(attribute) = node.attribute_node(name) else {
            return;
        };
        let range = attribute.range();
        let before = &self.text()[..range.start];
        let start = before.trim_end_matches(char::is_whitespace).len();
        self.replace(start..range.end, String::new());
    }

    /// Makes this the whole content of an element.
    pub fn set_text(&mut self, node: Node<'_, '_>, content: &str) {
        let content = escaped(content);
        match self.inner(node) {
            Some(inner) => self.replace(inner, content),
            None => self.fill(node, &content),
        }
    }

    /// Puts an element, written out, into another: before what is there, or after it.
    pub fn insert(&mut self, parent: Node<'_, '_>, first: bool, xml: String) {
        let parent = parent.id();
        self.inserts.push(Insert { parent, first, xml });
    }

    /// The text with all changes.
    pub fn finish(mut self) -> String {
        let mut inserts = std::mem::take(&mut self.inserts);
        inserts.sort_by_key(|insert| insert.parent.get());
        for insert in inserts.chunk_by(|a, b| a.parent == b.parent) {
            let parent = insert[0].parent;
            if let Some(node) = self.doc.get_node(parent) {
                self.insert_all(node, insert);
            }
        }
        let text = self.text();
        let mut edits = self.edits;
        // Of those at one place what comes in is before what goes, in the order in which it was made.
        edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
        let mut new = String::with_capacity(text.len());
        let mut done = 0;
        for edit in edits {
            // What is inside of something that went has gone with it.
            if edit.range.start >= done {
                new.push_str(&text[done..edit.range.start]);
                new.push_str(&edit.new);
                done = edit.range.end;
            }
        }
        new.push_str(&text[done..]);
        new
    }

    fn insert_all(&mut self, parent: Node<'_, '_>, inserts: &[Insert]) {
        let indent = self.indent(parent).to_owned();
        let inner_indent = match parent.first_element_child() {
            Some(child) => self.indent(child).to_owned(),
            None => format!("{indent}  "),
        };
        let line = |insert: &Insert| format!("{inner_indent}{}\n", insert.xml);
        if parent.first_element_child().is_none() {
            let lines: String = inserts.iter().map(line).collect();
            let content = format!("\n{lines}{indent}");
            match self.inner(parent) {
                Some(inner) => self.replace(inner, content),
                None => self.fill(parent, &content),
            }
            return;
        }
        let Some(inner) = self.inner(parent) else {
            return;
        };
        for insert in inserts {
            let place = if insert.first { inner.start } else { inner.end };
            let (place, own_line) = self.line_at(place, insert.first);
            let new = if own_line {
                line(insert)
            } else {
                insert.xml.clone()
            };
            self.replace(place..place, new);
        }
    }

    /// Where a line can be put in, at the start or the end of an element's content; the place as it is if
    /// there are no lines there.
    fn line_at(&self, place: usize, start: bool) -> (usize, bool) {
        let text = self.text();
        if start {
            let rest = text[place..].trim_start_matches([' ', '\t', '\r']);
            let next = text.len() - rest.len();
            return match rest.starts_with('\n') {
                true => (next + 1, true),
                false => (place, false),
            };
        }
        let before = text[..place].trim_end_matches([' ', '\t']);
        match before.ends_with('\n') {
            true => (before.len(), true),
            false => (place, false),
        }
    }

    /// Opens an element that is closed in its only tag.
    fn fill(&mut self, node: Node<'_, '_>, content: &str) {
        let end = node.range().end;
        let start = self.name_end(node);
        let name = self.text()[node.range().start + 1..start].to_owned();
        let before = &self.text()[..end - "/>".len()];
        let slash = before.trim_end().len();
        self.replace(slash..end, format!(">{content}</{name}>"));
    }

    /// The place after the name in an element's start tag.
    fn name_end(&self, node: Node<'_, '_>) -> usize {
        let range = node.range();
        let tag = &self.text()[range.clone()];
        let stops = |letter: char| letter.is_whitespace() || ['/', '>'].contains(&letter);
        range.start + tag.find(stops).unwrap_or(tag.len())
    }

    /// The place of an element's content; none if it is closed in its only tag.
    fn inner(&self, node: Node<'_, '_>) -> Option<Range<usize>> {
        let range = node.range();
        let mut quote = None;
        let open = self.text()[range.clone()].find(|letter| match (quote, letter) {
            (None, '"' | '\'') => {
                quote = Some(letter);
                false
            }
            (Some(open), _) if open == letter => {
                quote = None;
                false
            }
            (quote, '>') => quote.is_none(),
            _ => false,
        })?;
        let start = range.start + open + 1;
        if start == range.end {
            return None;
        }
        let end = self.text()[start..range.end].rfind("</")?;
        Some(start..start + end)
    }

    /// The blanks before an element on its line.
    fn indent(&self, node: Node<'_, '_>) -> &'d str {
        let before = &self.text()[..node.range().start];
        let line = before.rfind('\n').map_or(0, |end| end + 1);
        let blanks = before[line..].trim_end_matches([' ', '\t']).is_empty();
        if blanks { &before[line..] } else { "" }
    }
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The lines of this range, if nothing else is on them.
fn whole_lines(text: &str, range: Range<usize>) -> Range<usize> {
    let before = text[..range.start].trim_end_matches([' ', '\t']);
    let after = text[range.end..].trim_start_matches([' ', '\t', '\r']);
    match before.ends_with('\n') && after.starts_with('\n') {
        true => before.len()..text.len() - after.len() + 1,
        false => range,
    }
}

/// As it may stand in content and between quotes of either kind.
pub fn escaped(text: &str) -> String {
    let mut new = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => new.push_str("&amp;"),
            '<' => new.push_str("&lt;"),
            '>' => new.push_str("&gt;"),
            '\'' => new.push_str("&apos;"),
            '"' => new.push_str("&quot;"),
            other => new.push(other),
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, change: impl FnOnce(&mut Edits<'_, '_>, Node<'_, '_>)) -> String {
        let doc = Document::parse(text).expect("well-formed");
        let mut edits = Edits::new(&doc);
        change(&mut edits, doc.root_element());
        edits.finish()
    }

    fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Node<'a, 'i> {
        let mut children = node.children();
        children
            .find(|node| node.has_tag_name(name))
            .expect("a child")
    }

    #[test]
    fn nothing_is_touched_but_what_changes() {
        let text = "<?xml version='1.0'?>\n<!-- a -->\n<d  b = \"1\" >\n\n\t<x/><!-- y --><z>&lt;</z>\r\n</d >\n";
        assert_eq!(edited(text, |_, _| {}), text);
        let new = edited(text, |edits, root| edits.set_attribute(root, "b", "it's"));
        assert_eq!(new, text.replace("\"1\"", "\"it&apos;s\""));
    }

    #[test]
    fn elements_go_with_their_lines() {
        let text = "<d>\n  <a>\n    <b c='1'/>\n  </a>\n  <e/>\n</d>";
        let new = edited(text, |edits, root| {
            edits.set_attribute(child(child(root, "a"), "b"), "c", "2");
            edits.remove(child(root, "a"));
            assert!(edits.is_removed(child(child(root, "a"), "b")));
        });
        assert_eq!(new, "<d>\n  <e/>\n</d>");
        let new = edited("<d><a/><e/></d>", |edits, root| {
            edits.remove(child(root, "a"))
        });
        assert_eq!(new, "<d><e/></d>");
    }

    #[test]
    fn elements_come_in_on_lines() {
        let text = "<d>\n  <a/>\n</d>";
        let new = edited(text, |edits, root| {
            edits.insert(root, true, "<f/>".into());
            edits.insert(root, false, "<l/>".into());
            edits.insert(root, false, "<m/>".into());
            edits.remove(child(root, "a"));
        });
        assert_eq!(new, "<d>\n  <f/>\n  <l/>\n  <m/>\n</d>");
        let new = edited("<d><a/></d>", |edits, root| {
            edits.insert(root, false, "<l/>".into())
        });
        assert_eq!(new, "<d><a/><l/></d>");
    }

    #[test]
    fn empty_elements_are_opened() {
        for text in ["<d>\n  <o x='>'/>\n</d>", "<d>\n  <o x='>'></o>\n</d>"] {
            let new = edited(text, |edits, root| {
                edits.insert(child(root, "o"), false, "<k/>".into())
            });
            assert_eq!(new, "<d>\n  <o x='>'>\n    <k/>\n  </o>\n</d>");
            let new = edited(text, |edits, root| edits.set_text(child(root, "o"), "a<b"));
            assert_eq!(new, "<d>\n  <o x='>'>a&lt;b</o>\n</d>");
        }
    }

    #[test]
    fn attributes_come_and_go() {
        let new = edited("<d a='1'\n   b='2'/>", |edits, root| {
            edits.remove_attribute(root, "b");
            edits.remove_attribute(root, "none");
        });
        assert_eq!(new, "<d a='1'/>");
        let new = edited("<d/>", |edits, root| {
            edits.set_attribute(root, "a", "1");
            edits.set_attribute(root, "b", "2");
        });
        assert_eq!(new, "<d a='1' b='2'/>");
    }
}
