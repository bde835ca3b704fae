//! Conversations: what a client writes, and what it gets.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberOps};
use proptest::prelude::*;
use serde_json::{Value, json};
use xenner_console::FdSets;
use xenner_console::config::{ChardevBackend, ChardevConfig, SocketAddress, SocketRole};

use super::codec::Decoder;
use super::control::RunState;
use super::fake::Fake;
use super::*;
use crate::config::{MonitorConfig, MonitorMode};

mod vcpus;

/// A session with a fake domain, without I/O.
struct Bench {
    session: Session,
    fake: Fake,
    fds: FdSets,
    events: EventSink,
}

impl Bench {
    fn fresh() -> Self {
        let events = EventSink::new().unwrap();
        Self {
            session: Session::default(),
            fake: Fake::new(events.clone()),
            fds: FdSets::default(),
            events,
        }
    }

    fn negotiated() -> Self {
        let mut bench = Self::fresh();
        let answer = bench.say(json!({"execute": "qmp_capabilities"}));
        assert_eq!(answer, json!({"return": {}}));
        bench
    }

    fn say(&mut self, request: Value) -> Value {
        let mut parts = Parts {
            control: &mut self.fake,
            fds: &mut self.fds,
        };
        self.session.answer(Ok(request), &mut parts)
    }

    fn run(&mut self, command: &str, arguments: Value) -> Value {
        self.say(json!({"execute": command, "arguments": arguments}))
    }

    fn value(&mut self, command: &str, arguments: Value) -> Value {
        let mut answer = self.run(command, arguments.clone());
        match answer.get_mut("return") {
            Some(value) => value.take(),
            None => panic!("{command} {arguments}: {answer}"),
        }
    }

    fn error(&mut self, command: &str, arguments: Value) -> (String, String) {
        let answer = self.run(command, arguments);
        let text = |key: &str| answer["error"][key].as_str().unwrap_or("").to_owned();
        (text("class"), text("desc"))
    }

    fn human(&mut self, line: &str) -> String {
        let answer = self.value("human-monitor-command", json!({"command-line": line}));
        answer.as_str().unwrap().to_owned()
    }

    fn told(&self) -> Vec<String> {
        let events = self.events.drain();
        let name = |event: &events::Stamped| event.to_value()["event"].as_str().map(str::to_owned);
        events.iter().filter_map(name).collect()
    }
}

#[test]
fn nothing_works_before_the_negotiation_and_it_happens_once() {
    let mut bench = Bench::fresh();
    assert!(!bench.session.wants_events());
    let early = (
        "CommandNotFound".to_owned(),
        "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned(),
    );
    assert_eq!(bench.error("query-status", json!({})), early);
    assert_eq!(bench.error("frob", json!({})), early);
    let (class, _) = bench.error("qmp_capabilities", json!({"enable": ["oob"]}));
    assert_eq!(class, "GenericError");
    let (_, desc) = bench.error("qmp_capabilities", json!({"enable": ["frob"]}));
    assert_eq!(desc, "Parameter 'enable[0]' does not accept value 'frob'");
    assert!(!bench.session.wants_events());
    let id = json!({"a": [1, null]});
    let answer = bench.say(json!({"execute": "qmp_capabilities", "id": id}));
    assert_eq!(answer, json!({"return": {}, "id": id}));
    assert!(bench.session.wants_events());
    let late = (
        "CommandNotFound".to_owned(),
        "Capabilities negotiation is already complete, command ignored".to_owned(),
    );
    assert_eq!(bench.error("qmp_capabilities", json!({})), late);
}

