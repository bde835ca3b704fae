//! Conversions of whole domains, compared with what stands in tests/golden, and of single elements.

use std::fmt::Write;
use std::path::Path;

use super::*;

const XENNER: &str = "/usr/local/bin/xenner";
const GRUB: &str = "/usr/lib/grub-xen/grub-x86_64-xen.bin";

fn wishes() -> Wishes {
    Wishes {
        emulator: Some(XENNER.to_owned()),
        grub: Some(GRUB.to_owned()),
        ..Wishes::default()
    }
}

/// Compares a conversion with the files beside its input. `UPDATE_GOLDEN` writes them anew.
fn golden(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let input = std::fs::read_to_string(dir.join(format!("{name}.xml"))).expect("an input");
    let conversion = convert(&input, &wishes()).expect("a domain");
    let mut report = String::new();
    for change in &conversion.changes {
        writeln!(report, "{change}").expect("a string");
    }
    for decision in &conversion.decisions {
        writeln!(report, "? {decision}").expect("a string");
    }
    for (kind, text) in [("out.xml", &conversion.xml), ("report", &report)] {
        let path = dir.join(format!("{name}.{kind}"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text).expect("a golden file");
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(*text, wanted, "{}", path.display());
    }
    // What was converted once is done.
    let again = convert(&conversion.xml, &wishes()).expect("a domain");
    assert_eq!(again.changes, []);
    assert_eq!(again.xml, conversion.xml);
    assert_eq!(again.decisions, conversion.decisions);
}

#[test]
fn virt_install() {
    golden("virt-install");
}

#[test]
fn virt_managers_wizard() {
    golden("wizard");
}

#[test]
fn xen_pv_with_pygrub() {
    golden("pygrub");
}

#[test]
fn the_example_stays_as_it_is() {
    let example = include_str!("../../../libvirt.xml");
    let conversion = convert(example, &wishes()).expect("a domain");
    assert_eq!(conversion.changes, []);
    assert_eq!(conversion.decisions, []);
    assert_eq!(conversion.xml, example);
    assert_eq!(conversion.name, "debian");
}

/// A domain of xenner's with these elements, and these devices.
fn domain(elements: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'>\n  <name>d</name>\n  <os>\n    <type machine='pc'>hvm</type>\n    \
         <kernel>/k</kernel>\n  </os>\n  {elements}\n  <devices>\n    <emulator>{XENNER}</emulator>\n    \
         <serial type='pty'/>\n    {devices}\n  </devices>\n</domain>\n"
    )
}

fn converted(elements: &str, devices: &str) -> Conversion {
    convert(&domain(elements, devices), &wishes()).expect("a domain")
}

/// These devices come out as those, in a domain that has nothing else to change.
fn become_as(devices: &str, wanted: &str) {
    let conversion = converted("", devices);
    assert_eq!(
        conversion.xml,
        domain("", wanted),
        "{:?}",
        conversion.changes
    );
    assert_eq!(conversion.changes.is_empty(), devices == wanted);
    assert_eq!(conversion.decisions, []);
}

/// Something that has to be decided about, and stays.
fn asks(elements: &str, devices: &str, element: &str) {
    let conversion = converted(elements, devices);
    let asked: Vec<_> = conversion
        .decisions
        .iter()
        .map(|asked| asked.element.as_str())
        .collect();
    assert_eq!(asked, [element]);
    assert_eq!(conversion.xml, domain(elements, devices));
}

/// These devices go.
fn gone(devices: &str) {
    let conversion = converted("", devices);
    assert!(
        conversion
            .xml
            .split_whitespace()
            .eq(domain("", "").split_whitespace()),
        "{devices}"
    );
    assert_eq!(conversion.changes.len(), 1, "{devices}");
}

#[test]
fn what_is_taken_stays() {
    for devices in [
        "<video><model type='none'/></video>",
        "<sound model='ich6'/>",
        "<channel type='pty'><target type='virtio' name='x'/></channel>",
        "<serial type='file'><source path='f'/></serial><console type='pty'><target type='serial'/></console>",
        "<console type='pty'><target type='virtio'/></console>",
        "<watchdog model='i6300esb' action='reset'/>",
        "<panic model='isa'/>",
        "<controller type='usb' model='qemu-xhci'/><input type='tablet' bus='usb'/>",
        "<controller type='pci' index='0' model='pci-root'/>",
        "<interface type='ethernet'><script path='/bin/true'/></interface>",
        "<interface type='user'><ip address='10.0.0.1'/><model type='e1000'/></interface>",
        "<disk type='block'><target dev='hda' bus='ide'/></disk>",
        "<disk type='file'><driver name='qemu' type='vmdk'/><target dev='vda' bus='virtio'/><readonly/></disk>",
        "<memballoon model='virtio'><address type='pci' slot='0x05'/></memballoon>",
    ] {
        become_as(devices, devices);
    }
}

