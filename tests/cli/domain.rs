//! What the domain is made of: kernel, memory, vcpus, machine, name, clock.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use xenner::cli::{Action, parse};
use xenner::config::{MIB, Machine, RtcBase, VcpuConfig, VmConfig};

use super::{config, fault, on_stdio, one_line, words};

#[test]
fn the_usual_line() {
    let config = match parse(words(&[
        "-kernel",
        "vmlinuz",
        "-initrd",
        "initrd.gz",
        "-append",
        "console=hvc0 a=b,c",
        "-m",
        "512",
        "-nographic",
    ])) {
        Ok(Action::Run(config)) => *config,
        other => panic!("{other:?}"),
    };
    let expected = VmConfig {
        kernel: Some("vmlinuz".into()),
        initrd: Some("initrd.gz".into()),
        append: "console=hvc0 a=b,c".into(),
        chardevs: vec![on_stdio(true, false)],
        consoles: config.consoles.clone(),
        ..VmConfig::default()
    };
    assert_eq!(config, expected);
    assert_eq!(config.memory.size, 512 * MIB);
    assert_eq!(config.consoles[0].chardev, "serial0");
}

#[test]
fn kernel_and_its_files() {
    assert_eq!(
        fault(&["-kernel", "again"]),
        "-kernel: Given more than once; leave one"
    );
    assert_eq!(
        fault(&["-initrd"]),
        "-initrd: The value is missing; write -initrd FILE"
    );
    assert_eq!(
        fault(&["-initrd", ""]),
        "-initrd: The value is missing; write -initrd FILE"
    );
    assert_eq!(
        fault(&["-append", "a", "-append", "b"]),
        "-append: Given more than once; leave one"
    );
    assert!(fault(&["-append", &"x".repeat(1024)]).starts_with("-append: 1024 bytes are too long"));
    assert_eq!(config(&["-append", "-S"]).append, "-S");
    let not_utf8 = OsString::from_vec(b"/boot/\xff".to_vec());
    let Ok(Action::Run(config)) = parse([OsString::from("-kernel"), not_utf8.clone()]) else {
        panic!("a file name may be any bytes");
    };
    assert_eq!(config.kernel, Some(PathBuf::from(not_utf8.clone())));
    let error = parse([OsString::from("-append"), not_utf8]).unwrap_err();
    assert_eq!(
        one_line(&error),
        "-append: The value is not valid UTF-8; write it in UTF-8"
    );
    let nothing = parse(words(&["-nographic"])).unwrap_err();
    assert_eq!(
        one_line(&nothing),
        "-kernel: No kernel is given; add -kernel FILE"
    );
}

#[test]
fn memory() {
    for (value, mib) in [
        ("512", 512),
        ("1G", 1024),
        ("size=262144k", 256),
        ("size=1.5G", 1536),
        ("64,maxmem=1G,slots=4", 64),
        ("0x200", 512),
    ] {
        assert_eq!(config(&["-m", value]).memory.size, mib * MIB, "{value}");
    }
    assert_eq!(config(&[]).memory.size, 512 * MIB);
    let memory = config(&["-m", "64,maxmem=1G,slots=4"]).memory;
    assert_eq!((memory.maximum, memory.slots), (1024 * MIB, 4));
    // Not a whole page: rounded up, as QEMU does.
    assert_eq!(
        config(&["-m", "size=33554433b"]).memory.size,
        32 * MIB + 4096
    );
    for (value, message) in [
        (
            "31",
            "-m: 31 MiB is out of range; write a size from 32 MiB to 512 GiB",
        ),
        (
            "0",
            "-m: 0 bytes is out of range; write a size from 32 MiB to 512 GiB",
        ),
        (
            "1T",
            "-m: 1024 GiB is out of range; write a size from 32 MiB to 512 GiB",
        ),
        (
            "lots",
            "-m: size='lots': not a size; write a number with K, M, G or T, like 512M",
        ),
        (
            "-5",
            "-m: size='-5': not a size; write a number with K, M, G or T, like 512M",
        ),
        (
            "64,maxmem=32M",
            "-m: maxmem=32 MiB is out of range; write a size from 64 MiB to 512 GiB",
        ),
        ("szie=64", "-m: Unknown key 'szie'; did you mean 'size'?"),
        (
            "64,size=65",
            "-m: Key 'size' is given more than once; leave one",
        ),
        ("", "-m: The value is empty; -help shows what it can be"),
        (
            "16383P",
            "-m: 17178820608 GiB is out of range; write a size from 32 MiB to 512 GiB",
        ),
    ] {
        assert_eq!(fault(&["-m", value]), message, "{value}");
    }
}

