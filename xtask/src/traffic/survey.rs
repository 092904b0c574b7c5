//! Many probes at once, so that those that are dropped wait together: `xtask survey` reads lines
//! `NUMBER tcp|udp|ping ADDRESS COUNT PORT` and prints `NUMBER ANSWER` for each request. After the first that is not
//! answered the rest go at once. Those by UDP are sent from PORT and the ones after it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol as Number, Socket, Type};

use super::probe::{ProbeArgs, outcome_of};
use super::{Answer, Outcome, Protocol};

/// Sends the requests of stdin's lines and prints who answered.
#[derive(clap::Args, Debug)]
pub struct SurveyArgs {
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// Lines that are worked on at once.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
}

/// One line: what to ask, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub number: usize,
    /// None: an ICMP echo.
    pub protocol: Option<Protocol>,
    pub to: SocketAddr,
    pub count: usize,
    /// UDP: the first request's own port; 0 for any.
    pub source_port: u16,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = self
            .protocol
            .map_or("ping".to_owned(), |one| one.to_string());
        let Self {
            number,
            to,
            count,
            source_port,
            ..
        } = self;
        write!(f, "{number} {protocol} {to} {count} {source_port}")
    }
}

impl std::str::FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let odd = || anyhow!("not a line of a survey: {line:?}");
        let [number, protocol, to, count, source_port] = line.split(' ').collect::<Vec<_>>()[..]
        else {
            return Err(odd());
        };
        let protocol = match protocol {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "ping" => None,
            _ => return Err(odd()),
        };
        Ok(Self {
            number: number.parse().map_err(|_| odd())?,
            protocol,
            to: to.parse().map_err(|_| odd())?,
            count: count.parse().map_err(|_| odd())?,
            source_port: source_port.parse().map_err(|_| odd())?,
        })
    }
}

pub fn survey(args: &SurveyArgs) -> Result<()> {
    let requests: Vec<Request> = io::stdin()
        .lines()
        .map(|line| line.context("cannot read the survey")?.parse())
        .collect::<Result<_>>()?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let next = Mutex::new(requests.into_iter());
    let take = || next.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..args.at_once {
            scope.spawn(|| {
                while let Some(request) = take() {
                    // Nobody reads on when stdout is gone.
                    if work(&request, timeout).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

fn work(request: &Request, timeout: Duration) -> io::Result<()> {
    for number in 0..request.count {
        if once(request, number, timeout)? {
            continue;
        }
        return thread::scope(|scope| {
            let rest: Vec<_> = (number + 1..request.count)
                .map(|number| scope.spawn(move || once(request, number, timeout)))
                .collect();
            rest.into_iter()
                .filter_map(|request| request.join().ok())
                .try_for_each(|outcome| outcome.map(drop))
        });
    }
    Ok(())
}

/// Whether it was answered.
fn once(request: &Request, number: usize, timeout: Duration) -> io::Result<bool> {
    let start = Instant::now();
    let outcome = match request.protocol {
        Some(protocol) => ProbeArgs::once(protocol, request, timeout).request(number),
        None => ping(request, timeout),
    };
    let answer = Answer::since(start, outcome.unwrap_or_else(|error| outcome_of(&error)));
    let mut out = io::stdout().lock();
    writeln!(out, "{} {answer}", request.number)?;
    out.flush()?;
    Ok(answer.by().is_some())
}

fn ping(request: &Request, timeout: Duration) -> io::Result<Outcome> {
    let to = request.to.ip();
    let (domain, number, echo, reply, header) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Number::ICMPV4, 8, 0, 20),
        IpAddr::V6(_) => (Domain::IPV6, Number::ICMPV6, 128, 129, 0),
    };
    let socket = Socket::new(domain, Type::from(nix::libc::SOCK_RAW), Some(number))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    socket.set_read_timeout(Some(timeout))?;
    let [high, low] = u16::try_from(request.number)
        .map_err(io::Error::other)?
        .to_be_bytes();
    // The kernel computes an ICMPv6 checksum by itself. Numbers are small: nothing carries.
    let sum = !(u16::from_be_bytes([echo, 0])
        .wrapping_add(u16::from_be_bytes([high, low]))
        .wrapping_add(1));
    let [sum_high, sum_low] = sum.to_be_bytes();
    socket.send(&[echo, 0, sum_high, sum_low, high, low, 0, 1])?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 256];
    while Instant::now() < deadline {
        let length = (&socket).read(&mut buffer)?;
        if let Some([kind, _, _, _, id_high, id_low, ..]) = buffer[..length].get(header..)
            && (*kind, *id_high, *id_low) == (reply, high, low)
        {
            return Ok(Outcome::Answered {
                by: "echo".to_owned(),
                seen: request.to,
                peer: request.to,
            });
        }
    }
    Ok(Outcome::TimedOut)
}
