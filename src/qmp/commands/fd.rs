//! Descriptors that come with a client's bytes.

use std::os::fd::{AsRawFd, OwnedFd};

use super::Context;
use crate::qmp::control::Answer;
use crate::qmp::error::QmpError;
use crate::qmp::fds::Member;
use crate::qmp::shape::{Empty, qmp_struct};
use crate::qmp::table::Table;

/// The most descriptors with names: no client can use up what the domain needs.
const MAX_NAMED: usize = 64;

pub(super) fn register(table: &mut Table) {
    table.add("getfd", getfd);
    table.add("closefd", closefd);
    table.add("add-fd", add_fd);
    table.add("remove-fd", remove_fd);
    table.add("query-fdsets", query_fdsets);
}

qmp_struct! {
    /// `getfd`, `closefd`.
    FdName {
        /// The descriptor's name.
        name as "fdname": String,
    }
}

fn received(context: &mut Context<'_>) -> Answer<OwnedFd> {
    let fd = context.session.received.pop_front();
    fd.ok_or_else(|| QmpError::generic("No file descriptor supplied via SCM_RIGHTS"))
}

fn getfd(context: &mut Context<'_>, name: FdName) -> Answer<Empty> {
    let fd = received(context)?;
    if name.name.starts_with(|c: char| c.is_ascii_digit()) {
        let why = "Parameter 'fdname' expects a name not starting with a digit";
        return Err(QmpError::generic(why));
    }
    let named = &mut context.session.named;
    if named.len() >= MAX_NAMED && !named.contains_key(&name.name) {
        return Err(QmpError::generic("Too many named descriptors"));
    }
    named.insert(name.name, fd);
    Ok(Empty {})
}

fn closefd(context: &mut Context<'_>, name: FdName) -> Answer<Empty> {
    match context.session.named.remove(&name.name) {
        Some(_) => Ok(Empty {}),
        None => {
            let name = name.name;
            let why = format!("File descriptor named '{name}' not found");
            Err(QmpError::generic(why))
        }
    }
}

qmp_struct! {
    /// `add-fd`.
    AddFd {
        /// The set; a new one without it.
        set as "fdset-id": Option<i64>,
        /// What the client has to say about it.
        opaque: Option<String>,
    }
}

qmp_struct! {
    /// What `add-fd` made.
    AddedFd {
        /// The set.
        set as "fdset-id": i64,
        /// The descriptor's number in this process.
        fd: i32,
    }
}

fn add_fd(context: &mut Context<'_>, add: AddFd) -> Answer<AddedFd> {
    let fd = received(context)?;
    let number = fd.as_raw_fd();
    let opaque = add.opaque;
    let set = context.fds.add(add.set, Member { fd, opaque })?;
    Ok(AddedFd { set, fd: number })
}

qmp_struct! {
    /// `remove-fd`.
    RemoveFd {
        /// The set.
        set as "fdset-id": i64,
        /// One descriptor of it; all without it.
        fd: Option<i64>,
    }
}

fn remove_fd(context: &mut Context<'_>, remove: RemoveFd) -> Answer<Empty> {
    context.fds.remove(remove.set, remove.fd)?;
    Ok(Empty {})
}

qmp_struct! {
    /// One descriptor of a set.
    FdInfo {
        /// Its number in this process.
        fd: i32,
        /// What the client said about it.
        opaque: Option<String>,
    }
}

qmp_struct! {
    /// A set.
    FdSetInfo {
        /// Its number.
        set as "fdset-id": i64,
        /// What is in it.
        fds: Vec<FdInfo>,
    }
}

fn query_fdsets(context: &mut Context<'_>, _: Empty) -> Answer<Vec<FdSetInfo>> {
    let info = |member: &Member| FdInfo {
        fd: member.fd.as_raw_fd(),
        opaque: member.opaque.clone(),
    };
    let sets = context.fds.sets();
    Ok(sets
        .map(|(set, members)| FdSetInfo {
            set,
            fds: members.iter().map(info).collect(),
        })
        .collect())
}
