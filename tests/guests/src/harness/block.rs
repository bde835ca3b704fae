//! A block frontend of one ring page (`io/blkif.h`): connects to the first vbd
//! of the domain, with a page or more of data for each request in flight.

use super::events;
use super::machine::mfn_of;
use super::paging::{DATA, entry, set_rw};
use super::runner::{Verdict, a_page, failed, skipped};
use super::store::Client;
use super::time::{MS, now, poll};
use super::xen::{at_mut, close, evtchn, send, update_va_mapping};
use crate::arch::hypercall::call;
use crate::arch::memory::{PAGE, alloc_pages, fence, get_struct, put_struct, read32, write32};
use crate::fail;
use xenner_test_guests::text::Text;
use xenner_xen_abi::event_channel::{EVTCHNOP_ALLOC_UNBOUND, EvtchnAllocUnbound};
use xenner_xen_abi::grant_table::*;
use xenner_xen_abi::io::blkif::*;
use xenner_xen_abi::io::ring::{needs_notify, ring_size};
use xenner_xen_abi::io::xenbus::XenbusState;
use xenner_xen_abi::io::xs_wire::{XS_DIRECTORY, XS_ERROR, XS_READ, XS_WRITE};
use xenner_xen_abi::xen::*;

/// Requests in flight.
pub const SLOTS: usize = ring_size(PAGE as usize, size_of::<BlkifRequest>()) as usize;
/// The other end takes this long at most for anything.
const PATIENCE_MS: u64 = 20_000;
/// The grant reference of the ring's page; those of data pages follow.
const RING_REF: u32 = GNTTAB_NR_RESERVED_ENTRIES;
/// Offset of the first entry in the ring's page.
const ENTRIES: u64 = 64;

type Result<T> = core::result::Result<T, Verdict>;
type Path = Text<96>;

/// A connected disk.
pub struct Disk {
    store: Client,
    frontend: Path,
    backend: Path,
    table: u64,
    ring: u64,
    pages: u64,
    pages_each: usize,
    port: u32,
    req_prod: u32,
    rsp_cons: u32,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of the disk's own sectors.
    pub sector_size: u64,
    /// `VDISK_*` flags.
    pub info: u64,
    /// Notifications sent.
    pub sent: u64,
}

impl Disk {
    /// Connect to the domain's first vbd, with `pages_each` pages of data for
    /// each request; the test is skipped where there is no disk.
    pub fn connect(pages_each: usize) -> Result<Disk> {
        let mut store = Client::new();
        let Some(frontend) = first_vbd(&mut store)? else {
            return Err(skipped(format_args!("no disk")));
        };
        let backend = read(&mut store, &frontend, "backend")?;
        let (table, ring) = (a_page()?, a_page()?);
        let pages = alloc_pages(SLOTS * pages_each)
            .ok_or_else(|| failed(format_args!("page pool is empty")))?;
        let mut disk = Disk {
            store,
            frontend,
            backend: Path::format(format_args!("{backend}")),
            table,
            ring,
            pages,
            pages_each,
            port: 0,
            req_prod: 0,
            rsp_cons: 0,
            sectors: 0,
            sector_size: 0,
            info: 0,
            sent: 0,
        };
        disk.grant()?;
        disk.open_port()?;
        disk.handshake()?;
        Ok(disk)
    }

    /// Map the grant table, grant the ring and the data pages.
    fn grant(&mut self) -> Result<()> {
        let mut list = [0u64; 4];
        let mut setup = GnttabSetupTable {
            dom: DOMID_SELF,
            nr_frames: 2,
            frame_list: list.as_mut_ptr() as u64,
            ..GnttabSetupTable::default()
        };
        let r = call(
            HYPERVISOR_GRANT_TABLE_OP,
            [GNTTABOP_SETUP_TABLE.into(), at_mut(&mut setup), 1, 0, 0],
        );
        let first: u64 = get_struct(list.as_ptr() as u64);
        let mapped = update_va_mapping(self.table, entry(first, DATA), UVMF_INVLPG);
        if r != 0 || setup.status != GNTST_OKAY || mapped != 0 {
            fail!("grant table: {r}, status {}, {mapped}", setup.status);
        }
        // What the backend sets first: notify at the next entry.
        for (offset, value) in [(0, 0), (4, 1), (8, 0), (12, 1)] {
            write32(self.ring + offset, value);
        }
        self.put_grant(RING_REF, self.ring);
        for i in 0..SLOTS * self.pages_each {
            self.put_grant(RING_REF + 1 + i as u32, self.pages + i as u64 * PAGE);
        }
        Ok(())
    }