/// QEMU 7.2's answers to the same requests.
#[test]
fn requests_that_are_none_are_refused_in_qemus_words() {
    let mut bench = Bench::negotiated();
    let cases = [
        (json!([]), "QMP input must be a JSON object"),
        (json!("x"), "QMP input must be a JSON object"),
        (json!({}), "QMP input lacks member 'execute'"),
        (
            json!({"execute": 5}),
            "QMP input member 'execute' must be a string",
        ),
        (
            json!({"execute": "query-status", "arguments": []}),
            "QMP input member 'arguments' must be an object",
        ),
        (
            json!({"execute": "query-status", "frob": 1}),
            "QMP input member 'frob' is unexpected",
        ),
        (
            json!({"exec-oob": "query-status"}),
            "QMP input member 'exec-oob' is unexpected",
        ),
    ];
    for (request, desc) in cases {
        let expected = json!({"error": {"class": "GenericError", "desc": desc}});
        assert_eq!(bench.say(request), expected);
    }
    let answer = bench.say(json!({"execute": "frob", "id": 7}));
    let desc = "The command frob has not been found";
    let expected = json!({"error": {"class": "CommandNotFound", "desc": desc}, "id": 7});
    assert_eq!(answer, expected);
    // what virsh shows whoever saves a domain
    let answer = bench.say(json!({"execute": "migrate-set-parameters"}));
    let desc = "The command migrate-set-parameters has not been found: this version neither saves \
                nor migrates domains";
    assert_eq!(answer["error"]["desc"], desc);
    assert_eq!(answer["error"]["class"], "CommandNotFound");
}

/// QEMU 7.2's classes and sentences.
#[test]
fn arguments_are_checked_strictly_in_qemus_words() {
    let mut bench = Bench::negotiated();
    let generic = [
        (
            "query-status",
            json!({"a": 1}),
            "Parameter 'a' is unexpected",
        ),
        ("device_del", json!({}), "Parameter 'id' is missing"),
        (
            "device_del",
            json!({"id": 5}),
            "Invalid parameter type for 'id', expected: string",
        ),
        (
            "device_del",
            json!({"id": "x", "y": 1}),
            "Parameter 'y' is unexpected",
        ),
        (
            "balloon",
            json!({"value": 1.5}),
            "Invalid parameter type for 'value', expected: integer",
        ),
        (
            "set-action",
            json!({"reboot": "frob"}),
            "Parameter 'reboot' does not accept value 'frob'",
        ),
        (
            "migrate-set-capabilities",
            json!({"capabilities": [{"capability": "events"}]}),
            "Parameter 'capabilities[0].state' is missing",
        ),
        (
            "migrate-set-capabilities",
            json!({"capabilities": {}}),
            "Invalid parameter type for 'capabilities', expected: array",
        ),
        (
            "migrate-set-capabilities",
            json!({"capabilities": [1]}),
            "Invalid parameter type for 'capabilities[0]', expected: object",
        ),
        (
            "set_link",
            json!({"name": "x", "up": 1}),
            "Invalid parameter type for 'up', expected: boolean",
        ),
        (
            "getfd",
            json!({"fdname": "x"}),
            "No file descriptor supplied via SCM_RIGHTS",
        ),
        (
            "closefd",
            json!({"fdname": "x"}),
            "File descriptor named 'x' not found",
        ),
        (
            "add-fd",
            json!({}),
            "No file descriptor supplied via SCM_RIGHTS",
        ),
        (
            "remove-fd",
            json!({"fdset-id": 3}),
            "File descriptor named 'fdset-id:3' not found",
        ),
        (
            "netdev_add",
            json!({"id": "x"}),
            "Parameter 'type' is missing",
        ),
        (
            "netdev_add",
            json!({"id": "x", "type": "frob"}),
            "Parameter 'type' does not accept value 'frob'",
        ),
        (
            "blockdev-del",
            json!({"node-name": "x"}),
            "Failed to find node with node-name='x'",
        ),
        (
            "block_resize",
            json!({"node-name": "x", "size": 5}),
            "Cannot find device='' nor node-name='x'",
        ),
        (
            "device_add",
            json!({"id": "x"}),
            "Parameter 'driver' is missing",
        ),
        ("object-del", json!({"id": "x"}), "object 'x' not found"),
        (
            "qom-get",
            json!({"path": "/machine", "property": "x"}),
            "Property 'pc-i440fx-xenner-machine.x' not found",
        ),
        (
            "query-command-line-options",
            json!({"option": "frob"}),
            "invalid option name: frob",
        ),
        (
            "query-cpu-model-expansion",
            json!({"type": "static", "model": {"name": "frob"}}),
            "CPU model 'frob' not found",
        ),
        (
            "ringbuf-read",
            json!({"device": "x", "size": 3}),
            "Device 'x' not found",
        ),
    ];
    for (command, arguments, desc) in generic {
        let expected = ("GenericError".to_owned(), desc.to_owned());
        assert_eq!(bench.error(command, arguments), expected, "{command}");
    }
    let not_found = [
        ("device_del", json!({"id": "x"}), "Device 'x' not found"),
        ("netdev_del", json!({"id": "x"}), "Device 'x' not found"),
        (
            "set_link",
            json!({"name": "x", "up": false}),
            "Device 'x' not found",
        ),
        ("eject", json!({"id": "x"}), "Device 'x' not found"),
        (
            "blockdev-open-tray",
            json!({"id": "x"}),
            "Device 'x' not found",
        ),
        (
            "qom-list",
            json!({"path": "/foo"}),
            "Device '/foo' not found",
        ),
        (
            "device-list-properties",
            json!({"typename": "frob"}),
            "Device 'frob' not found",
        ),
    ];
    for (command, arguments, desc) in not_found {
        let expected = ("DeviceNotFound".to_owned(), desc.to_owned());
        assert_eq!(bench.error(command, arguments), expected, "{command}");
    }
}

