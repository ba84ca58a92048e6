//! A Python with Kafka clients in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::test_cache;

/// Versions of the clients, so that a run next year means the same.
const CLIENTS: [&str; 6] = [
    "aiokafka==0.14.0",
    "confluent-kafka==2.16.1",
    "kafka-python==3.0.12",
    "python-snappy==0.7.3",
    "lz4==4.4.5",
    "zstandard==0.25.0",
];

/// A Python with librdkafka's, aiokafka's and kafka-python's clients, made once in the test cache.
pub fn kafka_python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    PYTHON.get_or_init(|| {
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let venv = test_cache().join("kafka-clients");
        let python = venv.join("bin/python");
        let stamp = venv.join("clients.txt");
        let wanted = CLIENTS.join("\n");
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return python;
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(CLIENTS));
        std::fs::write(stamp, wanted).expect("the test cache can be written");
        python
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
