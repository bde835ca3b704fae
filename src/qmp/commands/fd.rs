//! Descriptors that come with a client's bytes.

use std::os::fd::{AsRawFd, OwnedFd};

use xenner_console::PassedInfo;

use super::Context;
use crate::qmp::control::Answer;
use crate::qmp::error::QmpError;
use crate::qmp::shape::{Empty, qmp_struct};
use crate::qmp::table::Table;

/// The most descriptors with names: no client can use up what the domain needs.
const MAX_NAMED: usize = 64;
/// The most descriptors in sets.
const MAX_IN_SETS: usize = 256;

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
    let set = add
        .set
        .map(u32::try_from)
        .transpose()
        .map_err(|_| QmpError::generic("Parameter 'fdset-id' expects a non-negative value"))?;
    if context.fds.query().len() >= MAX_IN_SETS {
        return Err(QmpError::generic("Too many descriptors in sets"));
    }
    let set = context.fds.add(fd, set, add.opaque).into();
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
    let shown = match remove.fd {
        Some(fd) => format!("fdset-id:{}, fd:{fd}", remove.set),
        None => format!("fdset-id:{}", remove.set),
    };
    let missing = || QmpError::generic(format!("File descriptor named '{shown}' not found"));
    let set = u32::try_from(remove.set).map_err(|_| missing())?;
    let fd = remove.fd.map(i32::try_from).transpose();
    match context.fds.remove(set, fd.map_err(|_| missing())?) {
        true => Ok(Empty {}),
        false => Err(missing()),
    }
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
    let mut sets: Vec<FdSetInfo> = Vec::new();
    for PassedInfo {
        set,
        number,
        opaque,
    } in context.fds.query()
    {
        let (set, fd) = (i64::from(set), FdInfo { fd: number, opaque });
        // those of one set come together
        match sets.last_mut().filter(|last| last.set == set) {
            Some(last) => last.fds.push(fd),
            None => sets.push(FdSetInfo { set, fds: vec![fd] }),
        }
    }
    Ok(sets)
}
