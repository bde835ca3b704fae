//! grant_table_op: the table's set-up. Mapping others' grants is for backend domains, which
//! this is not.

use std::sync::PoisonError;

use xenner_emu_abi::layout::{DOMID, GRANT_FRAMES, PAGE_SIZE};
use xenner_xen_abi::errno::*;
use xenner_xen_abi::grant_table::*;
use xenner_xen_abi::xen::DOMID_SELF;

use super::{Answer, Call};
use crate::frames::Held;

/// Operations of one call; guests batch far fewer, and a vcpu is not to be held for long.
const MAX_BATCH: u64 = 4096;

/// What is set up of the grant table.
#[derive(Debug)]
pub struct GrantTable {
    /// Frames that the guest has.
    pub frames: u64,
}

impl Default for GrantTable {
    fn default() -> Self {
        Self { frames: 1 }
    }
}

pub(super) fn grant_table_op(call: &Call<'_>) -> Answer {
    let [cmd, arg, count, ..] = call.args;
    if (count as i32) < 0 {
        return Err(EINVAL);
    }
    let cmd = cmd as u32;
    let single = matches!(
        cmd,
        GNTTABOP_SETUP_TABLE
            | GNTTABOP_QUERY_SIZE
            | GNTTABOP_SET_VERSION
            | GNTTABOP_GET_STATUS_FRAMES
    );
    if single && count != 1 {
        return Err(EINVAL);
    }
    let g = &call.guest;
    let status = |offset: u64, s: i16| g.write(arg.wrapping_add(offset), &s.to_le_bytes());
    match cmd {
        GNTTABOP_SETUP_TABLE => setup_table(call, arg)?,
        GNTTABOP_QUERY_SIZE => {
            if !own(g.u16(arg)?) {
                status(12, GNTST_BAD_DOMAIN)?;
            } else {
                let frames = call.domain.hypercalls.grants.lock();
                let frames = frames.unwrap_or_else(PoisonError::into_inner).frames as u32;
                g.write(arg.wrapping_add(4), &frames.to_le_bytes())?;
                g.write(arg.wrapping_add(8), &(GRANT_FRAMES as u32).to_le_bytes())?;
                status(12, GNTST_OKAY)?;
            }
        }
        GNTTABOP_SET_VERSION => match g.u32(arg)? {
            1 => g.write(arg, &1u32.to_le_bytes())?,
            // frame numbers fit version 1
            2 => return Err(ENOSYS),
            _ => return Err(EINVAL),
        },
        GNTTABOP_GET_VERSION => {
            if own(g.u16(arg)?) {
                g.write(arg.wrapping_add(4), &1u32.to_le_bytes())?;
            } else {
                return Err(ESRCH);
            }
        }
        GNTTABOP_MAP_GRANT_REF => each(count, |i| {
            g.write(arg.wrapping_add(i * 32 + 18), &bad_domain())
        })?,
        GNTTABOP_UNMAP_GRANT_REF => {
            each(count, |i| {
                g.write(
                    arg.wrapping_add(i * 24 + 20),
                    &GNTST_BAD_HANDLE.to_le_bytes(),
                )
            })?;
        }
        GNTTABOP_COPY => each(count, |i| {
            let at = arg.wrapping_add(i * 40);
            let status = copy(call, at)?;
            g.write(at.wrapping_add(36), &status.to_le_bytes())
        })?,
        GNTTABOP_DUMP_TABLE => status(2, GNTST_PERMISSION_DENIED)?,
        GNTTABOP_GET_STATUS_FRAMES => status(6, GNTST_GENERAL_ERROR)?,
        _ => return Err(ENOSYS),
    }
    Ok(0)
}

fn own(dom: u16) -> bool {
    dom == DOMID_SELF || dom == DOMID
}

fn bad_domain() -> [u8; 2] {
    GNTST_BAD_DOMAIN.to_le_bytes()
}

fn each(
    count: u64,
    mut f: impl FnMut(u64) -> Result<(), crate::guest_va::Fault>,
) -> Result<(), i64> {
    if count > MAX_BATCH {
        return Err(E2BIG);
    }
    (0..count).try_for_each(|i| f(i).map_err(i64::from))
}

/// One GNTTABOP_copy between the domain's own frames; grants of others there are none.
fn copy(call: &Call<'_>, at: u64) -> Result<i16, crate::guest_va::Fault> {
    let g = &call.guest;
    let (len, flags) = (
        u64::from(g.u16(at.wrapping_add(32))?),
        g.u16(at.wrapping_add(34))?,
    );
    let mut places = [0; 2];
    for (place, side) in places.iter_mut().zip([at, at.wrapping_add(16)]) {
        let (frame, dom, offset) = (
            g.u64(side)?,
            g.u16(side.wrapping_add(8))?,
            u64::from(g.u16(side.wrapping_add(10))?),
        );
        if !own(dom) {
            return Ok(GNTST_BAD_DOMAIN);
        }
        if flags != 0 {
            return Ok(GNTST_BAD_GNTREF);
        }
        if offset + len > PAGE_SIZE {
            return Ok(GNTST_BAD_COPY_ARG);
        }
        let Some(ma) = frame
            .checked_mul(PAGE_SIZE)
            .filter(|ma| *ma < call.domain.map.ram_end)
        else {
            return Ok(GNTST_BAD_PAGE);
        };
        *place = ma + offset;
    }
    let memory = &call.domain.memory;
    // page tables are written by their own rules alone
    let Ok(_held) = Held::new(memory, &call.domain.map, places[1]) else {
        return Ok(GNTST_PERMISSION_DENIED);
    };
    let mut data = vec![0; len as usize];
    let done = memory
        .read(places[0], &mut data)
        .and_then(|()| memory.write(places[1], &data));
    Ok(if done.is_ok() {
        GNTST_OKAY
    } else {
        GNTST_BAD_PAGE
    })
}

/// Grows the table and tells its frames.
fn setup_table(call: &Call<'_>, arg: u64) -> Result<(), i64> {
    let g = &call.guest;
    let wanted = u64::from(g.u32(arg.wrapping_add(4))?);
    let list = g.u64(arg.wrapping_add(16))?;
    let status = if !own(g.u16(arg)?) {
        GNTST_BAD_DOMAIN
    } else if wanted > GRANT_FRAMES {
        GNTST_GENERAL_ERROR
    } else {
        let mut table = call
            .domain
            .hypercalls
            .grants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.frames = table.frames.max(wanted);
        for i in 0..wanted {
            let mfn = call.domain.map.grant_frames / PAGE_SIZE + i;
            g.write(list.wrapping_add(i * 8), &mfn.to_le_bytes())?;
        }
        GNTST_OKAY
    };
    g.write(arg.wrapping_add(8), &status.to_le_bytes())?;
    Ok(())
}
