//! Disks: their bus and name in the XML, the image's format, and what the guest calls them.

use roxmltree::Node;

use super::{Pass, child, child_attribute, children, label};

/// Buses of disks that libvirt and xenner take.
const BUSES: [&str; 4] = ["ide", "sd", "usb", "virtio"];
/// Names of Xen's own host drivers, all of which are images and block devices here.
const XEN_DRIVERS: [&str; 6] = ["phy", "file", "tap", "tap2", "qdisk", "loop"];
/// IDE disks that there can be.
const IDE_PLACES: usize = 4;

/// A disk's place in the new document.
#[derive(Debug, Clone)]
struct Place {
    bus: String,
    dev: String,
}

impl<'d, 'i> Pass<'d, 'i> {
    pub(super) fn disks(&mut self, devices: Node<'d, 'i>) {
        let mut kept: Vec<(Node<'d, 'i>, Place)> = Vec::new();
        // The names of those that stay where they are.
        let mut used: Vec<String> = Vec::new();
        for disk in children(devices, "disk") {
            if is_floppy(disk) {
                let why = "there are no floppy disks; an image of one can be a disk or a CD-ROM";
                self.remove(disk, why);
                continue;
            }
            let place = place(disk);
            if stays(disk, &place) {
                used.push(place.dev.clone());
            }
            kept.push((disk, place));
        }
        for (disk, place) in &mut kept {
            self.source(*disk);
            self.driver(*disk);
            self.tuning(*disk);
            if !stays(*disk, place) {
                *place = new_place(*disk, &place.dev, &used);
                used.push(place.dev.clone());
                self.move_to(*disk, place);
            }
        }
        self.guest_names(&kept);
    }

    fn source(&mut self, disk: Node<'d, 'i>) {
        let what = label(disk);
        match disk.attribute("type") {
            Some("file" | "block" | "volume") | None => {}
            Some(kind) => {
                let question = format!(
                    "type='{kind}': xenner opens files and block devices; attach it in the host \
                     (qemu-nbd, iscsiadm, rbd map, mount) and write type='block' or type='file'"
                );
                self.decide(what.clone(), question);
            }
        }
        let inside = |name: &str| disk.descendants().any(|node| node.has_tag_name(name));
        if inside("encryption") {
            let question = "xenner reads no encrypted images; convert it (qemu-img convert), or \
                            open it in the host by cryptsetup, and remove <encryption>";
            self.decide(what.clone(), question);
        }
        if inside("transient") {
            let question = "what a transient disk is written would stay; remove <transient/> if it \
                            may, or have the disk's file be a copy";
            self.decide(what, question);
        }
        if disk.attribute("device") == Some("lun") {
            let why = "the guest sees a disk and no SCSI device";
            self.set(disk, "device", "disk", why);
            for name in ["rawio", "sgio"] {
                self.edits.remove_attribute(disk, name);
            }
            for node in disk
                .descendants()
                .filter(|node| node.has_tag_name("reservations"))
            {
                self.edits.remove(node);
            }
        }
    }

    fn driver(&mut self, disk: Node<'d, 'i>) {
        let Some(driver) = child(disk, "driver") else {
            return;
        };
        let name = driver.attribute("name");
        let format = driver.attribute("type");
        if let Some(name) = name
            && XEN_DRIVERS.contains(&name)
        {
            let why = format!("it was '{name}', a driver of Xen's host");
            self.edits.set_attribute(driver, "name", "qemu");
            self.changed(format!("{}: driver name='qemu'", label(disk)), why);
        }
        match format {
            None if name.is_some_and(|name| XEN_DRIVERS.contains(&name)) => {
                self.edits.set_attribute(driver, "type", "raw");
            }
            None | Some("raw" | "qcow2") => {}
            Some("vmdk") if is_cdrom(disk) || child(disk, "readonly").is_some() => {}
            Some("aio" | "sync" | "ram") => {
                self.edits.set_attribute(driver, "type", "raw");
                let why = "the format by its name here";
                self.changed(format!("{}: driver type='raw'", label(disk)), why);
            }
            Some(other) => {
                let question = format!(
                    "driver type='{other}': xenner writes raw and qcow2, and reads vmdk too; convert the \
                     image (qemu-img convert -O qcow2), and write the new file and type='qcow2'"
                );
                self.decide(label(disk), question);
            }
        }
        self.unset(driver, "copy_on_read", "xenner does not copy what it reads");
    }

    /// What the disk has beside its image.
    fn tuning(&mut self, disk: Node<'d, 'i>) {
        let why = "xenner does not limit disks";
        self.remove_children(disk, &["iotune", "throttlefilters"], why);
        self.remove_children(disk, &["backenddomain"], "there are no driver domains");
        if let Some(target) = child(disk, "target") {
            for name in ["removable", "rotation_rate"] {
                self.unset(target, name, "the guest sees a Xen disk");
            }
        }
        let names = ["wwn", "vendor", "product"];
        self.remove_children(disk, &names, "the guest sees a Xen disk");
    }

    fn move_to(&mut self, disk: Node<'d, 'i>, place: &Place) {
        let old = self::place(disk);
        if let Some(target) = child(disk, "target") {
            self.edits.set_attribute(target, "dev", &place.dev);
            self.edits.set_attribute(target, "bus", &place.bus);
        }
        // They are about the bus that it has left.
        for node in children(disk, "address") {
            self.edits.remove(node);
        }
        for node in children(disk, "geometry") {
            self.edits.remove_attribute(node, "trans");
        }
        let what = format!(
            "{}: target dev='{}' bus='{}'",
            label(disk),
            place.dev,
            place.bus
        );
        let why = format!(
            "with xenner libvirt takes no {} on bus '{}'",
            old.dev, old.bus
        );
        self.changed(what, why);
    }

