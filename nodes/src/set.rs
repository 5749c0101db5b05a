//! `t3fs-node set KEY=VALUE ..`: changes settings of a running process, which hold until it ends.
//! Without a change: which may change, and what holds.

use crate::cli::SetArgs;
use crate::config;
use crate::control;
use crate::failure::{Failure, failed, refused};
use crate::logging::tell;
use crate::running::{home_of, only_home};

pub fn run(args: &SetArgs) -> Result<(), Failure> {
    let changes: Vec<(&str, &str)> =
        args.changes.iter().map(|c| pair(c)).collect::<Result<_, _>>()?;
    let home = match &args.of {
        Some(place) => home_of(place)?,
        None => only_home(&config::load(config::Flags::default())?.0)?
            .ok_or_else(|| failed("no t3fs-node is running here; name one with --of"))?,
    };
    let request = format!("{}{}", control::SET, serde_json::to_string(&changes).expect("texts"));
    let end = control::ask(&home, &request, &mut |line| tell(line))
        .map_err(|e| failed(format!("the process of {} does not answer: {e}", home.display())))?;
    match end {
        Some(end) if end.status == 0 => Ok(()),
        Some(end) => Err(Failure { status: end.status, line: end.text }),
        None => Err(failed("the process ended before it said that it has changed anything")),
    }
}

fn pair(change: &str) -> Result<(&str, &str), Failure> {
    let parts = change.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty());
    parts.ok_or_else(|| {
        refused(format!("{change:?} changes nothing; write KEY=VALUE, as in log=debug"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_a_key_and_a_value() {
        assert_eq!(pair("log=debug,t3fs=trace"), Ok(("log", "debug,t3fs=trace")));
        for wrong in ["log", "log=", "=5", ""] {
            assert!(pair(wrong).unwrap_err().line.contains("KEY=VALUE"), "{wrong}");
        }
    }
}
