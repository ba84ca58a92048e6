//! One group and its members: the data of the state machine and the questions it answers about itself.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No member.
    Empty,
    /// Waiting for every member to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Everyone has an assignment.
    Stable,
}

impl State {
    /// Name as ListGroups and DescribeGroups print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// One member.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: u64,
    pub(super) rebalance_timeout_ms: u64,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// Ticket of the join that waits for the rebalance.
    pub(super) awaiting_join: Option<u64>,
    /// Ticket of the sync that waits for the leader.
    pub(super) awaiting_sync: Option<u64>,
    /// Whether it has asked for its assignment in this generation.
    pub(super) synced: bool,
    /// When it is taken for dead, ms.
    pub(super) deadline_ms: u64,
}

impl Member {
    pub(super) fn is_waiting(&self) -> bool {
        self.awaiting_join.is_some() || self.awaiting_sync.is_some()
    }

    pub(super) fn metadata_of(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map(|(_, bytes)| bytes.clone())
            .unwrap_or_default()
    }
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) state: State,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// Member id of each `group.instance.id`.
    pub(super) static_members: HashMap<String, String>,
    /// Member ids given out but not yet joined with, and when they lapse.
    pub(super) pending: HashMap<String, u64>,
    /// Not before this may an initial rebalance complete, ms.
    pub(super) hold_until_ms: Option<u64>,
    /// At this moment the current phase (join or sync) goes on without those who are missing, ms.
    pub(super) phase_deadline_ms: u64,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: HashMap::new(),
            pending: HashMap::new(),
            hold_until_ms: None,
            phase_deadline_ms: u64::MAX,
        }
    }
}

impl Group {
    /// Whether a member with these protocols could join.
    pub(super) fn accepts(
        &self,
        protocol_type: &str,
        protocols: &[(String, Bytes)],
        except: Option<&str>,
    ) -> bool {
        if protocol_type.is_empty() || protocols.is_empty() {
            return false;
        }
        let mut others = self.members.iter().filter(|(id, _)| Some(id.as_str()) != except).peekable();
        if others.peek().is_none() {
            return true;
        }
        if self.protocol_type.as_deref() != Some(protocol_type) {
            return false;
        }
        let others: Vec<_> = others.collect();
        protocols.iter().any(|(name, _)| {
            others.iter().all(|(_, member)| member.protocols.iter().any(|(other, _)| other == name))
        })
    }

    /// The protocol most members prefer among those all support.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        let shared =
            |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(other, _)| other == name));
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| shared(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    pub(super) fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    pub(super) fn longest_rebalance_ms(&self) -> u64 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    /// Takes a member out, its static name with it.
    pub(super) fn remove(&mut self, member_id: &str) -> Option<Member> {
        self.pending.remove(member_id);
        let member = self.members.remove(member_id)?;
        if let Some(instance) = &member.instance_id
            && self.static_members.get(instance).is_some_and(|id| id == member_id)
        {
            self.static_members.remove(instance);
        }
        if self.leader.as_deref() == Some(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }
}
