use std::sync::Arc;

use bytes::BytesMut;
use herdsman_host::SimClock;

use super::commands::{Session, run};
use super::store::Store;
use super::*;

struct Bench {
    clock: Arc<SimClock>,
    store: Store,
    session: Session,
}

impl Bench {
    fn new(memory_max: usize) -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000));
        let store = Store::new(memory_max, Arc::clone(&clock) as Arc<dyn Clock>, Arc::default());
        Self { clock, store, session: Session::default() }
    }

    fn say(&mut self, line: &str) -> String {
        let (mut request, mut out) = (Request::default(), BytesMut::new());
        let line = format!("{line}\r\n");
        self.store.read_clock();
        assert_eq!(request.parse(line.as_bytes()), Ok(Some(line.len())));
        run(&request.words(line.as_bytes()), &mut self.session, &mut self.store, &mut out);
        String::from_utf8(out.to_vec()).unwrap().replace("\r\n", " ").trim_end().to_owned()
    }
}

#[test]
fn strings_expire_and_answer_as_redis_does() {
    let mut bench = Bench::new(1 << 20);
    for (line, reply) in [
        ("SET a 1 PX 1500", "+OK"),
        ("set a 2 NX", "$-1"),
        ("GET a", "$1 1"),
        ("PTTL a", ":1500"),
        ("INCRBY a 41", ":42"),
        ("MGET a b", "*2 $2 42 $-1"),
        ("SET b x XX", "$-1"),
        ("SET b x GET", "$-1"),
        ("SELECT 3", "+OK"),
        ("EXISTS a b", ":0"),
        ("SELECT 0", "+OK"),
        ("EXISTS a b nope", ":2"),
        ("TTL b", ":-1"),
        ("SET a 1 EX", "-ERR syntax error"),
        ("SET a 1 EX 0", "-ERR invalid expire time in 'set' command"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("LPUSH l 1", "-ERR unknown command 'LPUSH'"),
        ("HELLO 3", "-NOPROTO this cache speaks RESP2: say HELLO 2"),
        ("DBSIZE", ":2"),
    ] {
        assert_eq!(bench.say(line), reply, "{line}");
    }
    bench.clock.advance_ns(1_500_000_000);
    assert_eq!((bench.say("GET a").as_str(), bench.say("DEL a b").as_str()), ("$-1", ":1"));
    assert_eq!(bench.store.memory(), 0, "what is gone costs nothing");
}

#[test]
fn memory_stays_within_its_bound_and_keeps_what_is_read() {
    let mut bench = Bench::new(200_000);
    bench.say("SET hot value");
    for n in 0..5_000 {
        bench.say(&format!("SET key:{n} {}", "x".repeat(50)));
        assert_eq!(bench.say("GET hot"), "$5 value");
        assert!(bench.store.memory() <= 200_000);
    }
    assert!(bench.store.len(0) > 900);
    bench.say("FLUSHALL");
    assert_eq!((bench.store.memory(), bench.store.len(0)), (0, 0));
}

#[test]
fn requests_parse_in_any_pieces_and_strangers_never_panic() {
    let whole = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n";
    let mut request = Request::default();
    for cut in 0..whole.len() {
        assert_eq!(request.parse(&whole[..cut]), Ok(None), "cut at {cut}");
    }
    assert_eq!(request.parse(whole), Ok(Some(whole.len())));
    assert_eq!(request.words(whole), [b"SET".as_slice(), b"k", b"a\r\nb"]);
    for bad in [
        "*x\r\n",
        "*9999999999\r\n",
        "*1\r\n+OK\r\n",
        "*1\r\n$-5\r\n",
        "*1\r\n$99999999999\r\n",
        "*1\r\n$1\r\nabc",
    ] {
        assert!(request.parse(bad.as_bytes()).is_err(), "{bad}");
    }
}
