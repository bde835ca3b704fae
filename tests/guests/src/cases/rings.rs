//! The two rings of every domain: console and xenstore.

use super::t;
use crate::arch::memory::read32;
use crate::harness::console;
use crate::harness::machine::{info, va_of};
use crate::harness::runner::{Result, Test, Verdict, failed};
use crate::harness::store::{Answer, Body, Client, StoreError};
use crate::harness::time::spin;
use crate::{check, same};
use xenner_test_guests::text::Text;
use xenner_xen_abi::io::xs_wire::*;

pub const TESTS: &[Test] = &[
    t("console-consumed", consumed),
    t("console-wrap", wrap),
    t("store-read", read),
    t("store-chunks", chunks),
    t("store-many", many),
    t("store-errors", errors),
    t("store-directory", directory),
    t("store-write", write),
    t("store-paths", paths),
    t("store-permissions", permissions),
    t("store-watch", watch),
    t("store-watch-rules", watch_rules),
    t("store-transaction", transaction),
    t("store-transaction-conflict", conflict),
    t("store-large", large),
    t("store-directory-part", directory_part),
    t("store-reset-watches", reset_watches),
];

fn consumed() -> Result {
    let p = console::page();
    console::line(format_args!("# a line for the ring"));
    same!(
        read32(p + 3084),
        read32(p + 3080),
        "indices of the output ring"
    );
    same!(
        read32(p + 3076).wrapping_sub(read32(p + 3072)),
        0,
        "bytes of input"
    );
    Ok(())
}

fn wrap() -> Result {
    let p = console::page();
    let start = read32(p + 3084);
    for _ in 0..40 {
        console::line(format_args!(
            "# ........................................................................"
        ));
    }
    check!(
        read32(p + 3084).wrapping_sub(start) > 2048,
        "less than the ring was written"
    );
    Ok(())
}

fn ask(
    c: &mut Client,
    kind: u32,
    tx: u32,
    parts: &[&[u8]],
) -> core::result::Result<Answer, Verdict> {
    c.ask(kind, tx, parts).map_err(lost)
}

/// A store that does not answer, as a test's result.
pub fn lost(e: StoreError) -> Verdict {
    failed(format_args!("xenstore: {e:?}"))
}

/// The body of an answer that has to be none of an error.
pub fn ok(
    c: &mut Client,
    kind: u32,
    tx: u32,
    parts: &[&[u8]],
) -> core::result::Result<Body, Verdict> {
    let a = ask(c, kind, tx, parts)?;
    if a.kind == XS_ERROR {
        return Err(failed(format_args!(
            "request {kind} of {:?}: {}",
            Shown(parts),
            a.body
        )));
    }
    Ok(a.body)
}

fn err(c: &mut Client, kind: u32, tx: u32, parts: &[&[u8]], want: &[u8]) -> Result {
    let a = ask(c, kind, tx, parts)?;
    check!(
        a.kind == XS_ERROR && a.body.as_bytes() == want,
        "request {kind} of {:?}: kind {} {:?}, not {:?}",
        Shown(parts),
        a.kind,
        a.body.as_str(),
        core::str::from_utf8(want)
    );
    Ok(())
}

/// The first part of a request, for messages.
struct Shown<'a>(&'a [&'a [u8]]);
impl core::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{:.60}",
            self.0
                .first()
                .and_then(|p| core::str::from_utf8(p).ok())
                .unwrap_or("?")
        )
    }
}

fn read() -> Result {
    let mut c = Client::new();
    let id = super::events::domid();
    let b = ok(&mut c, XS_READ, 0, &[b"domid\0"])?;
    check!(b.as_str().parse() == Ok(id), "domid {b}, not {id}");
    let b = ok(&mut c, XS_READ, 0, &[b"name\0"])?;
    check!(!b.as_bytes().is_empty(), "empty name");
    let b = ok(
        &mut c,
        XS_GET_DOMAIN_PATH,
        0,
        &[Text::<8>::format(format_args!("{id}\0")).as_bytes()],
    )?;
    let want = Text::<40>::format(format_args!("/local/domain/{id}\0"));
    check!(b.as_bytes() == want.as_bytes(), "domain path {b}");
    let b = ok(&mut c, XS_READ, 0, &[b"store/port\0"])?;
    check!(
        b.as_str().parse() == Ok(info().store_evtchn),
        "store/port {b}"
    );
    Ok(())
}

