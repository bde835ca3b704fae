//! A QMP client's bytes: the stream, sessions, every command, on a process without a domain.
//!
//! The input is what a client sends. Each value or fault gets one answer, whatever came before.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use xenner::qmp::codec::Decoder;
use xenner::qmp::{EventSink, Nothing, Parts, Session};
use xenner_console::FdSets;

static EVENTS: LazyLock<EventSink> = LazyLock::new(|| EventSink::new().expect("an eventfd"));

fuzz_target!(|data: &[u8]| {
    let mut control = Nothing::new(EVENTS.clone(), true);
    let mut fds = FdSets::default();
    let mut session = Session::default();
    let mut decoder = Decoder::default();
    let mut rest = data;
    while !rest.is_empty() {
        let (used, request) = decoder.decode(rest);
        rest = &rest[used..];
        let Some(request) = request else {
            assert!(rest.is_empty(), "bytes are left and nothing came of them");
            break;
        };
        let mut parts = Parts {
            control: &mut control,
            fds: &mut fds,
        };
        let answer = session.answer(request, &mut parts);
        assert!(answer.get("return").is_some() != answer.get("error").is_some());
    }
});
