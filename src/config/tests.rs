//! What [`VmConfig::validate`] takes and refuses.

use xenner_console::config::{ChardevBackend, ChardevConfig};

use super::*;

fn bootable() -> VmConfig {
    VmConfig {
        kernel: Some("vmlinuz".into()),
        ..VmConfig::default()
    }
}

fn fault(change: impl FnOnce(&mut VmConfig)) -> String {
    let mut config = bootable();
    change(&mut config);
    config
        .validate()
        .expect_err("the configuration should be refused")
        .to_string()
}

fn stdio(id: &str) -> ChardevConfig {
    ChardevConfig::new(id, ChardevBackend::Stdio { signal: false })
}

#[test]
fn the_smallest_configuration_is_valid() {
    assert_eq!(bootable().validate(), Ok(()));
    let none = VmConfig {
        machine: Machine::None,
        ..VmConfig::default()
    };
    assert_eq!(none.validate(), Ok(()));
    assert_eq!(VmConfig::default().validate(), Err(ConfigError::NoKernel));
}

#[test]
fn boot() {
    let config = VmConfig {
        initrd: Some("i".into()),
        ..VmConfig::default()
    };
    assert_eq!(config.validate(), Err(ConfigError::NeedsKernel("initrd")));
    let config = VmConfig {
        append: "x".into(),
        machine: Machine::None,
        ..VmConfig::default()
    };
    assert_eq!(config.validate(), Err(ConfigError::NeedsKernel("append")));
    let mut config = bootable();
    config.append = "x".repeat(MAX_APPEND);
    assert_eq!(config.validate(), Ok(()));
    config.append.push('x');
    assert_eq!(config.validate(), Err(ConfigError::LongAppend(1024)));
    config.append = "a\0b".into();
    assert_eq!(config.validate(), Err(ConfigError::ZeroInAppend));
}

#[test]
fn memory() {
    let with = |size, maximum| {
        let memory = MemoryConfig {
            size,
            maximum,
            slots: 0,
        };
        VmConfig {
            memory,
            ..bootable()
        }
        .validate()
    };
    assert_eq!(with(MIN_MEMORY, MIN_MEMORY), Ok(()));
    assert_eq!(with(MAX_MEMORY, MAX_MEMORY), Ok(()));
    assert_eq!(with(0, 0), Err(ConfigError::MemorySize(0)));
    assert_eq!(
        with(MIN_MEMORY - 4096, MIN_MEMORY),
        Err(ConfigError::MemorySize(MIN_MEMORY - 4096))
    );
    assert_eq!(
        with(u64::MAX, u64::MAX),
        Err(ConfigError::MemorySize(u64::MAX))
    );
    assert_eq!(
        with(MIN_MEMORY + 1, MAX_MEMORY),
        Err(ConfigError::MemoryPages(MIN_MEMORY + 1))
    );
    assert_eq!(
        with(64 * MIB, 32 * MIB).unwrap_err().to_string(),
        "-m: maxmem=32 MiB is out of range; write a size from 64 MiB to 512 GiB"
    );
}

#[test]
fn vcpus() {
    let with = |count, maximum, sockets, cores, threads| {
        let vcpus = VcpuConfig {
            count,
            maximum,
            sockets,
            cores,
            threads,
        };
        VmConfig {
            vcpus,
            ..bootable()
        }
        .validate()
    };
    assert_eq!(with(128, 128, 2, 32, 2), Ok(()));
    assert_eq!(with(0, 1, 1, 1, 1), Err(ConfigError::Vcpus(0)));
    assert_eq!(with(129, 129, 1, 129, 1), Err(ConfigError::Vcpus(129)));
    assert_eq!(
        with(2, 1, 1, 1, 1),
        Err(ConfigError::MaxVcpus {
            count: 2,
            maximum: 1
        })
    );
    assert_eq!(
        with(4, 4, 1, 3, 1),
        Err(ConfigError::Topology {
            product: 3,
            maximum: 4
        })
    );
    let all = u32::MAX;
    assert!(matches!(
        with(1, 1, all, all, all),
        Err(ConfigError::Topology { .. })
    ));
}

#[test]
fn names() {
    for good in ["a", "Debian 12", "guest=,x", "ö"] {
        assert_eq!(
            VmConfig {
                name: Some(good.into()),
                ..bootable()
            }
            .validate(),
            Ok(()),
            "{good}"
        );
    }
    let long = "x".repeat(MAX_NAME + 1);
    for bad in ["", "a/b", "..", ".", "a\nb", "a\0", &long] {
        let config = VmConfig {
            name: Some(bad.into()),
            ..bootable()
        };
        assert_eq!(config.validate(), Err(ConfigError::BadName), "{bad:?}");
    }
}

