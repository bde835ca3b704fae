//! A guest that lives until it is told to end: it writes to its disk, if it has one, and does what
//! `control/shutdown` says (Xen's `docs/misc/xenstore-paths`).

use super::named;
use super::rings::{lost, ok};
use crate::harness::block::Disk;
use crate::harness::console::line;
use crate::harness::events;
use crate::harness::machine::info;
use crate::harness::runner::{Result, Test, Verdict, shutdown};
use crate::harness::store::{Body, Client};
use crate::harness::time::{now, poll};
use xenner_xen_abi::io::blkif::BLKIF_OP_WRITE;
use xenner_xen_abi::io::xs_wire::{XS_READ, XS_WATCH, XS_WRITE};
use xenner_xen_abi::sched::{SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};

pub const TESTS: &[Test] = &[named("serve", serve)];

/// The node that says how to end.
const ORDERS: &[u8] = b"control/shutdown\0";
/// Nanoseconds between two writes to the disk.
const PAUSE: u64 = 10_000_000;

fn serve() -> Result {
    let mut disk = match Disk::connect(1) {
        Ok(disk) => Some(disk),
        Err(Verdict::Skip) => None,
        Err(fault) => return Err(fault),
    };
    let mut store = Client::new();
    ok(&mut store, XS_WATCH, 0, &[ORDERS, b"orders\0"])?;
    line(format_args!("pvtest: serves"));
    let mut sector = 0;
    loop {
        if let Some(reason) = order(&mut store)? {
            if let Some(disk) = disk {
                disk.close()?;
            }
            shutdown(reason)
        }
        if let Some(disk) = &mut disk {
            disk.transfer(BLKIF_OP_WRITE, 0, sector, 1)?;
            disk.flush()?;
            sector = (sector + 8) % (disk.sectors & !7);
        }
        poll(&[info().store_evtchn], now() + PAUSE);
    }
}

/// How to shut down, if that is what came; the order is acknowledged.
fn order(store: &mut Client) -> core::result::Result<Option<u32>, Verdict> {
    events::clear(info().store_evtchn);
    let mut text = Body::new();
    while store.has_event(0) {
        store.event().map_err(lost)?;
        text = ok(store, XS_READ, 0, &[ORDERS])?;
    }
    let reason = match text.as_bytes() {
        b"poweroff" | b"halt" => SHUTDOWN_POWEROFF,
        b"reboot" => SHUTDOWN_REBOOT,
        _ => return Ok(None),
    };
    ok(store, XS_WRITE, 0, &[ORDERS, b""])?;
    Ok(Some(reason))
}
