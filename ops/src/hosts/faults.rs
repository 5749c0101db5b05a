//! What can go wrong between hosts: cables cut, packets lost, lines slow.
//!
//! Cuts and losses are nftables rules on the bridge, for everything that crosses it (also ARP, as
//! when a cable is out); they are replaced whole, in one transaction. Slow lines are token buckets
//! (tc tbf), far hosts are behind tc netem, which not every kernel has; both on both ends of the
//! host's cable.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Hosts, tool};

/// Which way nothing passes, as seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Both,
    /// Nothing reaches the host; what it sends arrives.
    In,
    /// Nothing that the host sends arrives.
    Out,
}

/// What is wrong with one host's cable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    cut: Option<Cut>,
    /// Of packets in each direction.
    loss_percent: u8,
    /// Something of tc is on its cable.
    shaped: bool,
}

impl Hosts {
    /// Nothing passes in this direction from now on.
    pub fn cut(&mut self, host: &str, cut: Cut) -> Result<(), String> {
        self.faults(host).cut = Some(cut);
        self.apply()
    }

    /// Each packet to or from the host is dropped with this probability.
    pub fn loss(&mut self, host: &str, percent: u8) -> Result<(), String> {
        assert!(percent <= 100, "{percent} %");
        self.faults(host).loss_percent = percent;
        self.apply()
    }

    /// Limits the host's line, each way, to `rate` as tc writes it: `10mbit`.
    pub fn slow(&mut self, host: &str, rate: &str) -> Result<(), String> {
        self.faults(host).shaped = true;
        let bucket = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "100ms"];
        self.both_ends(host, "replace", &bucket)
    }

    /// Holds up every packet to and from the host for so long, and loses some. Replaces `slow`.
    pub fn far(&mut self, host: &str, delay: Duration, loss_percent: u8) -> Result<(), String> {
        self.faults(host).shaped = true;
        let (delay, loss) = (format!("{}us", delay.as_micros()), format!("{loss_percent}%"));
        // More packets than any window holds: only what is asked for is to be lost.
        let line = ["root", "netem", "delay", &delay, "loss", &loss, "limit", "100000"];
        self.both_ends(host, "replace", &line)
    }

    /// As new, but for what was lost meanwhile.
    pub fn heal(&mut self, host: &str) -> Result<(), String> {
        let was = std::mem::take(self.faults(host));
        if was.shaped {
            self.both_ends(host, "del", &["root"])?;
        }
        self.apply()
    }

    fn faults(&mut self, name: &str) -> &mut Faults {
        let host = self.hosts.iter_mut().find(|h| h.name == name);
        &mut host.unwrap_or_else(|| panic!("there is no host {name}")).faults
    }

    /// The rules of the switch, all at once.
    fn apply(&self) -> Result<(), String> {
        let mut rules = String::from("add table bridge faults\ndelete table bridge faults\n");
        rules += "table bridge faults {\n chain forward {\n";
        rules += "  type filter hook forward priority 0; policy accept;\n";
        for host in &self.hosts {
            let (port, faults) = (&host.port, host.faults);
            let mut drop = |direction: &str, chance: &str| {
                writeln!(rules, "  {direction} \"{port}\" {chance} drop").expect("it is a String");
            };
            if matches!(faults.cut, Some(Cut::Both | Cut::Out)) {
                drop("iifname", "");
            }
            if matches!(faults.cut, Some(Cut::Both | Cut::In)) {
                drop("oifname", "");
            }
            if faults.loss_percent > 0 {
                let chance = format!("numgen random mod 100 < {}", faults.loss_percent);
                drop("iifname", &chance);
                drop("oifname", &chance);
            }
        }
        rules += " }\n}\n";
        let mut file = tempfile::NamedTempFile::new().map_err(|e| format!("nft rules: {e}"))?;
        file.write_all(rules.as_bytes()).map_err(|e| format!("nft rules: {e}"))?;
        let mut nft = self.in_switch("nft");
        tool(nft.arg("-f").arg(file.path()))
            .map_err(|err| format!("nft: {err} in\n{rules}"))
            .map(drop)
    }

    fn both_ends(&self, host: &str, verb: &str, what: &[&str]) -> Result<(), String> {
        let host = self.get(host);
        let ends = [(host.command("tc"), "eth0"), (self.in_switch("tc"), host.port.as_str())];
        for (mut tc, device) in ends {
            tc.args(["qdisc", verb, "dev", device]).args(what).stdin(Stdio::null());
            tool(&mut tc).map_err(|err| format!("tc {verb} {device}: {err}"))?;
        }
        Ok(())
    }

    fn in_switch(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}/{}", super::NAMES, self.switch())).args(["--", program]);
        command
    }
}
