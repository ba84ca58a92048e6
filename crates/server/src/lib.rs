//! Wires the rooms together: configuration, listeners, HTTP, shutdown. Nothing else in the house does.

mod caches;
pub mod config;
mod error;
mod house;
pub mod http;
pub mod listen;
mod nearest;
mod security;

pub use config::{CacheConfig, Config, LoaderConfig};
pub use error::ServerError;
pub use house::House;
pub use nearest::{nearest, unreadable};
pub use security::{ListenerConfig, SecuritySettings, UserConfig};
