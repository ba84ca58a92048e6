//! The doors outside: clock, disk, net and seed, each with a real and a simulated side.
//!
//! Nothing else in the house reads the operating system's clock or touches a file directly on the log's path,
//! so a seeded simulation owns everything that can differ between two runs.

pub mod clock;
pub mod disk;
pub mod net;
pub mod seed;

pub use clock::{Clock, RealClock, SimClock};
pub use disk::{Call, Crash, Disk, DiskFile, Fate, LockError, LockGuard, PlantedDisk, RealDisk, SimDisk};
pub use net::{Listener, Net, RealNet, SimNet, Stream};
pub use seed::Seed;
