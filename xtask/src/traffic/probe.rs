//! The client: `xtask probe tcp 10.96.0.10:80 --count 100`, one line per request.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::serve::plain;
use super::{Answer, Outcome, Protocol, Request};

/// Sends requests and prints who answered.
#[derive(clap::Args, Debug)]
pub struct ProbeArgs {
    protocol: Protocol,
    to: SocketAddr,
    #[arg(long, short = 'n', default_value_t = 1)]
    count: usize,
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// Bytes to send and to get back.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// UDP: connect() the socket.
    #[arg(long)]
    connected: bool,
    /// UDP: the first request's; each next one has the next.
    #[arg(long, default_value_t = 0)]
    source_port: u16,
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

impl ProbeArgs {
    /// Of one request, by a connected socket.
    pub(super) fn once(protocol: Protocol, request: &Request, timeout: Duration) -> Self {
        Self {
            protocol,
            to: request.to,
            count: 1,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            bytes: 0,
            connected: true,
            source_port: match protocol {
                Protocol::Tcp => 0,
                Protocol::Udp => request.source_port,
            },
            pause_ms: 0,
        }
    }

    pub(super) fn request(&self, number: usize) -> io::Result<Outcome> {
        match self.protocol {
            Protocol::Tcp => tcp(self),
            Protocol::Udp => udp(self, number),
        }
    }
}

pub fn probe(args: &ProbeArgs) -> Result<()> {
    let mut out = io::stdout().lock();
    for number in 0..args.count {
        let start = Instant::now();
        let outcome = args
            .request(number)
            .unwrap_or_else(|error| outcome_of(&error));
        Answer::since(start, outcome).print(&mut out)?;
        thread::sleep(Duration::from_millis(args.pause_ms));
    }
    Ok(())
}

pub(super) fn outcome_of(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::TimedOut,
        _ => Outcome::Failed(error.to_string()),
    }
}

fn tcp(args: &ProbeArgs) -> io::Result<Outcome> {
    let timeout = Duration::from_millis(args.timeout_ms);
    let stream = connect(args, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(&stream);
    let mut greeting = Vec::new();
    reader.read_until(b'\n', &mut greeting)?;
    let outcome = greeted(&greeting, peer)?;
    if args.bytes > 0 {
        echo(&stream, &mut reader, args.bytes)?;
    }
    Ok(outcome)
}

/// std binds no port before connect(), so a chosen source port needs the socket made by hand.
fn connect(args: &ProbeArgs, timeout: Duration) -> io::Result<TcpStream> {
    if args.source_port == 0 {
        return TcpStream::connect_timeout(&args.to, timeout);
    }
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(args.to),
        socket2::Type::STREAM,
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&any(args, args.source_port).into())?;
    socket.connect_timeout(&args.to.into(), timeout)?;
    Ok(socket.into())
}

fn any(args: &ProbeArgs, port: u16) -> SocketAddr {
    match args.to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

/// Sends and receives at once: megabytes do not fit into the buffers between.
fn echo(stream: &TcpStream, reader: &mut impl Read, bytes: usize) -> io::Result<()> {
    let sent: Vec<u8> = (0..bytes).map(pattern).collect();
    let mut received = Vec::with_capacity(bytes);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut stream = stream;
            stream.write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        });
        reader.read_to_end(&mut received)?;
        writer
            .join()
            .map_err(|_| io::Error::other("the writer panicked"))?
    })?;
    if received == sent {
        Ok(())
    } else {
        Err(corrupted(received.len(), bytes))
    }
}

fn udp(args: &ProbeArgs, number: usize) -> io::Result<Outcome> {
    let next = if args.source_port == 0 {
        0
    } else {
        u16::try_from(number).unwrap_or(u16::MAX)
    };
    let socket = UdpSocket::bind(any(args, args.source_port.saturating_add(next)))?;
    socket.set_read_timeout(Some(Duration::from_millis(args.timeout_ms)))?;
    // The first bytes tell this request from the one before.
    let mut sent: Vec<u8> = (0..args.bytes).map(pattern).collect();
    sent.splice(..0, format!("{number} ").into_bytes());
    let mut buffer = vec![0; 65536];
    let (length, peer) = if args.connected {
        socket.connect(args.to)?;
        socket.send(&sent)?;
        (socket.recv(&mut buffer)?, socket.peer_addr()?)
    } else {
        socket.send_to(&sent, args.to)?;
        socket.recv_from(&mut buffer)?
    };
    let end = buffer[..length]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(length, |end| end + 1);
    let (greeting, payload) = buffer[..length].split_at(end);
    if payload != sent {
        return Err(corrupted(payload.len(), sent.len()));
    }
    greeted(greeting, peer)
}

pub(super) fn greeted(greeting: &[u8], peer: SocketAddr) -> io::Result<Outcome> {
    let odd = || io::Error::other(format!("an odd greeting of {} bytes", greeting.len()));
    let text = str::from_utf8(greeting).map_err(|_| odd())?;
    let (by, seen) = text.trim_end().split_once(' ').ok_or_else(odd)?;
    let seen = seen.parse().map_err(|_| odd())?;
    Ok(Outcome::Answered {
        by: by.to_owned(),
        seen,
        peer: plain(peer),
    })
}

fn pattern(index: usize) -> u8 {
    // A prime period, so that a shifted or repeated segment shows.
    u8::try_from(index % 251).expect("251 is below 256")
}

fn corrupted(received: usize, sent: usize) -> io::Error {
    io::Error::other(format!(
        "sent {sent} bytes, got {received} or other ones back"
    ))
}
