//! Packets from outside with sources that nobody has: SYNs and datagrams to the node ports.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use xtask::topology::in_namespace;

use super::Soak;

/// It floods for so long, and rests as long.
const BURST: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(10);
const IP: usize = 20;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Until it is over; how many packets were sent.
pub(super) fn flood(soak: &Soak, rate: u32) -> Result<u64> {
    let node = soak.topology.place("node1").v4;
    in_namespace(&soak.topology.place("client").namespace_file(), || {
        // IPPROTO_RAW: the packet brings its own header.
        let socket = Socket::new(
            Domain::IPV4,
            Type::from(nix::libc::SOCK_RAW),
            Some(Protocol::from(255)),
        )
        .context("making a raw socket")?;
        let (mut sent, mut drawn) = (0u64, 0x9e37_79b9_7f4a_7c15_u64);
        while !soak.is_over() {
            let burst = Instant::now();
            while burst.elapsed() < BURST && !soak.is_over() {
                for _ in 0..rate / 100 {
                    drawn = next(drawn);
                    let (packet, to) = if drawn & 1 == 0 {
                        (syn(node, drawn), 30080)
                    } else {
                        (datagram(node, drawn), 30053)
                    };
                    let to = SockAddr::from(SocketAddrV4::new(node, to));
                    // No room on the way: that is a flood's to bear.
                    if socket.send_to(&packet, &to).is_ok() {
                        sent += 1;
                    }
                }
                std::thread::sleep(TICK);
            }
            soak.pause(BURST);
        }
        Ok(sent)
    })
}

/// xorshift64.
fn next(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}

/// Of 198.18.0.0/15, which is for benchmarks and nobody's here.
fn source(drawn: u64) -> Ipv4Addr {
    let [.., b, c, d] = ((drawn >> 24) as u32).to_be_bytes();
    Ipv4Addr::new(198, 18 | b & 1, c, d)
}

fn port(drawn: u64) -> u16 {
    1024 + ((drawn >> 8) as u16 & 0x7fff)
}

fn header(node: Ipv4Addr, drawn: u64, protocol: u8, len: usize) -> Vec<u8> {
    let total = u16::try_from(IP + len).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    // The kernel fills in identification and checksum.
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source(drawn).octets());
    packet.extend(node.octets());
    packet
}

fn syn(node: Ipv4Addr, drawn: u64) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(port(drawn).to_be_bytes());
    tcp.extend(30080u16.to_be_bytes());
    tcp.extend(((drawn >> 32) as u32).to_be_bytes());
    // Acknowledges nothing; 20 bytes long, SYN, a window.
    tcp.extend([0, 0, 0, 0, 0x50, 0x02, 0x40, 0, 0, 0, 0, 0]);
    let mut packet = header(node, drawn, TCP, tcp.len());
    let sum = checksum(&packet[12..IP], TCP, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    packet
}

fn datagram(node: Ipv4Addr, drawn: u64) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(port(drawn).to_be_bytes());
    udp.extend(30053u16.to_be_bytes());
    // Twelve bytes, without checksum.
    udp.extend([0, 12, 0, 0, b'h', b'i', b'!', b'\n']);
    let mut packet = header(node, drawn, UDP, udp.len());
    packet.extend(udp);
    packet
}

fn checksum(addresses: &[u8], protocol: u8, body: &[u8]) -> u16 {
    let len = u32::try_from(body.len()).unwrap_or(0);
    let words = addresses.chunks(2).chain(body.chunks(2));
    let sum: u32 = words
        .map(|word| {
            u32::from(u16::from_be_bytes([
                word[0],
                word.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum::<u32>()
        + u32::from(protocol)
        + len;
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spoofed_syn_has_a_sum_that_its_receiver_accepts() {
        let node = Ipv4Addr::new(172, 18, 0, 11);
        for drawn in [1, 0x1234_5678_9abc_def0, u64::MAX] {
            let packet = syn(node, drawn);
            assert_eq!(packet.len(), 40);
            assert_eq!(checksum(&packet[12..IP], TCP, &packet[IP..]), 0);
            assert_eq!(packet[12], 198);
        }
        assert_eq!(datagram(node, 7).len(), 32);
    }
}
