//! The nodes of the cache: which one has a key, and what is learnt about them.
//!
//! A single server is one node. memcached's nodes are given and never change. A cluster's slots and a sentinel's master are
//! **discovered**: at first, whenever a connection fails or a node says that a key lies elsewhere, and every few seconds; never more than
//! ten times a second.

use bytes::Bytes;

use super::links::Links;
use super::window::Window;
use super::{Core, Effect, LinkId};
use crate::config::Lane;
use crate::lanes::{Lanes, Waiting};
use crate::placement::{NodeIndex, Ring, SLOTS, Topology, slot};
use crate::protocol::wire_key;
use crate::url::{CacheUrl, Place};

const DISCOVERY_MIN_NS: u64 = 100_000_000;
const DISCOVERY_RETRY_MAX_NS: u64 = 1_000_000_000;
/// Failures in a row after which nobody waits for the cache to be found.
const FAILURES_MAX: u32 = 3;
/// The node that unassigned slots belong to: nowhere.
const NOWHERE: NodeIndex = 0;
/// A link's number begins with its node's.
const NODE_SHIFT: u32 = 48;

/// One server: its connections, and the keys that wait for it.
#[derive(Debug)]
pub(super) struct Node {
    /// Unknown while it is being looked for.
    pub(super) place: Option<Place>,
    /// Some key may belong to it.
    pub(super) used: bool,
    pub(super) links: Links,
    pub(super) lanes: Lanes,
    pub(super) window: Window,
}

#[derive(Debug)]
enum Route {
    One,
    Slots(Box<[NodeIndex]>),
    Ring(Ring),
}

#[derive(Debug)]
struct Discovery {
    every_ns: u64,
    wanted: bool,
    under_way: bool,
    next_ns: u64,
    last_ns: u64,
    failures: u32,
    /// It has succeeded once.
    known: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Nodes {
    list: Vec<Node>,
    route: Route,
    discovery: Option<Discovery>,
}

/// The node that a connection leads to.
pub(super) fn node_of(link: LinkId) -> NodeIndex {
    NodeIndex::try_from(link >> NODE_SHIFT).unwrap_or(NodeIndex::MAX)
}

impl Nodes {
    pub(super) fn new(url: &CacheUrl) -> Self {
        let discovery = |every_ns| {
            let (wanted, under_way, known) = (true, false, false);
            Some(Discovery { every_ns, wanted, under_way, next_ns: 0, last_ns: 0, failures: 0, known })
        };
        let mut nodes = Self { list: Vec::new(), route: Route::One, discovery: None };
        match url {
            CacheUrl::Redis { place, .. } => nodes.add(Some(place.clone())),
            CacheUrl::Memcached { nodes: places } => {
                places.iter().for_each(|place| nodes.add(Some(place.clone())));
                if places.len() > 1 {
                    nodes.route = Route::Ring(Ring::new(places));
                }
            }
            // Where it will listen is told later.
            CacheUrl::Embedded => nodes.add(Some(Place { host: "embedded".into(), port: 0 })),
            CacheUrl::Sentinel { .. } => {
                nodes.add(None);
                nodes.discovery = discovery(1_000_000_000);
            }
            CacheUrl::Cluster { .. } => {
                nodes.add(None);
                nodes.route = Route::Slots(vec![NOWHERE; usize::from(SLOTS)].into());
                nodes.discovery = discovery(5_000_000_000);
            }
        }
        nodes
    }

    fn add(&mut self, place: Option<Place>) {
        let first_link = (self.list.len() as u64) << NODE_SHIFT;
        let (links, lanes) = (Links::new(first_link), Lanes::default());
        self.list.push(Node { place, used: true, links, lanes, window: Window::default() });
    }

    pub(super) fn indices(&self) -> std::ops::Range<NodeIndex> {
        0..NodeIndex::try_from(self.list.len()).unwrap_or(NodeIndex::MAX)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.list.iter()
    }

    /// Nodes that share the keys.
    pub(super) fn used(&self) -> u64 {
        self.list.iter().filter(|node| node.used && node.place.is_some()).count().max(1) as u64
    }