    fn put_grant(&self, reference: u32, page: u64) {
        let at = self.table + u64::from(reference) * 8;
        // The frame first: the flags make the entry valid.
        write32(at + 4, mfn_of(page) as u32);
        fence();
        write32(at, GTF_PERMIT_ACCESS.into());
    }

    fn open_port(&mut self) -> Result<()> {
        let mut unbound = EvtchnAllocUnbound {
            dom: DOMID_SELF,
            remote_dom: 0,
            port: 0,
        };
        let r = evtchn(EVTCHNOP_ALLOC_UNBOUND, &mut unbound);
        if r != 0 {
            fail!("alloc_unbound: {r}");
        }
        self.port = unbound.port;
        Ok(())
    }

    fn handshake(&mut self) -> Result<()> {
        // A disk that was used before is closed: begin anew.
        if self.backend_state()? >= XenbusState::Closing as u64 {
            self.set_state(XenbusState::Initialising)?;
        }
        self.wait_for_backend("InitWait", |state| state == XenbusState::InitWait as u64)?;
        let (ring, port) = (RING_REF, self.port);
        self.write("ring-ref", format_args!("{ring}"))?;
        self.write("event-channel", format_args!("{port}"))?;
        self.write("protocol", format_args!("x86_64-abi"))?;
        self.set_state(XenbusState::Initialised)?;
        self.wait_for_backend("Connected", |state| state == XenbusState::Connected as u64)?;
        self.sectors = self.backend_number("sectors")?;
        self.sector_size = self.backend_number("sector-size")?;
        self.info = self.backend_number("info")?;
        self.set_state(XenbusState::Connected)
    }

    fn backend_state(&mut self) -> Result<u64> {
        self.backend_number("state")
    }

    /// A number among the backend's keys; the test fails if there is none.
    pub fn backend_number(&mut self, key: &str) -> Result<u64> {
        let text = read(&mut self.store, &self.backend, key)?;
        match text.as_str().parse() {
            Ok(number) => Ok(number),
            Err(_) => fail!("{}/{key} is {text}", self.backend),
        }
    }

    fn wait_for_backend(&mut self, what: &str, wanted: fn(u64) -> bool) -> Result<()> {
        let end = now() + PATIENCE_MS * MS;
        loop {
            let state = self.backend_state()?;
            if wanted(state) {
                return Ok(());
            }
            if now() > end {
                fail!("the backend's state is {state}, not {what}");
            }
            poll(&[self.port], now() + MS);
        }
    }

    fn set_state(&mut self, state: XenbusState) -> Result<()> {
        self.write("state", format_args!("{}", state as u8))
    }

    fn write(&mut self, key: &str, value: core::fmt::Arguments<'_>) -> Result<()> {
        let path = Path::format(format_args!("{}/{key}\0", self.frontend));
        let value = Path::format(value);
        let parts = [path.as_bytes(), value.as_bytes()];
        match self.store.ask(XS_WRITE, 0, &parts) {
            Ok(answer) if answer.kind != XS_ERROR => Ok(()),
            Ok(answer) => fail!("write {path}: {}", answer.body),
            Err(error) => fail!("write {path}: {error:?}"),
        }
    }

    /// The address of a slot's data.
    pub fn data(&self, slot: usize) -> u64 {
        self.pages + (slot * self.pages_each) as u64 * PAGE
    }

    /// The grant reference of a page of a slot's data.
    pub fn data_ref(&self, slot: usize, page: usize) -> u32 {
        RING_REF + 1 + (slot * self.pages_each + page) as u32
    }

    /// A request for whole pages of a slot's data, from `sector` on.
    pub fn request(&self, operation: u8, slot: usize, sector: u64, pages: usize) -> BlkifRequest {
        let mut request = BlkifRequest {
            operation,
            nr_segments: pages as u8,
            id: slot as u64,
            sector_number: sector,
            ..BlkifRequest::default()
        };
        for (page, segment) in request.seg.iter_mut().take(pages).enumerate() {
            *segment = BlkifRequestSegment {
                gref: self.data_ref(slot, page),
                first_sect: 0,
                last_sect: BLKIF_SECTORS_PER_PAGE - 1,
                pad: 0,
            };
        }
        request
    }