fn chunks() -> Result {
    let mut c = Client::new();
    for n in [1, 7, 16] {
        let a = c.ask_chunked(XS_READ, 0, &[b"domid\0"], n).map_err(lost)?;
        same!(a.kind, XS_READ, "answer to a request in chunks of {n}");
    }
    // a part alone, with a pause: nothing may hang, and the indices move on
    let m = xenner_test_guests::store::request(XS_READ, 77, 0, &[b"domid\0"]).unwrap_or_default();
    c.put(&m.as_bytes()[..16], 16).map_err(lost)?;
    let page = va_of(info().store_mfn);
    check!(
        spin(2000, || read32(page + 2048) == read32(page + 2052)),
        "the server waits for a whole message"
    );
    c.put(&m.as_bytes()[16..], 16).map_err(lost)?;
    let (h, _) = c.receive().map_err(lost)?;
    same!(h.req_id, 77, "request of the answer");
    Ok(())
}

fn many() -> Result {
    let mut c = Client::new();
    for _ in 0..200 {
        ok(&mut c, XS_READ, 0, &[b"domid\0"])?;
    }
    Ok(())
}

fn errors() -> Result {
    let mut c = Client::new();
    err(&mut c, XS_READ, 0, &[b"no-such-node\0"], b"ENOENT\0")?;
    err(&mut c, XS_READ, 0, &[b"name//x\0"], b"EINVAL\0")?;
    err(&mut c, XS_READ, 0, &[b"name/\0"], b"EINVAL\0")?;
    err(&mut c, XS_READ, 0, &[b"sp ace\0"], b"EINVAL\0")?;
    err(&mut c, XS_READ, 99, &[b"name\0"], b"ENOENT\0")?;
    err(&mut c, XS_WRITE, 0, &[b"name\0", b"x"], b"EACCES\0")?;
    err(
        &mut c,
        XS_WRITE,
        0,
        &[b"/local/domain/0/x\0", b"x"],
        b"EACCES\0",
    )?;
    err(
        &mut c,
        XS_INTRODUCE,
        0,
        &[b"1\0", b"2\0", b"3\0"],
        b"EACCES\0",
    )?;
    err(&mut c, XS_RESTRICT, 0, &[b"1\0"], b"ENOSYS\0")?;
    err(&mut c, 60, 0, &[b"x\0"], b"ENOSYS\0")?;
    err(&mut c, XS_UNWATCH, 0, &[b"name\0", b"tok\0"], b"ENOENT\0")?;
    err(&mut c, XS_TRANSACTION_END, 99, &[b"T\0"], b"ENOENT\0")?;
    ok(&mut c, XS_READ, 0, &[b"name\0"])?;
    Ok(())
}

fn has_name(list: &[u8], name: &[u8]) -> bool {
    list.split(|b| *b == 0).any(|n| n == name)
}

fn directory() -> Result {
    let mut c = Client::new();
    let b =
        ok(&mut c, XS_DIRECTORY, 0, &[b"\0"]).or_else(|_| ok(&mut c, XS_DIRECTORY, 0, &[b".\0"]));
    if let Ok(b) = b {
        check!(has_name(b.as_bytes(), b"name"), "directory {b}");
    }
    let b = ok(&mut c, XS_DIRECTORY, 0, &[b"device\0"])?;
    check!(
        b.as_bytes().last().is_none_or(|b| *b == 0),
        "directory without NUL at its end"
    );
    let b = ok(&mut c, XS_DIRECTORY, 0, &[b"control\0"])?;
    check!(has_name(b.as_bytes(), b"shutdown"), "control has {b}");
    err(&mut c, XS_DIRECTORY, 0, &[b"no-such\0"], b"ENOENT\0")
}

fn write() -> Result {
    let mut c = Client::new();
    ok(&mut c, XS_WRITE, 0, &[b"data/t/a/b\0", b"value"])?;
    let b = ok(&mut c, XS_READ, 0, &[b"data/t/a/b\0"])?;
    check!(b.as_bytes() == b"value", "value {b}");
    let b = ok(&mut c, XS_READ, 0, &[b"data/t/a\0"])?;
    check!(b.as_bytes().is_empty(), "value of the parent {b}");
    ok(&mut c, XS_WRITE, 0, &[b"data/t/a/b\0", b""])?;
    check!(
        ok(&mut c, XS_READ, 0, &[b"data/t/a/b\0"])?
            .as_bytes()
            .is_empty(),
        "empty value"
    );
    ok(&mut c, XS_MKDIR, 0, &[b"data/t/c\0"])?;
    ok(&mut c, XS_MKDIR, 0, &[b"data/t/c\0"])?;
    let b = ok(&mut c, XS_DIRECTORY, 0, &[b"data/t\0"])?;
    check!(
        has_name(b.as_bytes(), b"a") && has_name(b.as_bytes(), b"c"),
        "children {b}"
    );
    ok(&mut c, XS_RM, 0, &[b"data/t\0"])?;
    err(&mut c, XS_READ, 0, &[b"data/t/a/b\0"], b"ENOENT\0")?;
    ok(&mut c, XS_RM, 0, &[b"data/t\0"])?;
    err(&mut c, XS_RM, 0, &[b"data/no/such\0"], b"ENOENT\0")
}

