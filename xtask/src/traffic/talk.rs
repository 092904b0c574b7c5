//! Long conversations, each on one socket: `xtask talk tcp 10.96.0.10:80` sends a line for each line of its stdin and
//! prints what became of it. It shows what established connections live through.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::probe::{greeted, outcome_of};
use super::{Answer, Outcome, Protocol, Running};
use crate::programs::workspace_binary;
use crate::topology::Topology;

/// Talks to one server until stdin ends.
#[derive(clap::Args, Debug)]
pub struct TalkArgs {
    protocol: Protocol,
    to: SocketAddr,
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// Name the server in every datagram, instead of connecting the socket.
    #[arg(long)]
    unconnected: bool,
    /// So many conversations, each of which says every line.
    #[arg(long, default_value_t = 1)]
    sockets: usize,
}

/// Sends one line, and awaits its answer.
type Talker = Box<dyn FnMut(&str) -> io::Result<Outcome>>;

pub fn talk(args: &TalkArgs) -> Result<()> {
    let timeout = Duration::from_millis(args.timeout_ms);
    let open = || match args.protocol {
        Protocol::Tcp => tcp(args.to, timeout),
        Protocol::Udp if args.unconnected => unconnected(args.to, timeout),
        Protocol::Udp => udp(args.to, timeout),
    };
    let mut talkers: Vec<Talker> = (0..args.sockets).map(|_| open()).collect::<Result<_>>()?;
    let mut out = io::stdout().lock();
    for text in io::stdin().lock().lines() {
        let text = text?;
        for line in &mut talkers {
            let start = Instant::now();
            let outcome = line(&text).unwrap_or_else(|error| outcome_of(&error));
            Answer::since(start, outcome).print(&mut out)?;
        }
    }
    Ok(())
}

fn tcp(to: SocketAddr, timeout: Duration) -> Result<Talker> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut greeting = Vec::new();
    reader.read_until(b'\n', &mut greeting)?;
    let outcome = greeted(&greeting, peer)?;
    Ok(Box::new(move |text| {
        stream.write_all(text.as_bytes())?;
        let mut echo = vec![0; text.len()];
        reader.read_exact(&mut echo)?;
        if echo == text.as_bytes() {
            Ok(outcome.clone())
        } else {
            Err(ErrorKind::InvalidData.into())
        }
    }))
}

fn udp(to: SocketAddr, timeout: Duration) -> Result<Talker> {
    let socket = bind(to, timeout)?;
    socket.connect(to)?;
    Ok(Box::new(move |text| {
        socket.send(text.as_bytes())?;
        let mut buffer = vec![0; 65536];
        let length = socket.recv(&mut buffer)?;
        greeted(first_line(&buffer[..length]), socket.peer_addr()?)
    }))
}

fn unconnected(to: SocketAddr, timeout: Duration) -> Result<Talker> {
    let socket = bind(to, timeout)?;
    Ok(Box::new(move |text| {
        socket.send_to(text.as_bytes(), to)?;
        let mut buffer = vec![0; 65536];
        let (length, peer) = socket.recv_from(&mut buffer)?;
        greeted(first_line(&buffer[..length]), peer)
    }))
}

fn bind(to: SocketAddr, timeout: Duration) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket)
}

fn first_line(datagram: &[u8]) -> &[u8] {
    let end = datagram.iter().position(|byte| *byte == b'\n');
    end.map_or(datagram, |end| &datagram[..=end])
}

/// A running `talk` of one conversation or several.
pub struct Conversation {
    sockets: usize,
    _process: Running,
    stdin: ChildStdin,
    answers: io::Lines<BufReader<ChildStdout>>,
}

impl Conversation {
    /// Opens it; the first [`Conversation::say`] tells whether anybody is there.
    pub fn open(
        topology: &Topology,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Result<Self> {
        Self::crowd(topology, from, protocol, to, 1)
    }

    /// Opens so many at once; answers of [`Conversation::say_all`] may take seconds.
    pub fn crowd(
        topology: &Topology,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
        sockets: usize,
    ) -> Result<Self> {
        let timeout = if sockets > 1 { "5000" } else { "1000" };
        let (protocol, to) = (protocol.to_string(), to.to_string());
        let args = [
            &protocol,
            &to,
            "--sockets",
            &sockets.to_string(),
            "--timeout-ms",
            timeout,
        ];
        let conversation = Self::start(topology, from, &args)?;
        Ok(Self {
            sockets,
            ..conversation
        })
    }

    /// By a UDP socket that is not connected.
    pub fn unconnected(topology: &Topology, from: &str, to: SocketAddr) -> Result<Self> {
        Self::start(topology, from, &["udp", &to.to_string(), "--unconnected"])
    }

    fn start(topology: &Topology, from: &str, args: &[&str]) -> Result<Self> {
        let mut command = topology.command(from, workspace_binary("xtask")?)?;
        command.arg("talk").args(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a conversation")?;
        let stdin = child
            .stdin
            .take()
            .context("the conversation has no stdin")?;
        let stdout = child
            .stdout
            .take()
            .context("the conversation has no stdout")?;
        Ok(Self {
            sockets: 1,
            _process: Running(child),
            stdin,
            answers: BufReader::new(stdout).lines(),
        })
    }

    /// Sends a line and awaits its answer.
    pub fn say(&mut self) -> Result<Answer> {
        self.ask()?;
        self.answer()
    }

    /// Sends a line by every socket and awaits the answers.
    pub fn say_all(&mut self) -> Result<Vec<Answer>> {
        self.ask()?;
        (0..self.sockets).map(|_| self.answer()).collect()
    }

    fn ask(&mut self) -> Result<()> {
        self.stdin
            .write_all(b"still there?\n")
            .context("the conversation has ended")
    }

    fn answer(&mut self) -> Result<Answer> {
        self.answers
            .next()
            .context("the conversation has ended")??
            .parse()
    }
}
