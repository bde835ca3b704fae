//! Network devices: the host's end stays, the guest sees a Xen network device whatever the model.

use roxmltree::Node;

use super::{Pass, child, child_attribute, label};

/// Models that libvirt and xenner take.
const MODELS: [&str; 17] = [
    "e1000",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_pci",
    "netfront",
    "pcnet",
    "rtl8139",
    "tulip",
    "virtio",
    "virtio-net-device",
    "virtio-net-pci",
    "virtio-non-transitional",
    "virtio-transitional",
    "vmxnet3",
    "xen-net-device",
];

/// Host's ends that xenner has.
const KINDS: [&str; 9] = [
    "bridge", "client", "direct", "ethernet", "mcast", "network", "server", "udp", "user",
];

impl<'d, 'i> Pass<'d, 'i> {
    pub(super) fn interface(&mut self, nic: Node<'d, 'i>) {
        let kind = nic.attribute("type").unwrap_or_default();
        if !KINDS.contains(&kind) {
            let question = format!(
                "type='{kind}': xenner has no such end of a network; write type='network', \
                 'bridge' or 'direct' with its <source>"
            );
            self.decide(label(nic), question);
        }
        if let Some(model) = child(nic, "model")
            && let Some(name) = model.attribute("type")
            && !MODELS.contains(&name)
        {
            let why =
                format!("it was '{name}'; the guest sees a Xen network device whatever it is");
            self.edits.set_attribute(model, "type", "virtio");
            self.changed(format!("{}: model type='virtio'", label(nic)), why);
        }
        self.xen_nic(nic, kind);
        if kind != "user" && kind != "ethernet" {
            let why = "the guest sets its addresses itself";
            self.remove_children(nic, &["ip", "route"], why);
        }
        self.remove_children(nic, &["backenddomain"], "there are no driver domains");
    }

    /// What only Xen's hosts have.
    fn xen_nic(&mut self, nic: Node<'d, 'i>, kind: &str) {
        if let Some(script) = child(nic, "script") {
            match kind {
                "ethernet" if self.from_xen => {
                    let question = "Xen's script gets its words from Xen's xenstore; write \
                                    type='network' or 'bridge' with its <source>, or a script of \
                                    libvirt's kind, which is given the interface's name";
                    self.decide(label(nic), question);
                }
                "ethernet" => {}
                _ => self.remove(script, "libvirt puts the interface into the bridge itself"),
            }
        }
        let live = child_attribute(nic, "target", "dev").is_some_and(|dev| dev.starts_with("vif"));
        if self.from_xen
            && live
            && let Some(target) = child(nic, "target")
        {
            self.remove(target, "the name was that of a running domain");
        }
    }
}
