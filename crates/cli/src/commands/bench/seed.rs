//! `herdsman bench seed`: the design that failed beside ours.
//!
//! The seed: HAProxy (HTTP mode, round robin, keep-alive) in front of n stateless workers; each event is one POST,
//! and each worker asks Redis once for the treasure at its place and once to add the player's points. Ours: the same
//! events through [`herdsman_hunt`] with everything on. Both get a rising offered load on the same machine until
//! they break: less than 95 % of the offered load done, or p99 above one second. Latency counts from the moment an
//! event was due, so a system that falls behind cannot hide it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use herdsman_host::{Clock, RealClock};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::free_port;
use crate::failure::Failure;

/// Options of the comparison.
#[derive(Args)]
pub struct Seed {
    /// Workers behind HAProxy
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Seconds for each offered load
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Run as a worker of the seed on this port (started by the benchmark itself)
    #[arg(long, hide = true, requires = "redis")]
    worker: Option<u16>,
    /// Redis port of a worker
    #[arg(long, hide = true)]
    redis: Option<u16>,
}

/// One offered load.
#[derive(Debug, Clone, Serialize)]
struct Point {
    design: &'static str,
    offered_per_s: u64,
    done_per_s: u64,
    p50_ms: f64,
    p99_ms: f64,
    cache_requests_per_event: f64,
    broke: bool,
}

const SEED_LOADS: [u64; 10] = [1_000, 2_000, 4_000, 8_000, 12_000, 16_000, 24_000, 32_000, 64_000, 128_000];
const OUR_LOADS: [u64; 9] =
    [100_000, 250_000, 500_000, 750_000, 1_000_000, 1_250_000, 1_500_000, 2_000_000, 3_000_000];
const CONNECTIONS: usize = 256;

impl Seed {
    /// Runs both designs and prints the table.
    pub fn run(self) -> Result<(), Failure> {
        if let (Some(port), Some(redis)) = (self.worker, self.redis) {
            return worker(port, redis);
        }
        for program in ["haproxy", "redis-server"] {
            if find(program).is_none() {
                return Err(Failure::new(format!("no {program} here: apt-get install {program}")));
            }
        }
        let mut points = Vec::new();
        let fleet = Fleet::start(self.workers)?;
        for offered in SEED_LOADS {
            let point = fleet.measure(offered, Duration::from_secs(self.seconds))?;
            let broke = point.broke;
            self.tell(&point);
            points.push(point);
            if broke {
                break;
            }
        }
        drop(fleet);
        for offered in OUR_LOADS {
            let point = ours(offered, self.seconds)?;
            let broke = point.broke;
            self.tell(&point);
            points.push(point);
            if broke {
                break;
            }
        }
        if !self.json {
            table(&points);
        }
        Ok(())
    }

    fn tell(&self, point: &Point) {
        match serde_json::to_string(point) {
            Ok(line) if self.json => println!("{line}"),
            Ok(line) => eprintln!("{line}"),
            Err(_) => {}
        }
    }
}

