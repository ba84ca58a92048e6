//! Asks the servers of the cache where its nodes are: CLUSTER SLOTS of any node of a cluster, SENTINEL GET-MASTER-ADDR-BY-NAME of a
//! sentinel. Source: the Redis documentation of both commands.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use crate::dialer::{Dialer, ask, log_in};
use crate::placement::{SLOTS, Topology};
use crate::protocol::{Element, element};
use crate::url::{CacheUrl, Login, Place};

const ASK_MAX: Duration = Duration::from_secs(1);
const RANGES_MAX: usize = SLOTS as usize;

/// Asks whoever answers first; `known` are nodes that were there lately.
///
/// # Errors
/// When nobody answers: what the last one said.
pub(crate) async fn discover(dialer: &Dialer, known: Vec<Place>) -> Result<Topology, String> {
    let (places, asked): (Vec<Place>, &str) = match dialer.url() {
        CacheUrl::Redis { place, .. } => return Ok(Topology::One(place.clone())),
        CacheUrl::Memcached { nodes } => return Ok(Topology::Ketama(nodes.clone())),
        CacheUrl::Embedded => return Err("the embedded cache has no address yet".into()),
        CacheUrl::Sentinel { sentinels, .. } => (sentinels.clone(), "sentinel"),
        CacheUrl::Cluster { seeds, .. } => {
            let fresh = seeds.iter().filter(|seed| !known.contains(seed)).cloned();
            (known.iter().cloned().chain(fresh).collect(), "node")
        }
    };
    let mut last = "there is nobody to ask".to_owned();
    for place in places {
        match timeout(ASK_MAX, from(dialer, &place)).await {
            Ok(Ok(topology)) => return Ok(topology),
            Ok(Err(error)) => last = format!("{asked} {place}: {error}"),
            Err(_) => last = format!("{asked} {place}: no answer within 1 s"),
        }
    }
    Err(last)
}

async fn from(dialer: &Dialer, place: &Place) -> Result<Topology, String> {
    let mut stream = dialer.connect(place).await?;
    match dialer.url() {
        CacheUrl::Sentinel { master, .. } => {
            let words = [b"SENTINEL".as_slice(), b"GET-MASTER-ADDR-BY-NAME", master.as_bytes()];
            master_of(&mut ask(&mut stream, &words).await?)
                .ok_or_else(|| format!("it knows no master of {master:?}"))
        }
        url => {
            log_in(&mut stream, url.login().unwrap_or(&Login::default())).await?;
            let mut told = ask(&mut stream, &[b"CLUSTER", b"SLOTS"]).await?;
            if told.starts_with(b"-") {
                return Err(String::from_utf8_lossy(&told).trim_end().to_owned());
            }
            slots_of(&mut told, place).ok_or_else(|| "an answer to CLUSTER SLOTS that makes no sense".into())
        }
    }
}

fn master_of(told: &mut BytesMut) -> Option<Topology> {
    let Element::Array(2) = next(told)? else { return None };
    let (host, port) = (text(told)?, text(told)?);
    Some(Topology::One(Place { host, port: port.parse().ok()? }))
}

/// `[[first, last, [host, port, …], replicas…], …]`; a host that is empty or null is the one that was asked.
fn slots_of(told: &mut BytesMut, asked: &Place) -> Option<Topology> {
    let Element::Array(count) = next(told)? else { return None };
    let mut ranges = Vec::new();
    for _ in 0..count.min(RANGES_MAX) {
        let Element::Array(parts) = next(told)? else { return None };
        let (first, last) = (integer(told)?, integer(told)?);
        let Element::Array(fields) = next(told)? else { return None };
        let host = match next(told)? {
            Element::Bulk(Some(host)) if !host.is_empty() => String::from_utf8(host.to_vec()).ok()?,
            _ => asked.host.clone(),
        };
        let port = integer(told)?;
        (2..fields).try_for_each(|_| skip(told))?;
        (3..parts).try_for_each(|_| skip(told))?;
        if first <= last && last < SLOTS {
            ranges.push((first, last, Place { host, port }));
        }
    }
    Some(Topology::Slots(ranges))
}

fn next(told: &mut BytesMut) -> Option<Element> {
    element(told).ok().flatten()
}

fn text(told: &mut BytesMut) -> Option<String> {
    match next(told)? {
        Element::Bulk(Some(text)) => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    }
}

fn integer(told: &mut BytesMut) -> Option<u16> {
    match next(told)? {
        Element::Integer(n) => u16::try_from(n).ok(),
        _ => None,
    }
}

fn skip(told: &mut BytesMut) -> Option<()> {
    match next(told)? {
        Element::Array(n) => (0..n).try_for_each(|_| skip(told)),
        _ => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_with_their_masters_and_nothing_else() {
        let asked = Place { host: "asked".into(), port: 1 };
        let told = "*2\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$9\r\n127.0.0.1\r\n:30001\r\n$2\r\nid\r\n*0\r\n*4\r\n$9\r\n127.0.0.1\r\n:30004\r\n$2\r\nid\r\n*2\r\n$8\r\nhostname\r\n$1\r\nh\r\n\
                    *3\r\n:5461\r\n:16383\r\n*3\r\n$-1\r\n:30002\r\n$2\r\nid\r\n";
        let place = |host: &str, port| Place { host: host.into(), port };
        assert_eq!(
            slots_of(&mut BytesMut::from(told), &asked),
            Some(Topology::Slots(vec![
                (0, 5460, place("127.0.0.1", 30001)),
                (5461, 16383, place("asked", 30002))
            ]))
        );
        assert_eq!(slots_of(&mut BytesMut::from(&told[..40]), &asked), None);
        let master = "*2\r\n$2\r\nm1\r\n$4\r\n6379\r\n";
        assert_eq!(master_of(&mut BytesMut::from(master)), Some(Topology::One(place("m1", 6379))));
        assert_eq!(master_of(&mut BytesMut::from("*-1\r\n")), None);
    }
}
