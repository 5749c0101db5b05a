//! The control socket of a running process: `control` in the first data folder, for its owner only.
//!
//! ```text
//! client    down | down force | check | doctor | stats   one line
//!           set [[KEY,VALUE],..]                         of none: what holds
//! server    say TEXT                                     any number of lines
//!           end STATUS TEXT                              the last; STATUS 0, 1 or 2
//! ```
//! A connection serves one request. `down` goes to the main thread, which ends the process; the
//! others run beside everything else. The doctor and the stats say one line of JSON.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, failed, refused};
use crate::node::check::{Checker, Said};
use crate::node::doctor::Doctor;
use crate::node::meters::MeterReader;
use crate::node::tuning::Tuning;

pub const NAME: &str = "control";
/// Asks for changes of settings: the word, and the changes as JSON.
pub const SET: &str = "set ";
/// Longest request line.
const LINE_MAX: u64 = 8 << 10;
/// Connections served at a time; further ones are turned away.
const CONNECTIONS_MAX: usize = 8;
/// A client that says nothing for so long is let go.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Whom the requests are about.
#[derive(Clone)]
pub struct Inside {
    pub checker: Checker,
    pub doctor: Doctor,
    pub meters: MeterReader,
    pub tuning: Tuning,
}

/// A request to end.
pub struct DownRequest {
    pub force: bool,
    pub reply: Reply,
}

/// The answering side of a connection. The client may be gone; that changes nothing here.
pub struct Reply(UnixStream);

impl Reply {
    pub fn say(&mut self, text: &str) {
        self.line(&format!("say {}", flat(text)));
    }

    pub fn end(mut self, status: u8, text: &str) {
        self.line(&format!("end {status} {}", flat(text)));
    }

    fn line(&mut self, line: &str) {
        if let Err(e) = writeln!(self.0, "{line}") {
            tracing::debug!("a control client has gone: {e}");
        }
    }
}

/// One line, whatever it was.
fn flat(text: &str) -> String {
    text.replace('\n', " ")
}

/// A path to the socket that fits into an address however deep the folder is: through a descriptor
/// of the folder, which lives as long as the first of the pair.
fn address(folder: &Path) -> io::Result<(fs::File, PathBuf)> {
    let f = fs::File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{NAME}", f.as_raw_fd());
    Ok((f, path.into()))
}

/// The socket file goes with it.
pub struct Server(PathBuf);

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            tracing::debug!("{} stays; the next start replaces it: {e}", self.0.display());
        }
    }
}

/// Listens in the data folder, whose lock we hold, so that a socket found there is a dead one.
pub fn serve(
    folder: &Path,
    inside: Inside,
    on_down: impl Fn(DownRequest) + Send + Sync + 'static,
) -> Result<Server, Failure> {
    let path = folder.join(NAME);
    let listen = || -> io::Result<UnixListener> {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let (_folder, address) = address(folder)?;
        let listener = UnixListener::bind(address)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let cannot = |e| failed(format!("cannot listen at {}: {e}", path.display()));
    let listener = listen().map_err(cannot)?;
    let (on_down, busy) = (Arc::new(on_down), Arc::new(AtomicUsize::new(0)));
    let accept = move || {
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(e) => {
                    tracing::warn!("the control socket failed: {e}");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if busy.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                busy.fetch_sub(1, Ordering::Relaxed);
                Reply(stream).end(1, "too many control connections; try again");
                continue;
            }
            let (inside, on_down, busy) = (inside.clone(), on_down.clone(), busy.clone());
            std::thread::spawn(move || {
                answer(stream, &inside, &*on_down);
                busy.fetch_sub(1, Ordering::Relaxed);
            });
        }
    };
    std::thread::Builder::new().name("t3fs-control".into()).spawn(accept).map_err(cannot)?;
    Ok(Server(path))
}

fn answer(stream: UnixStream, inside: &Inside, on_down: &dyn Fn(DownRequest)) {
    let mut line = String::new();
    let read = stream
        .set_read_timeout(Some(REQUEST_MAX))
        .and_then(|()| BufReader::new((&stream).take(LINE_MAX)).read_line(&mut line));
    if let Err(e) = read {
        tracing::debug!("a control client said nothing: {e}");
        return;
    }
    let mut reply = Reply(stream);
    match line.trim() {
        "down" => on_down(DownRequest { force: false, reply }),
        "down force" => on_down(DownRequest { force: true, reply }),
        "check" => {
            for said in inside.checker.run() {
                match said {
                    Said::Line(text) => reply.say(&text),
                    Said::End(well) => return reply.end(u8::from(!well), ""),
                }
            }
            reply.end(1, "the node is ending");
        }
        "doctor" => in_json(reply, inside.doctor.look()),
        "stats" => in_json(reply, inside.meters.look()),
        line if line.starts_with(SET) => set(reply, &line[SET.len()..], &inside.tuning),
        other => reply.end(2, &format!("unknown request {other:?}; use this version's t3fs-node")),
    }
}

fn set(mut reply: Reply, changes: &str, tuning: &Tuning) {
    let made = serde_json::from_str::<Vec<(String, String)>>(changes)
        .map_err(|e| refused(format!("no changes of settings: {e}")))
        .and_then(|changes| match changes.is_empty() {
            true => Ok(tuning.look()),
            false => tuning.change(&changes),
        });
    match made {
        Ok(remarks) => {
            remarks.iter().for_each(|remark| reply.say(remark));
            reply.end(0, "");
        }
        Err(why) => reply.end(why.status, &why.line),
    }
}

fn in_json(mut reply: Reply, found: Result<impl Serialize, Failure>) {
    match found {
        Ok(view) => {
            reply.say(&serde_json::to_string(&view).expect("texts and numbers"));
            reply.end(0, "");
        }
        Err(why) => reply.end(why.status, &why.line),
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub status: u8,
    pub text: String,
}

/// Asks the process that serves this data folder. `Ok(None)`: it went away without a last line.
pub fn ask(folder: &Path, request: &str, say: &mut dyn FnMut(&str)) -> io::Result<Option<Ended>> {
    let (_folder, address) = address(folder)?;
    let mut stream = UnixStream::connect(address)?;
    writeln!(stream, "{request}")?;
    for line in BufReader::new(stream).lines() {
        let line = match line {
            Ok(line) => line,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(e),
        };
        if let Some(text) = line.strip_prefix("say ") {
            say(text);
        } else if let Some(rest) = line.strip_prefix("end ") {
            let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
            return Ok(Some(Ended { status: status.parse().unwrap_or(1), text: text.to_owned() }));
        }
    }
    Ok(None)
}

/// Asks for something that is said in one line of JSON.
pub fn ask_for<T: DeserializeOwned>(folder: &Path, request: &str) -> Result<T, Failure> {
    let mut said = String::new();
    let end = ask(folder, request, &mut |line| said = line.to_owned())
        .map_err(|e| failed(format!("the process of {} does not answer: {e}", folder.display())))?;
    match end {
        Some(end) if end.status == 0 => serde_json::from_str(&said)
            .map_err(|e| failed(format!("the answer is of another version of t3fs-node: {e}"))),
        Some(end) => Err(Failure { status: end.status, line: end.text }),
        None => Err(failed("the process ended while it looked")),
    }
}
