//! `svc-agent explain --live`: what it tells of a real connection, beside what it foretold.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{ChildStderr, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::traffic::{Conversation, Protocol, Running};

use crate::Case;
use crate::lab::{Lab, backends_of};
use crate::paths::Way;

const BOTH: &[&str] = &["packets_only", "socket_tcp"];
const ONE: &[&str] = &["packets_only"];

pub const CASES: &[Case] = &[
    Case {
        name: "a_real_connection_is_followed_from_its_begin_to_its_end",
        settings: BOTH,
        test: to_its_end,
    },
    Case {
        name: "what_a_backend_sees_is_told_while_it_happens",
        settings: &["packets_only", "dsr_geneve"],
        test: seen_as,
    },
    Case {
        name: "a_connection_that_is_there_already_is_followed",
        settings: ONE,
        test: known,
    },
    Case {
        name: "what_happens_otherwise_than_foretold_is_said",
        settings: BOTH,
        test: otherwise,
    },
    Case {
        name: "what_does_not_happen_is_said_and_wrong_words_too",
        settings: ONE,
        test: nothing,
    },
];

/// An `explain --live` on node1 that watches already.
struct Live {
    process: Running,
    errors: BufReader<ChildStderr>,
}

impl Live {
    fn start(lab: &Lab, from: Option<&str>, to: &str, more: &[&str]) -> Result<Self> {
        let mut command = lab.topology.agent("node1", "explain")?;
        command.args(["--live", "--timeout", "20s", "--manifests"]);
        command.arg(&lab.manifests).args(more);
        if let Some(from) = from {
            command.args(["--from", from]);
        }
        let command = command.arg(to).stdout(Stdio::piped());
        let mut process = Running(command.stderr(Stdio::piped()).spawn()?);
        let mut errors = BufReader::new(process.0.stderr.take().context("stderr")?);
        let mut said = String::new();
        while !said.contains("watching for such a packet") {
            ensure!(errors.read_line(&mut said)? > 0, "it ended: {said}");
        }
        Ok(Self { process, errors })
    }

    /// All that it says, and the code it exits with.
    fn end(mut self) -> Result<(String, i32)> {
        let mut text = String::new();
        let mut out = self.process.0.stdout.take().context("stdout")?;
        out.read_to_string(&mut text)?;
        self.errors.read_to_string(&mut text)?;
        let status = self.process.0.wait()?;
        Ok((text, status.code().context("killed")?))
    }

    /// The same of `-o json`: an object for each line.
    fn events(self) -> Result<(Vec<Value>, i32)> {
        let (text, code) = self.end()?;
        let lines = text.lines().map(serde_json::from_str);
        let lines = lines.collect::<Result<_, _>>();
        Ok((lines.with_context(|| text.clone())?, code))
    }
}

fn names(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| match event["state"].as_str() {
            Some(state) if event["event"] == "state" => state,
            _ => event["event"].as_str().unwrap_or("?"),
        })
        .collect()
}

fn find<'a>(events: &'a [Value], name: &str) -> Result<&'a Value> {
    let found = events.iter().find(|event| event["event"] == name);
    found.with_context(|| format!("no {name} in {events:#?}"))
}

fn target(way: Way, to: SocketAddr) -> String {
    let protocol = if way.is_udp() { "/udp" } else { "" };
    format!("{to}{protocol}")
}

fn to_its_end(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        let to = way.cluster_ip(1);
        let from = lab.address("pod-a", way.v6).to_string();
        let timeout: &[&str] = if way.is_udp() {
            // Nothing ends it.
            &["-o", "json", "--timeout", "2s"]
        } else {
            &["-o", "json"]
        };
        let live = Live::start(lab, Some(&from), &target(way, to), timeout)?;
        // Others' connections are not that one.
        lab.answered("pod-b", way.protocol, to, 2)?;
        let mut conversation = Conversation::open(&lab.topology, "pod-a", way.protocol, to)?;
        let answer = conversation.say()?;
        let by_socket = lab.setting.socket_lb == "tcp" && !way.is_udp();
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(conversation);
        let (events, code) = live.events()?;
        let names = names(&events);
        let begin = if by_socket { "connected" } else { "new" };
        let told = |name| names.contains(&name);
        ensure!(
            code == 0 && told(begin) && told("established") && names.last() == Some(&"end"),
            "{code}: {events:#?}"
        );
        ensure!(way.is_udp() || told("closed"), "{events:#?}");
        let end = find(&events, "end")?;
        ensure!(end["outcome"] == "as-foretold", "{end:#}");
        let tuples = find(&events, "tuples")?;
        let backend = way.direct(lab, answer.by().context("no answer")?);
        ensure!(
            tuples["backend"] == backend.to_string()
                && tuples["frontend"] == to.to_string()
                && tuples["client"].as_str().is_some_and(|c| c.contains(&from))
                && tuples["translated"] == if by_socket { "socket" } else { "packets" },
            "{tuples:#}"
        );
    }
    Ok(())
}

