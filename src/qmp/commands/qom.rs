//! QEMU's object tree, as far as clients walk it: the machine, its devices, its vcpus.

use serde_json::{Value, json};

use super::Context;
use crate::config::Machine;
use crate::qmp::control::{Answer, Control, DeviceInfo, VCPU_TYPE};
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::shape::{Empty, qmp_struct};
use crate::qmp::table::Table;
use crate::qmp::types::{self, TYPES};

pub(super) fn register(table: &mut Table) {
    table.add("qom-list-types", list_types);
    table.add("qom-list-properties", list_class_properties);
    table.add("device-list-properties", list_device_properties);
    table.add("qom-list", list);
    table.add("qom-get", get);
    table.add("qom-set", set);
}

qmp_struct! {
    /// `qom-list-types`.
    TypeFilter {
        /// Only what is made from this.
        implements: Option<String>,
        /// With types of which there are no objects.
        r#abstract as "abstract": Option<bool>,
    }
}

qmp_struct! {
    /// A type.
    TypeInfo {
        /// Its name.
        name: String,
        /// What it is made from.
        parent: Option<String>,
    }
}

fn list_types(_: &mut Context<'_>, filter: TypeFilter) -> Answer<Vec<TypeInfo>> {
    let wanted = |ty: &&types::ObjectType| {
        let implements = filter.implements.as_deref();
        ty.listed && implements.is_none_or(|parent| [ty.name, ty.parent].contains(&parent))
    };
    let info = |ty: &types::ObjectType| TypeInfo {
        name: ty.name.to_owned(),
        parent: Some(ty.parent.to_owned()),
    };
    Ok(TYPES.iter().filter(wanted).map(info).collect())
}

qmp_struct! {
    /// `qom-list-properties`, `device-list-properties`.
    TypeName {
        /// The type.
        typename: String,
    }
}

qmp_struct! {
    /// A property of a type or an object.
    Property {
        /// Its name.
        name: String,
        /// Its type; `child<T>` is an object below this one.
        r#type as "type": String,
    }
}

fn property(name: impl Into<String>, ty: impl Into<String>) -> Property {
    Property {
        name: name.into(),
        r#type: ty.into(),
    }
}

fn properties_of(ty: &types::ObjectType) -> Vec<Property> {
    let each = ty.properties.iter();
    each.map(|(name, ty)| property(*name, *ty)).collect()
}

/// Never an error: libvirt 9.0 dies of one.
fn list_class_properties(_: &mut Context<'_>, ty: TypeName) -> Answer<Vec<Property>> {
    Ok(types::find(&ty.typename)
        .map(properties_of)
        .unwrap_or_default())
}

fn list_device_properties(_: &mut Context<'_>, ty: TypeName) -> Answer<Vec<Property>> {
    types::find(&ty.typename)
        .map(properties_of)
        .ok_or_else(|| QmpError::no_device(&ty.typename))
}

/// An object of the tree.
enum Node {
    Root,
    Machine,
    Objects,
    Peripherals,
    Anonymous,
    Unattached,
    Vcpu,
    Device(DeviceInfo),
}

fn node(control: &dyn Control, path: &str) -> Answer<Node> {
    let missing = || QmpError::no_device(path);
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
    if !path.starts_with('/') {
        return Err(missing());
    }
    match words.as_slice() {
        [] => Ok(Node::Root),
        ["objects"] => Ok(Node::Objects),
        ["machine"] => Ok(Node::Machine),
        ["machine", "peripheral"] => Ok(Node::Peripherals),
        ["machine", "peripheral-anon"] => Ok(Node::Anonymous),
        ["machine", "unattached"] => Ok(Node::Unattached),
        ["machine", "unattached" | "peripheral-anon", _] => {
            let mut vcpus = control.vcpus().into_iter();
            let there = vcpus.any(|vcpu| vcpu.path.as_deref() == Some(path));
            there.then_some(Node::Vcpu).ok_or_else(missing)
        }
        ["machine", "peripheral", id] | ["machine", "peripheral", id, "virtio-backend"] => {
            let device = control
                .devices()
                .into_iter()
                .find(|device| device.id.as_deref() == Some(*id));
            device.map(Node::Device).ok_or_else(missing)
        }
        _ => Err(missing()),
    }
}

qmp_struct! {
    /// `qom-list`.
    Path {
        /// The object.
        path: String,
    }
}

