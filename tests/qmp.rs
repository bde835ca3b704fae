//! The monitor from outside: what libvirt asks of the program before it runs a domain, and a client
//! that knows QMP from QEMU's own schema.

#[allow(dead_code, reason = "each test program uses a part")]
#[path = "support/conversation.rs"]
mod conversation;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use conversation::{Exchange, change, golden};
use qapi::{Qmp, qmp};
use serde_json::{Value, json};

/// The line of libvirt 9.0 and 11.3, with files in `dir`.
fn start(dir: &Path) {
    let status = Command::new(env!("CARGO_BIN_EXE_xenner"))
        .args(["-S", "-no-user-config", "-nodefaults", "-nographic"])
        .args(["-machine", "none,accel=kvm:tcg"])
        .arg("-qmp")
        .arg(format!(
            "unix:{}/qmp.monitor,server=on,wait=off",
            dir.display()
        ))
        .arg("-pidfile")
        .arg(dir.join("qmp.pid"))
        .arg("-daemonize")
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

fn gone(dir: &Path) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while dir.join("qmp.pid").exists() || dir.join("qmp.monitor").exists() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// With an error to one of these the program is no emulator for libvirt. After one of class
/// `DeviceNotFound` to `qom-list-properties` there is no libvirtd either.
const MUST: [&str; 10] = [
    "qmp_capabilities",
    "query-version",
    "query-target",
    "query-qmp-schema",
    "query-kvm",
    "qom-list-types",
    "qom-list-properties",
    "query-machines",
    "query-command-line-options",
    "query-migrate-capabilities",
];

/// libvirt's questions in the words that were heard, from the start of the process to its end.
fn probe(questions: &[Exchange], dir: &Path) -> Duration {
    let begin = Instant::now();
    start(dir);
    let pid = fs::read_to_string(dir.join("qmp.pid")).unwrap();
    assert!(
        pid.ends_with('\n') && pid.trim().parse::<u32>().is_ok(),
        "{pid}"
    );
    let mut stream = UnixStream::connect(dir.join("qmp.monitor")).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(
        line.starts_with("{\"QMP\":") && line.ends_with("\r\n"),
        "{line}"
    );
    for (n, Exchange { ask, get }) in questions.iter().enumerate() {
        let id = format!("libvirt-{}", n + 1);
        let mut request = ask.clone();
        request["id"] = json!(id);
        stream
            .write_all(format!("{request}\r\n").as_bytes())
            .unwrap();
        line.clear();
        lines.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["id"], id);
        if let Some(what) = change(get, &answer) {
            panic!("{ask} is answered by {what}: {line}");
        }
    }
    drop((stream, lines));
    assert!(gone(dir), "the process stays after its client");
    begin.elapsed()
}

/// libvirt asks every time that the program, the kernel or the processor is another.
#[test]
fn libvirts_probe_takes_less_than_a_fifth_of_a_second() {
    for name in ["probe-9.0", "probe-11.3"] {
        let questions = golden(name).unwrap();
        let times: Vec<Duration> = (0..5)
            .map(|_| probe(&questions, tempfile::tempdir().unwrap().path()))
            .collect();
        let best = times.iter().min().unwrap();
        assert!(*best < Duration::from_millis(200), "{name}: {times:?}");
    }
}

/// What was kept is a conversation after which libvirt starts domains.
#[test]
fn libvirt_forgives_the_errors_of_its_probe() {
    for name in ["probe-9.0", "probe-11.3"] {
        let questions = golden(name).unwrap();
        for must in MUST {
            let mut answers = questions.iter().filter(|e| e.command() == must);
            assert!(answers.all(|e| e.get.get("return").is_some()), "{must}");
            assert!(questions.iter().any(|e| e.command() == must), "{must}");
        }
        for question in questions {
            let class = match question.command() {
                "device-list-properties" => "DeviceNotFound",
                _ => "CommandNotFound",
            };
            if let Some(error) = question.get.get("error") {
                assert_eq!(error["class"], class, "{}", question.ask);
            }
        }
    }
}

#[test]
fn a_client_made_from_qemus_schema_is_at_home() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path());
    let stream = UnixStream::connect(dir.path().join("qmp.monitor")).unwrap();
    let mut client = Qmp::new(qapi::Stream::new(
        BufReader::new(stream.try_clone().unwrap()),
        stream,
    ));
    let greeting = client.handshake().unwrap();
    assert_eq!(greeting.version.qemu.major, 7);
    let status = client.execute(&qmp::query_status {}).unwrap();
    assert!(!status.running);
    assert_eq!(status.status, qmp::RunState::prelaunch);
    assert!(client.execute(&qmp::query_kvm {}).is_ok());
    assert!(client.execute(&qmp::query_cpus_fast {}).unwrap().is_empty());
    assert!(client.execute(&qmp::query_block {}).unwrap().is_empty());
    assert_eq!(client.execute(&qmp::query_chardev {}).unwrap().len(), 1);
    let machines = client.execute(&qmp::query_machines { compat_props: None });
    assert!(
        machines
            .unwrap()
            .iter()
            .any(|m| m.alias.as_deref() == Some("pc"))
    );
    let schema = client.execute(&qmp::query_qmp_schema {}).unwrap();
    assert!(schema.len() > 100);
    client.execute(&qmp::cont {}).unwrap();
    client.nop().unwrap();
    let events: Vec<_> = client.events().collect();
    assert!(
        matches!(events.as_slice(), [qmp::Event::RESUME { .. }]),
        "{events:?}"
    );
    client.execute(&qmp::quit {}).unwrap();
    assert!(gone(dir.path()));
}