fn table(points: &[Point]) {
    println!("design                     offered/s     done/s   p50 ms   p99 ms  cache requests/event");
    for point in points {
        println!(
            "{:<24} {:>11} {:>10} {:>8.1} {:>8.1} {:>10.4}{}",
            point.design,
            point.offered_per_s,
            point.done_per_s,
            point.p50_ms,
            point.p99_ms,
            point.cache_requests_per_event,
            if point.broke { "   broke" } else { "" },
        );
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// HAProxy, workers and Redis; stopped by pid when dropped.
struct Fleet {
    children: Vec<Child>,
    front: SocketAddr,
    redis: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Fleet {
    fn start(workers: usize) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let redis = free_port()?;
        let mut children = Vec::new();
        let mut quiet = |command: &mut Command| -> Result<(), Failure> {
            children.push(command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).spawn()?);
            Ok(())
        };
        quiet(
            Command::new(find("redis-server").unwrap_or_default())
                .args([
                    "--port",
                    &redis.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ])
                .current_dir(folder.path()),
        )?;
        let ports = (0..workers).map(|_| free_port()).collect::<Result<Vec<_>, _>>()?;
        let program = std::env::current_exe()?;
        for port in &ports {
            quiet(Command::new(&program).args([
                "bench",
                "seed",
                "--worker",
                &port.to_string(),
                "--redis",
                &redis.to_string(),
            ]))?;
        }
        let front = free_port()?;
        let config = folder.path().join("haproxy.cfg");
        write_haproxy(&config, front, &ports)?;
        quiet(Command::new(find("haproxy").unwrap_or_default()).arg("-f").arg(&config).arg("-db"))?;
        let fleet =
            Self { children, front: SocketAddr::from(([127, 0, 0, 1], front)), redis, _folder: folder };
        for port in ports.iter().chain([&front, &redis]) {
            wait_for(*port)?;
        }
        Ok(fleet)
    }

    /// Commands that Redis has answered so far.
    fn redis_commands(&self) -> Result<u64, Failure> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.redis))?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        stream.write_all(b"INFO stats\r\n")?;
        let mut text = String::new();
        let mut buffer = [0; 4_096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
        }
        text.lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"))
            .and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| Failure::new("Redis does not tell its command count"))
    }

    fn measure(&self, offered: u64, time: Duration) -> Result<Point, Failure> {
        let before = self.redis_commands()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let shared =
            Arc::new(Load { next: AtomicU64::new(0), offered, start_ns: RealClock.monotonic_ns(), time });
        let events = Arc::new(sample_events()?);
        let front = self.front;
        let mut latency = Histogram::<u64>::new(3)?;
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|_| runtime.spawn(client(front, Arc::clone(&shared), Arc::clone(&events))))
            .collect();
        for task in tasks {
            let part = runtime.block_on(task)?.map_err(Failure::new)?;
            latency.add(part)?;
        }
        let elapsed_s =
            Duration::from_nanos(RealClock.monotonic_ns() - shared.start_ns).as_secs_f64().max(1e-9);
        let done = latency.len();
        // INFO itself is one command
        let asked = self.redis_commands()?.saturating_sub(before + 1);
        Ok(point("seed (HAProxy + Redis)", offered, done, elapsed_s, &latency, asked))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates and counts far below 2^53"
)]
fn point(
    design: &'static str,
    offered: u64,
    done: u64,
    elapsed_s: f64,
    latency: &Histogram<u64>,
    asked: u64,
) -> Point {
    let done_per_s = done as f64 / elapsed_s;
    let p99_ms = latency.value_at_quantile(0.99) as f64 / 1e3;
    Point {
        design,
        offered_per_s: offered,
        done_per_s: done_per_s as u64,
        p50_ms: latency.value_at_quantile(0.50) as f64 / 1e3,
        p99_ms,
        cache_requests_per_event: asked as f64 / (done.max(1)) as f64,
        broke: done_per_s < offered as f64 * 0.95 || p99_ms > 1_000.0,
    }
}

fn write_haproxy(path: &Path, front: u16, workers: &[u16]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    writeln!(
        file,
        "global\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n  option http-keep-alive\n  http-reuse always"
    )?;
    writeln!(
        file,
        "frontend events\n  bind 127.0.0.1:{front}\n  default_backend workers\nbackend workers\n  balance roundrobin"
    )?;
    for (index, port) in workers.iter().enumerate() {
        writeln!(file, "  server w{index} 127.0.0.1:{port}")?;
    }
    Ok(())
}

fn wait_for(port: u16) -> Result<(), Failure> {
    for _ in 0..100 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Failure::new(format!("nothing answers on port {port} after 5 s")))
}

/// The offered load: event i is due at start + i / rate.
struct Load {
    next: AtomicU64,
    offered: u64,
    start_ns: u64,
    time: Duration,
}

impl Load {
    fn take(&self) -> Option<(u64, u64)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let due_ns = u64::try_from(u128::from(index) * 1_000_000_000 / u128::from(self.offered)).ok()?;
        (due_ns < u64::try_from(self.time.as_nanos()).ok()?).then_some((index, self.start_ns + due_ns))
    }
}

