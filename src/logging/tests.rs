//! What `-d`, `-D` and `-msg` make of messages.

use log::{Level, Log, Record};

use super::*;
use crate::config::LogItems;

/// What arrives in the log file of these messages, each a level, a target and a text.
fn logged(config: LogConfig, messages: &[(Level, &str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let config = LogConfig {
        file: Some(path.clone()),
        ..config
    };
    let logger = builder(&config, "vm1").unwrap().build();
    for (level, target, text) in messages {
        let record = format_args!("{text}");
        logger.log(
            &Record::builder()
                .level(*level)
                .target(target)
                .args(record)
                .build(),
        );
    }
    logger.flush();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn warnings_show_and_details_do_not() {
    let messages = [
        (Level::Error, "xenner::domain", "broken"),
        (Level::Warn, "xenner::evtchn", "odd"),
        (Level::Info, "xenner::domain", "hello"),
        (Level::Debug, "xenner::evtchn", "port 1"),
    ];
    let text = logged(LogConfig::default(), &messages);
    assert_eq!(text, "xenner: error: broken\r\nxenner: warn: odd\r\n");
}

#[test]
fn an_item_adds_its_own_details() {
    let config = LogConfig {
        items: LogItems::EVTCHN,
        ..LogConfig::default()
    };
    let messages = [
        (Level::Trace, "xenner::evtchn", "port 1"),
        (Level::Info, "xenner::domain", "hello"),
        (Level::Debug, "xenner::xenstore", "read"),
        (Level::Info, "another_crate", "noise"),
    ];
    let text = logged(config, &messages);
    assert_eq!(text, "xenner: trace: port 1\r\nxenner: info: hello\r\n");
}

#[test]
fn every_item_has_a_target_of_its_name() {
    for item in &LOG_ITEMS {
        let config = LogConfig {
            items: item.flag,
            ..LogConfig::default()
        };
        let target = format!("xenner::{}", item.name);
        let text = logged(config, &[(Level::Trace, &target, item.name)]);
        assert_eq!(text, format!("xenner: trace: {}\r\n", item.name));
    }
}

#[test]
fn lines_start_with_what_msg_asks_for() {
    let config = LogConfig {
        guest_name: true,
        timestamp: true,
        ..LogConfig::default()
    };
    let text = logged(config, &[(Level::Warn, "xenner", "odd")]);
    let (time, rest) = text.split_once(' ').unwrap();
    assert_eq!(rest, "vm1: xenner: warn: odd\r\n");
    let (seconds, micros) = time.split_once('.').unwrap();
    assert!(seconds.parse::<u64>().unwrap() > 1_600_000_000);
    assert!(micros.len() == 6 && micros.parse::<u32>().is_ok(), "{time}");
}

#[test]
fn a_log_file_that_cannot_be_is_named() {
    let config = LogConfig {
        file: Some("/no/such/place/log".into()),
        ..LogConfig::default()
    };
    let e = builder(&config, "vm1").err().unwrap();
    assert_eq!(e.to_string(), "-D: /no/such/place/log: Cannot be opened");
}
