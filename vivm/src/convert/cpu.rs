//! `<cpu>`, `<features>`, `<clock>` and the tuning of threads: the guest sees the host's processor as it is.

use roxmltree::Node;

use super::{Pass, child, children, elements, label};

/// Features that libvirt or xenner refuse, where it is not one of their properties alone.
const REFUSED: [&str; 9] = [
    "async-teardown",
    "hyperv",
    "kvm",
    "pmu",
    "ps2",
    "pvspinlock",
    "tcg",
    "vmcoreinfo",
    "vmport",
];

/// Timers that there are, or whose absence nobody sees.
const TIMERS: [&str; 3] = ["rtc", "pit", "tsc"];

impl<'d, 'i> Pass<'d, 'i> {
    pub(super) fn cpu(&mut self) {
        if let Some(cpu) = child(self.domain, "cpu") {
            self.processor(cpu);
        }
        if let Some(features) = child(self.domain, "features") {
            let why = "a PV domain has no such thing, and xenner does not take it";
            self.remove_children(features, &REFUSED, why);
            if let Some(apic) = child(features, "apic") {
                self.unset(apic, "eoi", why);
            }
            if let Some(smm) = child(features, "smm").filter(|smm| smm.has_children()) {
                self.remove(smm, why);
            }
        }
        if let Some(clock) = child(self.domain, "clock") {
            self.timers(clock);
        }
        self.threads();
    }

    fn processor(&mut self, cpu: Node<'d, 'i>) {
        let mode = cpu.attribute("mode");
        let named = child(cpu, "model").is_some();
        if mode.is_some_and(|mode| mode != "host-passthrough") || mode.is_none() && named {
            let was = mode.unwrap_or("custom");
            let why = format!("it was '{was}'; the guest sees the host's processor as it is");
            self.edits.set_attribute(cpu, "mode", "host-passthrough");
            self.changed("<cpu>: mode='host-passthrough'", why);
            for name in ["match", "check"] {
                self.edits.remove_attribute(cpu, name);
            }
        }
        let why = "the guest sees the host's processor as it is";
        self.remove_children(cpu, &["model", "vendor", "feature"], why);
        for node in children(cpu, "maxphysaddr") {
            if node.attribute("mode") != Some("passthrough") {
                self.remove(node, why);
            }
        }
        self.remove_children(cpu, &["numa"], "a PV domain has no NUMA cells");
    }

    fn timers(&mut self, clock: Node<'d, 'i>) {
        for timer in children(clock, "timer") {
            let name = timer.attribute("name").unwrap_or_default();
            let absent = name == "hpet" && timer.attribute("present") == Some("no");
            let rate = timer.attribute("frequency").is_some();
            if !absent && (!TIMERS.contains(&name) || rate) {
                self.remove(timer, "the guest has Xen's clocks");
            }
        }
    }

    /// `iothreads`: every disk has threads of its own.
    fn threads(&mut self) {
        let why = "each disk has threads of its own";
        let names = ["iothreads", "iothreadids", "defaultiothread"];
        self.remove_children(self.domain, &names, why);
        if let Some(tune) = child(self.domain, "cputune") {
            self.remove_children(tune, &["iothreadpin", "iothreadsched"], why);
        }
        if let Some(tune) = child(self.domain, "numatune") {
            self.remove_children(tune, &["memnode"], "a PV domain has no NUMA cells");
        }
    }
}

impl<'d, 'i> Pass<'d, 'i> {
    /// Everything that is no disk, NIC or console takes this way out of an iothread.
    pub(super) fn own_threads(&mut self, device: Node<'d, 'i>) {
        for driver in children(device, "driver") {
            if driver.attribute("iothread").is_some() || child(driver, "iothreads").is_some() {
                self.edits.remove_attribute(driver, "iothread");
                for node in elements(driver).filter(|node| node.has_tag_name("iothreads")) {
                    self.edits.remove(node);
                }
                let what = format!("{}: iothread removed", label(device));
                self.changed(what, "each disk has threads of its own");
            }
        }
    }
}