#[test]
fn a_life_goes_through_its_commands() {
    let mut bench = Bench::negotiated();
    let status = |bench: &mut Bench| bench.value("query-status", json!({}));
    let expected = json!({"status": "prelaunch", "singlestep": false, "running": false});
    assert_eq!(status(&mut bench), expected);
    bench.value("cont", json!({}));
    assert_eq!(status(&mut bench)["status"], "running");
    assert_eq!(status(&mut bench)["running"], true);
    bench.value("stop", json!({}));
    bench.value("system_powerdown", json!({}));
    bench.value("system_reset", json!({}));
    bench.value("set-action", json!({"reboot": "shutdown"}));
    assert!(bench.fake.asked[0].contains("reboot: Some(Shutdown)"));
    bench.value("quit", json!({}));
    assert_eq!(bench.fake.status, RunState::Shutdown);
    let told = ["RESUME", "STOP", "POWERDOWN", "RESET", "SHUTDOWN"];
    assert_eq!(bench.told(), told);
}

#[test]
fn the_machine_shows_its_parts() {
    let mut bench = Bench::negotiated();
    let cpus = bench.value("query-cpus-fast", json!({}));
    assert_eq!(cpus[1]["thread-id"], 101);
    assert_eq!(cpus[1]["qom-path"], "/machine/unattached/device[1]");
    let list = |bench: &mut Bench, path: &str| bench.value("qom-list", json!({"path": path}));
    assert_eq!(list(&mut bench, "/machine/unattached/device[1]"), json!([]));
    let devices = list(&mut bench, "/machine/peripheral");
    let video = json!({"name": "video0", "type": "child<VGA>"});
    assert!(devices.as_array().unwrap().contains(&video));
    let get = |bench: &mut Bench, path: &str, property: &str| {
        bench.value("qom-get", json!({"path": path, "property": property}))
    };
    let video = "/machine/peripheral/video0";
    assert_eq!(get(&mut bench, video, "vgamem_mb"), 16);
    assert_eq!(get(&mut bench, video, "type"), "VGA");
    let balloon = "/machine/peripheral/balloon0";
    let stats = get(&mut bench, balloon, "guest-stats");
    assert_eq!(stats["stats"]["stat-total-memory"], 256 << 20);
    assert_eq!(stats["stats"]["stat-free-memory"], u64::MAX);
    assert_eq!(stats["last-update"], 5);
    let interval = "guest-stats-polling-interval";
    let set = json!({"path": balloon, "property": interval, "value": 3});
    bench.value("qom-set", set);
    assert_eq!(get(&mut bench, balloon, interval), 3);
    bench.value("balloon", json!({"value": 1 << 27}));
    assert_eq!(
        bench.value("query-balloon", json!({})),
        json!({"actual": 1 << 27})
    );
    let block = bench.value("query-block", json!({}));
    assert_eq!(block[0]["inserted"]["node-name"], "n0");
    assert!(block[0].get("tray_open").is_none());
}

