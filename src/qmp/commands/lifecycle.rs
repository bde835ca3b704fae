//! The turns of a domain's life.

use serde_json::Value;

use super::Context;
use crate::qmp::control::{Actions, Answer, RunState};
use crate::qmp::error::QmpError;
use crate::qmp::shape::{Empty, qmp_struct};
use crate::qmp::table::Table;

pub(super) fn register(table: &mut Table) {
    table.add("query-status", query_status);
    table.add("stop", |c, Empty {}| c.control.stop().map(done));
    table.add("cont", |c, Empty {}| c.control.cont().map(done));
    table.add("system_powerdown", |c, Empty {}| {
        c.control.powerdown().map(done)
    });
    table.add("system_reset", |c, Empty {}| c.control.reset().map(done));
    table.add("quit", |c, Empty {}| {
        c.control.quit();
        Ok(Empty {})
    });
    table.add("set-action", set_action);
    table.add("inject-nmi", |c, Empty {}| c.control.inject_nmi().map(done));
    table.add("query-name", query_name);
    table.add("query-uuid", query_uuid);
    table.add("query-jobs", |_, Empty {}| Ok(Vec::<Value>::new()));
}

pub(super) fn done((): ()) -> Empty {
    Empty {}
}

qmp_struct! {
    /// `query-status`.
    Status {
        /// The state.
        status: RunState,
        /// Always false: no vcpu is stepped.
        singlestep: bool,
        /// The vcpus run.
        running: bool,
    }
}

fn query_status(context: &mut Context<'_>, _: Empty) -> Answer<Status> {
    let status = context.control.status();
    Ok(Status {
        status,
        singlestep: false,
        running: status == RunState::Running,
    })
}

fn set_action(context: &mut Context<'_>, actions: Actions) -> Answer<Empty> {
    if actions.watchdog.is_some() {
        return Err(QmpError::unsupported("A watchdog's action"));
    }
    context.control.set_actions(&actions).map(done)
}

qmp_struct! {
    /// `query-name`.
    Name {
        /// The domain's name.
        name: Option<String>,
    }
}

fn query_name(context: &mut Context<'_>, _: Empty) -> Answer<Name> {
    let name = context.control.identity().name;
    Ok(Name { name })
}

qmp_struct! {
    /// `query-uuid`.
    UuidInfo {
        /// The domain's UUID.
        uuid as "UUID": String,
    }
}

fn query_uuid(context: &mut Context<'_>, _: Empty) -> Answer<UuidInfo> {
    let uuid = context.control.identity().uuid.to_string();
    Ok(UuidInfo { uuid })
}