#[test]
fn vcpus() {
    let smp = |value: &str| {
        let VcpuConfig {
            count,
            maximum,
            sockets,
            cores,
            threads,
        } = config(&["-smp", value]).vcpus;
        (count, maximum, sockets, cores, threads)
    };
    assert_eq!(smp("4"), (4, 4, 1, 4, 1));
    assert_eq!(smp("cpus=2,maxcpus=8"), (2, 8, 1, 8, 1));
    // it has its effect, so there is nothing to note
    assert!(config(&["-smp", "1,maxcpus=128"]).notes.is_empty());
    assert_eq!(smp("4,sockets=4,cores=1,threads=1"), (4, 4, 4, 1, 1));
    assert_eq!(
        smp("2,maxcpus=4,sockets=4,dies=1,cores=1,threads=1"),
        (2, 4, 4, 1, 1)
    );
    assert_eq!(smp("8,sockets=2"), (8, 8, 2, 4, 1));
    assert_eq!(smp("8,cores=2"), (8, 8, 4, 2, 1));
    assert_eq!(smp("8,threads=2"), (8, 8, 1, 4, 2));
    assert_eq!(smp("8,sockets=2,cores=2"), (8, 8, 2, 2, 2));
    assert_eq!(smp("sockets=2,cores=4"), (8, 8, 2, 4, 1));
    let twice = config(&["-smp", "4", "-smp", "sockets=4"]).vcpus;
    assert_eq!((twice.count, twice.sockets, twice.cores), (4, 4, 1));
    for (value, message) in [
        (
            "0",
            "-smp: 0 vcpus are out of range; write a number from 1 to 128",
        ),
        (
            "129",
            "-smp: 129 vcpus are out of range; write a number from 1 to 128",
        ),
        (
            "1,maxcpus=129",
            "-smp: 129 vcpus are out of range; write a number from 1 to 128",
        ),
        (
            "four",
            "-smp: cpus='four': not a whole number in range; write digits alone",
        ),
        (
            "4,maxcpus=2",
            "-smp: maxcpus=2 is below cpus=4; raise it or leave it out",
        ),
        (
            "4,sockets=3",
            "-smp: sockets * cores * threads is 3, not maxcpus=4; correct them or leave them out",
        ),
        (
            "4,dies=2",
            "-smp: dies='2': more than one is not supported; write 1 or leave it out",
        ),
        (
            "4,core=2",
            "-smp: Unknown key 'core'; did you mean 'cores'?",
        ),
    ] {
        assert_eq!(fault(&["-smp", value]), message, "{value}");
    }
    assert!(
        fault(&["-smp", "sockets=4294967295,cores=4294967295"]).starts_with("-smp: 4294967295")
    );
    assert!(fault(&["-smp", "4,threads=0"]).starts_with("-smp: sockets * cores * threads is 0"));
}

