//! vcpus and memory.

use serde_json::Value;

use super::Context;
use super::lifecycle::done;
use crate::qmp::control::{Answer, VCPU_TYPE, Vcpu};
use crate::qmp::error::QmpError;
use crate::qmp::events::BalloonChange;
use crate::qmp::shape::{Empty, qmp_struct};
use crate::qmp::table::Table;

pub(super) fn register(table: &mut Table) {
    table.add("query-cpus-fast", query_cpus_fast);
    table.add("query-hotpluggable-cpus", query_hotpluggable_cpus);
    table.add("query-iothreads", |_, Empty {}| Ok(Vec::<Value>::new()));
    table.add("query-memory-size-summary", query_memory);
    table.add("query-current-machine", query_current_machine);
    table.add("balloon", balloon);
    table.add("query-balloon", query_balloon);
}

qmp_struct! {
    /// Where a vcpu stands.
    CpuPlace {
        /// Socket.
        socket as "socket-id": u32,
        /// Core in the socket.
        core as "core-id": u32,
        /// Thread in the core.
        thread as "thread-id": u32,
    }
}

qmp_struct! {
    /// A vcpu.
    CpuInfo {
        /// Its number.
        index as "cpu-index": u32,
        /// Its place among the objects.
        qom_path as "qom-path": String,
        /// The host's number of its thread.
        thread as "thread-id": i32,
        /// Where it stands.
        props: CpuPlace,
        /// The architecture.
        target: String,
    }
}

fn place(vcpu: &Vcpu) -> CpuPlace {
    let [socket, core, thread] = vcpu.place;
    CpuPlace {
        socket,
        core,
        thread,
    }
}

fn query_cpus_fast(context: &mut Context<'_>, _: Empty) -> Answer<Vec<CpuInfo>> {
    let vcpus = context.control.vcpus().into_iter();
    Ok(vcpus
        .filter_map(|vcpu| {
            Some(CpuInfo {
                index: vcpu.id,
                props: place(&vcpu),
                qom_path: vcpu.path?,
                thread: vcpu.thread?,
                target: "x86_64".to_owned(),
            })
        })
        .collect())
}

qmp_struct! {
    /// A vcpu, or the place for one.
    HotpluggableCpu {
        /// The driver that plugs it in.
        r#type as "type": String,
        /// How many vcpus come with it.
        count as "vcpus-count": u32,
        /// Where it stands: what `device_add` is given.
        props: CpuPlace,
        /// Its place among the objects while it is plugged.
        qom_path as "qom-path": Option<String>,
    }
}

fn query_hotpluggable_cpus(context: &mut Context<'_>, _: Empty) -> Answer<Vec<HotpluggableCpu>> {
    let vcpus = context.control.vcpus().into_iter();
    let all: Vec<_> = vcpus
        .map(|vcpu| HotpluggableCpu {
            r#type: VCPU_TYPE.to_owned(),
            count: 1,
            props: place(&vcpu),
            qom_path: vcpu.path,
        })
        .collect();
    if all.is_empty() {
        let why = "machine does not support hot-plugging CPUs";
        return Err(QmpError::generic(why));
    }
    Ok(all)
}

qmp_struct! {
    /// `query-memory-size-summary`.
    MemorySummary {
        /// Memory at the start, in bytes.
        base as "base-memory": u64,
        /// Memory plugged in since, in bytes.
        plugged as "plugged-memory": u64,
    }
}

fn query_memory(context: &mut Context<'_>, _: Empty) -> Answer<MemorySummary> {
    Ok(MemorySummary {
        base: context.control.memory(),
        plugged: 0,
    })
}

qmp_struct! {
    /// `query-current-machine`.
    CurrentMachine {
        /// Whether a sleeping guest could be woken.
        wakeup as "wakeup-suspend-support": bool,
    }
}

fn query_current_machine(_: &mut Context<'_>, _: Empty) -> Answer<CurrentMachine> {
    Ok(CurrentMachine { wakeup: false })
}

qmp_struct! {
    /// `balloon`.
    Balloon {
        /// The memory that the guest is to have, in bytes.
        value: i64,
    }
}

fn balloon(context: &mut Context<'_>, balloon: Balloon) -> Answer<Empty> {
    // the balloon has to be there before its size can be wrong
    context.control.balloon_actual()?;
    match u64::try_from(balloon.value) {
        Ok(bytes) if bytes > 0 => context.control.set_balloon(bytes).map(done),
        _ => Err(QmpError::generic("Parameter 'target' expects a size")),
    }
}

fn query_balloon(context: &mut Context<'_>, _: Empty) -> Answer<BalloonChange> {
    let actual = context.control.balloon_actual()?;
    Ok(BalloonChange { actual })
}