#[test]
fn xens_consoles_and_channels_have_other_names() {
    let xen = "<console type='pty'><target type='xen' port='0'/></console>";
    let serial = xen.replace("'xen'", "'serial'");
    let virtio = xen.replace("'xen'", "'virtio'");
    become_as(xen, &virtio);
    let only = |console: &str| domain("", console).replace("    <serial type='pty'/>\n", "");
    let conversion = convert(&only(&[xen, xen].concat()), &wishes()).expect("a domain");
    assert_eq!(conversion.xml, only(&[serial, virtio].concat()));
    become_as(
        "<channel type='unix'><target type='xen' name='x'/></channel>",
        "<channel type='unix'><target type='virtio' name='x'/></channel>",
    );
}

#[test]
fn what_a_guest_can_do_without_goes() {
    for devices in [
        "<graphics type='vnc'/>",
        "<video><model type='cirrus'/></video>",
        "<sound model='es1370'/>",
        "<audio id='1' type='spice'/>",
        "<input type='mouse' bus='xen'/>",
        "<input type='evdev'><source dev='/dev/input/event0'/></input>",
        "<tpm model='tpm-tis'/>",
        "<hub type='usb'/>",
        "<sound model='ich6'><codec type='micro'/></sound>",
        "<controller type='ide' index='1'/>",
        "<iommu model='intel'/>",
        "<parallel type='pty'/>",
        "<rng model='virtio'><backend model='builtin'/></rng>",
        "<panic model='hyperv'/>",
        "<watchdog model='itco'/>",
        "<channel type='spicevmc'><target type='virtio' name='x'/></channel>",
        "<channel type='unix'><target type='guestfwd' address='10.0.2.1' port='4600'/></channel>",
        "<controller type='scsi' model='virtio-scsi'/>",
        "<controller type='usb' model='ich9-ehci1'/>",
        "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
        "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>",
        "<memory model='dimm'><target><size unit='MiB'>128</size></target></memory>",
        "<redirdev bus='usb' type='tcp'/>",
        "<smartcard mode='host'/>",
    ] {
        gone(devices);
    }
}

#[test]
fn what_a_guest_may_need_is_asked_about() {
    for (devices, element) in [
        (
            "<hostdev mode='subsystem' type='pci'><source><address domain='0'/></source></hostdev>",
            "<hostdev type='pci' mode='subsystem'>",
        ),
        (
            "<filesystem type='mount'><target dir='x'/></filesystem>",
            "<filesystem type='mount'><target dir='x'>",
        ),
        ("<shmem name='s'/>", "<shmem name='s'>"),
        ("<vsock model='virtio'/>", "<vsock model='virtio'>"),
        ("<memory model='nvdimm'/>", "<memory model='nvdimm'>"),
        ("<interface type='vdpa'/>", "<interface type='vdpa'>"),
        (
            "<disk type='network'><source protocol='rbd'/><target dev='vda' bus='virtio'/></disk>",
            "<disk type='network'><target dev='vda'>",
        ),
        (
            "<disk type='file'><driver type='vmdk'/><target dev='vda' bus='virtio'/></disk>",
            "<disk type='file'><target dev='vda'>",
        ),
        (
            "<disk type='file'><driver type='vpc'/><target dev='vda' bus='virtio'/></disk>",
            "<disk type='file'><target dev='vda'>",
        ),
        (
            "<disk type='file'><transient/><target dev='vda' bus='virtio'/></disk>",
            "<disk type='file'><target dev='vda'>",
        ),
        (
            "<disk type='file'><source file='f'><encryption format='luks'/></source>\
             <target dev='vda' bus='virtio'/></disk>",
            "<disk type='file'><target dev='vda'>",
        ),
    ] {
        asks("", devices, element);
    }
    asks(
        "<launchSecurity type='sev'/>",
        "",
        "<launchSecurity type='sev'>",
    );
}

#[test]
fn a_kernel_there_must_be() {
    let xml = domain("", "").replace("    <kernel>/k</kernel>\n", "");
    let conversion = convert(&xml, &wishes()).expect("a domain");
    assert!(
        conversion
            .xml
            .contains(&format!("    <kernel>{GRUB}</kernel>\n  </os>"))
    );
    let none = Wishes {
        grub: None,
        ..wishes()
    };
    let conversion = convert(&xml, &none).expect("a domain");
    assert_eq!(conversion.xml, xml);
    assert!(conversion.decisions[0].question.contains("--kernel"));
    let own = Wishes {
        kernel: Some("/boot/a&b".to_owned()),
        initrd: Some("/i".to_owned()),
        cmdline: Some("root=/dev/xvda1".to_owned()),
        ..wishes()
    };
    let conversion = convert(&domain("", ""), &own).expect("a domain");
    let wanted = "    <kernel>/boot/a&amp;b</kernel>\n    <initrd>/i</initrd>\n    \
                  <cmdline>root=/dev/xvda1</cmdline>\n  </os>";
    assert!(conversion.xml.contains(wanted), "{}", conversion.xml);
    assert_eq!(conversion.changes.len(), 3);
}

