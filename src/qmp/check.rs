//! A client's arguments against their description, strictly, with QEMU's sentences.

use serde_json::{Map, Value};

use super::error::QmpError;
use super::shape::{Object, Type};

/// Whether `arguments` are what `object` describes.
///
/// # Errors
/// The first member that is wrong, missing or unexpected.
pub(super) fn arguments(arguments: &Map<String, Value>, object: &Object) -> Result<(), QmpError> {
    members(arguments, object, "")
}

fn members(given: &Map<String, Value>, object: &Object, path: &str) -> Result<(), QmpError> {
    let full = |name: &str| match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    for member in object.members {
        match given.get(member.name) {
            Some(value) => check(value, member.ty, &full(member.name))?,
            None if member.optional => {}
            None => {
                let name = full(member.name);
                return Err(QmpError::generic(format!("Parameter '{name}' is missing")));
            }
        }
    }
    let known = |name: &str| object.members.iter().any(|member| member.name == name);
    match given.keys().find(|name| !object.open && !known(name)) {
        Some(name) => {
            let name = full(name);
            Err(QmpError::generic(format!(
                "Parameter '{name}' is unexpected"
            )))
        }
        None => Ok(()),
    }
}

fn check(value: &Value, ty: &Type, path: &str) -> Result<(), QmpError> {
    let wrong = |expected: &str| {
        Err(QmpError::generic(format!(
            "Invalid parameter type for '{path}', expected: {expected}"
        )))
    };
    match ty {
        Type::Any => Ok(()),
        Type::Str if !value.is_string() => wrong("string"),
        Type::Bool if !value.is_boolean() => wrong("boolean"),
        Type::Number if !value.is_number() => wrong("number"),
        Type::Str | Type::Bool | Type::Number => Ok(()),
        Type::Int(least, most) => match whole(value) {
            None => wrong("integer"),
            Some(n) if n < *least || n > *most => Err(QmpError::generic(format!(
                "Parameter '{path}' expects a number from {least} to {most}"
            ))),
            Some(_) => Ok(()),
        },
        Type::List(item) => {
            let Value::Array(items) = value else {
                return wrong("array");
            };
            let numbered = items.iter().enumerate();
            for (index, value) in numbered {
                check(value, item, &format!("{path}[{index}]"))?;
            }
            Ok(())
        }
        Type::Object(object) => match value {
            Value::Object(given) => members(given, object, path),
            _ => wrong("object"),
        },
        Type::Enum(words) => match value {
            Value::String(word) if words.values.contains(&word.as_str()) => Ok(()),
            Value::String(word) => Err(QmpError::generic(format!(
                "Parameter '{path}' does not accept value '{word}'"
            ))),
            _ => wrong("string"),
        },
    }
}

fn whole(value: &Value) -> Option<i128> {
    let signed = value.as_i64().map(i128::from);
    signed.or_else(|| value.as_u64().map(i128::from))
}
