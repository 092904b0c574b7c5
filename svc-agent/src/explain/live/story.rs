//! One connection, from the first event that is of such a packet to its end.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use svc_common::event::{Event, Kind};
use svc_common::steer::Client;
use svc_common::table::address_flags;

use super::compare::{Happened, differences};
use super::process;
use super::stage::{self, Stage};
use super::tell::{End, Outcome, Teller, Tuples, lasting};
use crate::config::{Explain, Form};
use crate::dataplane::Pinned;
use crate::explain::judge::Asked;
use crate::explain::report::{Explanation, Verdict};
use crate::explain::tables::Maps;
use crate::inspect::{self, Filter, Flows};
use crate::monitor::names::Names;
use crate::monitor::record::Record;
use crate::monitor::{monotonic, wall};
use crate::sockets;

/// How long a socket is looked for: it has its own address only once `connect()` has chosen one.
const PATIENCE: Duration = Duration::from_millis(300);

/// More lines of processes that cannot be asked are of no use.
const MOST_UNKNOWN: usize = 10;

/// What is followed.
enum Followed {
    Nothing,
    Flow {
        client: SocketAddr,
    },
    /// A socket of the pod that was asked about, or of the node; None: it is not found yet.
    Socket {
        backend: SocketAddr,
        cookie: Option<[u32; 2]>,
        since: Instant,
    },
    Over,
}

pub(super) struct Story<'a> {
    asked: &'a Asked,
    foretold: &'a Explanation,
    maps: &'a Maps,
    pinned: Pinned,
    names: Names,
    tell: Teller,
    followed: Followed,
    /// Where the socket that is followed is.
    namespace: Option<File>,
    /// Sockets that were there before.
    before: BTreeSet<[u32; 2]>,
    happened: Option<(Happened, Instant)>,
    /// What a process met that could not be asked any more whose it was; and how many there were.
    perhaps: Option<(Happened, Instant)>,
    unknown: usize,
    stage: Option<Stage>,
    notes: BTreeSet<String>,
}

