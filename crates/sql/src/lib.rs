//! ksqlDB's SQL: text to syntax tree to plan, the catalog, the engine that carries statements out, and the runner of
//! the SQL cases.
//!
//! | room | what is in it |
//! |---|---|
//! | `parser`, `ast`, `printer` | text to syntax tree and back |
//! | `catalog`, `with`, `analyse` | what names mean; types; plans for `herdsman_stream` |
//! | [`engine`] | statements, persistent queries, push and pull queries, the command topic |
//! | [`testing`] | `herdsman test`: ksqlDB's case files against this engine |
//! | [`export`] | the same script in Apache Flink's SQL |

mod analyse;
mod ast;
mod catalog;
mod diagnostic;
pub mod engine;
pub mod export;
mod parser;
mod printer;
mod standalone;
pub mod testing;
mod with;

pub use diagnostic::{Place, SqlError, Stage};
pub use engine::{Engine, EngineConfig, Entity, QueryHandle, QueryRow, Session, StatementClass};
pub use parser::{DEPTH_MAX, SCRIPT_BYTES_MAX};
pub use standalone::compile_expression;