    /// The names that the guest's disks have, where they had others under Xen.
    fn guest_names(&mut self, disks: &[(Node<'d, 'i>, Place)]) {
        for (number, index) in order(disks).into_iter().enumerate() {
            let (disk, _) = &disks[index];
            let old = place(*disk);
            let new = format!("xvd{}", letters(number));
            if old.bus != "xen" || old.dev.is_empty() || old.dev == new {
                continue;
            }
            let why = format!(
                "the guest, where it was {}, sees disks as xvda, xvdb and so on in their order: \
                 names in its root= and /etc/fstab have to follow, but for labels and UUIDs",
                old.dev
            );
            self.changed(format!("{} is {new} in the guest", label(*disk)), why);
        }
    }
}

fn is_floppy(disk: Node<'_, '_>) -> bool {
    disk.attribute("device") == Some("floppy")
        || child_attribute(disk, "target", "bus") == Some("fdc")
}

fn is_cdrom(disk: Node<'_, '_>) -> bool {
    disk.attribute("device") == Some("cdrom")
}

/// A disk's place as it stands; a name without a bus has the one that libvirt takes it for.
fn place(disk: Node<'_, '_>) -> Place {
    let dev = child_attribute(disk, "target", "dev").unwrap_or_default();
    let guessed = match dev.get(..2) {
        Some("hd") => "ide",
        Some("sd") => "scsi",
        Some("xv") => "xen",
        _ => "virtio",
    };
    Place {
        bus: child_attribute(disk, "target", "bus")
            .unwrap_or(guessed)
            .to_owned(),
        dev: dev.to_owned(),
    }
}

/// Whether a disk can be where it is. That one without a name needs one is libvirt's to say.
fn stays(disk: Node<'_, '_>, place: &Place) -> bool {
    match place.bus.as_str() {
        _ if place.dev.is_empty() => true,
        "ide" => ide_places().any(|dev| dev == place.dev),
        "virtio" | "sd" if is_cdrom(disk) => false,
        bus => BUSES.contains(&bus),
    }
}

fn ide_places() -> impl Iterator<Item = String> {
    (0..IDE_PLACES).map(|index| format!("hd{}", letters(index)))
}

/// Where a disk goes whose bus is not there: to virtio, or a CD-ROM to IDE while there is room. It keeps
/// its letter if that is free.
fn new_place(disk: Node<'_, '_>, old: &str, used: &[String]) -> Place {
    let places = |prefix: &str, count: usize| {
        let own = own_letters(old).map(str::to_owned).into_iter();
        let all = own
            .chain((0..count).map(letters))
            .map(|end| format!("{prefix}{end}"));
        let mut fits = all.filter(|dev| prefix != "hd" || ide_places().any(|place| place == *dev));
        fits.find(|dev| !used.contains(dev))
    };
    // One more than there are disks is always free.
    let count = used.len() + 1;
    if !is_cdrom(disk) {
        return at("virtio", places("vd", count));
    }
    match places("hd", IDE_PLACES) {
        Some(dev) => at("ide", Some(dev)),
        None => at("usb", places("sd", count)),
    }
}

fn at(bus: &str, dev: Option<String>) -> Place {
    Place {
        bus: bus.to_owned(),
        dev: dev.unwrap_or_default(),
    }
}

/// The letters that tell a disk from others of its bus: `b` of `xvdb3`.
fn own_letters(dev: &str) -> Option<&str> {
    let prefixes = ["xvd", "vd", "sd", "hd", "ubd"];
    let rest = prefixes
        .iter()
        .find_map(|prefix| dev.strip_prefix(prefix))?;
    let letters = rest.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let fine = !letters.is_empty() && letters.chars().all(|letter| letter.is_ascii_lowercase());
    fine.then_some(letters)
}

/// a, b, ... z, aa, ab: the disk of this number, counted from 0.
fn letters(mut number: usize) -> String {
    let mut text = Vec::new();
    loop {
        text.push(b'a' + u8::try_from(number % 26).unwrap_or_default());
        match (number / 26).checked_sub(1) {
            Some(next) => number = next,
            None => break,
        }
    }
    text.iter().rev().map(|byte| char::from(*byte)).collect()
}

/// The number of the disk with these letters, for comparing.
fn rank(dev: &str) -> (usize, String) {
    let letters = own_letters(dev).unwrap_or(dev).to_owned();
    (letters.len(), letters)
}

/// The order in which libvirt names the disks to the emulator (virDomainDiskInsert): those of one bus
/// are together, by their letters, the buses in the order in which they first come.
fn order(disks: &[(Node<'_, '_>, Place)]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    for (index, (_, place)) in disks.iter().enumerate() {
        let same = |other: &usize| disks[*other].1.bus == place.bus;
        let later = |other: &usize| same(other) && rank(&disks[*other].1.dev) > rank(&place.dev);
        let last = order.iter().rposition(same);
        let at = match (order.iter().position(later), last) {
            (Some(first_later), _) => first_later,
            (None, Some(last)) => last + 1,
            (None, None) => order.len(),
        };
        order.insert(at, index);
    }
    order
}