    pub(super) fn get(&self, node: NodeIndex) -> Option<&Node> {
        self.list.get(usize::from(node))
    }

    pub(super) fn get_mut(&mut self, node: NodeIndex) -> Option<&mut Node> {
        self.list.get_mut(usize::from(node))
    }

    pub(super) fn links_mut(&mut self, node: NodeIndex) -> Option<&mut Links> {
        self.get_mut(node).map(|node| &mut node.links)
    }

    /// The node that has `key`.
    pub(super) fn of(&self, key: &Bytes) -> NodeIndex {
        match &self.route {
            Route::One => 0,
            Route::Slots(slots) => slots.get(usize::from(slot(key))).copied().unwrap_or(NOWHERE),
            Route::Ring(ring) => ring.node(&wire_key(key).0),
        }
    }

    /// Groups `items` by their keys' nodes.
    pub(super) fn split<T>(&self, items: Vec<T>, key: impl Fn(&T) -> &Bytes) -> Vec<(NodeIndex, Vec<T>)> {
        if matches!(self.route, Route::One) {
            return vec![(0, items)];
        }
        let mut groups: Vec<(NodeIndex, Vec<T>)> = Vec::new();
        for item in items {
            let node = self.of(key(&item));
            match groups.iter_mut().find(|(known, _)| *known == node) {
                Some((_, group)) => group.push(item),
                None => groups.push((node, vec![item])),
            }
        }
        groups
    }

    /// Nobody waits for this node: its breaker is open, or it cannot be found.
    pub(super) fn is_down(&self, node: NodeIndex) -> bool {
        let Some(node) = self.get(node) else { return true };
        let lost = |d: &Discovery| d.known || d.failures >= FAILURES_MAX;
        node.links.breaker_is_open() || (node.place.is_none() && self.discovery.as_ref().is_none_or(lost))
    }

    /// Whether any node that has keys is down.
    pub(super) fn any_down(&self) -> bool {
        self.indices().any(|index| self.is_down(index) && self.get(index).is_some_and(|node| node.used))
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.list.iter().all(|node| !node.used || node.links.is_quiet())
    }

    pub(super) fn push(&mut self, key: &Bytes, lane: Lane, waiting: Waiting) {
        let node = self.of(key);
        if let Some(node) = self.get_mut(node) {
            node.lanes.push(lane, waiting);
        }
    }

    /// Takes the head of a lane of any node if it came before `limit_ns`.
    pub(super) fn pop_older(&mut self, lane: Lane, limit_ns: u64) -> Option<Waiting> {
        self.list.iter_mut().find_map(|node| node.lanes.pop_older(lane, limit_ns))
    }

    /// Keys waiting for the cache.
    pub(super) fn waiting(&self) -> usize {
        self.list.iter().map(|node| node.lanes.len()).sum()
    }

    /// The node at `place`, a new one if need be.
    pub(super) fn at(&mut self, place: &Place) -> NodeIndex {
        let known = self.list.iter().position(|node| node.place.as_ref() == Some(place));
        let index = known.unwrap_or_else(|| {
            self.add(Some(place.clone()));
            self.list.len() - 1
        });
        NodeIndex::try_from(index).unwrap_or(NOWHERE)
    }

    /// From now on this slot is at `place`.
    pub(super) fn moved(&mut self, slot: u16, place: &Place) {
        let node = self.at(place);
        if let Some(found) = self.get_mut(node) {
            found.used = true;
        }
        if let Route::Slots(slots) = &mut self.route
            && let Some(owner) = slots.get_mut(usize::from(slot))
        {
            *owner = node;
        }
        self.doubt();
    }

    /// What is known about the nodes may be out of date.
    pub(super) fn doubt(&mut self) {
        if let Some(discovery) = &mut self.discovery {
            discovery.wanted = true;
        }
    }