#[test]
fn the_kernels_words_follow() {
    let xml = |words: &str| {
        let kernel = "<kernel>/k</kernel>";
        domain("", "").replace(kernel, &format!("{kernel}<cmdline>{words}</cmdline>"))
    };
    let conversion = convert(&xml("console=ttyS0,115200 ro"), &wishes()).expect("a domain");
    assert_eq!(conversion.xml, xml("console=ttyS0,115200 ro console=hvc0"));
    let conversion = convert(&xml("root=/dev/vda1"), &wishes()).expect("a domain");
    assert_eq!(conversion.xml, xml("root=/dev/vda1"));
    assert!(conversion.decisions[0].question.contains("xvda"));
}

#[test]
fn processors_and_features() {
    let conversion = converted(
        "<cpu mode='host-model' check='partial'><cache mode='passthrough'/></cpu>",
        "",
    );
    let wanted = "<cpu mode='host-passthrough'><cache mode='passthrough'/></cpu>";
    assert!(conversion.xml.contains(wanted), "{}", conversion.xml);
    for elements in [
        "<cpu mode='host-passthrough'><topology sockets='1' cores='2' threads='1'/></cpu>",
        "<cpu><topology sockets='1' cores='2' threads='1'/></cpu>",
        "<features><acpi/><apic/><pae/><viridian/><smm state='off'/></features>",
        "<clock offset='localtime'><timer name='hpet' present='no'/></clock>",
        "<memoryBacking><nosharepages/><source type='memfd'/></memoryBacking>",
    ] {
        let conversion = converted(elements, "");
        assert_eq!(conversion.changes, []);
    }
    for (elements, left) in [
        (
            "<features><hyperv><relaxed state='on'/></hyperv></features>",
            "<features></features>",
        ),
        (
            "<features><apic eoi='on'/></features>",
            "<features><apic/></features>",
        ),
        ("<clock><timer name='kvmclock'/></clock>", "<clock></clock>"),
        ("<maxMemory slots='2'>9</maxMemory>", ""),
        (
            "<memoryBacking><hugepages/></memoryBacking>",
            "<memoryBacking></memoryBacking>",
        ),
        ("<cpu><numa><cell id='0'/></numa></cpu>", "<cpu></cpu>"),
        ("<iothreads>2</iothreads>", ""),
        ("<genid/>", ""),
        (
            "<on_crash>rename-restart</on_crash>",
            "<on_crash>restart</on_crash>",
        ),
    ] {
        let conversion = converted(elements, "");
        let wanted = domain(left, "");
        assert!(
            conversion
                .xml
                .split_whitespace()
                .eq(wanted.split_whitespace()),
            "{}",
            conversion.xml
        );
        assert_eq!(conversion.changes.len(), 1, "{elements}");
    }
}

#[test]
fn disks_move_to_free_places() {
    let disk = |dev: &str, bus: &str| {
        format!("<disk type='file'><target dev='{dev}' bus='{bus}'/></disk>")
    };
    let cd = |dev: &str, bus: &str| {
        format!("<disk type='file' device='cdrom'><target dev='{dev}' bus='{bus}'/></disk>")
    };
    become_as(
        &[
            disk("vdb", "virtio"),
            disk("sda", "scsi"),
            disk("sdb", "sata"),
        ]
        .concat(),
        &[
            disk("vdb", "virtio"),
            disk("vda", "virtio"),
            disk("vdc", "virtio"),
        ]
        .concat(),
    );
    become_as(
        &[
            cd("hda", "ide"),
            cd("sda", "sata"),
            cd("sdh", "scsi"),
            cd("sdi", "scsi"),
            cd("sdj", "scsi"),
        ]
        .concat(),
        &[
            cd("hda", "ide"),
            cd("hdb", "ide"),
            cd("hdc", "ide"),
            cd("hdd", "ide"),
            cd("sdj", "usb"),
        ]
        .concat(),
    );
    become_as(
        &[disk("hde", "ide"), cd("vdb", "virtio")].concat(),
        &[disk("vde", "virtio"), cd("hdb", "ide")].concat(),
    );
    become_as(
        "<disk type='block' device='lun' sgio='filtered'><target dev='sda' bus='scsi'/><wwn>5</wwn>\
         <address type='drive'/></disk>",
        "<disk type='block' device='disk'><target dev='vda' bus='virtio'/></disk>",
    );
    become_as(
        "<disk type='file'><driver type='raw' iothread='1' copy_on_read='on'/>\
         <target dev='vda' bus='virtio'/><iotune><a/></iotune></disk>",
        "<disk type='file'><driver type='raw'/><target dev='vda' bus='virtio'/></disk>",
    );
}

