//! `<devices>`: the emulator, and what becomes of each kind of device but disks, network devices and
//! consoles, which have modules of their own.

use roxmltree::Node;

use super::{Pass, child, children, elements, label, text_of};
use crate::edits::escaped;

/// What becomes of a device that xenner does not have.
enum Fate {
    /// The guest does without; the text says why.
    Goes(&'static str),
    /// Its owner has to say; the text asks.
    Asks(&'static str),
}

/// Kinds of devices that are the same whatever they say.
const KINDS: [(&str, Fate); 15] = [
    (
        "graphics",
        Fate::Goes("there is no framebuffer; the guest's console is hvc0"),
    ),
    ("smartcard", Fate::Goes("there are no smartcard readers")),
    ("redirdev", Fate::Goes("there is no USB to redirect to")),
    ("redirfilter", Fate::Goes("there is no USB to redirect to")),
    ("hub", Fate::Goes("there is no USB")),
    (
        "tpm",
        Fate::Goes("there is no TPM; what is sealed in it is not to be had in the guest"),
    ),
    ("iommu", Fate::Goes("a PV domain has no IOMMU")),
    ("parallel", Fate::Goes("there are no parallel ports")),
    ("crypto", Fate::Goes("there are no crypto devices")),
    ("nvram", Fate::Goes("a PV domain has no firmware")),
    ("pstore", Fate::Goes("a PV domain has no firmware")),
    (
        "hostdev",
        Fate::Asks(
            "the host's devices cannot be given to a guest; remove it, or let the host use it \
                    and give the guest a disk or a network device on it",
        ),
    ),
    (
        "filesystem",
        Fate::Asks("directories are not shared with the guest; remove it, and use NFS or a disk"),
    ),
    (
        "shmem",
        Fate::Asks("memory is not shared with other guests; remove it, and use the network"),
    ),
    (
        "vsock",
        Fate::Asks("there are no vsock devices; remove it, and use the network"),
    ),
];

/// Sound devices that are taken, and not there for the guest.
const SOUND: [&str; 3] = ["ac97", "ich6", "sb16"];
/// Watchdogs that are taken, and not there for the guest.
const WATCHDOGS: [&str; 2] = ["i6300esb", "ib700"];
/// USB controllers that are taken, and not there for the guest.
const USB: [&str; 3] = ["none", "piix3-uhci", "qemu-xhci"];

impl<'d, 'i> Pass<'d, 'i> {
    pub(super) fn devices(&mut self) {
        let Some(devices) = child(self.domain, "devices") else {
            self.no_devices();
            return;
        };
        self.emulator(devices);
        let no_bus = self.had_other_buses();
        self.disks(devices);
        self.consoles(devices);
        for device in elements(devices) {
            self.device(device);
            self.own_threads(device);
            if no_bus && !self.edits.is_removed(device) {
                self.forget_address(device);
            }
        }
        if no_bus {
            let has_any = elements(devices).any(|device| pci_address(device).is_some());
            if has_any {
                let why = "the machine is another one; libvirt gives out new ones";
                self.changed("<address type='pci'> of all devices removed", why);
            }
        }
    }

    fn no_devices(&mut self) {
        let emulator = self.wishes.emulator.as_deref().unwrap_or_default();
        let xml = format!(
            "<devices><emulator>{}</emulator><serial type='pty'/><console type='pty'/></devices>",
            escaped(emulator)
        );
        self.edits.insert(self.domain, false, xml);
        self.changed("<devices> added", "the emulator and the console are in it");
    }

    fn emulator(&mut self, devices: Node<'d, 'i>) {
        let Some(path) = &self.wishes.emulator else {
            return;
        };
        let old = text_of(devices, "emulator");
        if old.as_ref() == Some(path) {
            return;
        }
        let why = match &old {
            Some(old) => format!("it was {old}"),
            None => "libvirt would look for QEMU".to_owned(),
        };
        match child(devices, "emulator") {
            Some(node) => self.edits.set_text(node, path),
            None => {
                let xml = format!("<emulator>{}</emulator>", escaped(path));
                self.edits.insert(devices, true, xml);
            }
        }
        self.changed(format!("<emulator>: {path}"), why);
    }

    fn device(&mut self, device: Node<'d, 'i>) {
        let name = device.tag_name().name();
        if let Some((_, fate)) = KINDS.iter().find(|(kind, _)| *kind == name) {
            match fate {
                Fate::Goes(why) => self.remove(device, why),
                Fate::Asks(question) => self.decide(label(device), *question),
            }
            return;
        }
        match name {
            "interface" => self.interface(device),
            "controller" => self.controller(device),
            "video" => self.video(device),
            "audio" | "sound" => self.sound(device),
            "input" => self.input(device),
            "channel" => self.channel(device),
            "rng" => self.rng(device),
            "watchdog" => self.only(device, &WATCHDOGS, "there is no watchdog for the guest"),
            "panic" => self.only(device, &["isa"], "a PV guest tells Xen of its panics"),
            "memballoon" => self.balloon(device),
            "memory" => self.memory_device(device),
            _ => {}
        }
    }

    /// Takes out a device of which only some models are taken.
    fn only(&mut self, device: Node<'d, 'i>, models: &[&str], why: &str) {
        if device
            .attribute("model")
            .is_some_and(|model| !models.contains(&model))
        {
            self.remove(device, why);
        }
    }

    fn controller(&mut self, device: Node<'d, 'i>) {
        let model = device.attribute("model");
        match device.attribute("type").unwrap_or_default() {
            "pci" if self.had_other_buses() => {
                // libvirt adds the root where there is none.
                let why = "the machine has one PCI bus, and libvirt puts it there";
                self.remove(device, why);
            }
            "usb" => match model {
                Some("nec-xhci") => {
                    let why = "the guest does not see it";
                    self.set(device, "model", "qemu-xhci", why);
                }
                Some(model) if !USB.contains(&model) => {
                    self.remove(device, "xenner does not take this one, and there is no USB");
                }
                _ => {}
            },
            "ide" if !matches!(device.attribute("index"), None | Some("0")) => {
                self.remove(device, "the machine has one");
            }
            "ide" | "virtio-serial" | "pci" | "fdc" => {}
            "sata" | "scsi" => self.remove(device, "paravirtual disks need no controller"),
            _ => self.remove(device, "xenner has nothing to put on it"),
        }
    }

    fn video(&mut self, device: Node<'d, 'i>) {
        if super::child_attribute(device, "model", "type") != Some("none") {
            self.remove(device, "there is no framebuffer");
        }
    }

    fn sound(&mut self, device: Node<'d, 'i>) {
        let taken = match device.tag_name().name() {
            "audio" => device.attribute("type") == Some("none"),
            _ => {
                let model = device.attribute("model").unwrap_or_default();
                SOUND.contains(&model) && child(device, "codec").is_none()
            }
        };
        if !taken {
            self.remove(device, "there is no sound");
        }
    }

    fn input(&mut self, device: Node<'d, 'i>) {
        let bus = matches!(device.attribute("bus"), None | Some("ps2" | "usb"));
        let kind = matches!(
            device.attribute("type"),
            Some("mouse" | "keyboard" | "tablet")
        );
        if !bus || !kind {
            self.remove(device, "there is no framebuffer to point at");
        }
    }

    fn rng(&mut self, device: Node<'d, 'i>) {
        let backend = super::child_attribute(device, "backend", "model");
        if device.attribute("model") != Some("virtio") || backend != Some("random") {
            self.remove(device, "the guest has its processor's random numbers");
        }
    }

    fn balloon(&mut self, device: Node<'d, 'i>) {
        if !matches!(device.attribute("model"), Some("virtio" | "none")) {
            let why = "libvirt's name for a balloon; the guest sees Xen's";
            self.set(device, "model", "virtio", why);
        }
        for name in ["autodeflate", "freePageReporting"] {
            self.unset(device, name, "Xen's balloon has no such thing");
        }
    }

    fn memory_device(&mut self, device: Node<'d, 'i>) {
        match device.attribute("model") {
            Some("dimm" | "virtio-mem") => {
                let why = "its size is a part of <memory>, which the guest has from the start";
                self.remove(device, why);
            }
            _ => {
                let question =
                    "there is no persistent memory; remove it, and use its file as a disk";
                self.decide(label(device), question);
            }
        }
    }

    /// Where the device was on buses that are not there any more.
    fn forget_address(&mut self, device: Node<'d, 'i>) {
        if let Some(address) = pci_address(device) {
            self.edits.remove(address);
        }
    }
}

fn pci_address<'d, 'i>(device: Node<'d, 'i>) -> Option<Node<'d, 'i>> {
    // A host device's own address is deeper, in its <source>.
    children(device, "address").find(|node| node.attribute("type") == Some("pci"))
}
