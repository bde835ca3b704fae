//! Devices, host ends of network devices, objects.

use super::Context;
use super::lifecycle::done;
use crate::qmp::control::{Answer, NamedFds};
use crate::qmp::shape::{Empty, qmp_enum, qmp_open_struct, qmp_struct};
use crate::qmp::table::Table;

pub(super) fn register(table: &mut Table) {
    table
        .add("device_add", device_add)
        .feature(&["json-cli", "json-cli-hotplug"]);
    table.add("device_del", |c, id: Id| {
        c.control.device_del(&id.id).map(done)
    });
    table.add("netdev_add", netdev_add);
    table.add("netdev_del", |c, id: Id| {
        c.control.netdev_del(&id.id).map(done)
    });
    table.add("set_link", |c, link: Link| {
        c.control.set_link(&link.name, link.up).map(done)
    });
    table.add("object-add", object_add);
    table.add("object-del", |c, id: Id| {
        c.control.object_del(&id.id).map(done)
    });
}

qmp_struct! {
    /// What a command that removes something names.
    Id {
        /// Its id.
        id: String,
    }
}

qmp_open_struct! {
    /// `device_add`.
    DeviceAdd (None) {
        /// The driver.
        driver: String,
    }
}

fn device_add(context: &mut Context<'_>, device: DeviceAdd) -> Answer<Empty> {
    let DeviceAdd { driver, rest } = device;
    context
        .control
        .device_add(&driver, rest, context.fds)
        .map(done)
}

qmp_enum! {
    /// Kinds of host ends.
    NetdevKind {
        /// A tap device.
        Tap as "tap",
        /// A tap device on a bridge.
        Bridge as "bridge",
        /// The user's own network.
        User as "user",
        /// A stream socket.
        Stream as "stream",
        /// A datagram socket.
        Dgram as "dgram",
        /// A socket of either kind.
        Socket as "socket",
    }
}

qmp_open_struct! {
    /// `netdev_add`.
    NetdevAdd (Some(&[])) {
        /// Its id.
        id: String,
        /// Its kind.
        kind as "type": NetdevKind,
    }
}

fn netdev_add(context: &mut Context<'_>, netdev: NetdevAdd) -> Answer<Empty> {
    let NetdevAdd { id, kind, mut rest } = netdev;
    rest.insert("id".into(), id.into());
    let named: &mut dyn NamedFds = context.session;
    let control = &mut context.control;
    control
        .netdev_add(kind.word(), rest, named, context.fds)
        .map(done)
}

qmp_struct! {
    /// `set_link`.
    Link {
        /// A device's or host end's id.
        name: String,
        /// Whether the cable is in.
        up: bool,
    }
}

qmp_enum! {
    /// Kinds of objects, none of which a PV domain notices.
    ObjectKind {
        /// A key.
        Secret as "secret",
        /// The host's random numbers.
        RngRandom as "rng-random",
        /// This process's random numbers.
        RngBuiltin as "rng-builtin",
        /// A thread for I/O.
        Iothread as "iothread",
    }
}

qmp_open_struct! {
    /// `object-add`.
    ObjectAdd (Some(&[])) {
        /// Its kind.
        kind as "qom-type": ObjectKind,
        /// Its id.
        id: String,
    }
}

fn object_add(context: &mut Context<'_>, object: ObjectAdd) -> Answer<Empty> {
    let ObjectAdd { kind, id, mut rest } = object;
    rest.insert("id".into(), id.into());
    context.control.object_add(kind.word(), rest).map(done)
}