impl<'a> Story<'a> {
    pub(super) fn new(
        options: &Explain,
        asked: &'a Asked,
        foretold: &'a Explanation,
        maps: &'a Maps,
        pinned: Pinned,
    ) -> Result<Self> {
        let before = match asked.client {
            Client::Outside => BTreeSet::new(),
            Client::Pod | Client::Node => {
                let open = sockets::open(&pinned.connected_sockets()?).unwrap_or_default();
                open.into_iter().map(|socket| socket.cookie).collect()
            }
        };
        Ok(Self {
            asked,
            foretold,
            maps,
            pinned,
            names: Names::new(Pinned::open(&options.bpf_root)?),
            tell: Teller {
                json: options.output == Form::Json,
            },
            followed: Followed::Nothing,
            namespace: None,
            before,
            happened: None,
            perhaps: None,
            unknown: 0,
            stage: None,
            notes: BTreeSet::new(),
        })
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        self.tell.foretold(self.foretold)?;
        if self.foretold.verdict == Verdict::Passed {
            self.notes
                .insert("no hook has a part in such a packet, so none tells of it".into());
        }
        let there = self.foretold.flow.as_ref();
        let client = there
            .filter(|flow| flow.state != "closing" && flow.frontend == self.asked.to.to_string())
            .and_then(|flow| flow.client.parse().ok());
        if let Some(client) = client {
            self.tell.known()?;
            self.follow_flow(client)?;
        }
        Ok(())
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.followed, Followed::Over)
    }

    /// Events came too fast.
    pub(super) fn lost(&mut self, count: u64) {
        if count > 0 {
            self.notes
                .insert("events came faster than they could be read: it may have been among those that are lost".into());
        }
    }

    pub(super) fn hear(&mut self, event: &Event) -> Result<()> {
        let at = Duration::from_nanos(event.time) + wall().saturating_sub(monotonic());
        let Some(record) = Record::of(event, at, &mut self.names) else {
            return Ok(());
        };
        if event.proto != self.asked.protocol.number() {
            return Ok(());
        }
        match self.followed {
            Followed::Nothing => self.begins(event, &record),
            // What is lost of it later.
            Followed::Flow { client }
                if event.kind == Kind::Lost as u8
                    && record.client.as_deref() == Some(&client.to_string())
                    && record.frontend == self.asked.to.to_string() =>
            {
                self.notes.insert(format!(
                    "packets of it were lost later: {}",
                    record.reason.unwrap_or("?")
                ));
                self.tell.event(&record)
            }
            _ => Ok(()),
        }
    }

    /// Whether it is such a packet, or the `connect()` of such a client.
    fn begins(&mut self, event: &Event, record: &Record) -> Result<()> {
        if record.frontend != self.asked.to.to_string() {
            return Ok(());
        }
        self.namespace = process::namespace(event.pid);
        let is_it = match &record.client {
            Some(client) => Some(self.is_client(client)),
            None => self.is_client_process(event.pid),
        };
        match is_it {
            Some(false) => return Ok(()),
            None => {
                // A busy Service has many.
                if self.unknown < MOST_UNKNOWN {
                    self.tell.event(record)?;
                }
                self.unknown += 1;
                let happened = by_socket(record).map(|happened| (happened, Instant::now()));
                self.perhaps = happened.or(self.perhaps.take());
                return Ok(());
            }
            Some(true) => self.tell.event(record)?,
        }
        if let Some(client) = &record.client
            && record.reason.is_none()
        {
            return match client.parse() {
                Ok(client) => self.follow_flow(client),
                Err(_) => Ok(()),
            };
        }
        let Some(happened) = by_socket(record) else {
            return Ok(());
        };
        self.followed = match happened {
            Happened::Lost { .. } => Followed::Over,
            Happened::Forwarded { backend, .. } => Followed::Socket {
                backend,
                cookie: None,
                since: Instant::now(),
            },
        };
        self.happened = Some((happened, Instant::now()));
        Ok(())
    }

    fn is_client(&self, client: &str) -> bool {
        let (ip, port) = match client.parse::<SocketAddr>() {
            Ok(client) => (client.ip(), Some(client.port())),
            Err(_) => match client.parse::<IpAddr>() {
                Ok(ip) => (ip, None),
                Err(_) => return false,
            },
        };
        let asked = self.asked;
        let is_own = |ip| self.maps.address_flags(ip) & address_flags::NODE != 0;
        // Which of its addresses a process of the node sends with is the kernel's choice.
        let ip_fits = ip == asked.from
            || (asked.client == Client::Node && asked.from_port.is_none() && is_own(ip));
        ip_fits && asked.from_port.is_none_or(|wanted| port == Some(wanted))
    }

    /// None: it has ended, or is not visible from here.
    fn is_client_process(&self, pid: u32) -> Option<bool> {
        match self.asked.client {
            Client::Outside => Some(false),
            Client::Node => process::is_of_node(pid),
            Client::Pod => process::has_address(pid, self.asked.from),
        }
    }

    fn follow_flow(&mut self, client: SocketAddr) -> Result<()> {
        let flows = self.flow(client)?;
        let items = inspect::flow_items(&flows, &self.maps.snapshot.services, Filter::default());
        let Some(item) = items.first() else {
            self.notes
                .insert("its record was gone before it could be read".into());
            self.followed = Followed::Over;
            return Ok(());
        };
        let tunnelled = !flows.v4.iter().all(|flow| flow.has_answers())
            || !flows.v6.iter().all(|flow| flow.has_answers());
        let nat = item.nat.clone();
        if let Ok(backend) = item.backend.parse() {
            let happened = Happened::Forwarded {
                backend,
                client: Some(client.ip()),
                nat: nat.as_ref().and_then(|nat| nat.parse().ok()),
                by_socket: false,
                tunnelled,
            };
            self.happened = Some((happened, Instant::now()));
        }
        self.tell.tuples(&Tuples {
            client: item.client.clone(),
            frontend: item.frontend.clone(),
            seen_as: (!tunnelled).then(|| nat.unwrap_or_else(|| item.client.clone())),
            backend: item.backend.clone(),
            translated: "packets",
        })?;
        self.followed = Followed::Flow { client };
        self.look()
    }

    fn flow(&self, client: SocketAddr) -> Result<Flows> {
        let asked = self.asked;
        Ok(self
            .pinned
            .flow(client, asked.to, asked.protocol.number())?)
    }

    /// What has become of it since.
    pub(super) fn look(&mut self) -> Result<()> {
        let (stage, why) = match self.followed {
            Followed::Nothing | Followed::Over => return Ok(()),
            Followed::Flow { client } => {
                let flows = self.flow(client)?;
                let config = &self.maps.config;
                let v4 = flows.v4.first();
                let v4 = v4.map(|flow| stage::of_flow(flow, flows.now, config));
                let v6 = flows.v6.first();
                let v6 = v6.map(|flow| stage::of_flow(flow, flows.now, config));
                v4.or(v6).unwrap_or((Stage::Closed, "its record is gone"))
            }
            Followed::Socket {
                backend,
                cookie,
                since,
            } => match self.socket(backend, cookie)? {
                Some(socket) if cookie.is_none() => {
                    self.followed = Followed::Socket {
                        backend,
                        cookie: Some(socket.cookie),
                        since,
                    };
                    let own = socket.local.to_string();
                    self.tell.tuples(&Tuples {
                        client: own.clone(),
                        frontend: socket.frontend.to_string(),
                        seen_as: Some(own),
                        backend: backend.to_string(),
                        translated: "socket",
                    })?;
                    stage::of_socket(socket.state)
                }
                Some(socket) => stage::of_socket(socket.state),
                None if cookie.is_some() => (Stage::Closed, "the socket is closed"),
                None if since.elapsed() < PATIENCE => return Ok(()),
                None => {
                    self.notes.insert(
                        "its socket was closed before it could be looked at, or its network namespace cannot be entered"
                            .into(),
                    );
                    (Stage::Closed, "there is no such socket now")
                }
            },
        };
        if self.stage != Some(stage) {
            self.stage = Some(stage);
            self.tell.state(stage, why)?;
        }
        if stage == Stage::Closed {
            self.followed = Followed::Over;
        }
        Ok(())
    }

    /// The one with the cookie; without, one that was not there before, of the client that was asked about.
    fn socket(
        &self,
        backend: SocketAddr,
        cookie: Option<[u32; 2]>,
    ) -> Result<Option<sockets::Open>> {
        let connected = match cookie {
            // Known to be one; the map need not be read again.
            Some(cookie) => [((cookie, backend), self.asked.to)].into(),
            None => {
                let mut all = self.pinned.connected_sockets()?;
                all.retain(|(_, to), frontend| *to == backend && *frontend == self.asked.to);
                all
            }
        };
        if connected.is_empty() {
            return Ok(None);
        }
        let open = match &self.namespace {
            Some(namespace) => sockets::open_in(namespace, &connected),
            None => sockets::open(&connected),
        };
        Ok(open
            .unwrap_or_default()
            .into_iter()
            .find(|socket| match cookie {
                Some(cookie) => socket.cookie == cookie,
                None => {
                    !self.before.contains(&socket.cookie)
                        && socket.protocol == self.asked.protocol.number()
                        && self.is_client(&socket.local.to_string())
                }
            }))
    }

    /// The last line, and whether it was as foretold.
    pub(super) fn end(mut self) -> Result<ExitCode> {
        let protocol = self.foretold.packet.protocol.clone();
        if self.happened.is_none() && self.perhaps.is_some() {
            self.happened = self.perhaps.take();
            self.notes.insert(
                "its process had ended before it could be asked, or is not visible from here: it may have been another client's".into(),
            );
        }
        let end = match self.happened.take() {
            None => End {
                outcome: Outcome::NotSeen,
                what: format!(
                    "no such connection ({protocol} {} -> {}) was seen to begin",
                    self.foretold.packet.from, self.asked.to
                ),
                differences: Vec::new(),
                backend: None,
                state: None,
                notes: Vec::new(),
            },
            Some((happened, since)) => {
                let differences = differences(self.foretold, &happened);
                let (what, backend) = match &happened {
                    Happened::Lost { refused, reason } => {
                        let verb = if *refused { "refused" } else { "dropped" };
                        (format!("{verb} ({reason})"), None)
                    }
                    Happened::Forwarded { backend, .. } => {
                        let how = match self.stage {
                            None => String::new(),
                            Some(Stage::New) => "; no answer was seen".into(),
                            Some(Stage::Closed) => {
                                format!("; closed after {}", lasting(since.elapsed()))
                            }
                            Some(stage) => format!("; {} when this ended", stage.name()),
                        };
                        (
                            format!("forwarded to {backend}{how}"),
                            Some(backend.to_string()),
                        )
                    }
                };
                End {
                    outcome: if differences.is_empty() {
                        Outcome::AsForetold
                    } else {
                        Outcome::Different
                    },
                    what,
                    differences,
                    backend,
                    state: self.stage,
                    notes: Vec::new(),
                }
            }
        };
        let end = End {
            notes: self.notes.into_iter().collect(),
            ..end
        };
        self.tell.end(&end)?;
        Ok(if end.outcome == Outcome::AsForetold {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What became of a socket's call, or of a packet that was lost.
fn by_socket(record: &Record) -> Option<Happened> {
    if let Some(reason) = record.reason {
        let refused = record.event == "refused";
        return Some(Happened::Lost { refused, reason });
    }
    Some(Happened::Forwarded {
        backend: record.backend.as_ref()?.parse().ok()?,
        client: None,
        nat: None,
        by_socket: true,
        tunnelled: false,
    })
}
