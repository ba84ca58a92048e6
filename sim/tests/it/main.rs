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

#[test]
fn guards_in_trouble_answer_right_or_say_so() {
    change("guard-trouble");
}

#[test]
fn leases_and_flights_are_one_copy() {
    change("one-copy-guard");
}

#[test]
fn the_guards_planted_faults_are_found() {
    change("guard-faults");
}

#[test]
fn simulation() {
    change("simulation");
}

#[test]
fn simulation_long() {
    change("simulation-long");
}

#[test]
fn determinism() {
    change("determinism");
}

#[test]
fn planted() {
    change("planted");
}

#[test]
fn a_power_cut_loses_nothing_acknowledged_as_durable() {
    change("power-cut");
}

#[test]
fn a_late_message_ends_extends_or_tears_no_newer_transaction() {
    change("late-transactions");
}

#[test]
fn rot_in_a_data_folder_is_found_or_harmless() {
    change("rot");
}

#[test]
fn a_failing_disk_loses_and_doubles_nothing_acknowledged() {
    change("failing-disk");
}

#[test]
fn offsets_and_event_ids_behave_as_one_copy() {
    change("one-copy");
}

/// Takes about a minute.
#[test]
fn every_acknowledged_record_transaction_and_result_survives_100_kills() {
    change("kill");
}
