//! `-xenner stats=on`: what the domain did, told at its end.

use std::fmt::Write;

use xenner_emu_abi::area::{AREA_SIZE, AREA_VCPU};

use crate::domain::{Domain, crash};
use crate::kvm::stats::{ExitLog, VcpuStatistics};

/// Hypercalls by number and vcpu.
///
/// The counters are the emulator's own; a guest that took ring 0 over can make them up.
pub fn statistics(domain: &Domain) -> String {
    let mut text = String::from("hypercalls by vcpu:\n");
    for vcpu in 0..domain.map.vcpus {
        let counts = hypercalls(domain, vcpu as u32);
        // writing to a string cannot fail
        let _ = writeln!(
            text,
            "  vcpu {vcpu}: {}",
            counts.iter().map(|c| c.1).sum::<u64>()
        );
        for (name, count) in counts {
            let _ = writeln!(text, "    {name:<28} {count}");
        }
    }
    text
}

/// Hypercalls of one vcpu, by name; those that were never made are left out.
pub fn hypercalls(domain: &Domain, vcpu: u32) -> Vec<(&'static str, u64)> {
    let area = domain.map.areas + u64::from(vcpu) * AREA_SIZE + AREA_VCPU;
    let base = area + xenner_emu_abi::area::VCPU_HYPERCALLS;
    (0..64u8)
        .map(|n| {
            // a counter is memory of the domain by construction
            let count = domain.memory.load(base + u64::from(n) * 8).unwrap_or(0);
            (crash::name(n), count)
        })
        .filter(|(_, count)| *count != 0)
        .collect()
}

/// Exits by kind and vcpu: those that came back to this process, and what KVM counts.
pub fn exits(vcpus: &[VcpuStatistics], log: Option<&ExitLog>) -> String {
    let mut text = String::from("exits by vcpu:\n");
    for (id, vcpu) in vcpus.iter().enumerate() {
        let counters = vcpu.read().unwrap_or_default();
        let of_interest =
            |name: &str| name == "exits" || name.ends_with("_exits") || name == "insn_emulation";
        let back = log.map_or(0, |log| log.get(id as u32));
        let _ = writeln!(text, "  vcpu {id}:\n    {:<28} {back}", "to this process");
        for (name, count) in counters
            .iter()
            .filter(|(n, count)| of_interest(n) && *count != 0)
        {
            let _ = writeln!(text, "    {name:<28} {count}");
        }
    }
    text
}
