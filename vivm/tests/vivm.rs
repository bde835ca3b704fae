//! The program with a virsh and an editor of the tests' own: what it asks them, what it says, and what it
//! leaves behind.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const DOMAIN: &str = include_str!("golden/virt-install.xml");
const PYGRUB: &str = include_str!("golden/pygrub.xml");

/// Where the tests' virsh is. It answers from the files of a directory, and writes down what it was asked.
/// Programs that a test writes itself it could not run while another starts its own: they would be open.
const BIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bin");

/// A directory with a test's files.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(domain: &str) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("tmp")).expect("a directory");
        let place = Place { dir };
        place.write("xenner", "");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.path("xenner"), mode).expect("a mode");
        place.write("domain.xml", domain);
        place.write("kernel", "");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The program, with the tests' virsh and this directory.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xenner-vivm"));
        command
            .args(words)
            .arg("--emulator")
            .arg(self.path("xenner"))
            .env("PATH", format!("{BIN}:/usr/bin:/bin"))
            .env("PLACE", self.dir.path())
            .env("TMPDIR", self.path("tmp"))
            .env_remove("VISUAL")
            .env_remove("LIBVIRT_DEFAULT_URI")
            .current_dir(self.dir.path());
        command
    }

    /// Runs the program, whose editor is this shell script on the file `$1`, with this on its standard input.
    fn run(&self, words: &[&str], editor: &str, input: &str) -> Output {
        self.write("editor", &format!("echo >>$PLACE/edits\n{editor}\n"));
        let mut command = self.command(words);
        command
            .arg("--kernel")
            .arg(self.path("kernel"))
            // More than a word, as people have it.
            .env("EDITOR", format!("sh {}", self.path("editor").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        let mut stdin = child.stdin.take().expect("a pipe");
        // It may have ended before it reads.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("its output")
    }

    /// Names of files that were left in the directory for temporary ones.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("tmp")).expect("a directory");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    }

    fn edits(&self) -> usize {
        self.read("edits").lines().count()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_was_edited_is_defined() {
    let place = Place::new(DOMAIN);
    let editor = "cp $1 $PLACE/seen; sed -i 's/>2097152</>1048576</' $1";
    let output = place.run(&["-c", "qemu:///session", "debian12"], editor, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let seen = place.read("seen");
    assert!(seen.starts_with("<!-- xenner-vivm:"), "{seen}");
    assert!(seen.contains("<graphics type='spice'> removed"), "{seen}");
    let defined = place.read("defined.xml");
    assert!(defined.starts_with("<domain type=\"kvm\">"), "{defined}");
    assert!(defined.contains("<memory>1048576</memory>"));
    assert!(!defined.contains("xenner-vivm:"));
    assert!(defined.contains("machine=\"pc\""));
    let asked = place.read("asked");
    assert!(asked.starts_with(
        "--connect qemu:///session dumpxml --inactive --security-info --domain debian12\n"
    ));
    assert!(asked.trim().ends_with("--validate"), "{asked}");
    // There may be secrets in it.
    assert_eq!(place.read("mode").trim(), "-rw-------");
    assert_eq!(place.left(), [] as [PathBuf; 0]);
}

#[test]
fn what_needs_nothing_is_not_defined() {
    let place = Place::new(DOMAIN);
    assert!(place.run(&["debian12", "-n"], "false", "").status.success());
    let converted = place.read("defined.xml");
    fs::remove_file(place.path("defined.xml")).expect("it was defined");
    place.write("domain.xml", &converted);
    for words in [&["debian12", "--no-edit"][..], &["debian12"]] {
        let output = place.run(words, ":", "");
        assert!(output.status.success());
        assert!(
            text(&output.stderr).contains("nothing is defined"),
            "{}",
            text(&output.stderr)
        );
    }
    assert_eq!(place.edits(), 1);
    assert!(!place.path("defined.xml").exists());
}

#[test]
fn what_is_wrong_is_edited_again() {
    let place = Place::new(DOMAIN);
    // First the end of an element is lost, then it is mended.
    let editor = "cp $1 $PLACE/seen; if grep -q '</domain>' $1; \
         then sed -i 's,</domain>,,' $1; else echo '</domain>' >>$1; fi";
    let output = place.run(&["debian12"], editor, "what\ny\n");
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("not well-formed"), "{errors}");
    assert!(errors.contains("y - edit it again"), "{errors}");
    assert!(
        place
            .read("seen")
            .contains("Not defined so far:\nCannot convert debian12")
    );
    assert_eq!(place.edits(), 2);
    assert!(place.path("defined.xml").exists());
    assert_eq!(place.left(), [] as [PathBuf; 0]);
}

#[test]
fn what_libvirt_refuses_can_be_forced() {
    let place = Place::new(DOMAIN);
    place.write("refuse", "");
    let output = place.run(&["debian12"], "touch $1", "f\n");
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("failed to validate"), "{errors}");
    assert!(errors.contains("Domain debian12 defined"), "{errors}");
    assert!(!place.read("asked").trim().ends_with("--validate"));
}

#[test]
fn giving_up_keeps_the_file() {
    let place = Place::new(DOMAIN);
    let editor = "sed -i 's,<devices>,<devices><hostdev type=\"pci\"/>,' $1";
    let output = place.run(&["debian12"], editor, "n\n");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("<hostdev type='pci'>"), "{errors}");
    let left = place.left();
    assert_eq!(left.len(), 1);
    assert!(
        errors.contains(&format!("what you wrote is in {}", left[0].display())),
        "{errors}"
    );
    let kept = fs::read_to_string(&left[0]).expect("the file");
    assert!(
        kept.starts_with("<domain") && kept.contains("<hostdev"),
        "{kept}"
    );
    assert!(!place.path("defined.xml").exists());
    // The end of standard input is a no, too.
    let output = place.run(&["debian12"], editor, "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.left().len(), 2);
}

#[test]
fn an_editor_that_fails_defines_nothing() {
    for (editor, says) in [
        ("exit 3", "status 3"),
        // As Ctrl-C does to all of the terminal's.
        ("kill -INT $PPID; kill -INT $$; sleep 5", "signal 2"),
        ("kill -INT $PPID; >$1", "the file is empty"),
    ] {
        let place = Place::new(DOMAIN);
        let output = place.run(&["debian12"], editor, "");
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(says), "{errors}");
        assert!(!place.path("defined.xml").exists());
        assert_eq!(place.left(), [] as [PathBuf; 0]);
    }
    let place = Place::new(DOMAIN);
    let mut command = place.command(&["debian12"]);
    let output = command
        .env("PATH", place.dir.path())
        .output()
        .expect("the program");
    let errors = text(&output.stderr);
    assert!(errors.contains("libvirt-clients"), "{errors}");
}

#[test]
fn the_editors_words_are_no_shells() {
    let place = Place::new(DOMAIN);
    let mut command = place.command(&["debian12"]);
    command.env("VISUAL", "true; touch oops; $(touch oops)");
    let output = command.output().expect("the program");
    assert_eq!(output.status.code(), Some(1));
    assert!(!place.path("oops").exists());
}

#[test]
fn files_of_xen_hosts_are_printed_and_defined() {
    let place = Place::new(DOMAIN);
    place.write("xen.xml", PYGRUB);
    let file = place.path("xen.xml").display().to_string();
    let output = place.run(&["--file", &file], "false", "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.starts_with("<domain type='kvm'>"), "{printed}");
    assert!(text(&output.stderr).contains("<bootloader> removed"));
    assert_eq!(place.read("asked"), "");
    let output = place.run(&["--file", "-", "--define"], "false", PYGRUB);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(place.read("defined.xml"), printed);
    assert_eq!(place.edits(), 0);
}

#[test]
fn a_diff_and_a_backup_say_what_was() {
    let place = Place::new(DOMAIN);
    let output = place.run(&["debian12", "--diff"], "false", "");
    let diff = text(&output.stdout);
    assert!(
        diff.starts_with("--- debian12.xml\n+++ debian12.xml (xenner)\n@@ "),
        "{diff}"
    );
    assert!(diff.contains("\n-    <sound model=\"ich9\"/>\n"), "{diff}");
    assert!(!place.path("defined.xml").exists());
    let backup = place.path("backup.xml").display().to_string();
    let words = ["debian12", "-n", "--backup", &backup];
    assert!(place.run(&words, "false", "").status.success());
    assert_eq!(place.read("backup.xml"), DOMAIN);
    // It is not written over.
    fs::remove_file(place.path("defined.xml")).expect("it was defined");
    let output = place.run(&words, "false", "");
    assert!(
        text(&output.stderr).contains("backup.xml"),
        "{}",
        text(&output.stderr)
    );
    assert!(!place.path("defined.xml").exists());
}

#[test]
fn what_is_undecided_is_not_defined() {
    let hostdev = "<hostdev mode=\"subsystem\" type=\"usb\"/>\n  </devices>";
    let place = Place::new(&DOMAIN.replace("</devices>", hostdev));
    let output = place.run(&["debian12", "-n"], "false", "");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("To be decided:\n  - <hostdev type='usb'"),
        "{errors}"
    );
    assert!(!place.path("defined.xml").exists());
    let output = place.run(&["debian12", "--print"], "false", "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("<hostdev"));
    assert!(Path::new(&place.path("asked")).exists());
}

#[test]
fn what_was_not_saved_is_asked_about() {
    for (input, defined) in [("what\ny\n", true), ("n\n", false), ("", false)] {
        let place = Place::new(DOMAIN);
        let output = place.run(&["debian12"], ":", input);
        let errors = text(&output.stderr);
        assert!(errors.contains("Not saved. Define debian12"), "{errors}");
        assert_eq!(output.status.success(), defined, "{errors}");
        assert_eq!(place.path("defined.xml").exists(), defined);
        assert_eq!(place.left(), [] as [PathBuf; 0]);
    }
}

#[test]
fn what_was_written_outlives_an_editor_that_fails() {
    let place = Place::new(DOMAIN);
    // The second time it does nothing but fail.
    let editor = "[ -e $PLACE/again ] && exit 1; touch $PLACE/again; echo '<mine/>' >>$1";
    let output = place.run(&["debian12"], editor, "y\nn\n");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("ended with status 1"), "{errors}");
    let left = place.left();
    assert_eq!(left.len(), 1, "{errors}");
    let kept = fs::read_to_string(&left[0]).expect("the file");
    assert!(kept.ends_with("</domain>\n<mine/>\n"), "{kept}");
}
