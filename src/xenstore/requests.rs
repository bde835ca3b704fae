//! Requests: one message in, one answer out. Parses arguments, calls the
//! store's operations, and forms the answer.

use super::error::XsErrno;
use super::path::domain_path;
use super::perms::{DomId, Perm, parse_number};
use super::server::Xenstore;
use super::watch::ConnId;
use super::wire::{MessageType, PAYLOAD_MAX, Request, encode, first_string, one_string, strings};

const OK: &[u8] = b"OK\0";

/// Answers a request of the connection `id`: the complete message.
pub fn answer(store: &mut Xenstore, id: ConnId, request: &Request) -> Vec<u8> {
    let Request {
        kind,
        req_id,
        tx_id,
        payload,
    } = request;
    let answer = dispatch(store, id, request);
    log::trace!(
        target: "xenstore",
        "connection {} type {} tx {tx_id} '{}' -> {:?}",
        id.0, kind.0, payload.escape_ascii(), answer.as_ref().map(|a| a.escape_ascii().to_string()),
    );
    match answer {
        Ok(payload) if payload.len() <= PAYLOAD_MAX => encode(*kind, *req_id, *tx_id, &payload),
        Ok(_) => error(request, XsErrno::E2BIG),
        Err(errno) => error(request, errno),
    }
}

fn error(request: &Request, errno: XsErrno) -> Vec<u8> {
    let name = [errno.name().as_bytes(), b"\0"].concat();
    encode(MessageType::ERROR, request.req_id, request.tx_id, &name)
}

fn dispatch(store: &mut Xenstore, id: ConnId, request: &Request) -> Result<Vec<u8>, XsErrno> {
    let Request {
        kind,
        tx_id,
        payload,
        ..
    } = request;
    let (tx, payload) = (*tx_id, payload.as_slice());
    let ok = |()| OK.to_vec();
    match *kind {
        MessageType::DIRECTORY => directory(store, id, tx, payload),
        MessageType::DIRECTORY_PART => directory_part(store, id, tx, payload),
        MessageType::READ => Ok(store.read(id, tx, one_string(payload)?)?.to_vec()),
        MessageType::WRITE => {
            let (path, value) = first_string(payload)?;
            store.write(id, tx, path, value).map(ok)
        }
        MessageType::MKDIR => store.mkdir(id, tx, one_string(payload)?).map(ok),
        MessageType::RM => store.rm(id, tx, one_string(payload)?).map(ok),
        MessageType::GET_PERMS => get_perms(store, id, tx, payload),
        MessageType::SET_PERMS => set_perms(store, id, tx, payload).map(ok),
        MessageType::WATCH => watch(store, id, payload).map(ok),
        MessageType::UNWATCH => match strings(payload)?.as_slice() {
            [path, token] => store.unwatch(id, path, token).map(ok),
            _ => Err(XsErrno::EINVAL),
        },
        MessageType::RESET_WATCHES => store.reset_watches(id).map(ok),
        // Transactions do not nest.
        MessageType::TRANSACTION_START if tx != 0 => Err(XsErrno::EBUSY),
        MessageType::TRANSACTION_START => {
            Ok(format!("{}\0", store.start_transaction(id)?).into_bytes())
        }
        MessageType::TRANSACTION_END => match one_string(payload)? {
            b"T" => store.end_transaction(id, tx, true).map(ok),
            b"F" => store.end_transaction(id, tx, false).map(ok),
            _ => Err(XsErrno::EINVAL),
        },
        _ => domain_request(store, id, request),
    }
}