#[test]
fn devices_come_and_go() {
    let mut bench = Bench::negotiated();
    let device = json!({"driver": "virtio-blk-pci", "id": "d1", "drive": "n1", "bus": "pci.0"});
    bench.value("device_add", device);
    assert_eq!(bench.fake.devices.last().unwrap().properties["drive"], "n1");
    bench.value("device_del", json!({"id": "d1"}));
    assert_eq!(bench.told(), ["DEVICE_DELETED"]);
    let node = json!({"driver": "file", "filename": "/x", "node-name": "s1"});
    bench.value("blockdev-add", node.clone());
    assert_eq!(bench.fake.asked[0], format!("blockdev {node}"));
    let data = json!({"device": "rb", "data": "aGk=", "format": "base64"});
    bench.value("ringbuf-write", data);
    assert_eq!(bench.fake.asked[1], "ringbuf [104, 105]");
    let read = json!({"device": "rb", "size": 3, "format": "base64"});
    assert_eq!(bench.value("ringbuf-read", read), "aGVs");
}

#[test]
fn descriptors_are_named_used_and_put_into_sets() {
    let mut bench = Bench::negotiated();
    let null = || std::fs::File::create("/dev/null").unwrap().into();
    bench.session.receive(null());
    bench.value("getfd", json!({"fdname": "tap"}));
    let netdev = json!({"type": "tap", "id": "h1", "fd": "tap"});
    bench.value("netdev_add", netdev.clone());
    assert_eq!(bench.fake.asked.pop().unwrap(), "netdev tap fd true");
    bench.value("netdev_add", netdev);
    assert_eq!(bench.fake.asked.pop().unwrap(), "netdev tap fd false");
    bench.session.receive(null());
    let (_, desc) = bench.error("getfd", json!({"fdname": "1x"}));
    assert!(desc.contains("digit"), "{desc}");
    bench.session.receive(null());
    let added = bench.value("add-fd", json!({"fdset-id": 4, "opaque": "log"}));
    assert_eq!(added["fdset-id"], 4);
    let sets = bench.value("query-fdsets", json!({}));
    assert_eq!(
        sets[0]["fds"][0],
        json!({"fd": added["fd"], "opaque": "log"})
    );
    bench.value("remove-fd", json!({"fdset-id": 4}));
    assert_eq!(bench.value("query-fdsets", json!({})), json!([]));
}

#[test]
fn people_get_text() {
    let mut bench = Bench::negotiated();
    let cases = [
        ("info status", "VM status: paused (prelaunch)\r\n"),
        ("frob", "unknown command: 'frob'\r\n"),
        ("info frob", "unknown command: 'info frob'\r\n"),
        ("info name", "foo\r\n"),
        ("info uuid", "00000000-0000-0000-0000-000000000000\r\n"),
        ("info kvm", "kvm support: enabled\r\n"),
        ("info chardev", "rb: filename=ringbuf\r\n"),
        (
            "info cpus",
            "* CPU #0: thread_id=100\r\n  CPU #1: thread_id=101\r\n  CPU #3: thread_id=103\r\n",
        ),
        ("info balloon", "balloon: actual=256\r\n"),
        ("set_link x on", "Error: Device 'x' not found\r\n"),
        ("c", ""),
        ("info status", "VM status: running\r\n"),
        ("", ""),
    ];
    for (line, text) in cases {
        assert_eq!(bench.human(line), text, "{line}");
    }
    assert!(bench.human("help").contains("system_powerdown"));
    assert!(bench.human("info block").contains("/d.img (raw)"));
    assert!(bench.human("info blockstats").contains("rd_bytes=512"));
}

#[test]
fn without_a_domain_the_program_answers_for_itself() {
    let mut bench = Bench::negotiated();
    let mut nothing = Nothing::new(bench.events.clone(), true);
    let mut parts = Parts {
        control: &mut nothing,
        fds: &mut bench.fds,
    };
    let mut run = |command: &str| {
        let request = json!({"execute": command});
        bench.session.answer(Ok(request), &mut parts)
    };
    assert_eq!(run("query-status")["return"]["status"], "prelaunch");
    assert_eq!(run("query-cpus-fast")["return"], json!([]));
    for needs_domain in ["x-xenner-stats", "query-hotpluggable-cpus"] {
        assert_eq!(run(needs_domain)["error"]["class"], "GenericError");
    }
    run("quit");
    assert!(nothing.has_quit());
}

