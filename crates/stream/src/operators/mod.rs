//! The operators, one file each.

pub mod aggregate;
pub mod cache_join;
pub mod filter;
pub mod flat_map;
pub mod foreign_key_join;
pub mod project;
pub mod rekey;
pub mod session;
pub mod stream_stream_join;
pub mod stream_table_join;
pub mod table_state;
pub mod table_table_join;
