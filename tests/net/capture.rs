//! What is on the wire: every frame that a place gets or sends, and whether its checksums are right.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use xtask::topology::{Topology, in_namespace};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// What a place gets and sends, until it is stopped.
pub struct Capture {
    stop: Arc<AtomicBool>,
    frames: JoinHandle<Result<Vec<Vec<u8>>>>,
}

impl Capture {
    pub fn start(topology: &Topology, place: &str) -> Result<Self> {
        let namespace = topology.place(place).namespace_file();
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let stopped = stop.clone();
        let frames = thread::spawn(move || {
            in_namespace(&namespace, || {
                let all = Protocol::from(i32::from(3u16.to_be())); // ETH_P_ALL
                let mut socket =
                    Socket::new(Domain::PACKET, Type::RAW, Some(all)).context("a packet socket")?;
                socket.set_read_timeout(Some(Duration::from_millis(20)))?;
                ready.send(())?;
                let mut frames = Vec::new();
                let mut buffer = vec![0; 1 << 16];
                loop {
                    match socket.read(&mut buffer) {
                        Ok(length) => frames.push(buffer[..length].to_vec()),
                        // What was sent before has come by now.
                        Err(_) if stopped.load(Ordering::Relaxed) => return Ok(frames),
                        Err(_) => (),
                    }
                }
            })
        });
        is_ready
            .recv_timeout(Duration::from_secs(2))
            .context("the capture did not start")?;
        Ok(Self { stop, frames })
    }

    /// The IP packets, but for the neighbours' talk.
    pub fn stop(self) -> Result<Vec<Seen>> {
        thread::sleep(Duration::from_millis(30));
        self.stop.store(true, Ordering::Relaxed);
        let frames = self
            .frames
            .join()
            .map_err(|_| anyhow!("the capture panicked"))??;
        Ok(frames.iter().filter_map(|frame| Seen::of(frame)).collect())
    }
}

/// An IP packet of a capture.
#[derive(Debug)]
pub struct Seen {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub ttl: u8,
    /// A part of a fragmented datagram.
    pub fragment: bool,
    /// Transport header and payload.
    pub payload: Vec<u8>,
    pub header: Vec<u8>,
}

impl Seen {
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        match frame.get(12..14)? {
            [0x08, 0x00] => {
                let (header, length) = (usize::from(packet[0] & 15) * 4, word(packet, 2)?);
                let addr = |at: usize| {
                    Some(Ipv4Addr::from(
                        <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
                    ))
                };
                Some(Self {
                    src: addr(12)?.into(),
                    dst: addr(16)?.into(),
                    protocol: packet[9],
                    ttl: packet[8],
                    fragment: word(packet, 6)? & 0x3fff != 0,
                    payload: packet.get(header..usize::from(length))?.to_vec(),
                    header: packet[..header].to_vec(),
                })
            }
            [0x86, 0xdd] => {
                let end = 40 + usize::from(word(packet, 4)?);
                let addr = |at: usize| {
                    Some(Ipv6Addr::from(
                        <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
                    ))
                };
                let seen = Self {
                    src: addr(8)?.into(),
                    dst: addr(24)?.into(),
                    protocol: packet[6],
                    ttl: packet[7],
                    fragment: packet[6] == 44,
                    payload: packet.get(40..end)?.to_vec(),
                    header: packet[..40].to_vec(),
                };
                // Neighbour and multicast listener discovery.
                (seen.protocol != 0 && !(seen.protocol == ICMPV6 && seen.payload[0] >= 130))
                    .then_some(seen)
            }
            _ => None,
        }
    }

    /// ICMP type and code.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        ([ICMP, ICMPV6].contains(&self.protocol)).then(|| (self.payload[0], self.payload[1]))
    }

    /// The packet that an ICMP error quotes: source, destination, and the two ports.
    pub fn quoted(&self) -> Option<(IpAddr, u16, IpAddr, u16)> {
        let quote = &self.payload.get(8..)?;
        let (src, dst, ports): (IpAddr, IpAddr, usize) = if quote[0] >> 4 == 4 {
            let addr = |at: usize| {
                Some(Ipv4Addr::from(
                    <[u8; 4]>::try_from(quote.get(at..at + 4)?).ok()?,
                ))
            };
            (
                addr(12)?.into(),
                addr(16)?.into(),
                usize::from(quote[0] & 15) * 4,
            )
        } else {
            let addr = |at: usize| {
                Some(Ipv6Addr::from(
                    <[u8; 16]>::try_from(quote.get(at..at + 16)?).ok()?,
                ))
            };
            (addr(8)?.into(), addr(24)?.into(), 40)
        };
        Some((src, word(quote, ports)?, dst, word(quote, ports + 2)?))
    }

    /// Whether the checksums of its headers are right. A fragment's transport checksum covers what is elsewhere.
    pub fn check(&self) -> Result<()> {
        if self.src.is_ipv4() {
            ensure!(
                sum(&[&self.header]) == 0xffff,
                "wrong IP header checksum: {self:02x?}"
            );
        }
        let covered = [TCP, UDP, ICMPV6].contains(&self.protocol);
        if self.fragment || !(covered || self.protocol == ICMP) {
            return Ok(());
        }
        let pseudo = self.pseudo();
        let pseudo: &[u8] = if covered { &pseudo } else { &[] };
        let unused = self.protocol == UDP && word(&self.payload, 6) == Some(0);
        ensure!(
            !(unused && self.src.is_ipv6()),
            "IPv6 UDP without a checksum: {self:02x?}"
        );
        ensure!(
            unused || sum(&[pseudo, &self.payload]) == 0xffff,
            "wrong transport checksum: {self:02x?}"
        );
        Ok(())
    }

    /// Addresses, protocol and length, as RFC 768 and RFC 8200 §8.1 want them; one sum serves both.
    fn pseudo(&self) -> Vec<u8> {
        let addresses = if self.src.is_ipv4() { 12..20 } else { 8..40 };
        let length = u16::try_from(self.payload.len())
            .expect("an IP length has 16 bits")
            .to_be_bytes();
        [&self.header[addresses], &length, &[0, self.protocol]].concat()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The Internet checksum's sum (RFC 1071); parts but the last are of even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = pairs
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