fn list(context: &mut Context<'_>, path: Path) -> Answer<Vec<Property>> {
    let control = &*context.control;
    let child = |name: String, ty: &str| property(name, format!("child<{ty}>"));
    let mut found = match node(control, &path.path)? {
        // hundreds of features, one question for each of them: none is answered
        Node::Vcpu => return Ok(Vec::new()),
        Node::Root => vec![
            child("machine".into(), &machine_type(control)),
            child("objects".into(), "container"),
        ],
        Node::Machine => ["peripheral", "peripheral-anon", "unattached"]
            .map(|name| child(name.into(), "container"))
            .into(),
        Node::Objects => Vec::new(),
        Node::Anonymous => vcpus_in(control, "/machine/peripheral-anon/", child),
        Node::Unattached => vcpus_in(control, "/machine/unattached/", child),
        Node::Peripherals => control
            .devices()
            .into_iter()
            .filter_map(|device| Some(child(device.id?, &device.driver)))
            .collect(),
        Node::Device(device) => device_properties(&device),
    };
    found.insert(0, property("type", "string"));
    Ok(found)
}

/// The vcpus whose paths begin so.
fn vcpus_in(
    control: &dyn Control,
    folder: &str,
    child: impl Fn(String, &str) -> Property,
) -> Vec<Property> {
    let paths = control.vcpus().into_iter().filter_map(|vcpu| vcpu.path);
    paths
        .filter_map(|path| Some(child(path.strip_prefix(folder)?.to_owned(), VCPU_TYPE)))
        .collect()
}

fn device_properties(device: &DeviceInfo) -> Vec<Property> {
    let kind = |value: &Value| match value {
        Value::Bool(_) => "bool",
        Value::Number(_) => "int",
        _ => "string",
    };
    let given = device.properties.iter();
    let mut found: Vec<_> = given
        .map(|(name, value)| property(name, kind(value)))
        .collect();
    if is_balloon(device) {
        found.push(property("guest-stats", "guest statistics"));
        found.push(property(POLLING, "int"));
    }
    found
}

/// How often the guest's statistics are asked for, in seconds.
const POLLING: &str = "guest-stats-polling-interval";

fn is_balloon(device: &DeviceInfo) -> bool {
    device.driver.starts_with("virtio-balloon")
}

fn machine_type(control: &dyn Control) -> String {
    let machine: Machine = control.identity().machine;
    format!("{}-machine", machine.name())
}

qmp_struct! {
    /// `qom-get`.
    PropertyOf {
        /// The object.
        path: String,
        /// Its property.
        property: String,
    }
}

fn get(context: &mut Context<'_>, wanted: PropertyOf) -> Answer<Value> {
    let control = &*context.control;
    let node = node(control, &wanted.path)?;
    let name = wanted.property.as_str();
    let ty = type_of(control, &node);
    if name == "type" {
        return Ok(ty.into());
    }
    match &node {
        Node::Device(device) if is_balloon(device) && name == "guest-stats" => guest_stats(control),
        Node::Device(device) if is_balloon(device) && name == POLLING => {
            control.balloon_polling().map(Value::from)
        }
        Node::Device(device) if device.properties.contains_key(name) => {
            Ok(device.properties[name].clone())
        }
        _ => Err(no_property(&ty, name)),
    }
}

fn no_property(ty: &str, name: &str) -> QmpError {
    let why = format!("Property '{ty}.{name}' not found");
    QmpError::new(ErrorClass::GenericError, why)
}

fn type_of(control: &dyn Control, node: &Node) -> String {
    match node {
        Node::Machine => machine_type(control),
        Node::Vcpu => VCPU_TYPE.to_owned(),
        Node::Device(device) => device.driver.clone(),
        _ => "container".to_owned(),
    }
}

/// Statistics in QEMU's names; what is not known is all ones.
fn guest_stats(control: &dyn Control) -> Answer<Value> {
    const NAMES: [&str; 10] = [
        "stat-swap-in",
        "stat-swap-out",
        "stat-major-faults",
        "stat-minor-faults",
        "stat-free-memory",
        "stat-total-memory",
        "stat-available-memory",
        "stat-disk-caches",
        "stat-htlb-pgalloc",
        "stat-htlb-pgfail",
    ];
    let (known, updated) = control.balloon_stats()?;
    let mut stats: serde_json::Map<_, _> = NAMES
        .iter()
        .map(|name| ((*name).to_owned(), u64::MAX.into()))
        .collect();
    for (name, value) in known {
        stats.insert(name.to_owned(), value.into());
    }
    Ok(json!({"stats": stats, "last-update": updated}))
}

qmp_struct! {
    /// `qom-set`.
    NewProperty {
        /// The object.
        path: String,
        /// Its property.
        property: String,
        /// The new value.
        value: Value,
    }
}

fn set(context: &mut Context<'_>, wanted: NewProperty) -> Answer<Empty> {
    let node = node(&*context.control, &wanted.path)?;
    let ty = type_of(&*context.control, &node);
    match &node {
        Node::Device(device) if is_balloon(device) && wanted.property == POLLING => {
            let seconds = wanted.value.as_u64().ok_or_else(|| {
                QmpError::generic(format!(
                    "Invalid parameter type for '{POLLING}', expected: integer"
                ))
            })?;
            context.control.set_balloon_polling(seconds)?;
            Ok(Empty {})
        }
        _ => Err(no_property(&ty, &wanted.property)),
    }
}
