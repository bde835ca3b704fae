//! The line as a whole: wrong words, help, the manual, exit codes, random words.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output};

use proptest::prelude::*;
use xenner::cli::parse;

use super::{fault, one_line, printed};

#[test]
fn words_that_are_no_options() {
    for (args, message) in [
        (
            &["-kernal", "x"][..],
            "'-kernal': Unknown option; did you mean -kernel?",
        ),
        (
            &["-nographics"],
            "'-nographics': Unknown option; did you mean -nographic?",
        ),
        (
            &["--frobnicate"],
            "'--frobnicate': Unknown option; -help lists all there are",
        ),
        (&["-"], "'-': Unknown option; -help lists all there are"),
        (&["--"], "'--': Unknown option; -help lists all there are"),
        (
            &["-\u{1b}[2J\n"],
            "'-\\u{1b}[2J\\n': Unknown option; -help lists all there are",
        ),
        (
            &["--initrd=x"],
            "-initrd: The value belongs into a word of its own; write -initrd VALUE",
        ),
    ] {
        assert_eq!(fault(args), message, "{args:?}");
    }
    assert!(
        fault(&["disk.img"]).starts_with("'disk.img': Not an option; a disk image is given by")
    );
    let long = format!("-{}", "y".repeat(100_000));
    assert!(fault(&[&long]).len() < 200);
    let not_utf8 = parse([OsString::from_vec(b"-\xff".to_vec())]).unwrap_err();
    assert_eq!(
        one_line(&not_utf8),
        "'-\u{fffd}': Unknown option; -help lists all there are"
    );
}

#[test]
fn lists() {
    for (args, line) in [
        (["-machine", "help"], "pc-i440fx-xenner  PV domain"),
        (["-M", "?"], "xenner "),
        (["-cpu", "help"], "host"),
        (["-accel", "help"], "kvm"),
        (["-device", "help"], "isa-serial"),
        (["-chardev", "help"], "stdio"),
        (["-d", "help"], "hypercall"),
        (["-xenner", "help"], "flavour=auto|hardware|pvm"),
    ] {
        assert!(printed(&args).contains(line), "{args:?}");
    }
    assert_eq!(
        printed(&["-version"]),
        format!("xenner {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(printed(&["-h"]), printed(&["--help"]));
}

#[test]
fn help_is_as_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/help.txt");
    let text = printed(&["-help"]);
    if std::env::var_os("XENNER_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(path).expect("the golden file can be read");
    assert!(
        text == golden,
        "-help differs from {path}; if that is meant, run the test with XENNER_UPDATE_GOLDEN=1:\n{text}"
    );
}

#[test]
fn the_manual_has_every_option() {
    let split = |text: &'static str| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && !['-', '_'].contains(&c))
    };
    let manual: HashSet<&str> = split(include_str!("../../docs/command-line.md")).collect();
    let help = include_str!("../golden/help.txt");
    let titles = help.lines().filter(|line| line.starts_with('-'));
    for option in titles
        .flat_map(split)
        .filter(|word| word.starts_with('-') && word.len() > 1)
    {
        assert!(
            manual.contains(option),
            "docs/command-line.md lacks {option}"
        );
    }
}

fn xenner(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xenner"))
        .args(args)
        .output()
        .expect("xenner can be started")
}

#[test]
fn exit_codes_of_the_program() {
    let help = xenner(&["-help"]);
    assert_eq!(help.status.code(), Some(0));
    assert_eq!(String::from_utf8(help.stdout).unwrap(), printed(&["-help"]));
    let bad = xenner(&["-m", "5Q", "-kernel", "k"]);
    assert_eq!(bad.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(bad.stderr).unwrap(),
        "xenner: -m: size='5Q': not a size; write a number with K, M, G or T, like 512M\n"
    );
    assert!(bad.stdout.is_empty());
}

proptest! {
    #[test]
    fn no_line_makes_it_panic(
        args in prop::collection::vec(prop_oneof![
            any::<Vec<u8>>(),
            "-(-)?(kernel|m|smp|machine|cpu|name|serial|chardev|device|rtc|xenner|d|append|boot|object)"
                .prop_map(String::into_bytes),
            "[a-z:]{0,8}(,[a-z-]{0,8}=?[a-z0-9{}\",:.]{0,8}){0,4}".prop_map(String::into_bytes),
        ], 0..8)
    ) {
        if let Err(error) = parse(args.into_iter().map(OsString::from_vec)) {
            one_line(&error);
        }
    }
}
