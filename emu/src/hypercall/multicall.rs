//! multicall: a list of hypercalls in one.

use xenner_xen_abi::errno::{EFAULT, EINVAL, ENOSYS};
use xenner_xen_abi::xen::{
    HYPERVISOR_IRET, HYPERVISOR_MULTICALL, HYPERVISOR_SCHED_OP, HYPERVISOR_SCHED_OP_COMPAT,
};

use super::{TABLE, sched};
use crate::mem::{current, read_guest_words, write_guest};

/// Bytes of `struct multicall_entry`.
const ENTRY: u64 = 64;
/// Longest list in one call: a bound on time in ring 0, far beyond what guests use.
const MAX: u64 = 1 << 16;

/// multicall(list, n). `iret` as an entry is refused with ENOSYS.
pub extern "C" fn multicall(list: u64, n: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let me = current();
    if n > MAX || me.in_multicall.get() {
        return -EINVAL;
    }
    me.in_multicall.set(true);
    let done = run(list, n);
    me.in_multicall.set(false);
    done.map_or_else(|e| -e, |()| 0)
}

fn run(list: u64, n: u64) -> Result<(), i64> {
    for i in 0..n {
        let at = list.wrapping_add(i * ENTRY);
        let [op, _, a, b, c, d, e, f] = read_guest_words(at).map_err(|_| EFAULT)?;
        current().hypercalls[op as usize & 63].update(|n| n + 1);
        let result = match op {
            HYPERVISOR_MULTICALL => -EINVAL,
            HYPERVISOR_IRET => -ENOSYS,
            HYPERVISOR_SCHED_OP | HYPERVISOR_SCHED_OP_COMPAT => {
                sched::sched_op(op, [a, b, c], &Default::default())
            }
            _ => match TABLE.get(op as usize) {
                Some(handler) => handler(a, b, c, d, e, f),
                None => -ENOSYS,
            },
        };
        write_guest(at.wrapping_add(8), result as u64).map_err(|_| EFAULT)?;
    }
    Ok(())
}
