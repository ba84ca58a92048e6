//! The system of record's own threads: a bounded number of blocking queries, each for a whole batch of misses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::core::{Event, LoadId};
use crate::driver::Inbox;
use crate::error::{GuardError, LoadError};

/// Answers batches of misses from the system of record.
pub trait Loader: Send + Sync + 'static {
    /// One value per key in the same order; `None` means that the key does not exist there. May block; at most
    /// `GuardConfig::loaders` calls run at once.
    ///
    /// # Errors
    /// When the batch could not be read; every look-up that waits for one of its keys gets this error.
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError>;
}

impl<F> Loader for F
where
    F: Fn(&[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> + Send + Sync + 'static,
{
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self(keys)
    }
}

type Job = (LoadId, Vec<Bytes>);

/// Hands jobs to the threads; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct LoaderPool {
    jobs: Sender<Job>,
}

impl LoaderPool {
    pub(crate) fn start(
        threads: usize,
        loader: &Arc<dyn Loader>,
        inbox: &Arc<Inbox>,
    ) -> Result<Self, GuardError> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads.max(1) {
            let (loader, inbox, queue) = (Arc::clone(loader), Arc::clone(inbox), Arc::clone(&queue));
            std::thread::Builder::new()
                .name(format!("guard-load-{number}"))
                .spawn(move || work(&*loader, &inbox, &queue))
                .map_err(|error| GuardError::Start(error.to_string()))?;
        }
        Ok(Self { jobs })
    }

    pub(crate) fn submit(&self, load: LoadId, keys: Vec<Bytes>) {
        // The threads outlive this sender and catch what a loader throws, so somebody receives.
        drop(self.jobs.send((load, keys)));
    }
}

fn work(loader: &dyn Loader, inbox: &Inbox, queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((load, keys)) = job else { return };
        let result = catch_unwind(AssertUnwindSafe(|| loader.load(&keys)))
            .unwrap_or_else(|_| Err(LoadError("the loader panicked".into())));
        inbox.push(Event::Loaded { load, result });
    }
}