    /// Doubts by the clock.
    pub(super) fn tick(&mut self, now_ns: u64) {
        if let Some(discovery) = &mut self.discovery
            && now_ns.saturating_sub(discovery.last_ns) >= discovery.every_ns
        {
            discovery.wanted = true;
        }
    }

    pub(super) fn next_discovery_ns(&self) -> Option<u64> {
        let discovery = self.discovery.as_ref()?;
        (discovery.wanted && !discovery.under_way).then_some(discovery.next_ns)
    }
}

impl Core {
    /// Looks for the nodes if that is due.
    pub(super) fn discover(&mut self, now_ns: u64) {
        if self.nodes.next_discovery_ns().is_none_or(|due| now_ns < due) {
            return;
        }
        let known =
            self.nodes.iter().filter(|node| node.used).filter_map(|node| node.place.clone()).collect();
        if let Some(discovery) = &mut self.nodes.discovery {
            (discovery.wanted, discovery.under_way) = (false, true);
            self.effects.push(Effect::Discover { known });
        }
    }

    pub(super) fn on_discovered(&mut self, result: Result<Topology, String>, now_ns: u64) {
        let jitter = self.spread(DISCOVERY_MIN_NS);
        let Some(discovery) = &mut self.nodes.discovery else { return };
        discovery.under_way = false;
        match result {
            Ok(topology) => {
                (discovery.known, discovery.failures, discovery.last_ns) = (true, 0, now_ns);
                discovery.next_ns = now_ns + jitter;
                self.learn(topology, now_ns);
            }
            Err(error) => {
                discovery.failures = discovery.failures.saturating_add(1);
                discovery.wanted = true;
                let wait = (jitter << discovery.failures.min(4)).min(DISCOVERY_RETRY_MAX_NS) / 4;
                discovery.next_ns = now_ns + wait;
                if discovery.failures == FAILURES_MAX {
                    tracing::warn!(
                        "the nodes of cache {} cannot be found: {error}",
                        self.config.cache.place()
                    );
                }
            }
        }
    }

    fn learn(&mut self, topology: Topology, now_ns: u64) {
        match topology {
            Topology::One(place) => self.move_to(place, now_ns),
            Topology::Slots(ranges) => self.assign(&ranges),
            Topology::Ketama(_) => {} // given, never discovered
        }
    }

    /// Another server has become the master.
    fn move_to(&mut self, place: Place, now_ns: u64) {
        let Some(node) = self.nodes.get_mut(0) else { return };
        if node.place.as_ref() == Some(&place) {
            return;
        }
        tracing::info!("the master of cache {} is {place}", self.config.cache.place());
        node.place = Some(place);
        node.links.forgive(now_ns);
        for link in node.links.ids() {
            self.on_down(link, "another server has become the master", now_ns);
        }
    }

    fn assign(&mut self, ranges: &[(u16, u16, Place)]) {
        let mut slots = vec![NOWHERE; usize::from(SLOTS)];
        for (first, last, place) in ranges {
            let node = self.nodes.at(place);
            if let Some(range) = slots.get_mut(usize::from(*first)..=usize::from(*last)) {
                range.fill(node);
            }
        }
        let Route::Slots(now) = &mut self.nodes.route else { return };
        if now[..] == slots[..] {
            return;
        }
        *now = slots.into();
        for index in self.nodes.indices() {
            let Route::Slots(slots) = &self.nodes.route else { return };
            let used = slots.contains(&index);
            if let Some(node) = self.nodes.get_mut(index) {
                node.used = used;
            }
        }
        self.reroute();
    }

    /// What waits goes to the node that has it now.
    fn reroute(&mut self) {
        let mut taken = Vec::new();
        for index in self.nodes.indices() {
            if let Some(node) = self.nodes.get_mut(index) {
                node.lanes.take(usize::MAX, &mut taken);
            }
        }
        // Oldest first, as they came.
        taken.sort_by_key(|waiting| waiting.since_ns);
        for waiting in taken {
            let Some(flight) = self.flights.get(waiting.flight) else { continue };
            self.nodes.push(&flight.key, flight.lane, waiting);
        }
    }
}
