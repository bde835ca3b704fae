//! xen_version: who we say we are.

use xenner_xen_abi::errno::{EINVAL, ENOSYS, EPERM};
use xenner_xen_abi::version::*;

use super::{Answer, Call};

/// Xen 4.17, whose interface this is.
pub const XEN_VERSION: u32 = 4 << 16 | 17;

/// MMU_PT_UPDATE_PRESERVE_AD, highmem_assist, gnttab_map_avail_bits.
const FEATURES: u32 = 1 << 5 | 1 << 6 | 1 << 7;
const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;

/// `text` with zeroes behind it, `len` bytes.
fn padded(text: &str, len: usize) -> Vec<u8> {
    let mut v = text.as_bytes().to_vec();
    v.truncate(len - 1);
    v.resize(len, 0);
    v
}

pub(super) fn xen_version(call: &Call<'_>) -> Answer {
    let [cmd, arg, ..] = call.args;
    let out = match cmd as u32 {
        XENVER_VERSION => return Ok(i64::from(XEN_VERSION)),
        XENVER_EXTRAVERSION => padded("-xenner", 16),
        XENVER_COMPILE_INFO => [
            padded("rustc", 64),
            padded("xenner", 16),
            padded("", 32),
            padded(env!("CARGO_PKG_VERSION"), 32),
        ]
        .concat(),
        XENVER_CAPABILITIES => padded("xen-3.0-x86_64 ", 1024),
        XENVER_CHANGESET => padded("unavailable", 64),
        XENVER_PLATFORM_PARAMETERS => HYPERVISOR_VIRT_START.to_le_bytes().to_vec(),
        XENVER_GET_FEATURES => {
            if call.guest.u32(arg)? != 0 {
                return Err(EINVAL);
            }
            call.guest
                .write(arg.wrapping_add(4), &FEATURES.to_le_bytes())?;
            return Ok(0);
        }
        XENVER_PAGESIZE => return if arg == 0 { Ok(4096) } else { Err(EINVAL) },
        XENVER_GUEST_HANDLE => call.domain.hypercalls.uuid.0.to_vec(),
        XENVER_COMMANDLINE => padded("<denied>", 1024),
        XENVER_BUILD_ID => return Err(EPERM),
        _ => return Err(ENOSYS),
    };
    call.guest.write(arg, &out)?;
    Ok(0)
}
