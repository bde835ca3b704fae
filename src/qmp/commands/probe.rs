//! What a client asks to find out what there is.

use serde_json::Value;

use super::Context;
use crate::config::{MAX_VCPUS, Machine};
use crate::qmp::control::{Answer, VCPU_TYPE};
use crate::qmp::error::QmpError;
use crate::qmp::schema;
use crate::qmp::session;
use crate::qmp::shape::{Empty, qmp_enum, qmp_struct};
use crate::qmp::table::{self, Table};

pub(super) fn register(table: &mut Table) {
    table.add("qmp_capabilities", qmp_capabilities);
    table.add("query-version", |_, Empty {}| Ok(session::version()));
    table.add("query-target", query_target);
    table.add("query-qmp-schema", query_schema);
    table.add("query-commands", query_commands);
    table.add("query-kvm", query_kvm);
    table.add("query-machines", query_machines);
    table.add("query-command-line-options", query_options);
    table.add("query-cpu-definitions", query_cpu_definitions);
    // announced, it makes libvirt ask for the host's model, which it then gives to domains
    table
        .add("query-cpu-model-expansion", expand_cpu_model)
        .unannounced();
}

qmp_enum! {
    /// What a client can ask of the protocol.
    Capability {
        /// Commands that overtake others; not offered.
        Oob as "oob",
    }
}

qmp_struct! {
    /// `qmp_capabilities`.
    Capabilities {
        /// What the client wants.
        enable: Option<Vec<Capability>>,
    }
}

fn qmp_capabilities(context: &mut Context<'_>, wanted: Capabilities) -> Answer<Empty> {
    if let Some(capability) = wanted.enable.into_iter().flatten().next() {
        let why = format!("Capability {} is not available", capability.word());
        return Err(QmpError::generic(why));
    }
    context.session.negotiated = true;
    Ok(Empty {})
}

qmp_struct! {
    /// `query-target`.
    Target {
        /// The architecture.
        arch: String,
    }
}

fn query_target(_: &mut Context<'_>, _: Empty) -> Answer<Target> {
    let arch = "x86_64".to_owned();
    Ok(Target { arch })
}

fn query_schema(_: &mut Context<'_>, _: Empty) -> Answer<Vec<Value>> {
    let announced = table::all().iter().filter(|command| command.announced);
    Ok(schema::schema(announced))
}

qmp_struct! {
    /// A command.
    CommandName {
        /// Its name.
        name: String,
    }
}

fn query_commands(_: &mut Context<'_>, _: Empty) -> Answer<Vec<CommandName>> {
    let announced = table::all().iter().filter(|command| command.announced);
    let name = |command: &table::Command| CommandName {
        name: command.name.to_owned(),
    };
    Ok(announced.map(name).collect())
}

qmp_struct! {
    /// `query-kvm`.
    KvmInfo {
        /// It is in use.
        enabled: bool,
        /// It could be.
        present: bool,
    }
}

fn query_kvm(context: &mut Context<'_>, _: Empty) -> Answer<KvmInfo> {
    let kvm = context.control.identity().kvm;
    Ok(KvmInfo {
        enabled: kvm,
        present: kvm,
    })
}

qmp_struct! {
    /// A machine.
    MachineInfo {
        /// Its name.
        name: String,
        /// Another name of it.
        alias: Option<String>,
        /// It is what there is without `-machine`.
        is_default as "is-default": Option<bool>,
        /// The most vcpus.
        cpu_max as "cpu-max": u32,
        /// vcpus can be plugged in.
        hotpluggable_cpus as "hotpluggable-cpus": bool,
        /// NUMA nodes can have memory of their own.
        numa_mem_supported as "numa-mem-supported": bool,
        /// It is on its way out.
        deprecated: bool,
        /// `acpi=on|off` is taken.
        acpi: bool,
    }
}

fn query_machines(_: &mut Context<'_>, _: Empty) -> Answer<Vec<MachineInfo>> {
    let info = |machine: Machine| MachineInfo {
        name: machine.name().to_owned(),
        alias: (machine == Machine::Pc).then(|| "pc".to_owned()),
        is_default: (machine == Machine::Pc).then_some(true),
        cpu_max: match machine {
            Machine::None => 1,
            _ => MAX_VCPUS,
        },
        hotpluggable_cpus: machine != Machine::None,
        numa_mem_supported: false,
        deprecated: false,
        acpi: machine == Machine::Pc,
    };
    Ok([Machine::None, Machine::Pc, Machine::Xenner]
        .map(info)
        .into())
}