/// What libvirt 9.0 and 11.3 ask in their probe and at every start, in order.
const PROBE: &[&str] = &[
    r#"{"execute":"query-version"}"#,
    r#"{"execute":"query-target"}"#,
    r#"{"execute":"query-qmp-schema"}"#,
    r#"{"execute":"query-commands"}"#,
    r#"{"execute":"query-kvm"}"#,
    r#"{"execute":"qom-list-types"}"#,
    r#"{"execute":"device-list-properties","arguments":{"typename":"virtio-blk-pci"}}"#,
    r#"{"execute":"device-list-properties","arguments":{"typename":"PIIX4_PM"}}"#,
    r#"{"execute":"qom-list-properties","arguments":{"typename":"memory-backend-file"}}"#,
    r#"{"execute":"qom-list-properties","arguments":{"typename":"max-x86_64-cpu"}}"#,
    r#"{"execute":"query-machines"}"#,
    r#"{"execute":"qom-list-properties","arguments":{"typename":"none-machine"}}"#,
    r#"{"execute":"qom-list-properties","arguments":{"typename":"generic-pc-machine"}}"#,
    r#"{"execute":"query-cpu-definitions"}"#,
    r#"{"execute":"query-command-line-options"}"#,
    r#"{"execute":"query-migrate-capabilities"}"#,
    r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"events","state":true}]}}"#,
    r#"{"execute":"query-chardev"}"#,
    r#"{"execute":"query-hotpluggable-cpus"}"#,
    r#"{"execute":"query-cpus-fast"}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/machine/unattached/device[0]"}}"#,
    r#"{"execute":"query-iothreads"}"#,
    r#"{"execute":"balloon","arguments":{"value":268435456}}"#,
    r#"{"execute":"query-balloon"}"#,
    r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}"#,
    r#"{"execute":"query-block"}"#,
    r#"{"execute":"query-blockstats","arguments":{"query-nodes":true}}"#,
    r#"{"execute":"query-jobs"}"#,
    r#"{"execute":"query-status"}"#,
    r#"{"execute":"cont"}"#,
];

#[test]
fn libvirts_questions_are_all_answered() {
    let mut bench = Bench::negotiated();
    for (n, line) in PROBE.iter().enumerate() {
        let (_, request) = Decoder::default().decode(line.as_bytes());
        let mut request = request.unwrap().unwrap();
        let id = format!("libvirt-{}", n + 2);
        request["id"] = id.as_str().into();
        let answer = bench.say(request);
        assert_eq!(answer["id"], id);
        assert!(answer.get("return").is_some(), "{line}: {answer}");
    }
    // classes that libvirt tells apart
    let (class, _) = bench.error("query-tpm-models", json!({}));
    assert_eq!(class, "CommandNotFound");
    let unknown = json!({"typename": "virtio-net-ccw"});
    assert_eq!(
        bench.error("device-list-properties", unknown).0,
        "DeviceNotFound"
    );
    let machines = bench.value("query-machines", json!({}));
    let pc = machines
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["alias"] == "pc");
    assert_eq!(pc.unwrap()["name"], "pc-i440fx-xenner");
}

