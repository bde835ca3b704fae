//! The answer to `query-qmp-schema`, made from the descriptions of the commands and events that
//! there are.
//!
//! The form is QEMU's `qapi/introspect.json`: entries that refer to each other by names without a
//! meaning. Of a union's cases only those members
//! are told that clients ask about.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::events::EVENTS;
use super::shape::{Arguments, Case, Empty, Enum, Object, Type};
use super::table::Command;

/// The schema of these commands.
pub(super) fn schema<'a>(commands: impl Iterator<Item = &'a Command>) -> Vec<Value> {
    let mut writer = Writer::default();
    for command in commands {
        let arguments = writer.object(command.arguments);
        let answer = writer.name(command.answer);
        let mut entry = json!({
            "meta-type": "command",
            "name": command.name,
            "arg-type": arguments,
            "ret-type": answer,
        });
        if !command.features.is_empty() {
            entry["features"] = json!(command.features);
        }
        writer.entries.push(entry);
    }
    for event in EVENTS {
        let data = writer.object(event.data);
        writer.entries.push(json!({
            "meta-type": "event",
            "name": event.name,
            "arg-type": data,
        }));
    }
    writer.entries
}

#[derive(Default)]
struct Writer {
    entries: Vec<Value>,
    /// Names of what has been written, by the Rust type's name.
    names: BTreeMap<String, String>,
}

impl Writer {
    fn name(&mut self, ty: &Type) -> String {
        match ty {
            Type::Str => self.builtin("str", "string"),
            Type::Int(..) => self.builtin("int", "int"),
            Type::Number => self.builtin("number", "number"),
            Type::Bool => self.builtin("bool", "boolean"),
            Type::Any => self.builtin("any", "value"),
            Type::List(item) => self.list(item),
            Type::Object(object) => self.object(object),
            Type::Enum(words) => self.words(words),
        }
    }

    /// The name of `key`, and whether it is new and has to be written.
    fn number(&mut self, key: &str) -> (String, bool) {
        if let Some(name) = self.names.get(key) {
            return (name.clone(), false);
        }
        let name = self.names.len().to_string();
        self.names.insert(key.to_owned(), name.clone());
        (name, true)
    }

    fn builtin(&mut self, name: &str, json_type: &str) -> String {
        if self.names.insert(name.into(), name.into()).is_none() {
            self.entries
                .push(json!({"meta-type": "builtin", "name": name, "json-type": json_type}));
        }
        name.to_owned()
    }

    fn list(&mut self, item: &Type) -> String {
        let item = self.name(item);
        let name = format!("[{item}]");
        if self.names.insert(name.clone(), name.clone()).is_none() {
            self.entries
                .push(json!({"meta-type": "array", "name": name, "element-type": item}));
        }
        name
    }

    fn words(&mut self, words: &Enum) -> String {
        let (name, new) = self.number(words.name);
        if new {
            let members: Vec<_> = words.values.iter().map(|w| json!({"name": w})).collect();
            self.entries.push(json!({
                "meta-type": "enum",
                "name": name,
                "values": words.values,
                "members": members,
            }));
        }
        name
    }

    fn object(&mut self, object: &Object) -> String {
        let (name, new) = self.number(object.name);
        if !new {
            return name;
        }
        let members: Vec<_> = object
            .members
            .iter()
            .map(|member| {
                let mut entry = json!({"name": member.name, "type": self.name(member.ty)});
                if member.optional {
                    entry["default"] = Value::Null;
                }
                entry
            })
            .collect();
        let mut entry = json!({"meta-type": "object", "name": name, "members": members});
        if let Some((tag, words, cases)) = union(object) {
            let mut case = |word: &&str| {
                let known = cases.iter().find(|case| case.word == *word);
                let members = known.map_or(<Empty as Arguments>::OBJECT, |case| case.members);
                json!({"case": word, "type": self.object(members)})
            };
            entry["tag"] = tag.into();
            entry["variants"] = words.values.iter().map(&mut case).collect();
        }
        self.entries.push(entry);
        name
    }
}

/// The name of a union's member that tells the cases, its words, and what is known of them.
fn union(object: &Object) -> Option<(&'static str, &'static Enum, &'static [Case])> {
    let cases = object.union?;
    object.members.iter().find_map(|member| match member.ty {
        Type::Enum(words) => Some((member.name, *words, cases)),
        _ => None,
    })
}