#[test]
fn machine_accelerator_and_processor() {
    for (args, machine) in [
        (&["-machine", "pc"][..], Machine::Pc),
        (
            &[
                "-M",
                "pc-i440fx-xenner,usb=off,dump-guest-core=off,hpet=off,acpi=on",
            ],
            Machine::Pc,
        ),
        (&["-M", "xenner"], Machine::Xenner),
        (&["-machine", "none,accel=kvm:tcg"], Machine::None),
        (
            &["-machine", "type=xenner", "-machine", "accel=kvm"],
            Machine::Xenner,
        ),
        (
            &["-accel", "kvm", "-enable-kvm", "-cpu", "host,migratable=on"],
            Machine::Pc,
        ),
        (
            &["-cpu", "max", "-accel", "kvm,kernel-irqchip=split"],
            Machine::Pc,
        ),
    ] {
        assert_eq!(config(args).machine, machine, "{args:?}");
    }
    assert!(config(&["-cpu", "host,migratable=on"]).cpu.migratable);
    // what libvirt makes of switches in a domain that names no processor
    let notes = config(&["-cpu", "qemu64,kvmclock=off,pmu=off,kvm-pv-eoi=on"]).notes;
    assert_eq!(notes, ["-cpu qemu64: the guest sees the host's processor"]);
    // libvirt's host-model
    let notes = config(&["-cpu", "qemu64,aes=on,svm=off,+avx"]).notes;
    let had = "-cpu: the guest has of these what the host has: aes, avx";
    assert_eq!(notes[1], had);
    for (args, message) in [
        (
            ["-machine", "q35"],
            "-machine: 'q35' is not a machine; '-machine help' lists them",
        ),
        (
            ["-machine", "pc,hpett=on"],
            "-machine: Unknown key 'hpett'; did you mean 'hpet'?",
        ),
        (
            ["-accel", "tcg"],
            "-accel: 'tcg' is not an accelerator of xenner; write 'kvm'",
        ),
        (
            ["-M", "pc,accel=tcg"],
            "-machine: 'tcg' is not an accelerator of xenner; write 'kvm'",
        ),
        (
            ["-cpu", "Westmere"],
            "-cpu: 'Westmere' is not supported; the guest sees the host's processor, write 'host'",
        ),
        (
            ["-cpu", "host,avx=off"],
            "-cpu: 'avx': Hiding single processor features is not supported by this version; \
             leave it out",
        ),
        (
            ["-cpu", "host,-sse3"],
            "-cpu: 'sse3': Hiding single processor features is not supported by this version; \
             leave it out",
        ),
        (
            ["-cpu", "host,vendor=X"],
            "-cpu: 'vendor=X' is not a processor property; write 'host' alone",
        ),
    ] {
        assert_eq!(fault(&args), message, "{args:?}");
    }
}

#[test]
fn name_and_uuid() {
    let named = config(&["-name", "guest=a,,b,debug-threads=on,process=p"]);
    assert_eq!(named.name.as_deref(), Some("a,b"));
    assert_eq!(named.process_name.as_deref(), Some("p"));
    assert!(named.debug_threads);
    assert_eq!(config(&["-name", "debian"]).name.as_deref(), Some("debian"));
    assert_eq!(
        config(&["-name", "{debian}"]).name.as_deref(),
        Some("{debian}")
    );
    assert!(fault(&["-name", "a/b"]).starts_with("-name: The name is empty, longer"));
    let uuid = "11111111-2222-3333-4444-555555555555";
    assert_eq!(config(&["-uuid", uuid]).uuid.unwrap().to_string(), uuid);
    assert_eq!(
        fault(&["-uuid", "x"]),
        "-uuid: 'x' is not a UUID; write 8-4-4-4-12 hexadecimal digits"
    );
}

#[test]
fn clock_and_boot() {
    assert_eq!(
        config(&["-rtc", "base=utc,driftfix=slew"]).rtc,
        RtcBase::Utc
    );
    assert_eq!(config(&["-rtc", "localtime"]).rtc, RtcBase::LocalTime);
    let dated = config(&["-rtc", "base=2026-11-20T21:41:32"]);
    assert_eq!(dated.rtc, RtcBase::At(1_795_210_892));
    assert!(fault(&["-rtc", "base=noon"]).starts_with("-rtc: 'noon' is no base"));
    assert!(fault(&["-rtc", "clock=x"]).starts_with("-rtc: clock='x': not known; write one of"));
    assert!(
        !config(&["-boot", "menu=on,splash-time=3000,strict=on"])
            .notes
            .is_empty()
    );
    assert!(!config(&["-boot", "nc"]).notes.is_empty());
    assert_eq!(
        fault(&["-boot", "nc,strct=on"]),
        "-boot: Unknown key 'strct'; did you mean 'strict'?"
    );
}
