//! Frames for tests, in one line each: `tcp(client, vip).port(80).syn().build()`. Only std, and its own plain checksums,
//! so that nothing under test helps to make what it is tested with. svc-common's own tests include this file too.

use std::net::IpAddr;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// What lies behind the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
    },
    Udp {
        checksum: bool,
    },
    Sctp {
        checksum: bool,
    },
    /// Type and code, the word behind the checksum, and the quoted packet.
    Icmp {
        what: [u8; 2],
        rest: [u8; 4],
        quote: Vec<u8>,
    },
}

/// A frame to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    body: Body,
    payload: Vec<u8>,
    ttl: u8,
    options: usize,
    extensions: Vec<(u8, u8)>,
    fragment: Option<(u16, u16, bool)>,
    macs: ([u8; 6], [u8; 6]),
}

fn frame(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, body: Body) -> Frame {
    Frame {
        src: src.into(),
        dst: dst.into(),
        sport: 40_000,
        dport: 80,
        body,
        payload: Vec::new(),
        ttl: 64,
        options: 0,
        extensions: Vec::new(),
        fragment: None,
        macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
    }
}

/// A TCP segment: an ACK unless told otherwise.
pub fn tcp(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Frame {
    frame(
        src,
        dst,
        Body::Tcp {
            flags: ACK,
            seq: 1_000,
            ack: 2_000,
        },
    )
}

pub fn udp(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Frame {
    frame(src, dst, Body::Udp { checksum: true })
}

/// An SCTP packet; what it carries is the payload's business.
pub fn sctp(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Frame {
    frame(src, dst, Body::Sctp { checksum: true })
}

/// An ICMP error (port unreachable) from `src` to `dst` about `quoted`, with all of it in the quote.
pub fn icmp_error(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, quoted: &Frame) -> Frame {
    let src = src.into();
    let what = if src.is_ipv4() { [3, 3] } else { [1, 4] };
    frame(
        src,
        dst,
        Body::Icmp {
            what,
            rest: [0; 4],
            quote: quoted.packet(),
        },
    )
}

/// An ICMP echo request.
pub fn echo(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Frame {
    let src = src.into();
    let what = if src.is_ipv4() { [8, 0] } else { [128, 0] };
    frame(
        src,
        dst,
        Body::Icmp {
            what,
            rest: [0, 1, 0, 1],
            quote: vec![7; 16],
        },
    )
}

impl Frame {
    #[must_use]
    pub fn port(mut self, dport: u16) -> Self {
        self.dport = dport;
        self
    }

    #[must_use]
    pub fn sport(mut self, sport: u16) -> Self {
        self.sport = sport;
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    #[must_use]
    pub fn flags(mut self, new: u8) -> Self {
        if let Body::Tcp { flags, .. } = &mut self.body {
            *flags = new;
        }
        self
    }

    #[must_use]
    pub fn syn(self) -> Self {
        self.flags(SYN)
    }

    #[must_use]
    pub fn fin(self) -> Self {
        self.flags(FIN | ACK)
    }

    #[must_use]
    pub fn rst(self) -> Self {
        self.flags(RST)
    }

    #[must_use]
    pub fn numbers(mut self, new_seq: u32, new_ack: u32) -> Self {
        if let Body::Tcp { seq, ack, .. } = &mut self.body {
            (*seq, *ack) = (new_seq, new_ack);
        }
        self
    }

    /// UDP without a checksum (RFC 768); SCTP whose checksum a device is to compute.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Body::Udp { checksum } | Body::Sctp { checksum } = &mut self.body {
            *checksum = false;
        }
        self
    }

    /// IPv4 options, in words of no-operations.
    #[must_use]
    pub fn options(mut self, words: usize) -> Self {
        self.options = words;
        self
    }

    /// One more IPv6 extension header, of a kind, with so many times eight bytes behind the first eight. A routing header
    /// has no segments left.
    #[must_use]
    pub fn extension(mut self, kind: u8, more: u8) -> Self {
        self.extensions.push((kind, more));
        self
    }

    /// Bytes between an IPv6 header and the transport header.
    pub fn extension_len(&self) -> usize {
        let fragment = if self.fragment.is_some() { 8 } else { 0 };
        let of = |(_, more): &(u8, u8)| 8 + 8 * usize::from(*more);
        self.extensions.iter().map(of).sum::<usize>() + fragment
    }

    /// A fragment: identification, offset in units of eight bytes, more to come. Only offset 0 carries the transport header.
    #[must_use]
    pub fn fragment(mut self, id: u16, offset: u16, more: bool) -> Self {
        self.fragment = Some((id, offset, more));
        self
    }

    /// Type and code of an ICMP message.
    #[must_use]
    pub fn kind(mut self, new: [u8; 2]) -> Self {
        if let Body::Icmp { what, .. } = &mut self.body {
            *what = new;
        }
        self
    }

    /// The word behind the ICMP checksum.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        if let Body::Icmp { rest, .. } = &mut self.body {
            let [high, low] = mtu.to_be_bytes();
            *rest = [0, 0, high, low];
        }
        self
    }

    /// Quotes only the first `len` bytes behind the quoted IP header.
    #[must_use]
    pub fn quoting(mut self, len: usize) -> Self {
        let header = if self.src.is_ipv4() { 20 } else { 40 };
        if let Body::Icmp { quote, .. } = &mut self.body {
            quote.truncate(header + len);
        }
        self
    }

    #[must_use]
    pub fn macs(mut self, dst: [u8; 6], src: [u8; 6]) -> Self {
        self.macs = (dst, src);
        self
    }

    /// The same in the other direction: an answer.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        (self.src, self.dst) = (self.dst, self.src);
        (self.sport, self.dport) = (self.dport, self.sport);
        self
    }

    #[must_use]
    pub fn from(mut self, src: impl Into<IpAddr>, sport: u16) -> Self {
        (self.src, self.sport) = (src.into(), sport);
        self
    }

    #[must_use]
    pub fn to(mut self, dst: impl Into<IpAddr>, dport: u16) -> Self {
        (self.dst, self.dport) = (dst.into(), dport);
        self
    }

    /// The frame with its Ethernet header.
    pub fn build(&self) -> Vec<u8> {
        let ethertype: u16 = if self.src.is_ipv4() { 0x0800 } else { 0x86dd };
        [
            &self.macs.0[..],
            &self.macs.1,
            &ethertype.to_be_bytes(),
            &self.packet(),
        ]
        .concat()
    }

    /// The frame without its Ethernet header.
    pub fn packet(&self) -> Vec<u8> {
        let transport = match self.fragment {
            Some((_, offset, _)) if offset != 0 => self.payload.clone(),
            _ => self.transport(),
        };
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src.octets(), dst.octets(), &transport),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src.octets(), dst.octets(), &transport),
            _ => panic!("a packet from {} to {}: two families", self.src, self.dst),
        }
    }

    pub fn proto(&self) -> u8 {
        match self.body {
            Body::Tcp { .. } => TCP,
            Body::Udp { .. } => UDP,
            Body::Sctp { .. } => SCTP,
            Body::Icmp { .. } => {
                if self.src.is_ipv4() {
                    ICMP
                } else {
                    ICMPV6
                }
            }
        }
    }

    fn ipv4(&self, src: [u8; 4], dst: [u8; 4], transport: &[u8]) -> Vec<u8> {
        let header = 20 + self.options * 4;
        let (id, fragment) = match self.fragment {
            None => (0x1234, 0x4000),
            Some((id, offset, more)) => (id, offset | if more { 0x2000 } else { 0 }),
        };
        let mut ip = vec![0x40 | (header / 4) as u8, 0];
        ip.extend(((header + transport.len()) as u16).to_be_bytes());
        ip.extend(id.to_be_bytes());
        ip.extend(fragment.to_be_bytes());
        ip.extend([self.ttl, self.proto(), 0, 0]);
        ip.extend(src.iter().chain(&dst));
        ip.resize(header, 1);
        let checksum = checksum(&ip);
        ip[10..12].copy_from_slice(&checksum);
        ip.extend(transport);
        ip
    }

    fn ipv6(&self, src: [u8; 16], dst: [u8; 16], transport: &[u8]) -> Vec<u8> {
        let mut extension = Vec::new();
        let mut next = self.proto();
        if let Some((id, offset, more)) = self.fragment {
            extension.extend([next, 0]);
            extension.extend((offset << 3 | more as u16).to_be_bytes());
            extension.extend(u32::from(id).to_be_bytes());
            next = 44;
        }
        for (kind, more) in self.extensions.iter().rev() {
            let mut header = vec![next, *more];
            if *kind != 43 {
                // PadN, to the end.
                header.extend([1, 4 + 8 * more]);
            }
            header.resize(8 + 8 * usize::from(*more), 0);
            extension = [header, extension].concat();
            next = *kind;
        }
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend(((extension.len() + transport.len()) as u16).to_be_bytes());
        ip.extend([next, self.ttl]);
        ip.extend(src.iter().chain(&dst).chain(&extension).chain(transport));
        ip
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        let (mut bytes, at) = match &self.body {
            Body::Tcp { flags, seq, ack } => {
                let rest = [0x50, *flags, 0xff, 0xff, 0, 0, 0, 0];
                (
                    [
                        &ports[..],
                        &seq.to_be_bytes(),
                        &ack.to_be_bytes(),
                        &rest,
                        &self.payload,
                    ]
                    .concat(),
                    16,
                )
            }
            Body::Udp { .. } => {
                let len = (8 + self.payload.len()) as u16;
                (
                    [&ports[..], &len.to_be_bytes(), &[0, 0], &self.payload].concat(),
                    6,
                )
            }
            Body::Sctp { checksum } => {
                let mut bytes = [&ports[..], &[0, 0, 0, 9], &[0; 4], &self.payload].concat();
                if *checksum {
                    let crc = crc32c(&bytes);
                    bytes[8..12].copy_from_slice(&crc);
                }
                return bytes;
            }
            Body::Icmp { what, rest, quote } => ([&what[..], &[0, 0], rest, quote].concat(), 2),
        };
        if self.body == (Body::Udp { checksum: false }) {
            return bytes;
        }
        let mut covered = self.pseudo_header(bytes.len());
        covered.extend(&bytes);
        let mut checksum = checksum(&covered);
        if self.proto() == UDP && checksum == [0, 0] {
            checksum = [0xff, 0xff];
        }
        bytes[at..at + 2].copy_from_slice(&checksum);
        bytes
    }

    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        match (self.src, self.dst) {
            _ if self.proto() == ICMP => Vec::new(),
            (IpAddr::V4(src), IpAddr::V4(dst)) => [
                &src.octets()[..],
                &dst.octets(),
                &[0, self.proto()],
                &(len as u16).to_be_bytes(),
            ]
            .concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let tail = [0, 0, 0, self.proto()];
                [
                    &src.octets()[..],
                    &dst.octets(),
                    &(len as u32).to_be_bytes(),
                    &tail,
                ]
                .concat()
            }
            _ => panic!("a packet from {} to {}: two families", self.src, self.dst),
        }
    }
}

/// RFC 1071, as it is written there.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| {
            u64::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// RFC 9260 Appendix A, bit by bit, as the field has it.
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    (!crc).to_le_bytes()
}