fn paths() -> Result {
    let mut c = Client::new();
    let id = super::events::domid();
    let abs = Text::<60>::format(format_args!("/local/domain/{id}/data/p\0"));
    ok(&mut c, XS_WRITE, 0, &[abs.as_bytes(), b"1"])?;
    let b = ok(&mut c, XS_READ, 0, &[b"data/p\0"])?;
    check!(b.as_bytes() == b"1", "value {b}");
    ok(&mut c, XS_RM, 0, &[b"data/p\0"])?;
    Ok(())
}

fn permissions() -> Result {
    let mut c = Client::new();
    let id = super::events::domid();
    ok(&mut c, XS_WRITE, 0, &[b"data/perm\0", b"1"])?;
    let b = ok(&mut c, XS_GET_PERMS, 0, &[b"data/perm\0"])?;
    let want = Text::<20>::format(format_args!("n{id}\0"));
    check!(b.as_bytes().starts_with(want.as_bytes()), "permissions {b}");
    ok(
        &mut c,
        XS_SET_PERMS,
        0,
        &[b"data/perm\0", want.as_bytes(), b"r0\0"],
    )?;
    let b = ok(&mut c, XS_GET_PERMS, 0, &[b"data/perm\0"])?;
    let want = Text::<20>::format(format_args!("n{id}\0r0\0"));
    check!(b.as_bytes() == want.as_bytes(), "permissions {b}");
    ok(&mut c, XS_RM, 0, &[b"data/perm\0"])?;
    let a = ask(&mut c, XS_SET_PERMS, 0, &[b"name\0", want.as_bytes()])?;
    same!(a.kind, XS_ERROR, "set_perms of a node of dom0");
    Ok(())
}

fn watch() -> Result {
    let mut c = Client::new();
    ok(&mut c, XS_WATCH, 0, &[b"data/w\0", b"tok en\0"])?;
    let e = c.event().map_err(lost)?;
    check!(e.as_bytes() == b"data/w\0tok en\0", "first event {e}");
    for (kind, path, event) in [
        (
            XS_WRITE,
            b"data/w\0".as_slice(),
            b"data/w\0tok en\0".as_slice(),
        ),
        (XS_WRITE, b"data/w/x/y\0", b"data/w/x/y\0tok en\0"),
        (XS_RM, b"data/w/x\0", b"data/w/x\0tok en\0"),
        (XS_RM, b"data/w\0", b"data/w\0tok en\0"),
    ] {
        ok(&mut c, kind, 0, &[path])?;
        let e = c.event().map_err(lost)?;
        check!(
            e.as_bytes() == event,
            "event {e}, not {:?}",
            core::str::from_utf8(event)
        );
        while c.has_event(20) {
            c.event().map_err(lost)?;
        }
    }
    ok(&mut c, XS_UNWATCH, 0, &[b"data/w\0", b"tok en\0"])?;
    ok(&mut c, XS_WRITE, 0, &[b"data/w\0", b"1"])?;
    check!(!c.has_event(50), "event after unwatch");
    ok(&mut c, XS_RM, 0, &[b"data/w\0"])?;
    Ok(())
}

fn watch_rules() -> Result {
    let mut c = Client::new();
    let id = super::events::domid();
    let abs = Text::<60>::format(format_args!("/local/domain/{id}/data/v\0"));
    ok(&mut c, XS_WATCH, 0, &[abs.as_bytes(), b"1\0"])?;
    let e = c.event().map_err(lost)?;
    check!(
        e.as_bytes().starts_with(abs.as_bytes()),
        "event of an absolute watch {e}"
    );
    err(&mut c, XS_WATCH, 0, &[abs.as_bytes(), b"1\0"], b"EEXIST\0")?;
    ok(&mut c, XS_WRITE, 0, &[b"data/v\0", b"1"])?;
    let e = c.event().map_err(lost)?;
    check!(e.as_bytes().starts_with(abs.as_bytes()), "event {e}");
    ok(&mut c, XS_UNWATCH, 0, &[abs.as_bytes(), b"1\0"])?;
    ok(&mut c, XS_WATCH, 0, &[b"@releaseDomain\0", b"r\0"])?;
    let e = c.event().map_err(lost)?;
    check!(e.as_bytes() == b"@releaseDomain\0r\0", "event {e}");
    ok(&mut c, XS_UNWATCH, 0, &[b"@releaseDomain\0", b"r\0"])?;
    ok(&mut c, XS_RM, 0, &[b"data/v\0"])?;
    Ok(())
}

