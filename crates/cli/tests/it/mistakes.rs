//! The twenty mistakes that users make, each answered in one line: what, which one, what to do next; exit code 1, or 2 for a
//! wrong call.
//!
//! | # | mistake | answered in |
//! |---|---|---|
//! | 1 | wrong port | `calls::a_wrong_address_…`, `calls::something_else_at_the_address_…` |
//! | 2 | port in use | `calls::a_port_in_use_…` |
//! | 3 | misspelt column | `statements::a_misspelt_column_…`, `calls::checks_…` |
//! | 4 | wrong format | `running::records_of_another_format_…` |
//! | 5 | missing file | `calls::a_missing_file_…`, `calls::a_missing_input_file_…` |
//! | 6 | bad YAML step | `calls::checks_…` |
//! | 7 | dead cache | `running::a_dead_cache_…` |
//! | 8 | disk full | `full_disk::…` |
//! | 9 | wrong authentication | `calls::a_wrong_login_…` |
//! | 10 | unknown flag | `calls::an_unknown_flag_…` |
//! | 11 | missing topic | `calls::a_missing_topic_…`, `statements::a_misspelt_topic_…` |
//! | 12 | type mismatch | `statements::values_of_two_types_…` |
//! | 13 | late data dropped | `running::late_events_…` |
//! | 14 | unkeyed join | `running::a_table_whose_messages_have_other_keys_…` |
//! | 15 | partition mismatch | `statements::sides_with_other_partitions_…` |
//! | 16 | wrong time unit | `running::seconds_for_milliseconds_…` |
//! | 17 | duplicate ids | `running::repeated_event_ids_…` |
//! | 18 | giant message | `running::a_giant_message_…` |
//! | 19 | clock skew | `running::a_producer_ahead_of_the_clock_…` |
//! | 20 | two servers, one folder | `calls::a_data_folder_in_use_…` |

mod calls;
mod full_disk;
mod running;
mod statements;

/// `text` without its line end; panics if there are several lines, or a stack trace or `Debug` output among them.
fn one_line(text: &str) -> &str {
    let line = text.trim_end();
    assert_eq!(line.lines().count(), 1, "one line expected:\n{text}");
    for unfit in [" { ", "Error(", "Some(", "panicked at", "os error"] {
        assert!(!line.contains(unfit), "{unfit}: {line}");
    }
    line
}