/// Every name that an entry refers to is an entry.
#[test]
fn the_schema_is_whole_and_says_what_libvirt_looks_for() {
    let mut bench = Bench::negotiated();
    let schema = bench.value("query-qmp-schema", json!({}));
    let entries = schema.as_array().unwrap();
    let key = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        match text("meta-type").as_str() {
            "command" | "event" => format!("{} {}", text("meta-type"), text("name")),
            _ => text("name"),
        }
    };
    let names: BTreeSet<String> = entries.iter().map(key).collect();
    assert_eq!(names.len(), entries.len(), "two entries with one name");
    let refers = |entry: &Value| {
        let of = |value: &Value| value.as_str().map(str::to_owned);
        let mut all: Vec<_> = ["arg-type", "ret-type", "element-type"]
            .iter()
            .filter_map(|key| of(&entry[key]))
            .collect();
        for list in ["members", "variants"] {
            let items = entry[list].as_array().into_iter().flatten();
            all.extend(items.filter_map(|item| of(&item["type"])));
        }
        all
    };
    for name in entries.iter().flat_map(refers) {
        assert!(names.contains(&name), "{name}");
    }
    let find = |name: &str| entries.iter().find(|entry| entry["name"] == name);
    let arguments = |command: &str| find(find(command).unwrap()["arg-type"].as_str().unwrap());
    let features = &find("device_add").unwrap()["features"];
    assert!(
        features
            .as_array()
            .unwrap()
            .contains(&json!("json-cli-hotplug"))
    );
    let netdev = arguments("netdev_add").unwrap();
    assert_eq!(netdev["tag"], "type");
    let cases = netdev["variants"].as_array().unwrap();
    assert!(cases.iter().any(|case| case["case"] == "user"));
    assert!(cases.iter().any(|case| case["case"] == "dgram"));
    let blockdev = arguments("blockdev-add").unwrap();
    let cases = blockdev["variants"].as_array().unwrap();
    let file = cases.iter().find(|case| case["case"] == "file").unwrap();
    let file = find(file["type"].as_str().unwrap()).unwrap();
    assert_eq!(file["members"][0]["name"], "aio");
    let aio = find(file["members"][0]["type"].as_str().unwrap()).unwrap();
    assert!(
        aio["values"]
            .as_array()
            .unwrap()
            .contains(&json!("io_uring"))
    );
    let nodes = arguments("query-named-block-nodes").unwrap();
    assert_eq!(nodes["members"][0]["name"], "flat");
    assert_eq!(nodes["members"][0]["default"], Value::Null);
    assert!(find("set-action").is_some());
    for unannounced in ["query-cpu-model-expansion", "query-stats", "query-vnc"] {
        assert!(find(unannounced).is_none(), "{unannounced}");
    }
}

#[test]
fn the_types_are_in_order_and_there_once() {
    let names: Vec<_> = types::TYPES.iter().map(|ty| ty.name).collect();
    assert!(names.is_sorted_by(|a, b| a < b));
}

/// A server on a unix socket, its loop run by hand.
struct Running {
    server: Server,
    fake: Fake,
    manager: EventManager<Subscriber>,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start(mode: MonitorMode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let mut server = Server::new(FdSets::default()).unwrap();
        let monitor = MonitorConfig {
            chardev: "mon0".into(),
            mode,
            pretty: false,
        };
        let socket = ChardevBackend::Socket {
            address: SocketAddress::Unix(path.clone()),
            role: SocketRole::Server { wait: false },
            nodelay: false,
        };
        server
            .add(&monitor, &ChardevConfig::new("mon0", socket))
            .unwrap();
        let mut manager = EventManager::new().unwrap();
        for subscriber in server.subscribers() {
            manager.add_subscriber(subscriber);
        }
        let fake = Fake::new(server.events());
        Self {
            server,
            fake,
            manager,
            path,
            _dir: dir,
        }
    }

    fn turn(&mut self) {
        self.manager.run_with_timeout(20).unwrap();
        self.server.serve(&mut self.fake);
    }

    fn connect(&mut self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        client
    }

    /// The next line that the client gets, while the loop turns.
    fn line(&mut self, client: &mut BufReader<UnixStream>) -> Value {
        let mut line = Vec::new();
        let end = Instant::now() + Duration::from_secs(20);
        while !line.ends_with(b"\r\n") {
            assert!(Instant::now() < end, "no answer");
            self.turn();
            // a timeout leaves what came so far
            let _ = client.read_until(b'\n', &mut line);
        }
        serde_json::from_slice(&line).unwrap()
    }
}

#[test]
fn a_client_is_greeted_served_and_followed_by_the_next() {
    let mut running = Running::start(MonitorMode::Control);
    for _ in 0..2 {
        let mut client = BufReader::new(running.connect());
        let greeting = running.line(&mut client);
        assert_eq!(greeting["QMP"]["version"]["qemu"]["major"], 7);
        client
            .get_mut()
            .write_all(b"{'execute':'qmp_capabilities'}{'exec")
            .unwrap();
        assert_eq!(running.line(&mut client), json!({"return": {}}));
        client
            .get_mut()
            .write_all(b"ute':'cont','id':1}\n")
            .unwrap();
        assert_eq!(running.line(&mut client)["event"], "RESUME");
        assert_eq!(running.line(&mut client), json!({"return": {}, "id": 1}));
        running.server.events().emit(Event::stop());
        assert_eq!(running.line(&mut client)["event"], "STOP");
        // a half of a request is no business of the next client
        client.get_mut().write_all(b"{'execute':'quit'").unwrap();
        drop(client);
        // both the end and the next connection may be there in one turn
    }
    assert_eq!(running.fake.status, RunState::Running);
    assert!(
        running.server.chardevs().list()[0]
            .filename
            .contains("unix:")
    );
}

