//! The programs of Debian's `xenstore-utils` against the unix socket.
//!
//! They are skipped, loudly, where the programs are not installed; with `CI`
//! set in the environment that is a failure.

use super::perms::Perm;
use super::service::tests::Running;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

struct Tools(Running);

impl Tools {
    /// The tools with a store, unless they are not installed.
    fn start() -> Option<Self> {
        let installed = Command::new("xenstore-ls").arg("--help").output().is_ok();
        if !installed {
            assert!(
                std::env::var_os("CI").is_none(),
                "xenstore-utils must be installed in CI"
            );
            eprintln!("SKIPPED: no xenstore-ls; install the package xenstore-utils");
            return None;
        }
        Some(Self(Running::start()))
    }

    fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(format!("xenstore-{tool}"));
        command
            .args(arguments)
            .env("XENSTORED_PATH", &self.0.socket)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        self.command(tool, arguments).output().unwrap()
    }

    fn ok(&self, tool: &str, arguments: &[&str]) -> String {
        let output = self.run(tool, arguments);
        assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn write_read_list_exists_rm() {
    let Some(tools) = Tools::start() else { return };
    tools.ok("write", &["/a/b", "value", "/a/c", "two words"]);
    assert_eq!(tools.ok("read", &["/a/b", "/a/c"]), "value\ntwo words\n");
    assert_eq!(tools.ok("list", &["/a"]), "b\nc\n");
    tools.ok("exists", &["/a/b"]);
    assert!(!tools.run("exists", &["/a/x"]).status.success());
    let missing = tools.run("read", &["/a/x"]);
    assert!(!missing.status.success());
    tools.ok("rm", &["/a/b"]);
    assert_eq!(tools.0.store.list("/a").unwrap(), ["c"]);
}

#[test]
fn ls_shows_the_tree() {
    let Some(tools) = Tools::start() else { return };
    let store = &tools.0.store;
    store.write("/local/domain/1/name", "debian").unwrap();
    store.write("/local/domain/1/data", "").unwrap();
    store
        .set_perms("/local/domain/1/data", &[Perm::none(1), Perm::read(2)])
        .unwrap();
    let tree = tools.ok("ls", &[]);
    let expected =
        "local = \"\"\n domain = \"\"\n  1 = \"\"\n   data = \"\"\n   name = \"debian\"\n";
    assert_eq!(tree, expected);
    let flat = tools.ok("ls", &["-f", "-p", "/local/domain/1"]);
    assert!(
        flat.contains("/local/domain/1/name = \"debian\"") && flat.contains("(n0)"),
        "{flat}"
    );
    assert!(flat.contains("(n1,r2)"), "{flat}");
    for i in 0..1000 {
        store
            .write(&format!("/many/a-rather-long-name-{i:04}"), "x")
            .unwrap();
    }
    assert_eq!(tools.ok("ls", &["/many"]).lines().count(), 1000);
}

#[test]
fn chmod_sets_permissions() {
    let Some(tools) = Tools::start() else { return };
    tools.ok("write", &["/a/b", "v"]);
    tools.ok("chmod", &["/a", "n1", "r2", "b3"]);
    let expected = [Perm::none(1), Perm::read(2), Perm::both(3)];
    assert_eq!(tools.0.store.perms("/a").unwrap(), expected);
    tools.ok("chmod", &["-r", "/a", "r5"]);
    assert_eq!(tools.0.store.perms("/a/b").unwrap(), [Perm::read(5)]);
}

#[test]
fn watch_prints_changes() {
    let Some(tools) = Tools::start() else { return };
    let mut command = tools.command("watch", &["-n", "3", "/a"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "/a");
    tools.0.store.write("/a/b", "1").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "/a/b");
    tools.ok("rm", &["/a"]);
    assert_eq!(lines.next().unwrap().unwrap(), "/a");
    assert!(child.wait().unwrap().success());
}

#[test]
fn many_at_once() {
    let Some(tools) = Tools::start() else { return };
    let children: Vec<_> = (0..12)
        .map(|i| {
            tools
                .command("write", &[&format!("/n/{i}"), "v"])
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(tools.0.store.list("/n").unwrap().len(), 12);
}