fn begin(c: &mut Client) -> core::result::Result<u32, Verdict> {
    let b = ok(c, XS_TRANSACTION_START, 0, &[b"\0"])?;
    let text = b.as_str().trim_end_matches('\0');
    text.parse()
        .map_err(|_| failed(format_args!("transaction id {text}")))
}

fn transaction() -> Result {
    let mut c = Client::new();
    ok(&mut c, XS_WRITE, 0, &[b"data/tx\0", b"old"])?;
    let tx = begin(&mut c)?;
    check!(tx != 0, "transaction 0");
    ok(&mut c, XS_WRITE, tx, &[b"data/tx\0", b"new"])?;
    check!(
        ok(&mut c, XS_READ, 0, &[b"data/tx\0"])?.as_bytes() == b"old",
        "seen from outside"
    );
    check!(
        ok(&mut c, XS_READ, tx, &[b"data/tx\0"])?.as_bytes() == b"new",
        "not seen from inside"
    );
    ok(&mut c, XS_TRANSACTION_END, tx, &[b"T\0"])?;
    check!(
        ok(&mut c, XS_READ, 0, &[b"data/tx\0"])?.as_bytes() == b"new",
        "not committed"
    );
    let tx = begin(&mut c)?;
    ok(&mut c, XS_RM, tx, &[b"data/tx\0"])?;
    ok(&mut c, XS_TRANSACTION_END, tx, &[b"F\0"])?;
    check!(
        ok(&mut c, XS_READ, 0, &[b"data/tx\0"])?.as_bytes() == b"new",
        "aborted, but gone"
    );
    err(&mut c, XS_READ, tx, &[b"data/tx\0"], b"ENOENT\0")?;
    ok(&mut c, XS_RM, 0, &[b"data/tx\0"])?;
    Ok(())
}

fn conflict() -> Result {
    let mut c = Client::new();
    ok(&mut c, XS_WRITE, 0, &[b"data/cf\0", b"1"])?;
    let tx = begin(&mut c)?;
    ok(&mut c, XS_READ, tx, &[b"data/cf\0"])?;
    ok(&mut c, XS_WRITE, 0, &[b"data/cf\0", b"2"])?;
    ok(&mut c, XS_WRITE, tx, &[b"data/cf\0", b"3"])?;
    err(&mut c, XS_TRANSACTION_END, tx, &[b"T\0"], b"EAGAIN\0")?;
    check!(
        ok(&mut c, XS_READ, 0, &[b"data/cf\0"])?.as_bytes() == b"2",
        "value"
    );
    ok(&mut c, XS_RM, 0, &[b"data/cf\0"])?;
    Ok(())
}

fn large() -> Result {
    let mut c = Client::new();
    let value = [b'v'; 900];
    ok(&mut c, XS_WRITE, 0, &[b"data/large\0", &value])?;
    for _ in 0..8 {
        let b = ok(&mut c, XS_READ, 0, &[b"data/large\0"])?;
        check!(
            b.as_bytes() == value,
            "value of {} bytes",
            b.as_bytes().len()
        );
    }
    ok(&mut c, XS_RM, 0, &[b"data/large\0"])?;
    Ok(())
}

fn directory_part() -> Result {
    let mut c = Client::new();
    let whole = ok(&mut c, XS_DIRECTORY, 0, &[b"control\0"])?;
    let a = ask(&mut c, XS_DIRECTORY_PART, 0, &[b"control\0", b"0\0"])?;
    if a.kind == XS_ERROR {
        crate::skip!("no DIRECTORY_PART: {}", a.body);
    }
    let bytes = a.body.as_bytes();
    let at = bytes.iter().position(|b| *b == 0).map_or(0, |i| i + 1);
    check!(bytes[at..].starts_with(whole.as_bytes()), "part {}", a.body);
    check!(bytes.ends_with(b"\0\0"), "no end mark: {}", a.body);
    Ok(())
}

fn reset_watches() -> Result {
    let mut c = Client::new();
    ok(&mut c, XS_WATCH, 0, &[b"data/rw\0", b"1\0"])?;
    c.event().map_err(lost)?;
    ok(&mut c, XS_RESET_WATCHES, 0, &[b"\0"])?;
    ok(&mut c, XS_WRITE, 0, &[b"data/rw\0", b"1"])?;
    check!(!c.has_event(50), "event after reset");
    err(&mut c, XS_UNWATCH, 0, &[b"data/rw\0", b"1\0"], b"ENOENT\0")?;
    ok(&mut c, XS_RM, 0, &[b"data/rw\0"])?;
    Ok(())
}