/// The first check-ins of the season as HTTP requests.
fn sample_events() -> Result<Vec<Vec<u8>>, Failure> {
    let values = herdsman_hunt::sample(100_000).map_err(Failure::new)?;
    Ok(values
        .into_iter()
        .map(|body| {
            let mut request = format!("POST /event HTTP/1.1\r\nhost: seed\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
            request.extend_from_slice(&body);
            request
        })
        .collect())
}

async fn client(
    front: SocketAddr,
    load: Arc<Load>,
    events: Arc<Vec<Vec<u8>>>,
) -> Result<Histogram<u64>, String> {
    let mut latency = Histogram::<u64>::new(3).map_err(|error| error.to_string())?;
    let mut stream = TcpStream::connect(front).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut reply = vec![0; 4_096];
    let end_ns = load.start_ns + u64::try_from(load.time.as_nanos()).unwrap_or(u64::MAX) + 2_000_000_000;
    while let Some((index, due_ns)) = load.take() {
        let now_ns = RealClock.monotonic_ns();
        if now_ns > end_ns {
            break;
        }
        if due_ns > now_ns {
            tokio::time::sleep(Duration::from_nanos(due_ns - now_ns)).await;
        }
        let at = usize::try_from(index).unwrap_or(0) % events.len().max(1);
        let Some(request) = events.get(at) else { break };
        stream.write_all(request).await.map_err(|error| error.to_string())?;
        read_reply(&mut stream, &mut reply).await.map_err(|error| error.to_string())?;
        let _ = latency.record((RealClock.monotonic_ns().saturating_sub(due_ns) / 1_000).max(1));
    }
    Ok(latency)
}

/// Reads one HTTP reply whose body is empty.
async fn read_reply(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    loop {
        let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) else {
            return Err(std::io::Error::other("an HTTP reply of more than 4 KiB"));
        };
        let read = stream.read(room).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if buffer.get(..filled).is_some_and(|reply| reply.ends_with(b"\r\n\r\n")) {
            return Ok(());
        }
    }
}

/// A stateless worker: per event, one GET for the treasure and one INCRBY for the points, each a round trip.
fn worker(port: u16, redis: u16) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let pool = Arc::new(tokio::sync::Mutex::new(Vec::<TcpStream>::new()));
        let app = axum::Router::new().route(
            "/event",
            axum::routing::post(move |body: axum::body::Bytes| {
                let pool = Arc::clone(&pool);
                async move {
                    match play(&pool, redis, &body).await {
                        Ok(()) => axum::http::StatusCode::NO_CONTENT,
                        Err(_) => axum::http::StatusCode::BAD_GATEWAY,
                    }
                }
            }),
        );
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        axum::serve(listener, app).await
    })?;
    Ok(())
}

async fn play(pool: &tokio::sync::Mutex<Vec<TcpStream>>, redis: u16, body: &[u8]) -> std::io::Result<()> {
    let event: serde_json::Value = serde_json::from_slice(body)?;
    let day = event["actual"].as_i64().unwrap_or(0) / 86_400_000;
    let place = event["place"].as_str().unwrap_or_default();
    let player = event["player"].as_str().unwrap_or_default();
    let taken = pool.lock().await.pop();
    let mut stream = match taken {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(("127.0.0.1", redis)).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    ask(&mut stream, &format!("GET treasure:{day}:{place}\r\n")).await?;
    ask(&mut stream, &format!("INCRBY points:{player} 1\r\n")).await?;
    pool.lock().await.push(stream);
    Ok(())
}

async fn ask(stream: &mut TcpStream, command: &str) -> std::io::Result<()> {
    stream.write_all(command.as_bytes()).await?;
    let mut reply = [0; 256];
    let read = stream.read(&mut reply).await?;
    if read == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// The same load on Herdsman, everything on.
fn ours(offered: u64, seconds: u64) -> Result<Point, Failure> {
    #[expect(clippy::cast_precision_loss, reason = "loads far below 2^53")]
    let summary = super::hunt::measure(super::hunt::Load::PerSecond(offered as f64), seconds, None)?;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts far below 2^53"
    )]
    Ok(Point {
        design: "herdsman hunt",
        offered_per_s: offered,
        done_per_s: summary.events_per_s as u64,
        p50_ms: summary.latency_ms.p50,
        p99_ms: summary.latency_ms.p99,
        cache_requests_per_event: summary.cache.round_trips as f64 / summary.events_in.max(1) as f64,
        broke: summary.events_per_s < offered as f64 * 0.95 || summary.latency_ms.p99 > 1_000.0,
    })
}