#[test]
fn a_client_that_does_not_read_stalls_nobody() {
    let mut running = Running::start(MonitorMode::Control);
    let mut client = BufReader::new(running.connect());
    running.line(&mut client);
    client
        .get_mut()
        .write_all(b"{'execute':'qmp_capabilities'}")
        .unwrap();
    running.line(&mut client);
    let stream = client.get_mut();
    stream.set_nonblocking(true).unwrap();
    let requests = "{'execute':'query-qmp-schema'}\n".repeat(200);
    let mut rest = requests.as_bytes();
    for _ in 0..200 {
        running.turn();
        if let Ok(taken) = stream.write(rest) {
            rest = &rest[taken..];
        }
        running.server.events().emit(Event::stop());
    }
    // the queue is bounded, and everything that was taken is answered when the client reads
    stream.set_nonblocking(false).unwrap();
    let (mut answers, mut asked) = (0, 200 - rest.len() / 31);
    asked -= usize::from(!rest.len().is_multiple_of(31));
    while answers < asked {
        answers += usize::from(running.line(&mut client).get("return").is_some());
    }
}

#[test]
fn descriptors_come_with_the_bytes() {
    let mut running = Running::start(MonitorMode::Control);
    let mut client = BufReader::new(running.connect());
    running.line(&mut client);
    client
        .get_mut()
        .write_all(b"{'execute':'qmp_capabilities'}")
        .unwrap();
    running.line(&mut client);
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [std::os::fd::AsFd::as_fd(&null)];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
    let request = b"{'execute':'getfd','arguments':{'fdname':'f'}}";
    let slices = [std::io::IoSlice::new(request)];
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendmsg(client.get_ref(), &slices, &mut control, flags).unwrap();
    assert_eq!(running.line(&mut client), json!({"return": {}}));
    let again = b"{'execute':'getfd','arguments':{'fdname':'g'}}";
    client.get_mut().write_all(again).unwrap();
    assert!(running.line(&mut client).get("error").is_some());
    client
        .get_mut()
        .write_all(b"{'execute':'closefd','arguments':{'fdname':'f'}}")
        .unwrap();
    assert_eq!(running.line(&mut client), json!({"return": {}}));
}

#[test]
fn a_humans_monitor_echoes_and_answers() {
    let mut running = Running::start(MonitorMode::Readline);
    let mut client = running.connect();
    client.write_all(b"info status\r").unwrap();
    let mut text = Vec::new();
    let end = Instant::now() + Duration::from_secs(20);
    while !String::from_utf8_lossy(&text).contains("prelaunch)\r\n(xenner) ") {
        assert!(Instant::now() < end, "{}", String::from_utf8_lossy(&text));
        running.turn();
        let mut piece = [0; 512];
        let got = client.read(&mut piece).unwrap_or(0);
        text.extend(&piece[..got]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("(xenner) info status\r\n"), "{text}");
}

proptest! {
    /// Whatever a client sends, each value gets one answer, and no command panics.
    #[test]
    fn any_request_gets_an_answer(
        command in prop::sample::select(table::all().iter().map(|c| c.name).collect::<Vec<_>>()),
        keys in prop::collection::vec("[a-z_-]{1,12}", 0..3),
        pick in prop::collection::vec(0usize..8, 0..6),
    ) {
        let mut bench = Bench::negotiated();
        let values = [
            json!("x"), json!("n0"), json!(-1), json!(u64::MAX), json!(true), json!([]),
            json!({}), json!("/machine"),
        ];
        let known = table::find(command).unwrap().arguments.members.iter().map(|m| m.name.to_owned());
        let arguments: serde_json::Map<String, Value> = known
            .chain(keys)
            .zip(pick.iter().map(|&at| values[at].clone()))
            .collect();
        let answer = bench.say(json!({"execute": command, "arguments": arguments, "id": 3}));
        prop_assert_eq!(&answer["id"], 3);
        prop_assert!(answer.get("return").is_some() != answer.get("error").is_some());
    }
}
