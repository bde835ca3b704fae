//! What is asked about migration at every start. There is none: `migrate` is not a command.

use super::Context;
use crate::qmp::control::Answer;
use crate::qmp::shape::{Empty, qmp_enum, qmp_struct};
use crate::qmp::table::Table;

pub(super) fn register(table: &mut Table) {
    table.add("query-migrate", |_, Empty {}| Ok(Empty {}));
    table.add("query-migrate-capabilities", query_capabilities);
    table.add("migrate-set-capabilities", set_capabilities);
    table.add("query-migrate-parameters", |_, Empty {}| Ok(Empty {}));
}

qmp_enum! {
    /// What a migration could be told.
    Capability {
        /// MIGRATION events.
        Events as "events",
    }
}

qmp_struct! {
    /// Whether it is told so.
    CapabilityState {
        /// What.
        capability: Capability,
        /// Whether.
        state: bool,
    }
}

qmp_struct! {
    /// `migrate-set-capabilities`.
    Capabilities {
        /// Those to change.
        capabilities: Vec<CapabilityState>,
    }
}

fn query_capabilities(_: &mut Context<'_>, _: Empty) -> Answer<Vec<CapabilityState>> {
    Ok(vec![CapabilityState {
        capability: Capability::Events,
        state: true,
    }])
}

/// Nothing to remember: events are always told.
fn set_capabilities(_: &mut Context<'_>, _: Capabilities) -> Answer<Empty> {
    Ok(Empty {})
}
