//! Debian's perftest: the usual measure of what a device does between two programs.

use std::fmt;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use t3fs_transport::rdma::Devices;

/// Where its programs listen.
const PORT: u16 = 18_515;
const TRIPS: usize = 1000;
const MESSAGE: usize = 64;
/// Bytes moved for a rate.
const VOLUME: usize = 64 << 20;

/// Programs on the first usable port, client and server on this host.
pub struct Perftest {
    device: String,
    gid: String,
    address: String,
}

impl fmt::Display for Perftest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, self.address)
    }
}

impl Perftest {
    pub fn on(devices: &Devices) -> Perftest {
        let usable = devices.report().into_iter().find(|d| d.unusable.is_none());
        let port = usable.expect("there is one");
        let gid = port.gids.iter().find(|g| !g.addresses.is_empty()).expect("of a usable port");
        Perftest {
            device: port.device.clone(),
            gid: gid.index.to_string(),
            address: gid.addresses[0].to_string(),
        }
    }

    /// Round trips a second; polled, or waiting for events.
    pub fn trips(&self, events: bool) -> f64 {
        // In cycles: what it takes for the length of one is wrong in emulated machines.
        let mut options = vec!["-C".into(), "-n".into(), TRIPS.to_string()];
        options.extend(events.then(|| "-e".into()));
        // Its typical latency is that of one way.
        cycles_a_second() / (2.0 * self.run("ib_send_lat", MESSAGE, &options, 4))
    }

    /// MiB a second of a program that measures bandwidth.
    pub fn rate(&self, program: &str, len: usize) -> f64 {
        self.run(program, len, &["-n".into(), (VOLUME / len).to_string()], 3)
    }

    /// A column of the line that it prints for messages of this length.
    fn run(&self, program: &str, len: usize, options: &[String], column: usize) -> f64 {
        let mut server = self.start(program, len, options, None);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !listens() {
            assert!(Instant::now() < deadline, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let client = self.start(program, len, options, Some(&self.address));
        let done = client.wait_with_output().expect("our own child");
        if !done.status.success() {
            server.kill().expect("our own child");
        }
        server.wait().expect("our own child");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let len = len.to_string();
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(&len));
        let value = line.and_then(|l| l.split_whitespace().nth(column)?.parse().ok());
        value.unwrap_or_else(|| panic!("{program} printed no result: {text}"))
    }

    fn start(&self, program: &str, len: usize, options: &[String], peer: Option<&str>) -> Child {
        let len = len.to_string();
        Command::new(program)
            .args(["-F", "-d", &self.device, "-x", &self.gid, "-s", &len])
            .args(options)
            .args(peer)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}; install perftest"))
    }
}

/// By the kernel's own measure.
fn cycles_a_second() -> f64 {
    let text = fs::read_to_string("/proc/cpuinfo").expect("of Linux");
    let line = text.lines().find(|l| l.starts_with("cpu MHz"));
    let mhz = line.and_then(|l| l.split(':').nth(1)?.trim().parse::<f64>().ok());
    1e6 * mhz.expect("x86 tells its frequency")
}

/// Whether somebody listens at [`PORT`].
fn listens() -> bool {
    let wanted = format!(":{PORT:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let text = fs::read_to_string(table).unwrap_or_default();
        text.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next().unwrap_or_default(), words.nth(1));
            local.ends_with(&wanted) && state == Some("0A")
        })
    })
}