fn seen_as(lab: &mut Lab) -> Result<()> {
    let way = Way::ALL[0];
    let to = way.node_port(lab, "node1", 3);
    let from = lab.address("client", way.v6).to_string();
    let live = Live::start(lab, Some(&from), &to.to_string(), &["-o", "json"])?;
    let mut conversation = Conversation::open(&lab.topology, "client", way.protocol, to)?;
    let (seen, peer) = Lab::seen(&conversation.say()?)?;
    drop(conversation);
    let (events, code) = live.events()?;
    ensure!(code == 0, "{events:#?}");
    let tuples = find(&events, "tuples")?;
    let tunnelled = lab.setting.dsr != "off";
    ensure!(
        tuples["seen_as"].is_null() == tunnelled
            && (tunnelled || tuples["seen_as"] == seen.to_string())
            && tuples["frontend"] == peer.to_string(),
        "{seen} {tuples:#}"
    );
    Ok(())
}

fn known(lab: &mut Lab) -> Result<()> {
    let way = Way::ALL[0];
    let to = way.node_port(lab, "node1", 2);
    let mut conversation = Conversation::open(&lab.topology, "client", way.protocol, to)?;
    let (seen, _) = Lab::seen(&conversation.say()?)?;
    let flows = lab.agent("node1", "get", &["flows", "-o", "json"])?;
    let flows: Value = serde_json::from_slice(&flows.stdout)?;
    let flows = flows["items"].as_array().context("no flows")?;
    let seen = seen.to_string();
    let flow = flows
        .iter()
        .find(|flow| flow["nat"] == seen || flow["client"] == seen)
        .context("no such flow")?;
    let client = flow["client"].as_str().context("no client")?;
    let live = Live::start(lab, Some(client), &to.to_string(), &[])?;
    drop(conversation);
    let (text, code) = live.end()?;
    ensure!(code == 0, "{code}: {text}");
    for part in [
        "known        this connection is there already",
        "established  the backend has answered",
        "closed       both sides have ended it",
        "Happened:   as foretold: forwarded to 10.244.1.10:8080; closed after",
    ] {
        ensure!(text.contains(part), "no {part:?} in\n{text}");
    }
    ensure!(
        text.contains(&format!(
            "back         10.244.1.10:8080 → {seen} becomes {to} → {client}"
        )),
        "{text}"
    );
    Ok(())
}

/// A Service gets its first endpoint after it was foretold that it has none.
fn otherwise(lab: &mut Lab) -> Result<()> {
    let to = Way::ALL[0].cluster_ip(4);
    let from = lab.address("pod-b", false).to_string();
    let live = Live::start(lab, Some(&from), "svc/default/none:tcp", &[])?;
    lab.refused("pod-b", Protocol::Tcp, to)?;
    let (text, code) = live.end()?;
    ensure!(
        code == 0 && text.contains("Happened:   as foretold: refused (no-endpoints)"),
        "{code}: {text}"
    );
    let live = Live::start(lab, Some(&from), "svc/default/none:tcp", &[])?;
    lab.edit("all: 'not yet'", "no: such")?;
    lab.wait_for("the empty Service has an endpoint", |backends| {
        backends_of(backends, "none:tcp") == 2
    })?;
    lab.answered_by("pod-b", Protocol::Tcp, to, &["pod-d"])?;
    let (text, code) = live.end()?;
    ensure!(
        code == 1
            && text.contains("Happened:   NOT as foretold: forwarded to 10.244.2.11:8080")
            && text.contains(
                "Differs:    it went to 10.244.2.11:8080, and was not refused (no-endpoints)"
            ),
        "{code}: {text}"
    );
    lab.restore()
}

fn nothing(lab: &mut Lab) -> Result<()> {
    let to = Way::ALL[0].cluster_ip(1).to_string();
    let pod = lab.address("pod-a", false).to_string();
    let live = Live::start(lab, Some(&pod), &to, &["--timeout", "1s"])?;
    let (text, code) = live.end()?;
    ensure!(
        code == 1
            && text.contains(
                "Happened:   nothing: no such connection (TCP 10.244.1.10:* -> 10.96.0.1:80)"
            ),
        "{code}: {text}"
    );
    let live = Live::start(lab, Some(&pod), &to, &["-o", "json"])?;
    let pid = Pid::from_raw(live.process.0.id().cast_signed());
    kill(pid, Signal::SIGINT)?;
    let (events, code) = live.events()?;
    ensure!(
        code == 1 && find(&events, "end")?["outcome"] == "not-seen",
        "{code}: {events:#?}"
    );
    for (words, says) in [
        (
            &["--live", "--timeout", "5", "10.96.0.1:80"][..],
            "is not a duration",
        ),
        (&["--timeout", "5s", "10.96.0.1:80"], "--live"),
        (
            &["--live", "-o", "yaml", "10.96.0.1:80"],
            "which YAML cannot",
        ),
        (
            &["--live", "--exit-code", "10.96.0.1:80"],
            "cannot be used with",
        ),
    ] {
        let output = lab.agent("node1", "explain", words)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(2) && errors.contains(says),
            "{words:?}: {errors}"
        );
    }
    Ok(())
}
