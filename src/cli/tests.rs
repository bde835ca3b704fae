//! The parts behind [`super::parse`], each by itself.

use std::ffi::OsString;

use clap::Command;
use proptest::prelude::*;

use super::keyval::{parse_number, parse_size};
use super::normalise::{Normalised, names, normalise, takes_value};
use super::{CliError, KeyVals, KeyvalError, command};

fn words(args: &[&str]) -> Result<Vec<String>, CliError> {
    match normalise(&command(), args.iter().map(OsString::from))? {
        Normalised::Words(words) => Ok(words
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn clap_finds_no_fault_with_the_table() {
    command().debug_assert();
}

#[test]
fn both_dash_forms_become_one() {
    let expected = ["--machine=pc", "--m=512", "--S", "--append=-x --y=z"];
    assert_eq!(
        words(&["-M", "pc", "-m", "512", "-S", "-append", "-x --y=z"]).unwrap(),
        expected
    );
    assert_eq!(
        words(&["--M", "pc", "--m", "512", "--S", "--append", "-x --y=z"]).unwrap(),
        expected
    );
}

#[test]
fn a_value_is_a_value_whatever_it_looks_like() {
    for value in [
        "-S",
        "--",
        "-",
        "",
        "=",
        "=x",
        "-kernel",
        "--help",
        "a b",
        "-append=1",
    ] {
        assert_eq!(
            words(&["-append", value]).unwrap(),
            [format!("--append={value}")]
        );
    }
}

#[test]
fn help_and_version_end_the_reading() {
    let stop = |args: &[&str]| normalise(&command(), args.iter().map(OsString::from));
    for help in ["-h", "-help", "--help"] {
        assert_eq!(stop(&["-S", help, "-nonsense"]), Ok(Normalised::Help));
    }
    assert_eq!(stop(&["-version", "-nonsense"]), Ok(Normalised::Version));
    assert!(stop(&["-nonsense", "-help"]).is_err());
    assert!(matches!(
        stop(&["-append", "-help"]),
        Ok(Normalised::Words(_))
    ));
}

#[test]
fn every_option_has_help_a_heading_and_a_name_of_its_own() {
    let command: Command = command();
    let mut seen = std::collections::HashSet::new();
    for option in command.get_arguments() {
        let id = option.get_id();
        assert!(option.get_help().is_some(), "{id}");
        assert!(option.get_help_heading().is_some(), "{id}");
        assert!(
            option.get_value_names().is_some() || !takes_value(option),
            "{id}"
        );
        for name in names(option) {
            assert!(seen.insert(name.to_owned()), "{name}");
        }
    }
}

#[test]
fn pairs() {
    let mut keys = KeyVals::parse("first,a=1,b=x,,y,c,nod", Some("name")).unwrap();
    assert_eq!(keys.take_text("name").unwrap().as_deref(), Some("first"));
    assert_eq!(keys.take_number::<u8>("a").unwrap(), Some(1));
    assert_eq!(keys.take_text("b").unwrap().as_deref(), Some("x,y"));
    assert_eq!(keys.take_bool("c").unwrap(), Some(true));
    assert_eq!(keys.take_bool("d").unwrap(), Some(false));
    assert_eq!(keys.take_bool("e").unwrap(), None);
    assert_eq!(keys.finish(), Ok(()));
}

#[test]
fn the_implied_key_is_for_the_first_value_alone() {
    let mut keys = KeyVals::parse("a,,b,c", Some("name")).unwrap();
    assert_eq!(keys.take_text("name").unwrap().as_deref(), Some("a,b"));
    assert_eq!(keys.take_bool("c").unwrap(), Some(true));
    let mut keys = KeyVals::parse("x=1,c", Some("name")).unwrap();
    assert_eq!(keys.take_text("name").unwrap(), None);
    assert_eq!(keys.take_text("x").unwrap().as_deref(), Some("1"));
    let mut keys = KeyVals::parse("path=/a=b,", None).unwrap();
    assert_eq!(keys.take_text("path").unwrap().as_deref(), Some("/a=b"));
    assert_eq!(keys.finish(), Ok(()));
}

#[test]
fn json_objects_become_dotted_keys() {
    let text = r#" {"driver":"file","a":{"b":true,"c":null},"l":[1,"x"],"n":-5}"#;
    let mut keys = KeyVals::parse_or_json(text, None).unwrap();
    assert_eq!(keys.take_text("driver").unwrap().as_deref(), Some("file"));
    assert_eq!(keys.take_bool("a.b").unwrap(), Some(true));
    assert_eq!(keys.take_text("a.c").unwrap(), None);
    assert_eq!(keys.take_number::<u32>("l.0").unwrap(), Some(1));
    assert_eq!(keys.take_text("l.1").unwrap().as_deref(), Some("x"));
    assert_eq!(keys.take_text("n").unwrap().as_deref(), Some("-5"));
    assert_eq!(keys.finish(), Ok(()));
    let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    assert!(matches!(
        KeyVals::parse_or_json(&deep, None),
        Err(KeyvalError::Json { .. })
    ));
}

#[test]
fn faults_of_values() {
    let fault = |text: &str| KeyVals::parse(text, None).unwrap_err().to_string();
    assert_eq!(
        fault("=x"),
        "A key is missing before '=x'; write key=value,key=value"
    );
    assert_eq!(
        fault("a,,b=1"),
        "A key is missing before ',b=1'; write key=value,key=value"
    );
    let mut keys = KeyVals::parse("a=1,a=2,b,c=maybe,d=-1,kernel=x", None).unwrap();
    let says =
        |result: Result<_, KeyvalError>| result.map(|_: Option<u8>| ()).unwrap_err().to_string();
    assert_eq!(
        says(keys.take_number("a")),
        "Key 'a' is given more than once; leave one"
    );
    assert_eq!(
        keys.take_text("b").unwrap_err().to_string(),
        "Key 'b' has no value; write b=VALUE"
    );
    assert_eq!(
        keys.take_bool("c").unwrap_err().to_string(),
        "c='maybe': neither on nor off; write one of them"
    );
    assert_eq!(
        says(keys.take_number("d")),
        "d='-1': not a whole number in range; write digits alone"
    );
    assert_eq!(keys.take_text("kernal").unwrap(), None);
    assert_eq!(
        keys.finish().unwrap_err().to_string(),
        "Unknown key 'kernel'; did you mean 'kernal'?"
    );
}

#[test]
fn sizes() {
    let mib = |text| parse_size(text, 1 << 20);
    assert_eq!(mib("512"), Some(512 << 20));
    assert_eq!(mib("512M"), Some(512 << 20));
    assert_eq!(mib("262144k"), Some(256 << 20));
    assert_eq!(mib("1.5G"), Some(3 << 29));
    assert_eq!(mib("0x200"), Some(512 << 20));
    assert_eq!(mib("100b"), Some(100));
    assert_eq!(mib("2T"), Some(2 << 40));
    for bad in [
        "",
        "M",
        "-1",
        "+1",
        "1.M",
        ".5M",
        "1.2.3M",
        "5Q",
        "16E",
        "1MiB",
        " 1",
        "0x",
        "99999999999999999999",
    ] {
        assert_eq!(mib(bad), None, "{bad}");
    }
    assert_eq!(parse_number("0x10"), Some(16));
    assert_eq!(parse_number("+1"), None);
    assert_eq!(parse_number(""), None);
}

proptest! {
    #[test]
    fn keyvals_round_trip(
        pairs in prop::collection::vec(("[a-z][a-z0-9.-]{0,8}", ".{0,12}"), 1..6)
    ) {
        let text = pairs
            .iter()
            .map(|(key, value)| format!("{key}={}", value.replace(',', ",,")))
            .collect::<Vec<_>>()
            .join(",");
        let mut keys = KeyVals::parse(&text, Some("implied")).unwrap();
        prop_assert_eq!(keys.to_string(), text);
        prop_assert_eq!(keys.take_rest(), pairs);
    }

    #[test]
    fn keyvals_never_panic(text in any::<String>(), json in any::<bool>()) {
        let text = if json { format!("{{{text}") } else { text };
        if let Ok(mut keys) = KeyVals::parse_or_json(&text, Some("implied")) {
            let _ = keys.take_bool("implied");
            let _ = keys.take_size("a", 1);
            let _ = keys.finish();
        }
    }

    #[test]
    fn sizes_never_panic(text in "[0-9.xXa-fKMGTPEb+-]{0,24}", unit in any::<u64>()) {
        let _ = parse_size(&text, unit);
    }
}
