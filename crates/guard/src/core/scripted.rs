//! The decision engine, step by step: what it sends after each thing that happens.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;

use super::{Abilities, Answer, Claimed, Command, Core, Effect, Event, Found, LinkId, LoadId, Reply, Values};
use crate::config::{GuardConfig, Lane};
use crate::near::{NearCache, Pass};
use crate::stats::Counters;

const MS: u64 = 1_000_000;

struct Script {
    core: Core,
    near: Arc<NearCache>,
    now_ns: u64,
    sent: Vec<(LinkId, Command)>,
    loads: Vec<LoadId>,
}

fn key() -> Bytes {
    Bytes::from_static(b"treasure:1")
}

fn text(value: &'static str) -> Bytes {
    Bytes::from_static(value.as_bytes())
}

impl Script {
    /// With as many connections as it wants.
    fn new(config: GuardConfig) -> Self {
        let near = Arc::new(NearCache::new(100));
        let core = Core::new(config, Arc::clone(&near), Arc::new(Counters::default()), 7);
        let mut script = Self { core, near, now_ns: MS, sent: Vec::new(), loads: Vec::new() };
        (0..5).for_each(|_| script.wait(5 * MS));
        script
    }

    fn wait(&mut self, ns: u64) {
        self.now_ns += ns;
        let mut effects = Vec::new();
        self.core.settle(self.now_ns, &mut effects);
        for effect in effects {
            match effect {
                Effect::Open { link, .. } => {
                    let abilities = Abilities { leases: true, tracking: true };
                    self.core.on_event(Event::Up { link, abilities }, self.now_ns);
                }
                Effect::Send { link, command } => self.sent.push((link, command)),
                Effect::Load { load, .. } => self.loads.push(load),
                Effect::Close { .. } | Effect::Discover { .. } => {}
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.core.on_event(event, self.now_ns);
        self.wait(MS / 10);
    }

    fn answer(&mut self, link: LinkId, answer: Answer) {
        self.tell(Event::Answers { link, answers: vec![answer] });
    }

    fn ask(&mut self) -> Receiver<Values> {
        let (sender, answer) = sync_channel(1);
        self.core.counters.pending(Lane::Normal).fetch_add(1, Relaxed);
        let (at_ns, reply) = (self.now_ns, Reply::Thread(sender));
        self.tell(Event::Lookup { keys: vec![key()], counts: Vec::new(), lane: Lane::Normal, at_ns, reply });
        answer
    }

    /// The only command sent since the last look.
    fn only_sent(&mut self) -> (LinkId, Command) {
        assert_eq!(self.sent.len(), 1, "{:?}", self.sent);
        self.sent.remove(0)
    }

    fn near(&self) -> Option<Bytes> {
        let (mut out, mut pass) = (Vec::new(), Pass::default());
        self.near.get_many(&[key()], self.now_ns, &mut out, &mut pass);
        out.remove(0)
    }

    /// A look-up that has missed and won the lease of its key; its load is under way on the returned id.
    fn loading(&mut self) -> (LinkId, Receiver<Values>, LoadId) {
        let answer = self.ask();
        let (link, _) = self.only_sent();
        self.answer(link, Answer::Values(vec![None]));
        let (link, claim) = self.only_sent();
        let Command::Claim(claim) = claim else { panic!("{claim:?}") };
        self.answer(link, Answer::Claimed(vec![Claimed::Won(claim.token)]));
        (link, answer, self.loads.pop().unwrap())
    }

    fn loaded(&mut self, load: LoadId, value: &'static str) {
        self.tell(Event::Loaded { load, result: Ok(vec![Some(text(value))]) });
    }

    /// What the end of the only lease came to.
    fn ended(&mut self) -> Found {
        match self.only_sent().1 {
            Command::FillLeased(mut fills) if fills.len() == 1 => fills.remove(0).found,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_hedge_goes_to_another_connection_and_the_slower_answer_is_ignored() {
    let mut script = Script::new(GuardConfig { hedge: true, ..GuardConfig::default() });
    let answer = script.ask();
    let (slow, first) = script.only_sent();
    script.wait(9 * MS);
    assert!(script.sent.is_empty(), "not late yet: {:?}", script.sent);
    script.wait(2 * MS);
    let (fast, second) = script.only_sent();
    assert_ne!(slow, fast);
    assert_eq!((&first, &second), (&Command::Get(vec![key()]), &first), "the same, once more");
    script.answer(fast, Answer::Values(vec![Some(text("fast"))]));
    assert_eq!(answer.try_recv().unwrap(), Ok(vec![Some(text("fast"))]));
    script.answer(slow, Answer::Values(vec![Some(text("slow"))]));
    assert_eq!(script.near(), Some(text("fast")), "what came late changes nothing");
    assert!(script.sent.is_empty() && answer.try_recv().is_err());
    let counters = &script.core.counters;
    assert_eq!((counters.hedges.load(Relaxed), counters.errors.load(Relaxed)), (1, 0));
    // Both connections carry work again.
    script.near.forget_all();
    let again = script.ask();
    let (link, _) = script.only_sent();
    script.answer(link, Answer::Values(vec![Some(text("again"))]));
    assert_eq!(again.try_recv().unwrap(), Ok(vec![Some(text("again"))]));
}

#[test]
fn a_key_changed_by_another_client_while_it_is_loaded_is_not_written() {
    let mut script = Script::new(GuardConfig::default());
    let (link, answer, load) = script.loading();
    script.answer(link, Answer::Changed(Some(vec![key()])));
    script.loaded(load, "old");
    assert_eq!(answer.try_recv().unwrap(), Ok(vec![Some(text("old"))]), "asked before the change");
    assert_eq!((script.ended(), script.near()), (Found::Nothing, None), "given back, and kept nowhere");
    // Undisturbed, it is written.
    let mut script = Script::new(GuardConfig::default());
    let (_, _, load) = script.loading();
    script.loaded(load, "new");
    assert!(matches!(script.ended(), Found::Value { value, .. } if value == text("new")));
}

#[test]
fn a_connection_that_would_have_told_of_a_change_takes_the_right_to_write_with_it() {
    let mut script = Script::new(GuardConfig::default());
    let (link, answer, load) = script.loading();
    script.tell(Event::Down { link, error: "cut".into() });
    (0..5).for_each(|_| script.wait(20 * MS));
    script.loaded(load, "old");
    assert_eq!(answer.try_recv().unwrap(), Ok(vec![Some(text("old"))]));
    assert_eq!((script.ended(), script.near()), (Found::Nothing, None));
}

#[test]
fn a_value_deleted_by_another_client_while_it_is_renewed_stays_deleted_and_one_that_expires_is_written() {
    for (waits_ms, written) in [(10, false), (1_200, true)] {
        let mut script = Script::new(GuardConfig { ttl: Duration::from_secs(1), ..GuardConfig::default() });
        let (link, _, load) = script.loading();
        script.loaded(load, "first");
        script.sent.clear();
        script.answer(link, Answer::Filled(vec![true]));
        script.tell(Event::Renew { entries: vec![(key(), text("first"))] });
        let (link, claim) = script.only_sent();
        let Command::Claim(claim) = claim else { panic!("{claim:?}") };
        script.answer(link, Answer::Claimed(vec![Claimed::Won(claim.token)]));
        let load = script.loads.pop().unwrap();
        script.now_ns += waits_ms * MS;
        script.answer(link, Answer::Changed(Some(vec![key()])));
        script.loaded(load, "second");
        let found = script.sent.drain(..).find_map(|(_, command)| match command {
            Command::FillLeased(mut fills) => Some(fills.remove(0).found),
            _ => None,
        });
        assert_eq!(matches!(found, Some(Found::Value { .. })), written, "{waits_ms} ms: {found:?}");
    }
}

#[test]
fn who_waits_for_another_processs_load_asks_as_soon_as_the_key_is_changed() {
    let mut script = Script::new(GuardConfig::default());
    let answer = script.ask();
    let (link, _) = script.only_sent();
    script.answer(link, Answer::Values(vec![None]));
    script.wait(40 * MS);
    script.sent.clear();
    script.answer(link, Answer::Claimed(vec![Claimed::Held]));
    script.wait(MS);
    assert!(script.sent.is_empty(), "a quarter of 40 ms is to be waited: {:?}", script.sent);
    script.answer(link, Answer::Changed(Some(vec![key()])));
    let (link, claim) = script.only_sent();
    assert!(matches!(claim, Command::Claim(_)), "{claim:?}");
    script.answer(link, Answer::Claimed(vec![Claimed::Value(text("theirs"))]));
    assert_eq!(answer.try_recv().unwrap(), Ok(vec![Some(text("theirs"))]));
    script.wait(20 * MS);
    assert!(script.sent.is_empty(), "nothing is left to be asked: {:?}", script.sent);
}
