//! The treasure hunt: event model, SQL, routes and input adapters, on public features only.
//!
//! What a hunt is lies in files that a user could copy: `sql/hunt.sql` (all its rules), `routes/*.yaml` (where its
//! results go), `maps/*.toml` (how other inputs become check-ins). The Rust here reads inputs ([`input`]), paces and
//! sends them ([`feed`]), drops treasures into the system of record ([`treasury`]), measures when results become
//! visible ([`watch`]) and tells how it went ([`summary`]).

pub mod event;
pub mod feed;
mod hunt;
pub mod input;
mod outcome;
pub mod progress;
pub mod summary;
pub mod treasury;
pub mod watch;

pub use feed::{Pace, Replay};
pub use hunt::{Hunt, HuntError, HuntOptions, Snapshot, run};
pub use summary::Summary;

/// The hunt's rules, as public SQL.
pub const SQL: &str = include_str!("../sql/hunt.sql");
/// Where results go without servers.
pub const FILES_ROUTE: &str = include_str!("../routes/files.yaml");

/// The first `count` check-ins of the season as record values (JSON), for benchmarks of other designs.
///
/// # Errors   [`input::InputError`] if the shipped data cannot be read.
pub fn sample(count: usize) -> Result<Vec<Vec<u8>>, input::InputError> {
    use input::Input as _;
    let events = input::Flights::open()?.next(count)?;
    Ok((0..events.len())
        .map(|row| {
            let position = event::encode_position(events.lat.value(row), events.lon.value(row));
            let event = event::Event {
                event_id: events.event_id.value(row),
                player: events.player.value(row),
                place: events.place.value(row),
                kind: events.kind.value(row),
                scheduled_ms: events.scheduled.value(row),
                actual_ms: events.actual.value(row),
                position: &position,
            };
            let mut value = Vec::new();
            event.encode(&mut value);
            value
        })
        .collect())
}
