//! The grant table: its size, its frames, the entries that the builder wrote.

use super::t;
use crate::arch::hypercall::call;
use crate::arch::memory::{PAGE, alloc_pages, get_struct, put_struct};
use crate::harness::machine::{info, mfn_of};
use crate::harness::paging::{DATA, entry, set_rw};
use crate::harness::runner::{Result, Test, a_page};
use crate::harness::xen::*;
use crate::{check, same};
use xenner_xen_abi::errno::*;
use xenner_xen_abi::grant_table::*;
use xenner_xen_abi::xen::*;

pub const TESTS: &[Test] = &[
    t("grant-query-size", query_size),
    t("grant-setup-table", setup_table),
    t("grant-reserved-entries", reserved),
    t("grant-errors", errors),
    t("grant-version", version),
    t("grant-map-own", map_own),
    t("grant-copy-own", copy_own),
];

fn op<T>(cmd: u32, arg: &mut T, count: u64) -> i64 {
    call(
        HYPERVISOR_GRANT_TABLE_OP,
        [cmd.into(), at_mut(arg), count, 0, 0],
    )
}

fn query() -> (i64, GnttabQuerySize) {
    let mut q = GnttabQuerySize {
        dom: DOMID_SELF,
        ..GnttabQuerySize::default()
    };
    (op(GNTTABOP_QUERY_SIZE, &mut q, 1), q)
}

fn query_size() -> Result {
    let (r, q) = query();
    same!(r, 0, "query_size");
    same!(q.status, GNTST_OKAY, "status");
    check!(
        q.nr_frames >= 1 && q.nr_frames <= q.max_nr_frames,
        "{} of {} frames",
        q.nr_frames,
        q.max_nr_frames
    );
    Ok(())
}

/// Frames of the table.
fn setup(n: u32) -> (i64, i16, [u64; 8]) {
    let mut list = [0u64; 8];
    let mut s = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: n,
        frame_list: list.as_mut_ptr() as u64,
        ..GnttabSetupTable::default()
    };
    let r = op(GNTTABOP_SETUP_TABLE, &mut s, 1);
    (
        r,
        s.status,
        crate::arch::memory::get_struct(list.as_ptr() as u64),
    )
}

/// Run with the first table page mapped.
fn with_table(f: fn(u64) -> Result) -> Result {
    let (r, status, list) = setup(1);
    same!(r, 0, "setup_table");
    same!(status, GNTST_OKAY, "status");
    let va = a_page()?;
    same!(
        update_va_mapping(va, entry(list[0], DATA), UVMF_INVLPG),
        0,
        "map the table"
    );
    let result = f(va);
    same!(set_rw(va), 0, "unmap the table");
    result
}

fn setup_table() -> Result {
    let (r, status, list) = setup(2);
    same!(r, 0, "setup_table");
    same!(status, GNTST_OKAY, "status");
    check!(
        list[0] != 0 && list[1] != 0 && list[0] != list[1],
        "frames {:x?}",
        &list[..2]
    );
    let (_, q) = query();
    check!(
        q.nr_frames >= 2,
        "{} frames after asking for 2",
        q.nr_frames
    );
    let (_, status, _) = setup(q.max_nr_frames + 1);
    same!(status, GNTST_GENERAL_ERROR, "status of too many frames");
    let (r, _, again) = setup(1);
    same!(r, 0, "setup_table again");
    same!(again[0], list[0], "first frame");
    Ok(())
}

fn reserved() -> Result {
    with_table(|va| {
        let i = info();
        for (n, mfn) in [
            (GNTTAB_RESERVED_CONSOLE, i.console_mfn),
            (GNTTAB_RESERVED_XENSTORE, i.store_mfn),
        ] {
            let e: GrantEntryV1 = get_struct(va + u64::from(n) * 8);
            same!(
                e.flags & GTF_TYPE_MASK,
                GTF_PERMIT_ACCESS,
                "flags of entry {n}"
            );
            same!(e.domid, 0, "domain of entry {n}");
            same!(u64::from(e.frame), mfn, "frame of entry {n}");
        }
        for n in GNTTAB_NR_RESERVED_ENTRIES..GRANT_ENTRIES_V1_PER_PAGE {
            same!(get_struct::<u64>(va + u64::from(n) * 8), 0, "entry {n}");
        }
        Ok(())
    })
}

