//! The client: `xtask load --cpu 1` takes orders on stdin, one JSON line each, and answers each with a line.

use std::collections::BTreeMap;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::{BULK, Burst, Order, REQUEST, TRAIN, Work, pin};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a round trip is tried.
const TRIES: usize = 4;

/// Does work as it is told.
#[derive(clap::Args, Debug)]
pub struct LoadArgs {
    #[arg(long)]
    cpu: usize,
}

pub fn load(args: &LoadArgs) -> Result<()> {
    pin(args.cpu)?;
    let mut kept = BTreeMap::new();
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?).context("not an order")?;
        let result = burst(&order, &mut kept).map_err(|error| format!("{error:#}"));
        writeln!(out, "{}", serde_json::to_string(&result)?)?;
        out.flush()?;
    }
    Ok(())
}

/// What stays between bursts: a connection, or a socket.
enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

type Lines = BTreeMap<(Work, SocketAddr), Line>;

fn burst(order: &Order, kept: &mut Lines) -> Result<Burst> {
    let key = (order.work, order.to);
    if order.anew {
        kept.remove(&key);
    }
    let line = kept.remove(&key);
    let mut line = match line {
        Some(line) => Some(line),
        None => open(order.work, order.to)?,
    };
    let mut room = vec![0; BULK];
    let mut times = Vec::with_capacity(order.round_trips);
    let mut lost = 0;
    let clocks = clocks(&order.others)?;
    let (start, cpu) = (Instant::now(), total(&clocks)?);
    let mut last = start;
    for _ in 0..order.round_trips {
        let mut tries = 0;
        while let Err(error) = round_trip(order, line.as_mut(), &mut room) {
            tries += 1;
            let again = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            if tries == TRIES || !again || matches!(line, Some(Line::Tcp(_))) {
                bail!(error);
            }
            lost += 1;
        }
        let now = Instant::now();
        times.push((now - last).as_nanos() as u64);
        last = now;
    }
    let cpu = total(&clocks)? - cpu;
    let wall = start.elapsed().as_nanos() as u64;
    if let Some(line) = line {
        kept.insert(key, line);
    }
    times.sort_unstable();
    let at = |thousandth: usize| times[(times.len() * thousandth / 1000).min(times.len() - 1)];
    Ok(Burst {
        round_trips: times.len(),
        cpu,
        wall,
        p50: at(500),
        p99: at(990),
        p999: at(999),
        lost,
    })
}

fn open(work: Work, to: SocketAddr) -> io::Result<Option<Line>> {
    Ok(match work {
        Work::TcpConnect | Work::UdpConnect => None,
        Work::TcpRequest | Work::TcpBulk => Some(Line::Tcp(connect(to)?)),
        Work::UdpRequest | Work::UdpPackets => Some(Line::Udp(socket(to)?)),
    })
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

fn round_trip(order: &Order, line: Option<&mut Line>, room: &mut [u8]) -> io::Result<()> {
    match (order.work, line) {
        (Work::UdpConnect, _) => ask_datagram(&socket(order.to)?, room),
        (Work::UdpPackets, Some(Line::Udp(socket))) => {
            room[0] = 0;
            for _ in 1..TRAIN {
                socket.send(&room[..REQUEST])?;
            }
            room[0] = 1;
            ask_datagram(socket, room)
        }
        (_, Some(Line::Udp(socket))) => ask_datagram(socket, room),
        (Work::TcpBulk, Some(Line::Tcp(stream))) => {
            stream.write_all(room)?;
            stream.read_exact(&mut room[..1])
        }
        (_, Some(Line::Tcp(stream))) => ask(stream, room),
        (_, None) => ask(&mut TcpStream::connect(order.to)?, room),
    }
}

fn ask(stream: &mut TcpStream, room: &mut [u8]) -> io::Result<()> {
    stream.write_all(&room[..REQUEST])?;
    stream.read_exact(&mut room[..REQUEST])
}

fn ask_datagram(socket: &UdpSocket, room: &mut [u8]) -> io::Result<()> {
    socket.send(&room[..REQUEST])?;
    socket.recv(&mut room[..REQUEST]).map(drop)
}

fn clocks(others: &[i32]) -> Result<Vec<ClockId>> {
    let mut clocks = vec![ClockId::CLOCK_PROCESS_CPUTIME_ID];
    for pid in others {
        clocks.push(
            clock_getcpuclockid(Pid::from_raw(*pid))
                .with_context(|| format!("process {pid} has no CPU clock"))?,
        );
    }
    Ok(clocks)
}

fn total(clocks: &[ClockId]) -> Result<u64> {
    let mut sum = 0;
    for clock in clocks {
        let time = clock_gettime(*clock).context("a CPU clock cannot be read")?;
        sum += time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned();
    }
    Ok(sum)
}
