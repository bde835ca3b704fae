//! Disks on the command line: images, devices, and which disk the guest sees.

use std::path::Path;

use xenner::config::{DiskConfig, DiskKind, ErrorPolicy, PassedFd, Vdev};
use xenner_pvdevices::image::config::{
    Aio, Backing, CacheConfig, DetectZeroes, Driver, FileConfig, FileKind, Locking, NodeConfig,
    NodeRef,
};

use crate::{config, fault};

fn disks(args: &[&str]) -> Vec<DiskConfig> {
    config(args).disks
}

/// Names of the guest's disks, in the order of the command line.
fn places(args: &[&str]) -> Vec<String> {
    disks(args)
        .iter()
        .map(|disk| disk.vdev.to_string())
        .collect()
}

fn only_node(args: &[&str]) -> NodeConfig {
    let mut nodes = config(args).block_nodes;
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    nodes.remove(0).node
}

fn inner(node: &NodeRef) -> &NodeConfig {
    match node {
        NodeRef::Inline(node) => node,
        NodeRef::Name(name) => panic!("{name}"),
    }
}

fn file_of(node: &NodeConfig) -> (&NodeConfig, &FileConfig) {
    let below = match &node.driver {
        Driver::Raw { file, .. }
        | Driver::Probe { file }
        | Driver::Qcow2 { file, .. }
        | Driver::Vmdk { file } => inner(file),
        other => panic!("{other:?}"),
    };
    match &below.driver {
        Driver::File(file) => (below, file),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drive_is_an_image_and_a_disk() {
    let config = config(&["-drive", "file=debian.img,format=raw,if=xen"]);
    let [disk] = &config.disks[..] else {
        panic!("{:?}", config.disks)
    };
    assert_eq!(disk.vdev, Vdev::FIRST);
    assert_eq!(
        (disk.driver.as_str(), disk.kind),
        ("xen-disk", DiskKind::Disk)
    );
    assert_eq!(disk.backend.as_deref(), Some("xen0"));
    assert!(disk.write_cache && !disk.read_only && !disk.share_rw);
    assert_eq!(
        (disk.read_error, disk.write_error),
        (ErrorPolicy::Report, ErrorPolicy::Enospc)
    );
    let [node] = &config.block_nodes[..] else {
        panic!("{:?}", config.block_nodes)
    };
    assert_eq!(node.origin, "-drive file=debian.img");
    assert_eq!(node.node.name, disk.node);
    assert!(matches!(
        node.node.driver,
        Driver::Raw {
            offset: 0,
            size: None,
            ..
        }
    ));
    let (below, file) = file_of(&node.node);
    assert_eq!(file.path, Path::new("debian.img"));
    assert!(below.auto_read_only && !below.read_only);
}

#[test]
fn formats_are_guessed_only_where_none_is_named() {
    let driver = |value: &str| only_node(&["-drive", value]).driver;
    assert!(matches!(driver("file=a"), Driver::Probe { .. }));
    assert!(matches!(driver("file=a,format=raw"), Driver::Raw { .. }));
    assert!(matches!(
        driver("file=a,driver=qcow2"),
        Driver::Qcow2 {
            backing: Backing::FromHeader,
            data_file: None,
            ..
        }
    ));
    assert!(matches!(driver("file=a,format=vmdk"), Driver::Vmdk { .. }));
    let node = only_node(&["-hda", "file:a,b:c"]);
    assert!(matches!(node.driver, Driver::Probe { .. }));
    assert_eq!(file_of(&node).1.path, Path::new("a,b:c"));
    let node = only_node(&["-drive", "file=/dev/sdb,format=host_device"]);
    assert_eq!(file_of(&node).1.kind, FileKind::HostDevice);
    assert!(matches!(node.driver, Driver::Raw { .. }));
}

#[test]
fn libvirt_says_of_every_format_that_nothing_is_below() {
    let file = r#"{"driver":"file","node-name":"f","filename":"a"}"#;
    let image = r#"{"driver":"vmdk","node-name":"v","file":"f","backing":null}"#;
    let config = config(&["-blockdev", file, "-blockdev", image]);
    assert!(matches!(
        config.block_nodes[1].node.driver,
        Driver::Vmdk { .. }
    ));
}

#[test]
fn cache_modes_are_three_settings() {
    for (words, direct, no_flush, write_cache) in [
        ("", false, false, true),
        (",cache=writeback", false, false, true),
        (",cache=none", true, false, true),
        (",cache=off", true, false, true),
        (",cache=writethrough", false, false, false),
        (",cache=directsync", true, false, false),
        (",cache=unsafe", false, true, true),
        (",cache=none,cache.direct=off", false, false, true),
        (",cache.direct=on,cache.writeback=off", true, false, false),
        (",cache.no-flush=on", false, true, true),
    ] {
        let value = format!("file=a,format=raw{words}");
        let config = config(&["-drive", &value]);
        let cache = CacheConfig { direct, no_flush };
        let node = &config.block_nodes[0].node;
        assert_eq!(node.cache, cache, "{words}");
        assert_eq!(file_of(node).0.cache, cache, "{words}");
        assert_eq!(config.disks[0].write_cache, write_cache, "{words}");
    }
}

#[test]
fn the_other_keys_of_a_drive() {
    let value = "file=a,format=raw,aio=io_uring,discard=unmap,detect-zeroes=unmap,snapshot=on,\
                 rerror=stop,werror=report,serial=S1,node-name=n,id=d,file.locking=off,\
                 bps=0,throttling.iops-total=0,copy-on-read=off";
    let config = config(&["-drive", value]);
    let (node, disk) = (&config.block_nodes[0].node, &config.disks[0]);
    assert!(node.discard && node.snapshot);
    assert_eq!(node.detect_zeroes, DetectZeroes::Unmap);
    assert_eq!(node.name.as_deref(), Some("n"));
    let (below, file) = file_of(node);
    assert_eq!((file.aio, file.locking), (Aio::IoUring, Locking::Off));
    assert!(below.read_only);
    assert_eq!(
        (disk.read_error, disk.write_error),
        (ErrorPolicy::Stop, ErrorPolicy::Report)
    );
    assert_eq!(disk.serial.as_deref(), Some("S1"));
    assert_eq!(disk.backend.as_deref(), Some("d"));
    let node = only_node(&["-drive", "file=a,readonly=on,snapshot=on"]);
    assert!(node.read_only && !node.snapshot);
    let node = only_node(&[
        "-snapshot",
        "-drive",
        "file.driver=host_device,file.filename=/d",
    ]);
    assert!(node.snapshot);
    assert_eq!(file_of(&node).1.kind, FileKind::HostDevice);
}

#[test]
fn disks_take_the_next_place() {
    assert_eq!(
        places(&[
            "-drive",
            "file=a",
            "-cdrom",
            "b",
            "-blockdev",
            "file,node-name=n,filename=c",
            "-device",
            "virtio-blk-pci,drive=n",
            "-drive",
            "file=d,if=virtio"
        ]),
        ["xvda", "xvdb", "xvdc", "xvdd"]
    );
    assert_eq!(
        places(&["-hdb", "a", "-hda", "b", "-cdrom", "c"]),
        ["xvdb", "xvda", "xvdc"]
    );
    assert_eq!(
        places(&[
            "-drive",
            "file=a",
            "-drive",
            "file=b,if=none,id=b",
            "-device",
            "xen-disk,drive=b,vdev=xvda",
            "-drive",
            "file=c,index=7"
        ]),
        ["xvdb", "xvda", "xvdh"]
    );
    assert_eq!(
        places(&[
            "-drive",
            "file=a,if=none,id=a",
            "-device",
            "xen-disk,drive=a,vdev=sdb"
        ]),
        ["sdb"]
    );
    // The same place on two of QEMU's buses is two disks here.
    assert_eq!(
        places(&[
            "-drive",
            "file=a,if=ide,index=0",
            "-drive",
            "file=b,if=virtio,index=0"
        ]),
        ["xvda", "xvdb"]
    );
    let twenty: Vec<String> = (0..20).map(|n| format!("file={n}")).collect();
    let args: Vec<&str> = twenty.iter().flat_map(|value| ["-drive", value]).collect();
    assert_eq!(places(&args)[15..18], ["xvdp", "xvdq", "xvdr"]);
}

#[test]
fn devices_take_what_their_drive_says() {
    let config = config(&[
        "-device",
        "scsi-hd,drive=d,id=disk1,bus=scsi0.0,channel=0,scsi-id=0,lun=0,device_id=x,share-rw=on,\
         write-cache=off,logical_block_size=4096,physical_block_size=4096,discard_granularity=64k,\
         num-queues=4,persistent-grants=on,bootindex=2,wwn=5000c50015ea71ac,rotation_rate=1,werror=stop",
        "-drive",
        "file=a,format=raw,if=none,id=d,rerror=ignore,serial=S2,cache=none",
    ]);
    let disk = &config.disks[0];
    assert_eq!(disk.id.as_deref(), Some("disk1"));
    assert_eq!(disk.node, config.block_nodes[0].node.name);
    assert!(disk.share_rw && !disk.write_cache);
    assert_eq!(
        (
            disk.logical_block,
            disk.physical_block,
            disk.discard_granularity
        ),
        (Some(4096), Some(4096), Some(65536))
    );
    assert_eq!((disk.queues, disk.bootindex), (Some(4), Some(2)));
    assert!(disk.persistent_grants);
    assert_eq!(
        (disk.read_error, disk.write_error),
        (ErrorPolicy::Ignore, ErrorPolicy::Stop)
    );
    assert_eq!(disk.serial.as_deref(), Some("S2"));
    let empty = disks(&["-device", "ide-cd,id=cd,bus=ide.1,unit=0"]);
    assert_eq!((empty[0].kind, &empty[0].node), (DiskKind::Cdrom, &None));
    assert!(empty[0].read_only);
    let empty = disks(&["-drive", "if=ide,media=cdrom"]);
    assert_eq!((empty[0].kind, &empty[0].node), (DiskKind::Cdrom, &None));
    assert_eq!(empty[0].driver, "ide-cd");
}

#[test]
fn nodes_may_be_nested_and_named() {
    let json = r#"{"driver":"qcow2","node-name":"top","read-only":true,
        "file":{"driver":"file","filename":"/a","locking":"on","cache":{"direct":true}},
        "backing":{"driver":"raw","offset":512,"size":1024,"file":"base"},
        "data-file":"data","l2-cache-size":1048576,"overlap-check":{"template":"none"}}"#;
    let node = only_node(&["-blockdev", &json.replace('\n', "")]);
    let Driver::Qcow2 {
        file,
        backing,
        data_file,
    } = &node.driver
    else {
        panic!("{node:?}")
    };
    assert_eq!(data_file, &Some(NodeRef::Name("data".into())));
    assert!(inner(file).cache.direct);
    let Backing::Node(backing) = backing else {
        panic!("{backing:?}")
    };
    assert_eq!(
        inner(backing).driver,
        Driver::Raw {
            file: NodeRef::Name("base".into()),
            offset: 512,
            size: Some(1024)
        }
    );
    let node = only_node(&[
        "-blockdev",
        "driver=qcow2,node-name=q,file.driver=file,file.filename=/a,,b,file.aio=native",
    ]);
    assert_eq!(file_of(&node).1.path, Path::new("/a,b"));
    let node = only_node(&[
        "-blockdev",
        r#"{"driver":"qcow2","node-name":"q","file":"f","backing":null}"#,
    ]);
    assert!(matches!(
        node.driver,
        Driver::Qcow2 {
            backing: Backing::None,
            ..
        }
    ));
    let node = only_node(&["-blockdev", "null-co,node-name=n,size=1G,read-zeroes=on"]);
    assert_eq!(node.driver, Driver::Null { size: 1 << 30 });
}

#[test]
fn passed_descriptors() {
    let config = config(&[
        "-add-fd",
        "fd=3,set=2,opaque=rdwr:/x",
        "-add-fd",
        "set=2,fd=4",
    ]);
    assert_eq!(
        config.fd_sets,
        [
            PassedFd {
                fd: 3,
                set: 2,
                opaque: Some("rdwr:/x".into())
            },
            PassedFd {
                fd: 4,
                set: 2,
                opaque: None
            }
        ]
    );
    for (value, message) in [
        (
            "fd=1,set=0",
            "fd='1': not a descriptor above standard error; write the number of an open one",
        ),
        ("set=0", "Key 'fd' is missing; add fd=N"),
        ("fd=3", "Key 'set' is missing; add set=N"),
    ] {
        assert_eq!(fault(&["-add-fd", value]), format!("-add-fd: {message}"));
    }
}

#[test]
fn faults_name_the_key_and_the_way_out() {
    for (args, message) in [
        (
            &["-drive", "if=xen"][..],
            "-drive: Key 'file' is missing; add file=FILE",
        ),
        (
            &["-drive", "file=a,format=vdi"],
            "-drive: format='vdi': not supported by this version",
        ),
        (
            &["-drive", "file=a,format=qcow3"],
            "-drive: format='qcow3': not a driver; did you mean 'qcow2'?",
        ),
        (
            &["-drive", "file=nbd://h/x"],
            "-drive: file='nbd://h/x': its protocol is not supported",
        ),
        (
            &["-drive", "file=a,if=floppy"],
            "-drive: if='floppy': not supported by this version",
        ),
        (
            &["-drive", "file=a,bps=100"],
            "-drive: bps='100': I/O throttling is not supported",
        ),
        (
            &["-drive", "file=a,throttling.bps-total=9"],
            "-drive: throttling.bps-total='9': I/O throttling is not supported",
        ),
        (
            &["-drive", "file=a,copy-on-read=on"],
            "-drive: copy-on-read='on': not supported",
        ),
        (
            &["-drive", "file=a,cache=fast"],
            "-drive: cache='fast': not known; write one of none, off,",
        ),
        (
            &["-drive", "file=a,detect-zeroes=unmap"],
            "-drive: detect-zeroes='unmap': needs discard=unmap",
        ),
        (
            &["-drive", "file=a,file.driver=file"],
            "-drive: Only one of file and file.driver",
        ),
        (
            &["-drive", "file=a,fromat=raw"],
            "-drive: Unknown key 'fromat'; did you mean 'format'?",
        ),
        (
            &["-drive", "file=a,index=0", "-drive", "file=b,index=0"],
            "-drive: index='0': another drive has this place",
        ),
        (
            &["-drive", "file=a,id=x", "-drive", "file=b,id=x"],
            "-drive: id='x': another drive has this id",
        ),
        (&["-hda", ""], "-hda: "),
        (
            &["-blockdev", "file,filename=a"],
            "-blockdev: Key 'node-name' is missing",
        ),
        (
            &["-blockdev", "nbd,node-name=n"],
            "-blockdev: driver='nbd': not supported by this version",
        ),
        (
            &["-blockdev", "raw,node-name=n"],
            "-blockdev: Key 'file' is missing; add file=NODE-NAME",
        ),
        (
            &["-blockdev", "raw,node-name=n,file=x,file.driver=null-co"],
            "-blockdev: Key 'file' is given more than once",
        ),
        (
            &["-blockdev", "file,node-name=n,filename=a,force-share=on"],
            "-blockdev: force-share='on': needs read-only=on",
        ),
        (
            &["-device", "virtio-blk-pci"],
            "-device: Key 'drive' is missing; add drive=ID",
        ),
        (
            &["-drive", "file=a,id=d", "-device", "xen-disk,drive=d"],
            "-device: drive='d': the drive is a device by itself already; add if=none to it",
        ),
        (
            &[
                "-drive",
                "file=a,id=d,if=none",
                "-device",
                "xen-disk,drive=d",
                "-device",
                "ide-hd,drive=d",
            ],
            "-device: drive='d': another device has this drive",
        ),
        (
            &[
                "-drive",
                "media=cdrom,id=d,if=none",
                "-device",
                "xen-disk,drive=d",
            ],
            "-device: drive='d': the drive has no medium",
        ),
        (
            &[
                "-drive",
                "file=a,id=d,if=none",
                "-device",
                "xen-disk,drive=d,vdev=xvda1",
            ],
            "-device: vdev='xvda1': not a disk's name",
        ),
        (
            &[
                "-drive",
                "file=a,id=d,if=none",
                "-device",
                "xen-disk,drive=d,vdev=xvda",
                "-drive",
                "file=b,id=e,if=none",
                "-device",
                "xen-disk,drive=e,vdev=xvda",
            ],
            "-device: 'vdev=xvda' is another disk's place",
        ),
        (
            &[
                "-drive",
                "file=a,id=d,if=none",
                "-device",
                "xen-disk,drive=d,logical_block_size=700",
            ],
            "Disk xvda: logical_block_size is not 512, 1024, 2048 or 4096",
        ),
    ] {
        let line = fault(args);
        assert!(line.starts_with(message), "{line}\n{message}");
    }
}
