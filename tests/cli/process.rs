//! The process around the domain, its log, and the options that are xenner's own.

use std::path::Path;

use xenner::config::{
    Flavour, HvLog, LogConfig, LogItems, MonitorConfig, MonitorMode, PanicAction, RebootAction,
    ShutdownAction, XenstoreSocket,
};

use super::{config, fault};

#[test]
fn life_of_the_process() {
    let plain = config(&[]);
    assert_eq!(plain.lifecycle.reboot, RebootAction::Reset);
    assert_eq!(plain.lifecycle.shutdown, ShutdownAction::Poweroff);
    assert_eq!(plain.lifecycle.panic, PanicAction::ExitFailure);
    assert!(!plain.lifecycle.start_paused);
    let changed = config(&["-S", "-no-reboot", "-no-shutdown", "-action", "panic=pause"]);
    assert_eq!(changed.lifecycle.reboot, RebootAction::Shutdown);
    assert_eq!(changed.lifecycle.shutdown, ShutdownAction::Pause);
    assert_eq!(changed.lifecycle.panic, PanicAction::Pause);
    assert!(changed.lifecycle.start_paused);
    assert_eq!(
        config(&[
            "-action",
            "reboot=shutdown,shutdown=pause",
            "-action",
            "panic=none"
        ])
        .lifecycle
        .panic,
        PanicAction::None
    );
    assert_eq!(
        config(&["-S", "-S", "--S"]).lifecycle,
        config(&["-S"]).lifecycle
    );
    assert_eq!(
        fault(&["-no-reboot", "-action", "reboot=reset"]),
        "-no-reboot: Contradicts -action reboot=reset; leave one of them out"
    );
    assert_eq!(
        fault(&["-no-shutdown", "-action", "shutdown=poweroff"]),
        "-no-shutdown: Contradicts -action shutdown=poweroff; leave one of them out"
    );
    assert_eq!(
        fault(&["-action", "reboot=never"]),
        "-action: reboot='never': not known; write one of reset, shutdown"
    );
    let daemon = config(&["-daemonize", "-pidfile", "/run/x.pid", "-D", "/log"]);
    assert!(daemon.daemonize);
    assert_eq!(daemon.pidfile.as_deref(), Some(Path::new("/run/x.pid")));
    assert_eq!(daemon.log.file.as_deref(), Some(Path::new("/log")));
}

#[test]
fn logging() {
    let logged = config(&[
        "-d",
        "hypercall,mmu",
        "-d",
        "event",
        "-msg",
        "timestamp=on,guest-name=on",
    ]);
    assert_eq!(
        logged.log.items,
        LogItems::HYPERCALL | LogItems::MMU | LogItems::EVENT
    );
    assert!(logged.log.timestamp && logged.log.guest_name);
    assert_eq!(config(&[]).log, LogConfig::default());
    assert_eq!(
        fault(&["-d", "hypercal"]),
        "-d: 'hypercal' is not a log item; did you mean 'hypercall'?"
    );
    assert_eq!(
        fault(&["-d", "x,y"]),
        "-d: 'x' is not a log item; '-d help' lists them"
    );
    assert_eq!(
        fault(&["-d", ""]),
        "-d: '' is not a log item; '-d help' lists them"
    );
    assert_eq!(
        fault(&["-msg", "timestamp=maybe"]),
        "-msg: timestamp='maybe': neither on nor off; write one of them"
    );
    assert_eq!(
        fault(&["-msg", "x=1"]),
        "-msg: Unknown key 'x'; known are timestamp, guest-name"
    );
}

#[test]
fn sandbox() {
    let value = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    let on = config(&["-sandbox", value]);
    assert!(on.sandbox);
    assert_eq!(
        on.notes,
        ["-sandbox: this version has no system call filter"]
    );
    assert!(!config(&["-sandbox", "off"]).sandbox);
}

