//! A cache as the simulations see it: values and leases that expire, every command carried out at one moment.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Answer, Claim, Claimed, Command, Found, LeasedFill, Want};

/// What a lease says instead of a holder's token.
const ABSENT: u64 = u64::MAX;

/// See the module. Times are nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct ModelCache {
    pub(crate) values: HashMap<Bytes, (Bytes, u64)>,
    leases: HashMap<Bytes, (u64, u64)>,
    /// Values written without a lease.
    pub(crate) unleased: u64,
    /// Values and absences refused because the lease was gone.
    pub(crate) refused: u64,
}

fn until(now_ns: u64, ms: u64) -> u64 {
    now_ns + ms * 1_000_000
}

impl ModelCache {
    pub(crate) fn execute(&mut self, command: &Command, now_ns: u64) -> Answer {
        self.values.retain(|_, (_, expires)| *expires > now_ns);
        self.leases.retain(|_, (_, expires)| *expires > now_ns);
        match command {
            Command::Asking(command) => self.execute(command, now_ns),
            Command::Get(keys) => Answer::Values(keys.iter().map(|key| self.value(key)).collect()),
            Command::Claim(claim) => {
                Answer::Claimed(claim.wants.iter().map(|want| self.claim(want, claim, now_ns)).collect())
            }
            Command::Fill(fills) => {
                for fill in fills {
                    self.unleased += 1;
                    let value = (fill.value.clone(), until(now_ns, fill.ttl_ms));
                    self.values.entry(fill.key.clone()).or_insert(value);
                }
                Answer::Done
            }
            Command::FillLeased(fills) => {
                let taken: Vec<bool> = fills.iter().map(|fill| self.fill(fill, now_ns)).collect();
                self.refused += taken.iter().filter(|taken| !**taken).count() as u64;
                Answer::Filled(taken)
            }
            Command::Extend { leases, lease_ms } => {
                for (key, token) in leases {
                    if let Some((_, expires)) = self.leases.get_mut(key).filter(|(held, _)| held == token) {
                        *expires = until(now_ns, *lease_ms);
                    }
                }
                Answer::Done
            }
            Command::Delete(keys) => {
                for key in keys {
                    self.values.remove(key);
                    self.leases.remove(key);
                }
                Answer::Done
            }
        }
    }

    fn value(&self, key: &Bytes) -> Option<Bytes> {
        self.values.get(key).map(|(value, _)| value.clone())
    }

    fn claim(&mut self, want: &Want, claim: &Claim, now_ns: u64) -> Claimed {
        match (self.value(&want.key), &want.renews) {
            (Some(value), None) => return Claimed::Value(value),
            (value, Some(old)) if value.as_ref() != Some(old) => return Claimed::Held,
            _ => {}
        }
        match self.leases.get(&want.key) {
            Some((ABSENT, _)) => Claimed::Absent,
            Some(_) => Claimed::Held,
            None => {
                self.leases.insert(want.key.clone(), (claim.token, until(now_ns, claim.lease_ms)));
                Claimed::Won(claim.token)
            }
        }
    }

    fn fill(&mut self, fill: &LeasedFill, now_ns: u64) -> bool {
        if self.leases.get(&fill.key).is_none_or(|(token, _)| *token != fill.token) {
            return false;
        }
        self.leases.remove(&fill.key);
        let now = self.value(&fill.key);
        let taken = now.is_none() || now == fill.renews;
        match &fill.found {
            Found::Value { value, ttl_ms } if taken => {
                self.values.insert(fill.key.clone(), (value.clone(), until(now_ns, *ttl_ms)));
            }
            Found::Absent { ttl_ms } if taken => {
                self.values.remove(&fill.key);
                self.leases.insert(fill.key.clone(), (ABSENT, until(now_ns, *ttl_ms)));
            }
            _ => {}
        }
        taken
    }
}
