//! QEMU's devices and other options, and the lines that libvirt makes.

use xenner::cli::{Action, parse};
use xenner::config::{MIB, Machine};

use super::{config, fault, one_line, words};

#[test]
fn devices() {
    let chardev = ["-chardev", "pty,id=c0"];
    for device in [
        "isa-serial,chardev=c0",
        "virtconsole,chardev=c0,id=x",
        r#"{"driver":"isa-serial","chardev":"c0","id":"serial0","index":0}"#,
        r#"{"driver":"pci-serial","chardev":"c0","id":"serial0","bus":"pci.0","addr":"0x2"}"#,
    ] {
        let config = config(&[&chardev[..], &["-device", device]].concat());
        assert_eq!(config.consoles[0].chardev, "c0", "{device}");
        assert_eq!(config.consoles.len(), 1);
    }
    for device in [
        "usb-tablet",
        r#"{"driver":"virtio-balloon-pci","id":"b","bus":"pci.0"}"#,
    ] {
        assert_eq!(config(&["-device", device]).notes.len(), 1, "{device}");
    }
    for (device, message) in [
        ("isa-serial", "Key 'chardev' is missing; add chardev=ID"),
        (
            "isa-serial,chardev=a,indx=1",
            "Unknown key 'indx'; did you mean 'index'?",
        ),
        (
            "isa-serail,chardev=a",
            "'isa-serail' is not a device; did you mean 'isa-serial'?",
        ),
        (
            "frobnicator",
            "'frobnicator' is not a device; '-device help' lists them",
        ),
        ("id=x", "Key 'driver' is missing; add driver=NAME"),
        (
            r#"{"driver":"virtio-blk-pci","drive":"d"}"#,
            "drive='d': no -drive has this id and no -blockdev this node-name; add one",
        ),
        (
            r#"{"driver":"x""#,
            "Not valid JSON at column 13; quote keys and text with \"",
        ),
    ] {
        assert_eq!(
            fault(&["-device", device]),
            format!("-device: {message}"),
            "{device}"
        );
    }
}