qmp_struct! {
    /// `query-command-line-options`.
    OptionName {
        /// One option; those in the list without it.
        option: Option<String>,
    }
}

qmp_enum! {
    /// What a key of an option takes.
    OptionType {
        /// Text.
        Str as "string",
        /// A switch.
        Boolean as "boolean",
        /// A number.
        Number as "number",
        /// A number of bytes.
        Size as "size",
    }
}

qmp_struct! {
    /// A key of an option.
    OptionKey {
        /// Its name.
        name: String,
        /// What it takes.
        r#type as "type": OptionType,
    }
}

qmp_struct! {
    /// An option.
    OptionInfo {
        /// Its name.
        option: String,
        /// Its keys, as far as clients ask for them.
        parameters: Vec<OptionKey>,
    }
}

/// Options with those keys that change what libvirt writes.
const OPTIONS: [(&str, &[(&str, OptionType)]); 4] = [
    ("machine", &[("hpet", OptionType::Boolean)]),
    (
        "action",
        &[
            ("reboot", OptionType::Str),
            ("shutdown", OptionType::Str),
            ("panic", OptionType::Str),
        ],
    ),
    ("m", &[("size", OptionType::Size)]),
    ("name", &[("guest", OptionType::Str)]),
];

fn query_options(_: &mut Context<'_>, wanted: OptionName) -> Answer<Vec<OptionInfo>> {
    let key = |(name, ty): &(&str, OptionType)| OptionKey {
        name: (*name).to_owned(),
        r#type: *ty,
    };
    let info = |(option, keys): &(&str, &[(&str, OptionType)])| OptionInfo {
        option: (*option).to_owned(),
        parameters: keys.iter().map(key).collect(),
    };
    let chosen: Vec<_> = OPTIONS
        .iter()
        .filter(|(name, _)| {
            wanted
                .option
                .as_deref()
                .is_none_or(|option| option == *name)
        })
        .map(info)
        .collect();
    match wanted.option {
        Some(option) if chosen.is_empty() => {
            Err(QmpError::generic(format!("invalid option name: {option}")))
        }
        _ => Ok(chosen),
    }
}

qmp_struct! {
    /// A processor.
    CpuDefinition {
        /// Its name.
        name: String,
        /// Its type.
        typename: String,
        /// What keeps it from running here.
        unavailable as "unavailable-features": Vec<String>,
        /// It cannot be migrated to every other host.
        migration_safe as "migration-safe": bool,
        /// It never changes.
        r#static as "static": bool,
    }
}

/// The host's processor, and the name of QEMU's that stands for any. Without one that it knows, libvirt
/// cannot describe the host's for `host-model`; without any, libvirt 9.0 ends by SIGSEGV at the start
/// of a domain that has `host-model` (its `virQEMUCapsIsCPUDeprecated`).
fn query_cpu_definitions(_: &mut Context<'_>, _: Empty) -> Answer<Vec<CpuDefinition>> {
    let definition = |name: &str, typename: &str| CpuDefinition {
        name: name.to_owned(),
        typename: typename.to_owned(),
        unavailable: Vec::new(),
        migration_safe: false,
        r#static: false,
    };
    Ok(vec![
        definition("host", VCPU_TYPE),
        definition("qemu64", "qemu64-x86_64-cpu"),
    ])
}

qmp_enum! {
    /// How far a model is expanded.
    ExpansionType {
        /// To the model that never changes.
        Static as "static",
        /// To every property.
        Full as "full",
    }
}

qmp_struct! {
    /// A processor model.
    CpuModel {
        /// Its name.
        name: String,
        /// What is changed of it.
        props: Option<Value>,
    }
}

qmp_struct! {
    /// `query-cpu-model-expansion`.
    Expansion {
        /// How far.
        r#type as "type": ExpansionType,
        /// Of what.
        model: CpuModel,
    }
}

qmp_struct! {
    /// An expanded model.
    Expanded {
        /// The model.
        model: CpuModel,
    }
}

fn expand_cpu_model(_: &mut Context<'_>, expansion: Expansion) -> Answer<Expanded> {
    let name = expansion.model.name;
    if !["host", "max"].contains(&name.as_str()) {
        return Err(QmpError::generic(format!("CPU model '{name}' not found")));
    }
    let props = Some(Value::Object(serde_json::Map::new()));
    Ok(Expanded {
        model: CpuModel { name, props },
    })
}
