//! A domain under its monitor: states and events, disks that come and go, the ends of a life.
//!
//! The domain is the PV test kernel, which powers off when its tests are done.

mod support;

use std::process::{Child, ExitCode, Stdio};

use libtest_mimic::Failed;
use serde_json::{Value, json};
use support::conversation::{change, golden};
use support::qmp::Qmp;
use support::{asset, trial, xenner};

fn main() -> ExitCode {
    let pvtest = [asset("pvtest")];
    support::main(vec![
        trial("life".into(), &pvtest, life),
        trial("ends".into(), &pvtest, ends),
        trial("disks".into(), &pvtest, disks),
        trial("vcpus".into(), &pvtest, vcpus),
        trial("libvirt".into(), &pvtest, libvirt),
    ])
}

/// A domain that waits for `cont`, and its client.
struct Domain {
    child: Child,
    qmp: Qmp,
    _dir: tempfile::TempDir,
}

impl Drop for Domain {
    fn drop(&mut self) {
        // it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Domain {
    fn start(more: &[&str]) -> Result<Self, Failed> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("qmp");
        let option = format!("unix:{},server=on,wait=off", socket.display());
        let memory: &[&str] = match more.contains(&"-m") {
            true => &[],
            false => &["-m", "64"],
        };
        let child = xenner()
            .args(["-S", "-nodefaults", "-append", "test=version"])
            .args(memory)
            .arg("-kernel")
            .arg(asset("pvtest"))
            .args(["-qmp", &option])
            .args(more)
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            qmp: Qmp::connect(&socket)?,
            _dir: dir,
        })
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Failed> {
        self.qmp.ask(command, arguments)
    }

    fn run(&mut self, command: &str, arguments: Value) -> Result<Value, Failed> {
        self.qmp.run(command, arguments)
    }

    fn expect(&mut self, name: &str) -> Result<Value, Failed> {
        self.qmp.expect(name)
    }

    fn state(&mut self) -> Result<String, Failed> {
        let status = self.run("query-status", json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    fn ends_with(mut self, code: i32) -> Result<(), Failed> {
        let status = self.child.wait()?;
        same(status.code(), Some(code))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(is: T, expected: T) -> Result<(), Failed> {
    if is == expected {
        return Ok(());
    }
    Err(format!("{is:?}, expected {expected:?}").into())
}

/// `-S`, power-off that the process outlives, reset, and again.
fn life() -> Result<(), Failed> {
    let mut domain = Domain::start(&["-no-shutdown", "-smp", "2"])?;
    same(domain.state()?, "prelaunch".to_owned())?;
    let vcpus = domain.run("query-cpus-fast", json!({}))?;
    let tasks = format!("/proc/{}/task", domain.child.id());
    for vcpu in vcpus.as_array().into_iter().flatten() {
        let name = std::fs::read_to_string(format!("{tasks}/{}/comm", vcpu["thread-id"]))?;
        same(
            name.trim().to_owned(),
            format!("CPU {}/KVM", vcpu["cpu-index"]),
        )?;
    }
    same(vcpus.as_array().map(Vec::len), Some(2))?;
    for _ in 0..2 {
        domain.run("cont", json!({}))?;
        domain.expect("RESUME")?;
        let data = domain.expect("SHUTDOWN")?;
        same(data, json!({"guest": true, "reason": "guest-shutdown"}))?;
        domain.expect("STOP")?;
        same(domain.state()?, "shutdown".to_owned())?;
        let refused = domain.ask("cont", json!({}))?;
        same(refused["error"]["class"].as_str(), Some("GenericError"))?;
        domain.run("system_reset", json!({}))?;
        let data = domain.expect("RESET")?;
        same(
            data,
            json!({"guest": false, "reason": "host-qmp-system-reset"}),
        )?;
        same(domain.state()?, "prelaunch".to_owned())?;
    }
    let stats = domain.run("x-xenner-stats", json!({}))?;
    same(stats["vcpus"].as_array().map(Vec::len), Some(2))?;
    let path = json!({"path": "/local/domain/1/domid"});
    let nodes = domain.run("x-xenner-xenstore-ls", path)?;
    same(nodes[0]["value"].as_str(), Some("1"))?;
    domain.run("quit", json!({}))?;
    let data = domain.expect("SHUTDOWN")?;
    same(data, json!({"guest": false, "reason": "host-qmp-quit"}))?;
    domain.ends_with(0)
}

/// A signal ends a domain that a program manages at once; a power-off ends the process.
fn ends() -> Result<(), Failed> {
    let mut domain = Domain::start(&[])?;
    let pid = rustix::process::Pid::from_child(&domain.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let data = domain.expect("SHUTDOWN")?;
    same(data, json!({"guest": false, "reason": "host-signal"}))?;
    domain.ends_with(0)?;
    let mut domain = Domain::start(&[])?;
    domain.run("cont", json!({}))?;
    domain.expect("RESUME")?;
    let data = domain.expect("SHUTDOWN")?;
    same(data["reason"].as_str(), Some("guest-shutdown"))?;
    domain.ends_with(0)
}

/// A domain with the devices of the one whose start was heard, asked the same.
fn libvirt() -> Result<(), Failed> {
    let image = tempfile::NamedTempFile::new()?;
    image.as_file().set_len(1 << 20)?;
    let file = json!({"driver": "file", "filename": image.path(), "node-name": "s"});
    let raw = json!({"driver": "raw", "file": "s", "node-name": "f", "read-only": false});
    let disk = json!({"driver": "virtio-blk-pci", "drive": "f", "id": "virtio-disk0"});
    let [file, raw, disk] = [file, raw, disk].map(|value| value.to_string());
    let mut words = vec!["-no-shutdown", "-m", "256", "-smp", "1,maxcpus=3,sockets=3"];
    words.extend(["-blockdev", &file, "-blockdev", &raw, "-device", &disk]);
    words.extend(["-device", "ide-cd,id=ide0-1-0"]);
    words.extend(["-device", "virtio-balloon-pci,id=balloon0"]);
    for name in ["start-9.0", "start-11.3"] {
        let mut domain = Domain::start(&words)?;
        let start = golden(name).ok_or("a line that is no exchange")?;
        // They have agreed on the protocol.
        for exchange in &start[1..] {
            let mut arguments = exchange.ask["arguments"].clone();
            if arguments.is_null() {
                arguments = json!({});
            }
            let answer = domain.ask(exchange.command(), arguments)?;
            if let Some(what) = change(&exchange.get, &answer) {
                let ask = &exchange.ask;
                return Err(format!("{name}: {ask} is answered by {what}: {answer}").into());
            }
        }
        domain.expect("RESUME")?;
        domain.expect("SHUTDOWN")?;
    }
    Ok(())
}

/// As libvirt plugs a disk in and out and changes the medium of a drive.
fn disks() -> Result<(), Failed> {
    let mut domain = Domain::start(&["-device", "ide-cd,id=cd"])?;
    let image = tempfile::NamedTempFile::new()?;
    image.as_file().set_len(1 << 20)?;
    let path = image.path().to_str().ok_or("a name that is no text")?;
    let nodes = |domain: &mut Domain| -> Result<(), Failed> {
        let file =
            json!({"driver": "file", "filename": path, "node-name": "s", "auto-read-only": true});
        domain.run("blockdev-add", file)?;
        let raw = json!({"driver": "raw", "file": "s", "node-name": "f", "read-only": false});
        domain.run("blockdev-add", raw).map(drop)
    };
    let no_nodes = |domain: &mut Domain| -> Result<(), Failed> {
        domain.run("blockdev-del", json!({"node-name": "f"}))?;
        domain
            .run("blockdev-del", json!({"node-name": "s"}))
            .map(drop)
    };
    let disk = json!({"driver": "virtio-blk-pci", "drive": "f", "id": "d1", "bus": "pci.0"});
    for _ in 0..2 {
        nodes(&mut domain)?;
        domain.run("device_add", disk.clone())?;
        let twice = domain.ask("device_add", disk.clone())?;
        same(
            twice["error"]["desc"].as_str(),
            Some("Duplicate device ID 'd1'"),
        )?;
        let in_use = domain.ask("blockdev-del", json!({"node-name": "f"}))?;
        same(in_use["error"]["class"].as_str(), Some("GenericError"))?;
        let block = domain.run("query-block", json!({}))?;
        let qdev = "/machine/peripheral/d1/virtio-backend";
        same(block[1]["qdev"].as_str(), Some(qdev))?;
        same(block[1]["inserted"]["node-name"].as_str(), Some("f"))?;
        domain.run("block_resize", json!({"node-name": "f", "size": 2 << 20}))?;
        same(image.as_file().metadata()?.len(), 2 << 20)?;
        domain.run("device_del", json!({"id": "d1"}))?;
        let gone = domain.expect("DEVICE_DELETED")?;
        same(
            gone,
            json!({"device": "d1", "path": "/machine/peripheral/d1"}),
        )?;
        no_nodes(&mut domain)?;
    }
    let tray = |domain: &mut Domain, open: bool| -> Result<(), Failed> {
        let command = if open {
            "blockdev-open-tray"
        } else {
            "blockdev-close-tray"
        };
        domain.run(command, json!({"id": "cd"}))?;
        let moved = domain.expect("DEVICE_TRAY_MOVED")?;
        same(moved, json!({"device": "", "id": "cd", "tray-open": open}))
    };
    nodes(&mut domain)?;
    tray(&mut domain, true)?;
    let medium = json!({"id": "cd", "node-name": "f"});
    domain.run("blockdev-insert-medium", medium.clone())?;
    tray(&mut domain, false)?;
    let full = domain.ask("blockdev-insert-medium", medium)?;
    same(full["error"]["class"].as_str(), Some("GenericError"))?;
    tray(&mut domain, true)?;
    domain.run("blockdev-remove-medium", json!({"id": "cd"}))?;
    no_nodes(&mut domain)?;
    tray(&mut domain, false)?;
    domain.run("cont", json!({}))?;
    domain.expect("RESUME")?;
    domain.expect("SHUTDOWN")?;
    domain.ends_with(0)
}

/// As libvirt plugs vcpus in and out; a reset finds them as they are.
fn vcpus() -> Result<(), Failed> {
    let smp = "1,maxcpus=3,sockets=3";
    let mut domain = Domain::start(&["-no-shutdown", "-smp", smp])?;
    let machines = domain.run("query-machines", json!({}))?;
    same(&machines[1]["hotpluggable-cpus"], &json!(true))?;
    let places = domain.run("query-hotpluggable-cpus", json!({}))?;
    let first = json!("/machine/unattached/device[0]");
    same(&places[0]["qom-path"], &first)?;
    same(places[1].get("qom-path"), None)?;
    let mut device = places[1]["props"].clone();
    device["driver"] = places[1]["type"].clone();
    device["id"] = "vcpu1".into();
    domain.run("device_add", device.clone())?;
    plugged(&mut domain, &[0, 1])?;
    same(
        domain.ask("device_add", device.clone())?["error"]["desc"].as_str(),
        Some("Duplicate device ID 'vcpu1'"),
    )?;
    device["id"] = "other".into();
    refused(&mut domain, "device_add", &device, "CPU[1] exists already")?;
    refused(
        &mut domain,
        "device_del",
        &json!({"id": "vcpu2"}),
        "Device 'vcpu2' not found",
    )?;
    refused(
        &mut domain,
        "device_del",
        &json!({"id": first}),
        "CPU[0] cannot be unplugged",
    )?;
    let threads = domain.run("query-cpus-fast", json!({}))?;
    for _ in 0..2 {
        domain.run("cont", json!({}))?;
        domain.expect("RESUME")?;
        domain.expect("SHUTDOWN")?;
        domain.expect("STOP")?;
        domain.run("system_reset", json!({}))?;
        domain.expect("RESET")?;
        same(domain.state()?, "prelaunch".to_owned())?;
        plugged(&mut domain, &[0, 1])?;
        same(&domain.run("query-cpus-fast", json!({}))?, &threads)?;
    }
    domain.run("device_del", json!({"id": "vcpu1"}))?;
    let path = "/machine/peripheral/vcpu1";
    same(
        domain.expect("DEVICE_DELETED")?,
        json!({"device": "vcpu1", "path": path}),
    )?;
    plugged(&mut domain, &[0])?;
    domain.run("quit", json!({}))?;
    domain.expect("SHUTDOWN")?;
    domain.ends_with(0)
}

fn refused(domain: &mut Domain, command: &str, arguments: &Value, why: &str) -> Result<(), Failed> {
    let answer = domain.ask(command, arguments.clone())?;
    match answer["error"]["desc"].as_str() {
        Some(desc) if desc.starts_with(why) => Ok(()),
        _ => Err(format!("{command} {arguments}: {answer}").into()),
    }
}

/// The monitor and the store agree on which of three vcpus there are.
fn plugged(domain: &mut Domain, numbers: &[u64]) -> Result<(), Failed> {
    let vcpus = domain.run("query-cpus-fast", json!({}))?;
    let vcpus = vcpus.as_array().ok_or("no list")?;
    let listed: Vec<_> = vcpus
        .iter()
        .filter_map(|vcpu| vcpu["cpu-index"].as_u64())
        .collect();
    same(listed.as_slice(), numbers)?;
    let places = domain.run("query-hotpluggable-cpus", json!({}))?;
    for number in 0..3 {
        let path = places[number as usize].get("qom-path");
        let vcpu = vcpus.iter().find(|vcpu| vcpu["cpu-index"] == number);
        same(path, vcpu.map(|vcpu| &vcpu["qom-path"]))?;
        let key = format!("/local/domain/1/cpu/{number}/availability");
        let nodes = domain.run("x-xenner-xenstore-ls", json!({"path": key}))?;
        let wanted = if path.is_some() { "online" } else { "offline" };
        same(nodes[0]["value"].as_str(), Some(wanted))?;
    }
    Ok(())
}
