//! The commands, by subject.

mod block;
mod chardev;
mod device;
mod fd;
mod lifecycle;
mod machine;
mod migration;
mod own;
mod probe;
mod qom;

use xenner_console::FdSets;

use super::control::Control;
use super::session::Session;
use super::table::Table;

/// What a command may use.
pub(super) struct Context<'a> {
    pub(super) session: &'a mut Session,
    pub(super) control: &'a mut dyn Control,
    pub(super) fds: &'a mut FdSets,
}

/// Adds all commands.
pub(super) fn register(table: &mut Table) {
    block::register(table);
    chardev::register(table);
    device::register(table);
    fd::register(table);
    lifecycle::register(table);
    machine::register(table);
    migration::register(table);
    own::register(table);
    probe::register(table);
    qom::register(table);
}