/// The requests about domains. Those that steer domains are for a toolstack;
/// here the process that runs the domain decides, so that domid 0 may ask for
/// what is the case already and for nothing else.
fn domain_request(store: &mut Xenstore, id: ConnId, request: &Request) -> Result<Vec<u8>, XsErrno> {
    let privileged = store.connection(id)?.domid == 0;
    let payload = request.payload.as_slice();
    match request.kind {
        MessageType::GET_DOMAIN_PATH => {
            Ok(format!("{}\0", domain_path(domid(one_string(payload)?)?)).into_bytes())
        }
        MessageType::IS_DOMAIN_INTRODUCED => {
            let known = store.is_introduced(domid(one_string(payload)?)?);
            Ok(if known { b"T\0" } else { b"F\0" }.to_vec())
        }
        MessageType::CONTROL
        | MessageType::INTRODUCE
        | MessageType::RELEASE
        | MessageType::RESUME
        | MessageType::SET_TARGET
            if !privileged =>
        {
            Err(XsErrno::EACCES)
        }
        MessageType::INTRODUCE | MessageType::RESUME => {
            let (first, _) = first_string(payload)?;
            let known = store.is_introduced(domid(first)?);
            known.then(|| OK.to_vec()).ok_or(XsErrno::ENOENT)
        }
        MessageType::RELEASE => Err(XsErrno::EACCES),
        _ => Err(XsErrno::ENOSYS),
    }
}

fn domid(text: &[u8]) -> Result<DomId, XsErrno> {
    if text.is_empty() {
        return Err(XsErrno::EINVAL);
    }
    parse_number(text)
}

fn directory(
    store: &mut Xenstore,
    id: ConnId,
    tx: u32,
    payload: &[u8],
) -> Result<Vec<u8>, XsErrno> {
    let node = store.directory(id, tx, one_string(payload)?)?;
    // Counted first: nobody makes the process build a list that does not fit.
    let len: usize = node.children().map(|(name, _)| name.len() + 1).sum();
    if len > PAYLOAD_MAX {
        return Err(XsErrno::E2BIG);
    }
    Ok(node
        .children()
        .flat_map(|(name, _)| name.bytes().chain([0]))
        .collect())
}

/// A part of a long list of children: the node's generation, so that the
/// reader notices a change between two parts, then whole names from the given
/// byte offset on, and an empty one after the last.
fn directory_part(
    store: &mut Xenstore,
    id: ConnId,
    tx: u32,
    payload: &[u8],
) -> Result<Vec<u8>, XsErrno> {
    let arguments = strings(payload)?;
    let [path, offset] = arguments.as_slice() else {
        return Err(XsErrno::EINVAL);
    };
    if offset.is_empty() {
        return Err(XsErrno::EINVAL);
    }
    let offset: u32 = parse_number(offset)?;
    let node = store.directory(id, tx, path)?;
    let mut part = format!("{}\0", node.generation()).into_bytes();
    let mut at = 0usize;
    for (name, _) in node.children() {
        let (start, len) = (at, name.len() + 1);
        at += len;
        if start < offset as usize {
            continue;
        }
        // One byte stays free for the end mark.
        if part.len() + len >= PAYLOAD_MAX {
            return Ok(part);
        }
        part.extend(name.bytes().chain([0]));
    }
    part.push(0);
    Ok(part)
}

fn get_perms(
    store: &mut Xenstore,
    id: ConnId,
    tx: u32,
    payload: &[u8],
) -> Result<Vec<u8>, XsErrno> {
    let perms = store.perms(id, tx, one_string(payload)?)?;
    Ok(perms
        .entries()
        .iter()
        .flat_map(|perm| format!("{perm}\0").into_bytes())
        .collect())
}

fn set_perms(store: &mut Xenstore, id: ConnId, tx: u32, payload: &[u8]) -> Result<(), XsErrno> {
    let arguments = strings(payload)?;
    let (path, perms) = arguments.split_first().ok_or(XsErrno::EINVAL)?;
    let perms: Vec<Perm> = perms
        .iter()
        .map(|perm| Perm::parse(perm))
        .collect::<Result<_, _>>()?;
    if perms.is_empty() {
        return Err(XsErrno::EINVAL);
    }
    store.set_perms(id, tx, path, &perms)
}

fn watch(store: &mut Xenstore, id: ConnId, payload: &[u8]) -> Result<(), XsErrno> {
    match strings(payload)?.as_slice() {
        [path, token] => store.watch(id, path, token, None),
        [path, token, depth] if !depth.is_empty() => {
            store.watch(id, path, token, Some(parse_number(depth)?))
        }
        _ => Err(XsErrno::EINVAL),
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