#[test]
fn character_devices() {
    let twice = fault(|config| config.chardevs = vec![stdio("a"), stdio("a")]);
    assert_eq!(
        twice,
        "-chardev: Id 'a' is given twice; choose another for one of them"
    );
    let both = fault(|config| config.chardevs = vec![stdio("a"), stdio("b")]);
    assert!(
        both.starts_with("-chardev: 'a' and 'b' both use stdio"),
        "{both}"
    );
    let daemon = fault(|config| {
        config.chardevs = vec![stdio("a")];
        config.daemonize = true;
    });
    assert!(
        daemon.starts_with("-daemonize: Character device 'a' uses stdio"),
        "{daemon}"
    );
}

#[test]
fn consoles() {
    let console = |id: &str| ConsoleConfig { chardev: id.into() };
    let missing = fault(|config| config.consoles = vec![console("a")]);
    assert_eq!(
        missing,
        "-serial: No character device has the id 'a'; add -chardev ...,id=a"
    );
    let shared = fault(|config| {
        config.chardevs = vec![stdio("a")];
        config.consoles = vec![console("a"), console("a")];
    });
    assert!(
        shared.starts_with("-serial: Character device 'a' is in use already"),
        "{shared}"
    );
    let channel = |id: &str| ChannelConfig {
        chardev: id.into(),
        name: "org.xenner.test".into(),
        id: None,
    };
    let missing = fault(|config| config.channels = vec![channel("a")]);
    assert_eq!(
        missing,
        "-device: No character device has the id 'a'; add -chardev ...,id=a"
    );
    let shared = fault(|config| {
        config.chardevs = vec![stdio("a")];
        config.consoles = vec![console("a")];
        config.channels = vec![channel("a")];
    });
    assert!(
        shared.starts_with("-device: Character device 'a' is in use already"),
        "{shared}"
    );
    let null = |n: usize| ChardevConfig::new(format!("c{n}"), ChardevBackend::Null);
    let full = |consoles: usize, channels: usize| {
        let mut config = bootable();
        config.chardevs = (0..consoles + channels).map(null).collect();
        let ids = |range: std::ops::Range<usize>| range.map(|n| format!("c{n}"));
        config.consoles = ids(0..consoles).map(|id| console(&id)).collect();
        let channels = ids(consoles..consoles + channels);
        config.channels = channels.map(|id| channel(&id)).collect();
        config.validate()
    };
    assert_eq!(full(MAX_CONSOLES, 0), Ok(()));
    assert_eq!(full(2, MAX_CONSOLES - 2), Ok(()));
    // Number 0 is no channel's.
    for (consoles, channels) in [(MAX_CONSOLES, 1), (0, MAX_CONSOLES)] {
        let many = ConfigError::Consoles(MAX_CONSOLES + 1);
        assert_eq!(full(consoles, channels), Err(many));
    }
    for name in ["", "a\nb", &"x".repeat(MAX_CHANNEL_NAME + 1)] {
        let bad = fault(|config| {
            config.chardevs = vec![stdio("a")];
            config.channels = vec![ChannelConfig {
                name: name.into(),
                ..channel("a")
            }];
        });
        assert!(bad.starts_with("-device: The name of channel 'a'"), "{bad}");
    }
    let hvlog = fault(|config| config.hvlog = HvLog::Chardev("x".into()));
    assert!(
        hvlog.starts_with("-xenner hvlog: No character device"),
        "{hvlog}"
    );
}

#[test]
fn uuids() {
    let text = "11111111-2222-3333-4444-55555555abcd";
    assert_eq!(Uuid::parse(text).unwrap().to_string(), text);
    let plain = Uuid::parse("1111111122223333444455555555ABCD");
    assert_eq!(plain, Uuid::parse(text));
    for bad in [
        "",
        "1111",
        &text[1..],
        "11111111-2222-3333-4444-55555555abcg",
        "é".repeat(18).as_str(),
    ] {
        assert_eq!(Uuid::parse(bad), None, "{bad}");
    }
    assert_eq!(Uuid::parse("111111111-222-3333-4444-55555555abcd"), None);
}

#[test]
fn log_items_are_complete() {
    let all = LOG_ITEMS
        .iter()
        .fold(LogItems::empty(), |all, item| all | item.flag);
    assert_eq!(all, LogItems::all());
}