fn errors() -> Result {
    let mut q = GnttabQuerySize {
        dom: 1234,
        ..GnttabQuerySize::default()
    };
    same!(
        op(GNTTABOP_QUERY_SIZE, &mut q, 1),
        0,
        "query_size of domain 1234"
    );
    check!(
        q.status == GNTST_BAD_DOMAIN || q.status == GNTST_PERMISSION_DENIED,
        "its status {}",
        q.status
    );
    same!(
        op(GNTTABOP_QUERY_SIZE, &mut q, 2),
        -EINVAL,
        "query_size of two"
    );
    same!(
        op(GNTTABOP_QUERY_SIZE, &mut q, u64::MAX),
        -EINVAL,
        "query_size of -1"
    );
    let mut m = GnttabMapGrantRef {
        host_addr: a_page()?,
        flags: GNTMAP_HOST_MAP,
        grant_ref: 9,
        dom: 1234,
        ..GnttabMapGrantRef::default()
    };
    same!(
        op(GNTTABOP_MAP_GRANT_REF, &mut m, 1),
        0,
        "map a grant of domain 1234"
    );
    check!(m.status == GNTST_BAD_DOMAIN, "its status {}", m.status);
    Ok(())
}

fn version() -> Result {
    let mut g = GnttabGetVersion {
        dom: DOMID_SELF,
        ..GnttabGetVersion::default()
    };
    same!(op(GNTTABOP_GET_VERSION, &mut g, 1), 0, "get_version");
    same!(g.version, 1, "version");
    let mut v = GnttabSetVersion { version: 1 };
    same!(op(GNTTABOP_SET_VERSION, &mut v, 1), 0, "set_version 1");
    same!(v.version, 1, "version");
    v.version = 3;
    same!(
        op(GNTTABOP_SET_VERSION, &mut v, 1),
        -EINVAL,
        "set_version 3"
    );
    Ok(())
}

/// A grant to itself is mapped and unmapped; Xen allows it.
fn map_own() -> Result {
    with_table(|table| {
        let pages = alloc_pages(2).unwrap_or(0);
        let (page, window) = (pages, pages + PAGE);
        crate::arch::memory::write64(page, 0x6e);
        let domid = super::events::domid();
        let e = GrantEntryV1 {
            flags: GTF_PERMIT_ACCESS,
            domid,
            frame: mfn_of(page) as u32,
        };
        put_struct(table + 20 * 8, &e);
        // mapping a grant does not flush what was there before
        same!(
            update_va_mapping(window, 0, UVMF_INVLPG),
            0,
            "empty the window"
        );
        let mut m = GnttabMapGrantRef {
            host_addr: window,
            flags: GNTMAP_HOST_MAP,
            grant_ref: 20,
            dom: domid,
            ..GnttabMapGrantRef::default()
        };
        let r = op(GNTTABOP_MAP_GRANT_REF, &mut m, 1);
        if r < 0 || m.status < 0 {
            put_struct(table + 20 * 8, &GrantEntryV1::default());
            same!(set_rw(window), 0, "the window's own page");
            crate::skip!(
                "a domain cannot map its own grant: {r}, status {}",
                m.status
            );
        }
        let seen = crate::arch::memory::read64(window);
        let flags = get_struct::<GrantEntryV1>(table + 20 * 8).flags;
        let mut u = GnttabUnmapGrantRef {
            host_addr: window,
            handle: m.handle,
            ..GnttabUnmapGrantRef::default()
        };
        let r = op(GNTTABOP_UNMAP_GRANT_REF, &mut u, 1);
        let after = get_struct::<GrantEntryV1>(table + 20 * 8).flags;
        put_struct(table + 20 * 8, &GrantEntryV1::default());
        same!(set_rw(window), 0, "the window's own page");
        same!(seen, 0x6e, "what was read through the mapping");
        same!(
            flags,
            GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING,
            "flags while mapped"
        );
        same!(r, 0, "unmap");
        same!(u.status, GNTST_OKAY, "status of unmap");
        same!(after, GTF_PERMIT_ACCESS, "flags after unmap");
        Ok(())
    })
}

fn copy_own() -> Result {
    let (a, b) = (a_page()?, a_page()?);
    crate::arch::memory::put(a + 100, b"copied");
    let side = |va, offset| GnttabCopyPtr {
        frame_or_ref: mfn_of(va),
        domid: DOMID_SELF,
        offset,
        pad: 0,
    };
    let mut c = GnttabCopy {
        source: side(a, 100),
        dest: side(b, 200),
        len: 6,
        ..GnttabCopy::default()
    };
    let r = op(GNTTABOP_COPY, &mut c, 1);
    if r == -ENOSYS {
        crate::skip!("no GNTTABOP_copy");
    }
    same!(r, 0, "copy");
    same!(c.status, GNTST_OKAY, "status");
    let mut got = [0; 6];
    crate::arch::memory::get(b + 200, &mut got);
    check!(&got == b"copied", "{got:x?}");
    c.source.offset = 4093;
    same!(
        op(GNTTABOP_COPY, &mut c, 1),
        0,
        "copy over the end of a page"
    );
    same!(c.status, GNTST_BAD_COPY_ARG, "its status");
    Ok(())
}