    /// Put a request on the ring; [`Disk::push`] shows it to the backend.
    pub fn put<T: Copy>(&mut self, request: &T) {
        let index = u64::from(self.req_prod) % SLOTS as u64;
        put_struct(
            self.ring + ENTRIES + index * size_of::<BlkifRequest>() as u64,
            request,
        );
        self.req_prod = self.req_prod.wrapping_add(1);
    }

    /// Show what was put; notify if the backend asks for it.
    pub fn push(&mut self) {
        let old = read32(self.ring);
        fence();
        write32(self.ring, self.req_prod);
        fence();
        if needs_notify(old, self.req_prod, read32(self.ring + 4)) {
            self.sent += 1;
            send(self.port);
        }
    }

    /// The next response; waits for it.
    pub fn response(&mut self) -> Result<BlkifResponse> {
        let end = now() + PATIENCE_MS * MS;
        while read32(self.ring + 8) == self.rsp_cons {
            events::clear(self.port);
            write32(self.ring + 12, self.rsp_cons.wrapping_add(1));
            fence();
            if read32(self.ring + 8) != self.rsp_cons {
                break;
            }
            poll(&[self.port], now() + 1000 * MS);
            if now() > end {
                fail!("no response within {PATIENCE_MS} ms");
            }
        }
        fence();
        let index = u64::from(self.rsp_cons) % SLOTS as u64;
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Ok(get_struct(
            self.ring + ENTRIES + index * size_of::<BlkifRequest>() as u64,
        ))
    }

    /// Responses that are there and not taken yet.
    pub fn ready(&self) -> bool {
        read32(self.ring + 8) != self.rsp_cons
    }

    /// A single request from start to end; gives back its status.
    pub fn status_of<T: Copy>(&mut self, request: &T) -> Result<i16> {
        self.put(request);
        self.push();
        Ok(self.response()?.status)
    }

    /// The same, which must succeed.
    pub fn transfer(
        &mut self,
        operation: u8,
        slot: usize,
        sector: u64,
        pages: usize,
    ) -> Result<()> {
        let request = self.request(operation, slot, sector, pages);
        match self.status_of(&request)? {
            BLKIF_RSP_OKAY => Ok(()),
            status => fail!("operation {operation} at sector {sector}: status {status}"),
        }
    }

    /// Everything answered so far is on stable storage.
    pub fn flush(&mut self) -> Result<()> {
        self.transfer(BLKIF_OP_FLUSH_DISKCACHE, 0, 0, 0)
    }

    /// Disconnect, and take the grants back.
    pub fn close(mut self) -> Result<()> {
        self.set_state(XenbusState::Closing)?;
        self.wait_for_backend("Closed", |state| state >= XenbusState::Closing as u64)?;
        self.set_state(XenbusState::Closed)?;
        self.wait_for_backend("Closed or anew", |state| {
            state == XenbusState::Closed as u64 || state == XenbusState::InitWait as u64
        })?;
        for i in 0..=SLOTS * self.pages_each {
            let at = self.table + u64::from(RING_REF + i as u32) * 8;
            let flags: u16 = get_struct(at);
            if flags & (GTF_READING | GTF_WRITING) != 0 {
                fail!(
                    "grant {} is still in use: flags {flags:#x}",
                    RING_REF + i as u32
                );
            }
            put_struct(at, &0u64);
        }
        let (closed, unmapped) = (close(self.port), set_rw(self.table));
        if closed != 0 || unmapped != 0 {
            fail!("port and table: {closed}, {unmapped}");
        }
        Ok(())
    }
}

/// The path of the first vbd.
fn first_vbd(store: &mut Client) -> Result<Option<Path>> {
    let answer = match store.ask(XS_DIRECTORY, 0, &[b"device/vbd\0"]) {
        Ok(answer) => answer,
        Err(error) => fail!("device/vbd: {error:?}"),
    };
    if answer.kind == XS_ERROR {
        return Ok(None);
    }
    let names = answer.body;
    let first = names.as_str().split('\0').next().unwrap_or("");
    Ok((!first.is_empty()).then(|| Path::format(format_args!("device/vbd/{first}"))))
}

fn read(store: &mut Client, dir: &Path, key: &str) -> Result<Path> {
    let path = Path::format(format_args!("{dir}/{key}\0"));
    match store.ask(XS_READ, 0, &[path.as_bytes()]) {
        Ok(answer) if answer.kind != XS_ERROR => Ok(Path::format(format_args!("{}", answer.body))),
        Ok(answer) => fail!("read {path}: {}", answer.body),
        Err(error) => fail!("read {path}: {error:?}"),
    }
}
