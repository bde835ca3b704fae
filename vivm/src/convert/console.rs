//! Consoles and channels: hvc0 and its like in the guest, whatever the XML calls them.

use roxmltree::Node;

use super::{Pass, child, child_attribute, children};

/// What the host's end of a console or a channel can be.
const ENDS: [&str; 7] = ["file", "null", "pipe", "pty", "stdio", "tcp", "unix"];
/// What a serial port can be.
const PORTS: [&str; 3] = ["isa-serial", "pci-serial", "serial"];
/// What a console can be that is not the first serial port.
const CONSOLES: [&str; 3] = ["serial", "virtio", "xen"];

impl<'d, 'i> Pass<'d, 'i> {
    pub(super) fn consoles(&mut self, devices: Node<'d, 'i>) {
        for node in children(devices, "serial") {
            self.end(node, &PORTS);
        }
        for node in children(devices, "console") {
            self.end(node, &CONSOLES);
        }
        self.xen_consoles(devices);
        let kept = |name| children(devices, name).any(|node| !self.edits.is_removed(node));
        if !kept("serial") && !kept("console") {
            for xml in ["<serial type='pty'/>", "<console type='pty'/>"] {
                self.edits.insert(devices, false, xml.to_owned());
            }
            let why = "the guest's console, for virsh console";
            self.changed("<serial type='pty'/> and <console type='pty'/> added", why);
        }
    }

    /// Takes a console out that xenner has no end for.
    fn end(&mut self, node: Node<'d, 'i>, kinds: &[&str]) {
        if !has_end(node) || target(node).is_some_and(|kind| !kinds.contains(&kind)) {
            self.remove(node, "xenner has no such console; a pty is one");
        }
    }

    /// The first console is libvirt's first serial port, where that is not there itself.
    fn xen_consoles(&mut self, devices: Node<'d, 'i>) {
        let kept = |name| {
            let mut nodes = children(devices, name);
            nodes.find(|node| !self.edits.is_removed(*node))
        };
        let first = kept("console").filter(|_| kept("serial").is_none());
        for node in children(devices, "console") {
            if target(node) != Some("xen") || self.edits.is_removed(node) {
                continue;
            }
            let kind = if first == Some(node) {
                "serial"
            } else {
                "virtio"
            };
            if let Some(target) = child(node, "target") {
                let why = "libvirt's word for it here; the guest sees hvc0, or hvc1 and on";
                self.set(target, "type", kind, why);
            }
        }
    }

    pub(super) fn channel(&mut self, node: Node<'d, 'i>) {
        match child(node, "target") {
            Some(target) if has_end(node) => match target.attribute("type") {
                Some("virtio") => {}
                Some("xen") => {
                    let why = "libvirt's word for it here; the guest sees a channel of Xen's";
                    self.set(target, "type", "virtio", why);
                }
                _ => self.remove(node, "xenner has no such channel"),
            },
            _ => self.remove(node, "xenner has no end for it"),
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