#[test]
fn partitions_and_gaps_have_other_names_in_the_guest() {
    let xen = "<domain type='xen'><name>d</name><os><type>linux</type><kernel>/k</kernel></os><devices>\
               <disk><target dev='xvda2' bus='xen'/></disk><disk><target dev='xvda1' bus='xen'/></disk>\
               <disk><target dev='xvdb' bus='xen'/></disk></devices></domain>";
    let conversion = convert(xen, &wishes()).expect("a domain");
    let doc = Document::parse(&conversion.xml).expect("well-formed");
    let targets: Vec<_> = doc
        .descendants()
        .filter_map(|node| node.attribute("dev"))
        .collect();
    assert_eq!(targets, ["vda", "vdb", "vdc"]);
    let renamed = conversion
        .changes
        .iter()
        .filter(|change| change.what.ends_with("in the guest"));
    let renamed: Vec<_> = renamed.map(|change| change.what.as_str()).collect();
    assert_eq!(
        renamed,
        [
            "<disk><target dev='xvda2'> is xvda in the guest",
            "<disk><target dev='xvda1'> is xvdb in the guest",
            "<disk><target dev='xvdb'> is xvdc in the guest",
        ]
    );
}

#[test]
fn addresses_go_with_the_machine() {
    let device = "<disk type='file'><target dev='vda' bus='virtio'/><address type='pci' slot='0x05'/></disk>";
    let i440fx = domain("", device).replace("'pc'", "'pc-i440fx-7.2'");
    let conversion = convert(&i440fx, &wishes()).expect("a domain");
    assert_eq!(conversion.xml, domain("", device));
    let q35 = domain("", device).replace("'pc'", "'pc-q35-7.2'");
    let conversion = convert(&q35, &wishes()).expect("a domain");
    assert_eq!(
        conversion.xml,
        domain("", &device.replace("<address type='pci' slot='0x05'/>", ""))
    );
    let own = domain("", "").replace("'pc'", "'pc-i440fx-xenner'");
    assert_eq!(convert(&own, &wishes()).expect("a domain").xml, own);
}

#[test]
fn options_for_qemu_are_asked_about_once() {
    let qemu = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'/>";
    let conversion = converted(qemu, "");
    assert_eq!(conversion.decisions, []);
    let other = domain(qemu, "").replace(XENNER, "/usr/bin/qemu-system-x86_64");
    let conversion = convert(&other, &wishes()).expect("a domain");
    assert_eq!(conversion.decisions[0].element, "<qemu:commandline>");
}

#[test]
fn what_is_no_domain_is_refused() {
    let error = |xml: &str| convert(xml, &wishes()).expect_err("no domain").to_string();
    assert!(error("<network/>").contains("<network>"));
    assert!(error("<domain type='lxc'/>").contains("'lxc'"));
    assert!(error("<domain type='kvm'/>").contains("<name>"));
    assert!(error("<domain").contains("not well-formed"));
    assert!(error("<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>").contains("not well-formed"));
    let bare = convert("<domain type='kvm'><name>d</name></domain>", &wishes()).expect("a domain");
    let again = convert(&bare.xml, &wishes()).expect("a domain");
    assert_eq!(again.changes, []);
    assert_eq!(again.decisions, []);
}

#[test]
fn whatever_is_missing_is_no_trouble() {
    for input in [
        include_str!("../../tests/golden/wizard.xml"),
        include_str!("../../tests/golden/pygrub.xml"),
        include_str!("../../tests/golden/virt-install.xml"),
    ] {
        let doc = Document::parse(input).expect("well-formed");
        let elements = doc.descendants().filter(Node::is_element);
        let attributes = elements.clone().flat_map(|node| node.attributes());
        let attributes = attributes.map(|attribute| attribute.range());
        let whole = elements.clone().map(|node| node.range());
        // What is left of an element without its children.
        let inside = elements.filter_map(|node| {
            let (first, last) = (node.first_child()?, node.last_child()?);
            Some(first.range().start..last.range().end)
        });
        for cut in attributes.chain(whole).chain(inside) {
            let mut text = input.to_owned();
            text.replace_range(cut, "");
            let Ok(conversion) = convert(&text, &wishes()) else {
                continue;
            };
            let again = convert(&conversion.xml, &wishes()).expect(&conversion.xml);
            assert_eq!(again.changes, [], "{}", conversion.xml);
        }
    }
}
