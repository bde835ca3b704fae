//! The commands that QEMU does not have, and the one that leads to the other monitor.

use super::Context;
use crate::qmp::control::{Answer, DomainStats, StoreNode};
use crate::qmp::hmp;
use crate::qmp::shape::{Empty, qmp_struct};
use crate::qmp::table::Table;

pub(super) fn register(table: &mut Table) {
    table.add("x-xenner-stats", |c, Empty {}| -> Answer<DomainStats> {
        c.control.stats()
    });
    table.add("x-xenner-xenstore-ls", xenstore_ls);
    table.add("human-monitor-command", human);
}

qmp_struct! {
    /// `x-xenner-xenstore-ls`.
    XenstoreLs {
        /// Where to begin; the root without it.
        path: Option<String>,
    }
}

fn xenstore_ls(context: &mut Context<'_>, ls: XenstoreLs) -> Answer<Vec<StoreNode>> {
    context.control.xenstore(ls.path.as_deref().unwrap_or("/"))
}

qmp_struct! {
    /// `human-monitor-command`.
    Human {
        /// What the user would type.
        line as "command-line": String,
        /// Which vcpu it is about; no command is about one.
        cpu as "cpu-index": Option<i64>,
    }
}

fn human(context: &mut Context<'_>, human: Human) -> Answer<String> {
    Ok(hmp::run(&human.line, context.control))
}