#[test]
fn what_qemu_has_no_option_for() {
    let plain = config(&[]);
    assert_eq!(plain.flavour, Flavour::Auto);
    assert_eq!(plain.xenstore, XenstoreSocket::RunDir);
    assert_eq!(plain.hvlog, HvLog::Console);
    assert!(!plain.stats && plain.dumpdir.is_none());
    let all = config(&[
        "-xenner",
        "flavour=pvm,xenstore=/run/xs,hvlog=file:/log",
        "-xenner",
        "stats=on,dumpdir=/d",
    ]);
    assert_eq!(all.flavour, Flavour::Pvm);
    assert_eq!(all.xenstore, XenstoreSocket::Path("/run/xs".into()));
    assert_eq!(all.hvlog, HvLog::File("/log".into()));
    assert!(all.stats);
    assert_eq!(all.dumpdir.as_deref(), Some(Path::new("/d")));
    assert_eq!(
        config(&["-xenner", "xenstore=off"]).xenstore,
        XenstoreSocket::Off
    );
    assert_eq!(config(&["-xenner", "hvlog=off"]).hvlog, HvLog::Off);
    assert_eq!(
        config(&["-xenner", "hvlog=serial0"]).hvlog,
        HvLog::Chardev("serial0".into())
    );
    for (value, message) in [
        (
            "flavour=vmx",
            "flavour='vmx': not known; write one of auto, hardware, pvm",
        ),
        (
            "flavor=pvm",
            "Unknown key 'flavor'; did you mean 'flavour'?",
        ),
        (
            "stats=on,stats=off",
            "Key 'stats' is given more than once; leave one",
        ),
        (
            "xenstore",
            "Key 'xenstore' has no value; write xenstore=VALUE",
        ),
        ("hvlog=file:", "Key 'hvlog' is missing; add hvlog=file:PATH"),
    ] {
        assert_eq!(
            fault(&["-xenner", value]),
            format!("-xenner: {message}"),
            "{value}"
        );
    }
    assert!(fault(&["-xenner", "hvlog=x"]).starts_with("-xenner hvlog: No character device"));
}

#[test]
fn monitors_and_passed_descriptors() {
    let monitor = |chardev: &str, mode, pretty| MonitorConfig {
        chardev: chardev.to_owned(),
        mode,
        pretty,
    };
    // libvirt's own
    let libvirt = config(&[
        "-add-fd",
        "set=0,fd=32,opaque=serial0-source",
        "-chardev",
        "socket,id=charmonitor,fd=31,server=on,wait=off",
        "-mon",
        "chardev=charmonitor,id=monitor,mode=control",
    ]);
    let expected = [monitor("charmonitor", MonitorMode::Control, false)];
    assert_eq!(libvirt.monitors, expected);
    let short = config(&[
        "-qmp",
        "unix:/q,server=on,wait=off",
        "-qmp-pretty",
        "tcp:127.0.0.1:4444,server=on,wait=off",
        "-monitor",
        "stdio",
    ]);
    let expected = [
        monitor("compat_monitor0", MonitorMode::Readline, false),
        monitor("compat_monitor1", MonitorMode::Control, false),
        monitor("compat_monitor2", MonitorMode::Control, true),
    ];
    assert_eq!(short.monitors, expected);
    let modes = config(&["-chardev", "null,id=m", "-mon", "m,pretty=on"]);
    assert_eq!(modes.monitors, [monitor("m", MonitorMode::Readline, true)]);
    assert!(
        config(&["-monitor", "none", "-qmp", "null"])
            .monitors
            .is_empty()
    );
}

#[test]
fn monitors_that_cannot_be() {
    for (args, message) in [
        (
            &["-mon", "x"][..],
            "-mon: No character device has the id 'x'; add -chardev ...,id=x",
        ),
        (
            &["-qmp", "chardev:serial0", "-serial", "pty"],
            "-mon: Character device 'serial0' is in use already; give it one of its own",
        ),
        (
            &["-qmp", "frob"],
            "-qmp: 'frob' is not an end; write stdio, mon:stdio, pty, file:PATH, unix:PATH, \
             tcp:HOST:PORT, chardev:ID, null or none",
        ),
    ] {
        assert_eq!(fault(args), message, "{args:?}");
    }
}
