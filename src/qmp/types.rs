//! The types of devices and objects that clients are told of.
//!
//! libvirt refuses to use some devices unless they are listed, and asks more questions about others
//! when they are; the list is what makes its defaults fit a PV domain.

/// A type.
#[derive(Debug)]
pub(super) struct ObjectType {
    pub(super) name: &'static str,
    pub(super) parent: &'static str,
    /// What `device-list-properties` says of it: name and type.
    pub(super) properties: &'static [(&'static str, &'static str)],
    /// `qom-list-types` names it. What does not exist is known all the same where a question about
    /// it decides something else.
    pub(super) listed: bool,
}

const fn listed(
    name: &'static str,
    parent: &'static str,
    properties: &'static [(&'static str, &'static str)],
) -> ObjectType {
    ObjectType {
        name,
        parent,
        properties,
        listed: true,
    }
}

const DISK: &[(&str, &str)] = &[
    ("drive", "str"),
    ("serial", "str"),
    ("bootindex", "int32"),
    ("logical_block_size", "size"),
    ("physical_block_size", "size"),
];
const NIC: &[(&str, &str)] = &[("netdev", "str"), ("mac", "str"), ("bootindex", "int32")];
const SERIAL: &[(&str, &str)] = &[("chardev", "str"), ("index", "uint32")];

/// All of them, by name.
pub(super) const TYPES: &[ObjectType] = &[
    // asked about whether the guest may sleep, for which it has no way
    ObjectType {
        name: "PIIX4_PM",
        parent: "pci-device",
        properties: &[("disable_s3", "uint8"), ("disable_s4", "uint8")],
        listed: false,
    },
    listed(
        "host-x86_64-cpu",
        "x86_64-cpu",
        &[
            ("socket-id", "int32"),
            ("core-id", "int32"),
            ("thread-id", "int32"),
        ],
    ),
    listed("i8042", "isa-device", &[]),
    listed("ide-cd", "ide-device", DISK),
    listed("ide-hd", "ide-device", DISK),
    listed("isa-serial", "isa-device", SERIAL),
    listed("max-x86_64-cpu", "x86_64-cpu", &[("migratable", "bool")]),
    listed("none-machine", "machine", &[]),
    listed("pc-i440fx-xenner-machine", "generic-pc-machine", &[]),
    listed("pci-serial", "pci-device", SERIAL),
    listed("piix3-usb-uhci", "pci-device", &[]),
    listed("pvpanic", "isa-device", &[]),
    listed("qemu-xhci", "pci-device", &[]),
    listed("rng-random", "rng-backend", &[("filename", "string")]),
    listed("secret", "secret_common", &[("file", "string")]),
    listed("usb-kbd", "usb-device", &[]),
    listed("usb-storage", "usb-device", DISK),
    listed("usb-tablet", "usb-device", &[]),
    listed("virtio-balloon-pci", "pci-device", &[]),
    listed("virtio-blk-device", "virtio-device", DISK),
    listed("virtio-blk-pci", "pci-device", DISK),
    listed("virtio-mmio", "sys-bus-device", &[]),
    listed("virtio-net-device", "virtio-device", NIC),
    listed("virtio-net-pci", "pci-device", NIC),
    listed(
        "virtio-rng-pci",
        "pci-device",
        &[("rng", "link<rng-backend>")],
    ),
    listed(
        "virtio-serial-pci",
        "pci-device",
        &[("max_ports", "uint32")],
    ),
    listed("xen-console", "xen-device", SERIAL),
    listed("xen-disk", "xen-device", DISK),
    listed("xen-net-device", "xen-device", NIC),
    listed("xenner-machine", "machine", &[]),
];

/// The type of this name.
pub(super) fn find(name: &str) -> Option<&'static ObjectType> {
    TYPES.iter().find(|known| known.name == name)
}
