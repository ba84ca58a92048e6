//! Malformed, oversized and half-open: closed or refused by name, at bounded memory, with a good client beside.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::server::{Server, free_port};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// A request frame: header version 1 with client id `x`, then `body`.
fn frame(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&api.to_be_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&7_i32.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, b'x']);
    bytes.extend_from_slice(body);
    let mut out = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(&bytes);
    out
}

fn answer(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let mut body = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn is_served(server: &Server) -> bool {
    let mut good = connect(server);
    good.write_all(&frame(18, 0, &[])).unwrap();
    answer(&mut good).is_some_and(|body| body[4..6] == [0, 0])
}

#[test]
fn strangers_are_answered_or_closed_and_cost_little() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    assert!(is_served(&server));
    let before = server.resident_mib();

    // an API and a version nobody serves: the protocol's own error
    let mut stream = connect(&server);
    stream.write_all(&frame(999, 0, &[])).unwrap();
    assert_eq!(answer(&mut stream).unwrap(), [0, 0, 0, 7, 0, 35]);
    stream.write_all(&frame(18, 99, &[])).unwrap();
    let listing = answer(&mut stream).unwrap();
    assert_eq!(listing[4..6], [0, 35]);
    assert!(listing.len() > 100, "the list of served versions follows");

    // counts and lengths that the bytes cannot hold, in requests of several shapes
    let huge = i32::MAX.to_be_bytes();
    for (api, version) in
        [(3, 1), (2, 1), (1, 4), (0, 3), (9, 1), (8, 2), (19, 2), (11, 0), (15, 0), (42, 0), (32, 1)]
    {
        for lead in 0..16 {
            let mut body = vec![0; lead];
            body.extend_from_slice(&huge);
            let mut stream = connect(&server);
            stream.write_all(&frame(api, version, &body)).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = answer(&mut stream);
        }
    }
    // lengths that no frame may have
    for announced in [u32::MAX, 200 << 20] {
        let mut stream = connect(&server);
        stream.write_all(&announced.to_be_bytes()).unwrap();
        assert_eq!(answer(&mut stream), None);
    }
    // many that announce much and send little, and stay
    let idle: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(&(100_u32 << 20).to_be_bytes()).unwrap();
            stream.write_all(&[0; 1000]).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert!(is_served(&server));
    }
    let after = server.resident_mib();
    assert!(after - before < 64, "{before} MiB before, {after} MiB after {} idle connections", idle.len());
}

/// The frame of an API that is not served, or is at another version: any header will do, only its start is read.
#[test]
fn what_is_not_served_is_refused_by_the_protocols_error_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let mut stream = connect(&server);
    stream.write_all(&frame(18, 0, &[])).unwrap();
    let listing = answer(&mut stream).unwrap();
    let number = |bytes: &[u8]| i16::from_be_bytes([bytes[0], bytes[1]]);
    let served: Vec<(i16, i16, i16)> = listing[10..]
        .chunks_exact(6)
        .map(|one| (number(one), number(&one[2..]), number(&one[4..])))
        .collect();
    assert!(served.len() > 40, "{served:?}");
    let (mut refused, mut asked) = (0, 0);
    for api in -1..=100 {
        for version in -1..=20 {
            let is_served =
                served.iter().any(|(key, min, max)| *key == api && (*min..=*max).contains(&version));
            if is_served || api == 18 {
                continue;
            }
            asked += 1;
            stream.write_all(&frame(api, version, &[0; 8])).unwrap();
            let body =
                answer(&mut stream).unwrap_or_else(|| panic!("API {api} version {version} is hung up on"));
            assert_eq!(body, [0, 0, 0, 7, 0, 35], "API {api} version {version}");
            refused += 1;
        }
    }
    assert!(refused == asked && asked > 1_500, "{refused} of {asked}");
}
