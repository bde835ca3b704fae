//! `<os>` and what else says how a domain starts: its machine, its kernel, firmware.

use roxmltree::Node;

use super::{Pass, child, child_attribute, children, elements, label, text_of};
use crate::edits::escaped;

/// Machines of xenner's, as libvirt writes them.
const MACHINES: [&str; 3] = ["pc", "pc-i440fx-xenner", "xenner"];

/// Children of `<os>` that are about firmware.
const FIRMWARE: [&str; 9] = [
    "loader", "nvram", "firmware", "varstore", "bootmenu", "bios", "dtb", "shim", "init",
];

/// Names of disks in the guests of other machines.
const OTHER_DISKS: [&str; 4] = ["/dev/vd", "/dev/sd", "/dev/hd", "/dev/nvme"];

impl<'d, 'i> Pass<'d, 'i> {
    pub(super) fn os(&mut self) {
        for name in ["bootloader", "bootloader_args"] {
            for node in children(self.domain, name) {
                let why = "nothing of the guest's is run in the host: GRUB for Xen reads the same \
                           menu in the guest";
                self.remove(node, why);
            }
        }
        let Some(os) = child(self.domain, "os") else {
            self.no_os();
            return;
        };
        self.machine(os);
        self.firmware(os);
        self.kernel(os);
        self.command_line(os);
    }

    /// Old domains with a boot loader may say nothing.
    fn no_os(&mut self) {
        let mut inner = "<type arch='x86_64' machine='pc'>hvm</type>".to_owned();
        for (name, value) in self.boot_elements(None) {
            inner += &format!("<{name}>{}</{name}>", escaped(&value));
        }
        self.changed("<os> added", "libvirt has to know the machine");
        self.edits
            .insert(self.domain, false, format!("<os>{inner}</os>"));
    }

    fn machine(&mut self, os: Node<'d, 'i>) {
        let Some(node) = child(os, "type") else {
            let xml = "<type arch='x86_64' machine='pc'>hvm</type>";
            self.edits.insert(os, true, xml.to_owned());
            self.changed(format!("{xml} added"), "libvirt has to know the machine");
            return;
        };
        let kind = node.text().unwrap_or_default().trim();
        if kind != "hvm" {
            self.edits.set_text(node, "hvm");
            let why =
                "libvirt's qemu driver knows no other; xenner builds a PV domain all the same";
            self.changed("<type>: hvm", why);
        }
        if let Some(machine) = node.attribute("machine")
            && !MACHINES.contains(&machine)
        {
            let why =
                format!("it was '{machine}'; this one is xenner's that may have PCI addresses");
            self.edits.set_attribute(node, "machine", "pc");
            self.changed("<type>: machine='pc'", why);
            self.other_names();
        }
        if let Some(arch) = node.attribute("arch")
            && arch != "x86_64"
        {
            let question = format!(
                "arch='{arch}': xenner runs 64-bit kernels; give the guest one and write x86_64"
            );
            self.decide(label(node), question);
        }
    }

    /// What a guest of a PC finds under another name.
    fn other_names(&mut self) {
        if !self.from_xen {
            let why = "what /etc/fstab and the network's configuration call vda, sda or enp1s0 has \
                       to follow there, but for labels, UUIDs and MAC addresses";
            self.changed(
                "in the guest disks are xvda, xvdb, ..., NICs eth0 or enX0",
                why,
            );
        }
    }

    fn firmware(&mut self, os: Node<'d, 'i>) {
        let why = "a PV domain has no firmware: it starts with its kernel";
        if os.attribute("firmware").is_some() {
            self.unset(os, "firmware", why);
        }
        self.remove_children(os, &FIRMWARE, why);
        // libvirt adds 'hd' where there is nothing.
        for node in children(os, "boot").filter(|node| node.attribute("dev") != Some("hd")) {
            self.remove(node, why);
        }
    }

    /// The elements of `<os>` that say what is started, and their new content.
    fn boot_elements(&mut self, os: Option<Node<'d, 'i>>) -> Vec<(&'static str, String)> {
        let wishes = self.wishes;
        let mut elements = Vec::new();
        let there = os.and_then(|os| text_of(os, "kernel"));
        let kernel = match (&wishes.kernel, there, &wishes.grub) {
            (Some(kernel), ..) => Some((kernel.clone(), "it was asked for")),
            (None, Some(_), _) => None,
            (None, None, Some(grub)) => Some((
                grub.clone(),
                "GRUB for Xen shows the menu on the domain's disk",
            )),
            (None, None, None) => {
                let question = "a domain starts with its kernel, and there is none: install \
                                Debian's package grub-xen-host for one that shows the menu on \
                                the disk, or give a kernel by <kernel> (--kernel) with its \
                                <initrd> and <cmdline>";
                self.decide("<os>", question);
                None
            }
        };
        let asked = |value: &Option<String>| value.clone().map(|value| (value, "it was asked for"));
        let initrd = asked(&wishes.initrd);
        let cmdline = asked(&wishes.cmdline);
        for (name, value) in [("kernel", kernel), ("initrd", initrd), ("cmdline", cmdline)] {
            let Some((value, why)) = value else { continue };
            if os.and_then(|os| text_of(os, name)).as_ref() != Some(&value) {
                self.changed(format!("<{name}>: {value}"), why);
                elements.push((name, value));
            }
        }
        elements
    }

    fn kernel(&mut self, os: Node<'d, 'i>) {
        for (name, value) in self.boot_elements(Some(os)) {
            match child(os, name) {
                Some(node) => self.edits.set_text(node, &value),
                None => {
                    let xml = format!("<{name}>{}</{name}>", escaped(&value));
                    self.edits.insert(os, false, xml);
                }
            }
        }
    }

    /// What the kernel's words say of consoles and disks that are others here.
    fn command_line(&mut self, os: Node<'d, 'i>) {
        if self.wishes.cmdline.is_some() {
            return;
        }
        let (Some(node), Some(text)) = (child(os, "cmdline"), text_of(os, "cmdline")) else {
            return;
        };
        let words = || text.split_whitespace();
        if words().any(|word| word.starts_with("console=ttyS"))
            && !words().any(|word| word.starts_with("console=hvc"))
        {
            self.edits.set_text(node, &format!("{text} console=hvc0"));
            self.changed(
                "<cmdline>: console=hvc0 added",
                "that is the guest's console",
            );
        }
        let names = |word: &&str| OTHER_DISKS.iter().any(|disk| word.contains(disk));
        if let Some(word) = words().find(names) {
            let question = format!(
                "'{word}' names a disk that is called xvda (xvdb, ...) in a PV guest; write that, \
                 or its label or UUID"
            );
            self.decide("<cmdline>", question);
        }
    }

    /// Whether the domain's machine had buses that xenner's does not have.
    pub(super) fn had_other_buses(&self) -> bool {
        let machine = child(self.domain, "os")
            .and_then(|os| child_attribute(os, "type", "machine"))
            .unwrap_or("pc");
        let bridges = child(self.domain, "devices").is_some_and(|devices| {
            let mut controllers = elements(devices);
            controllers.any(|node| {
                let model = node.attribute("model").unwrap_or("pci-root");
                node.has_tag_name("controller")
                    && node.attribute("type") == Some("pci")
                    && model != "pci-root"
            })
        });
        !(machine == "pc" || machine.starts_with("pc-i440fx")) || bridges
    }
}
