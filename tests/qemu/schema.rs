//! QEMU's own description of its monitor (`query-qmp-schema`), as a judge of answers.

use std::collections::HashMap;

use serde_json::Value;

/// The types and commands of a schema, by name.
pub struct Schema(HashMap<String, Value>);

impl Schema {
    /// From the answer to `query-qmp-schema`.
    pub fn new(answer: &Value) -> Schema {
        let entities = answer["return"].as_array().into_iter().flatten();
        let named = |entity: &Value| Some((entity["name"].as_str()?.to_owned(), entity.clone()));
        Schema(entities.filter_map(named).collect())
    }

    /// What of `answer` is not as this command's answer has to be.
    pub fn faults(&self, command: &str, answer: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        match self.0.get(command) {
            Some(entity) => self.check(&entity["ret-type"], answer, "", &mut faults),
            None => faults.push(format!("{command} is not in the schema")),
        }
        faults
    }

    fn check(&self, name: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let Some(kind) = name.as_str().and_then(|name| self.0.get(name)) else {
            faults.push(format!("{at}: the type {name} is not in the schema"));
            return;
        };
        match kind["meta-type"].as_str() {
            Some("builtin") => self.builtin(kind, value, at, faults),
            Some("enum") => {
                let known = kind["values"].as_array();
                if !known.is_some_and(|known| known.contains(value)) {
                    faults.push(format!("{at}: {value} is not one of the values"));
                }
            }
            Some("array") => match value.as_array() {
                None => faults.push(format!("{at}: {value} is no list")),
                Some(items) => {
                    let at = format!("{at}[]");
                    for item in items {
                        self.check(&kind["element-type"], item, &at, faults);
                    }
                }
            },
            Some("object") => self.object(kind, value, at, faults),
            Some("alternate") => {
                let fits = |member: &Value| {
                    let mut faults = Vec::new();
                    self.check(&member["type"], value, at, &mut faults);
                    faults.is_empty()
                };
                if !kind["members"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(fits))
                {
                    faults.push(format!("{at}: {value} is none of the alternatives"));
                }
            }
            other => faults.push(format!("{at}: a type of the kind {other:?}")),
        }
    }

    fn builtin(&self, kind: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let right = match kind["json-type"].as_str() {
            Some("string") => value.is_string(),
            Some("int") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("null") => value.is_null(),
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            // any value
            _ => true,
        };
        if !right {
            faults.push(format!("{at}: {value} is no {}", kind["json-type"]));
        }
    }

    fn object(&self, kind: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let Some(map) = value.as_object() else {
            faults.push(format!("{at}: {value} is no object"));
            return;
        };
        let members = self.members(kind, value);
        for member in &members {
            let name = member["name"].as_str().unwrap_or_default();
            let at = format!("{at}.{name}");
            match map.get(name) {
                Some(value) => self.check(&member["type"], value, &at, faults),
                // what is optional has a default, be it null
                None if member.get("default").is_some() => {}
                None => faults.push(format!("{at} is missing")),
            }
        }
        for key in map.keys() {
            if !members.iter().any(|member| member["name"] == **key) {
                faults.push(format!("{at}.{key} is not in the schema"));
            }
        }
    }

    /// An object's members, those of its variant included.
    fn members<'a>(&'a self, kind: &'a Value, value: &Value) -> Vec<&'a Value> {
        let mut all: Vec<_> = kind["members"].as_array().into_iter().flatten().collect();
        let case = kind["tag"].as_str().map(|tag| &value[tag]);
        let variants = kind["variants"].as_array().into_iter().flatten();
        for variant in variants.filter(|variant| Some(&variant["case"]) == case) {
            let more = variant["type"].as_str().and_then(|name| self.0.get(name));
            all.extend(more.into_iter().flat_map(|kind| self.members(kind, value)));
        }
        all
    }
}
