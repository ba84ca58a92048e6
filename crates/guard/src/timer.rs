//! A timer finer than a millisecond: lingers are tens of microseconds, the runtime's own wheel turns once per millisecond.

use std::time::Duration;

#[cfg(target_os = "linux")]
mod fine {
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    use super::Duration;

    /// The kernel's timer (`timerfd`) on the runtime's poll loop.
    pub(crate) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        pub(crate) fn new() -> std::io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            // SAFETY: the descriptor is moved into the AsyncFd and never leaves it, so it stays open while it is registered.
            Ok(Self(unsafe { AsyncFd::register(timer) }?))
        }

        pub(crate) async fn sleep(&self, wait: Duration) {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let wait = wait.max(Duration::from_nanos(1)); // zero would disarm it
            let it_value = Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            };
            let spec = Itimerspec { it_interval: zero, it_value };
            // Setting the time also forgets an earlier expiry. If the kernel refuses, the coarse wheel still wakes us.
            if timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec).is_err() {
                tokio::time::sleep(wait).await;
                return;
            }
            loop {
                let Ok(mut ready) = self.0.readable().await else { return };
                let mut count = [0_u8; 8];
                if rustix::io::read(&self.0, &mut count).is_ok() {
                    return;
                }
                ready.clear_ready();
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod fine {
    use super::Duration;

    /// The runtime's own wheel.
    pub(crate) struct Timer;

    impl Timer {
        pub(crate) fn new() -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(crate) async fn sleep(&self, wait: Duration) {
            tokio::time::sleep(wait).await;
        }
    }
}

pub(crate) use fine::Timer;
