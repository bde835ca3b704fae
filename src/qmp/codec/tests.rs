use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Everything that a stream gives, faults as text.
fn all(input: &[u8]) -> Vec<Result<Value, String>> {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (used, done) = decoder.decode(rest);
        assert!(used > 0 || done.is_some());
        rest = &rest[used..];
        out.extend(done.map(|done| done.map_err(|fault| fault.to_string())));
    }
    out
}

fn fault(what: &str) -> Result<Value, String> {
    Err(format!("JSON parse error, {what}"))
}

/// Answers of QEMU 7.2 to the same bytes.
#[test]
fn faults_are_told_and_left_behind_as_qemu_does() {
    let value = "expecting value";
    let cases: [(&[u8], &[&str]); 24] = [
        (b"foo\n", &["invalid keyword 'foo'"]),
        (b"{\"execute\":foo}", &["invalid keyword 'foo'"]),
        (b"{\"a\":\"b\",}", &[value]),
        (b"{\"a\" \"b\"}", &["missing : in object pair"]),
        (b"{\"a\"::\"b\"}", &[value]),
        (b"{5:1}", &["key is not a string in object"]),
        (b"{\"a\":1,\"a\":2}", &["duplicate key"]),
        (b"[1 2]", &["expected separator in list"]),
        (b"}", &[value]),
        (b"]", &[value]),
        (b"{\"a\":\"b\"]", &["expected separator in dict"]),
        (b"{\"a\":\"\\x\"}", &["invalid escape sequence in string"]),
        (
            b"{\"a\":\"\\ud83d\"}",
            &["\\ud83d is not a valid Unicode character"],
        ),
        (b"{\"a\":-}", &["stray '-}'"]),
        (b"{\"a\":01}", &["stray '01'", value]),
        (b"{\"a\":+1}", &["stray '+'", value]),
        (b"{\"a\":%d}", &["stray '%'", value]),
        (b"{\"a\":\"abc\ndef\"}", &["stray '\"abc\n'", value]),
        (b"{\"a\":\"\xff\"}", &["stray '\"\u{fffd}'", value]),
        (b"#x\n", &["stray '#'"]),
        (b"@\n", &["stray '@'"]),
        (b"\"abc\n", &["stray '\"abc\n'"]),
        (
            b"{\"a\":\"\xc3\x28\"}",
            &["invalid UTF-8 sequence in string"],
        ),
        (b"{\"a\":\"\\u12x4\"}", &["invalid hex escape in string"]),
    ];
    for (input, faults) in cases {
        let expected: Vec<_> = faults.iter().map(|what| fault(what)).collect();
        assert_eq!(all(input), expected, "{}", String::from_utf8_lossy(input));
    }
}

#[test]
fn after_a_fault_the_next_value_is_read() {
    assert_eq!(
        all(b"\xff{\"a\":1}"),
        [fault("stray '\u{fffd}'"), Ok(json!({"a": 1}))]
    );
    assert_eq!(
        all(b"tru{\"a\":1}"),
        [fault("invalid keyword 'tru'"), Ok(json!({"a": 1}))]
    );
    assert_eq!(
        all(b"{\"a\":1}}{}"),
        [Ok(json!({"a": 1})), fault("expecting value"), Ok(json!({}))]
    );
}

#[test]
fn the_dialect_has_single_quotes_and_needs_no_separator() {
    let expected = [
        Ok(json!({"it's": "\"", "n": [1, -2, 1.5, 100.0, true, null]})),
        Ok(json!("A\u{e9}\u{1f600}\0/\u{8}")),
        Ok(json!([[], {}])),
        Ok(json!(u64::MAX)),
        Ok(json!(1.234_567_890_123_456_8e29)),
        Ok(json!(0)),
    ];
    let input = b"{'it\\'s':'\"','n':[1,-2,1.50,1e2,true,null]}\
                  '\\u0041\xc3\xa9\\ud83d\\ude00\\u0000\\/\\b'[[],{}]18446744073709551615 \
                  123456789012345678901234567890 0 ";
    assert_eq!(all(input), expected);
}

#[test]
fn what_is_too_large_is_refused_and_skipped() {
    let mut long = b"{\"a\":\"".to_vec();
    long.resize(MAX_BYTES + 100, b'x');
    long.extend(b"\"}{}");
    let too_long = Err(JsonError::TooLong.to_string());
    // the rest of the string is skipped up to the brace that would have ended it
    assert_eq!(
        all(&long),
        [too_long, fault("expecting value"), Ok(json!({}))]
    );

    let deep = vec![b'['; MAX_DEPTH + 1];
    assert_eq!(all(&deep), [Err(JsonError::TooDeep.to_string())]);
    let mut deep = vec![b'['; MAX_DEPTH];
    deep.extend(vec![b']'; MAX_DEPTH]);
    assert!(all(&deep)[0].is_ok());

    let many = b"1,".repeat(MAX_TOKENS / 2 + 1);
    let many = [b"[", many.as_slice()].concat();
    assert_eq!(all(&many)[0], Err(JsonError::TooMany.to_string()));
}

/// Any JSON value of a moderate size.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300..1e300).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_json_writes_is_read_back_in_any_pieces(
        values in prop::collection::vec(values(), 0..4),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let text: String = values.iter().map(|value| format!("{value}\n")).collect();
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        let (mut rest, mut cuts) = (text.as_bytes(), cuts.iter().cycle());
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(*cuts.next().unwrap())];
            let (used, done) = decoder.decode(piece);
            rest = &rest[used..];
            got.extend(done.map(Result::unwrap));
        }
        prop_assert_eq!(got, values);
    }

    #[test]
    fn any_bytes_end_in_values_or_faults(input: Vec<u8>) {
        all(&input);
    }
}
