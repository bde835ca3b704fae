//! The console: one there is, hvc0 in the guest, whatever the XML calls it.

use roxmltree::Node;

use super::{Pass, child, child_attribute, children};

/// What a console can be connected to.
const ENDS: [&str; 7] = ["file", "null", "pipe", "pty", "stdio", "tcp", "unix"];
/// What a serial port can be.
const PORTS: [&str; 3] = ["isa-serial", "pci-serial", "serial"];

impl<'d, 'i> Pass<'d, 'i> {
    pub(super) fn consoles(&mut self, devices: Node<'d, 'i>) {
        let only = "there is one console, hvc0 in the guest";
        let mut serial = None;
        for node in children(devices, "serial") {
            if !has_end(node) || target(node).is_some_and(|kind| !PORTS.contains(&kind)) {
                self.remove(node, "xenner has no such console; a pty is one");
            } else if serial.replace(node).is_some() {
                self.remove(node, only);
                serial = children(devices, "serial").find(|node| !self.edits.is_removed(*node));
            }
        }
        let mut console = None;
        for node in children(devices, "console") {
            let is_port = matches!(target(node), None | Some("serial" | "xen"));
            if !has_end(node) {
                self.remove(node, "xenner has no such console; a pty is one");
            } else if console.is_some() || (serial.is_some() && !is_port) {
                self.remove(node, only);
            } else {
                console = Some(node);
            }
        }
        if let Some(node) = console
            && let Some(target) = child(node, "target")
            && target.attribute("type") == Some("xen")
        {
            let why = "libvirt's word for it here; the guest sees hvc0";
            self.set(target, "type", "serial", why);
        }
        if serial.is_none() && console.is_none() {
            for xml in ["<serial type='pty'/>", "<console type='pty'/>"] {
                self.edits.insert(devices, false, xml.to_owned());
            }
            let why = "the guest's console, for virsh console";
            self.changed("<serial type='pty'/> and <console type='pty'/> added", why);
        }
    }
}

fn target<'d>(node: Node<'d, '_>) -> Option<&'d str> {
    child_attribute(node, "target", "type")
}

/// Whether xenner has the host's end of a console.
fn has_end(node: Node<'_, '_>) -> bool {
    let kind = node.attribute("type").unwrap_or("pty");
    let plain = matches!(
        child_attribute(node, "protocol", "type"),
        None | Some("raw")
    );
    let tls = child_attribute(node, "source", "tls") == Some("yes");
    ENDS.contains(&kind) && plain && !tls
}
