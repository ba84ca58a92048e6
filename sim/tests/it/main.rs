//! Every row of the ledger passes the figure that a change must pass.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use herdsman_sim::{Order, rows};

/// Runs a row's change figure from seed 1; a row's own test names it.
fn change(name: &str) {
    let row = rows::find(name).unwrap();
    let outcome = (row.run)(&Order { from: 1, count: row.change });
    match outcome {
        Ok(tally) => {
            println!("{name}: {tally:?}");
            assert!(tally.done >= row.change, "{name}: {} of {} done", tally.done, row.change);
        }
        Err(failure) => panic!("{name}, seed {}: {}", failure.seed, failure.what),
    }
}

/// Takes about a minute.
#[test]
fn every_acknowledged_record_transaction_and_result_survives_100_kills() {
    change("kill");
}

#[test]
fn hostile_sockets_cost_little_memory_and_good_clients_are_served() {
    change("hostile");
}