#[test]
fn options_that_change_nothing() {
    for args in [
        &["-no-acpi"][..],
        &["-no-hpet"],
        &["-usb"],
        &["-no-user-config"],
        &["-nodefconfig"],
        &["-vga", "none"],
        &["-nic", "none"],
        &["-net", "none"],
        &["-display", "none"],
        &["-parallel", "none"],
        &["-monitor", "none"],
        &["-vnc", "none"],
        &["-gdb", "none"],
        &["-overcommit", "mem-lock=off"],
        &["-overcommit", "cpu-pm=on"],
        &["-k", "de"],
        &[
            "-object",
            r#"{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/f"}"#,
        ],
        &["-object", "rng-random,id=r,filename=/dev/urandom"],
        &[
            "-global",
            "PIIX4_PM.disable_s3=1",
            "-global",
            "PIIX4_PM.disable_s4=1",
        ],
        &["-audiodev", r#"{"id":"audio1","driver":"none"}"#],
        &["-run-with", "async-teardown=on"],
    ] {
        config(args);
    }
}

#[test]
fn options_that_are_refused() {
    for (args, message) in [
        (&["-fda", "x"][..], "-fda: Floppy disks are"),
        (&["-netdev", "vde,id=n"], "-netdev: 'vde': This kind of"),
        (&["-vnc", ":0"], "-vnc: ':0': VNC displays are"),
        (&["-vga", "std"], "-vga: 'std': Displays are"),
        (&["-display", "gtk,gl=on"], "-display: 'gtk': Displays are"),
        (&["-preconfig"], "-preconfig: Configuration by a monitor is"),
        (&["-incoming", "defer"], "-incoming: Migration is"),
        (
            &["-overcommit", "mem-lock=on"],
            "-overcommit: 'on': Locked memory is",
        ),
        (
            &["-object", "memory-backend-ram,id=m"],
            "-object: 'memory-backend-ram': Such objects are",
        ),
        (&["-object", "id=m"], "-object: '': Such objects are"),
        (
            &["-run-with", "chroot=/x"],
            "-run-with: '/x': Changing the root directory is",
        ),
        // The leftmost is named.
        (&["-numa", "node", "-fda", "x"], "-numa: NUMA is"),
        (&["-fda", "x", "-numa", "node"], "-fda: Floppy disks are"),
    ] {
        let line = fault(args);
        assert!(line.starts_with(message), "{line}");
        assert!(
            line.contains(" not supported by this version; leave "),
            "{line}"
        );
    }
}

/// Lines that libvirt 9.0 and 11.3 make, up to what this version refuses.
const LIBVIRT: [(&str, Option<&str>); 6] = [
    (
        "-name guest=f2,debug-threads=on -S \
         -object {\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/lib/key\"} \
         -machine xenner,usb=off,dump-guest-core=off -accel kvm -m size=262144k \
         -overcommit mem-lock=off -smp 2,maxcpus=4,sockets=4,cores=1,threads=1 \
         -uuid 11111111-2222-3333-4444-555555555555 -display none -no-user-config -nodefaults \
         -rtc base=utc -no-shutdown -no-acpi -boot strict=on -kernel /k -initrd /i \
         -append console=ttyS0 -audiodev {\"id\":\"audio1\",\"driver\":\"none\"} \
         -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
         -msg timestamp=on",
        None,
    ),
    (
        "-name guest=f2,debug-threads=on -S -machine pc-i440fx-xenner,usb=off,dump-guest-core=off,hpet=off \
         -accel kvm -cpu host,migratable=on -m 256 -smp 2,sockets=2,cores=1,threads=1 \
         -rtc base=utc,driftfix=slew -global PIIX4_PM.disable_s3=1 -global PIIX4_PM.disable_s4=1 \
         -boot menu=on,splash-time=3000,strict=on -no-user-config -nodefaults -kernel /k \
         -device {\"driver\":\"piix3-usb-uhci\",\"id\":\"usb\",\"bus\":\"pci.0\",\"addr\":\"0x1.0x2\"} \
         -device {\"driver\":\"qemu-xhci\",\"p2\":15,\"p3\":15,\"id\":\"usb\",\"bus\":\"pci.0\",\"addr\":\"0x2\"} \
         -device {\"driver\":\"virtio-serial-pci\",\"id\":\"virtio-serial0\",\"bus\":\"pci.0\",\"addr\":\"0x4\"} \
         -chardev pty,id=charserial0,logfile=/var/log/c.log,logappend=on \
         -device {\"driver\":\"isa-serial\",\"chardev\":\"charserial0\",\"id\":\"serial0\",\"index\":0} \
         -chardev socket,id=charchannel0,fd=31,server=on,wait=off \
         -device {\"driver\":\"virtserialport\",\"bus\":\"virtio-serial0.0\",\"nr\":1,\"chardev\":\"charchannel0\",\"id\":\"channel0\",\"name\":\"org.qemu.guest_agent.0\"} \
         -device {\"driver\":\"usb-tablet\",\"id\":\"input0\",\"bus\":\"usb.0\",\"port\":\"1\"} \
         -object {\"qom-type\":\"rng-random\",\"id\":\"objrng0\",\"filename\":\"/dev/urandom\"} \
         -device {\"driver\":\"virtio-rng-pci\",\"rng\":\"objrng0\",\"id\":\"rng0\"} \
         -device {\"driver\":\"virtio-balloon-pci\",\"id\":\"balloon0\",\"bus\":\"pci.0\",\"addr\":\"0x5\"} \
         -watchdog-action reset -smbios type=1,product=x -usb -no-hpet",
        None,
    ),
    (
        "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg \
         -qmp unix:/lib/qmp.monitor,server=on,wait=off -pidfile /lib/qmp.pid -daemonize",
        None,
    ),
    (
        "-S -name f2 -m 256 -kernel /k -chardev socket,id=charmonitor,fd=31,server=on,wait=off \
         -mon chardev=charmonitor,id=monitor,mode=control",
        None,
    ),
    (
        "-S -name f2 -kernel /k -m 256 -smp 2 -blockdev {\"driver\":\"file\",\"filename\":\"/path/to/b.qcow2\",\"node-name\":\"libvirt-2-storage\",\"auto-read-only\":true,\"discard\":\"unmap\"} \
         -blockdev {\"node-name\":\"libvirt-2-format\",\"read-only\":false,\"driver\":\"qcow2\",\"file\":\"libvirt-2-storage\",\"backing\":null} \
         -device {\"driver\":\"virtio-blk-pci\",\"bus\":\"pci.0\",\"addr\":\"0x4\",\"drive\":\"libvirt-2-format\",\"id\":\"virtio-disk0\",\"bootindex\":1} \
         -blockdev {\"driver\":\"file\",\"filename\":\"/path/to/c.iso\",\"node-name\":\"libvirt-1-storage\",\"auto-read-only\":true,\"discard\":\"unmap\"} \
         -blockdev {\"node-name\":\"libvirt-1-format\",\"read-only\":true,\"driver\":\"raw\",\"file\":\"libvirt-1-storage\"} \
         -device {\"driver\":\"ide-cd\",\"bus\":\"ide.1\",\"unit\":0,\"drive\":\"libvirt-1-format\",\"id\":\"ide0-1-0\"} \
         -device {\"driver\":\"usb-storage\",\"bus\":\"usb.0\",\"port\":\"1\",\"drive\":\"libvirt-1-format\",\"id\":\"usb-disk0\",\"bootindex\":1,\"removable\":false}",
        None,
    ),
    (
        "-S -name f2 -kernel /k -m 256 -smp 2 -add-fd set=0,fd=32,opaque=serial0-source \
         -chardev file,id=charserial0,path=/dev/fdset/0,append=on",
        None,
    ),
];

#[test]
fn lines_that_libvirt_makes() {
    for (line, refusal) in LIBVIRT {
        let args: Vec<&str> = line.split_whitespace().collect();
        match (parse(words(&args)), refusal) {
            (Ok(Action::Run(config)), None) => {
                assert!(config.lifecycle.start_paused);
                if config.machine == Machine::None {
                    continue;
                }
                assert_eq!(config.memory.size, 256 * MIB);
                assert_eq!(config.name.as_deref(), Some("f2"));
            }
            (Err(error), Some(refusal)) => assert_eq!(one_line(&error), refusal),
            (result, _) => panic!("{line}: {result:?}"),
        }
    }
}

#[test]
fn every_device_is_on_record_as_it_was_given() {
    let given = config(&[
        "-device",
        r#"{"driver":"qemu-xhci","p2":15,"id":"usb","bus":"pci.0"}"#,
        "-device",
        "virtio-balloon-pci,id=balloon0,addr=0x5,max=3,deflate-on-oom=on",
    ]);
    let [usb, balloon] = given.devices.as_slice() else {
        panic!("{:?}", given.devices);
    };
    assert_eq!(usb.driver, "qemu-xhci");
    assert_eq!(usb.id.as_deref(), Some("usb"));
    assert_eq!(usb.properties["p2"], 15);
    assert_eq!(balloon.driver, "virtio-balloon-pci");
    assert_eq!(balloon.id.as_deref(), Some("balloon0"));
    assert_eq!(balloon.properties["addr"], "0x5");
    assert_eq!(balloon.properties["max"], 3);
    assert_eq!(balloon.properties["deflate-on-oom"], true);
    assert!(!balloon.properties.contains_key("driver"));
}
