use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{Codec, Memcached, Resp, Violation};
use crate::core::{Answer, Command, Fill};

fn keys(names: &[&str]) -> Vec<Bytes> {
    names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect()
}

/// Feeds `stream` in pieces of `step` bytes.
fn hear(codec: &mut Codec, stream: &[u8], step: usize) -> Result<Vec<Answer>, Violation> {
    let (mut buffer, mut answers) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        codec.decode(&mut buffer, &mut answers)?;
    }
    Ok(answers)
}

fn asked(mut codec: Codec) -> (Codec, String) {
    let fill = Fill { key: Bytes::from_static(b"d"), value: Bytes::from_static(b"v"), ttl_ms: 1_500 };
    let mut out = BytesMut::new();
    codec.encode(&Command::Get(keys(&["a", "b", "c"])), &mut out);
    codec.encode(&Command::Fill(vec![fill.clone(), fill]), &mut out);
    codec.encode(&Command::Delete(keys(&["a"])), &mut out);
    codec.encode(&Command::Get(keys(&["z"])), &mut out);
    (codec, String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn resp_answers_match_their_commands_in_any_pieces() {
    let stream = b"*3\r\n$1\r\nA\r\n$-1\r\n$4\r\nC\r\nC\r\n+OK\r\n$-1\r\n:1\r\n-LOADING wait\r\n";
    for step in 1..stream.len() {
        let (mut codec, said) = asked(Codec::Resp(Resp::default()));
        assert!(said.starts_with("*4\r\n$4\r\nMGET\r\n$1\r\na\r\n"), "{said}");
        assert!(said.contains("$2\r\nPX\r\n$4\r\n1500\r\n$2\r\nNX\r\n"), "{said}");
        let values = vec![Some(Bytes::from_static(b"A")), None, Some(Bytes::from_static(b"C\r\nC"))];
        let failed = Answer::Failed("LOADING wait".into());
        let expected = vec![Answer::Values(values), Answer::Done, Answer::Done, failed];
        assert_eq!(hear(&mut codec, stream, step), Ok(expected), "pieces of {step}");
    }
}

#[test]
fn news_of_changes_come_between_the_answers_in_any_pieces() {
    let stream = b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$3\r\nb\r\n\r\n*1\r\n_\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n>1\r\n+other\r\n+OK\r\n";
    for step in 1..stream.len() {
        let mut codec = Codec::Resp(Resp::new(true));
        let mut out = BytesMut::new();
        codec.encode(&Command::Get(keys(&["a"])), &mut out);
        codec.encode(&Command::Delete(keys(&["a"])), &mut out);
        let expected = vec![
            Answer::Changed(Some(keys(&["a", "b\r\n"]))),
            Answer::Values(vec![None]),
            Answer::Changed(None),
            Answer::Done,
        ];
        assert_eq!(hear(&mut codec, stream, step), Ok(expected), "pieces of {step}");
    }
    assert!(hear(&mut Codec::Resp(Resp::default()), stream, 7).is_err(), "not asked to tell");
}

#[test]
fn memcached_answers_match_their_commands_in_any_pieces() {
    let stream =
        b"VALUE a 0 1\r\nA\r\nVALUE c 7 4\r\nC\r\nC\r\nEND\r\nSTORED\r\nNOT_STORED\r\nDELETED\r\nEND\r\n";
    for step in 1..stream.len() {
        let (mut codec, said) = asked(Codec::Memcached(Memcached::default()));
        assert!(said.starts_with("get a b c\r\nadd d 0 2 1\r\nv\r\n"), "{said}");
        let values = vec![Some(Bytes::from_static(b"A")), None, Some(Bytes::from_static(b"C\r\nC"))];
        let expected = vec![Answer::Values(values), Answer::Done, Answer::Done, Answer::Values(vec![None])];
        assert_eq!(hear(&mut codec, stream, step), Ok(expected), "pieces of {step}");
    }
}

#[test]
fn what_was_not_asked_ends_the_connection() {
    for stream in
        ["*2\r\n", "+OK\r\n", "$1\r\nA\r\n", "*3\r\n:1\r\n", "*3\r\n$99999999999\r\n", "!", "*x\r\n"]
    {
        let (mut codec, _) = asked(Codec::Resp(Resp::default()));
        assert!(hear(&mut codec, stream.as_bytes(), 1).is_err(), "{stream}");
    }
    for stream in ["VALUE q 0 1\r\n", "VALUE a 0 1\r\nAAA", "STORED\r\n", "END\r\nwhat\r\n"] {
        let (mut codec, _) = asked(Codec::Memcached(Memcached::default()));
        assert!(hear(&mut codec, stream.as_bytes(), 1).is_err(), "{stream}");
    }
    assert!(hear(&mut Codec::Resp(Resp::default()), b"+PONG\r\n", 1).is_err(), "nothing was asked");
}

#[test]
fn a_key_that_memcached_cannot_carry_travels_hashed_and_is_checked() {
    let long = Bytes::from("x y".repeat(200));
    let mut codec = Codec::Memcached(Memcached::default());
    let mut out = BytesMut::new();
    let fill = Fill { key: long.clone(), value: Bytes::from_static(b"V"), ttl_ms: 1 };
    codec.encode(&Command::Fill(vec![fill]), &mut out);
    let header = out.iter().position(|b| *b == b'\n').unwrap() + 1;
    let wire = std::str::from_utf8(&out[4..4 + 35]).unwrap().to_owned();
    let framed = out[header..out.len() - 2].to_vec();
    codec.encode(&Command::Get(vec![long]), &mut out);
    let mut stream = format!("STORED\r\nVALUE {wire} 0 {}\r\n", framed.len()).into_bytes();
    stream.extend_from_slice(&framed);
    stream.extend_from_slice(b"\r\nEND\r\n");
    let value = Answer::Values(vec![Some(Bytes::from_static(b"V"))]);
    assert_eq!(hear(&mut codec, &stream, 7), Ok(vec![Answer::Done, value]));
    let mut codec = Codec::Memcached(Memcached::default());
    codec.encode(&Command::Get(vec![Bytes::from("x y".repeat(200))]), &mut out);
    let mut other = framed.clone();
    other[10] ^= 1;
    let mut stream = format!("VALUE {wire} 0 {}\r\n", other.len()).into_bytes();
    stream.extend_from_slice(&other);
    stream.extend_from_slice(b"\r\nEND\r\n");
    assert_eq!(
        hear(&mut codec, &stream, 7),
        Ok(vec![Answer::Values(vec![None])]),
        "another key's value is a miss"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn bytes_from_strangers_never_panic(stream in proptest::collection::vec(any::<u8>(), 0..200), step in 1_usize..50) {
        for codec in [Codec::Resp(Resp::default()), Codec::Memcached(Memcached::default())] {
            let (mut codec, _) = asked(codec);
            let _ = hear(&mut codec, &stream, step);
        }
    }
}
