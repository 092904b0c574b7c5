//! A resolver of one question: `xtask ask udp 10.96.0.10:53 kube-dns.kube-system.svc.cluster.local A`. Prints a line per
//! record of the answer: its type and what it says (RFC 1035, RFC 2782, RFC 3596).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Protocol;

/// Asks a DNS server one question and prints the records of its answer.
#[derive(clap::Args, Debug)]
pub struct AskArgs {
    protocol: Protocol,
    server: SocketAddr,
    name: String,
    kind: Kind,
    #[arg(long, default_value_t = 2000)]
    timeout_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    #[value(name = "A")]
    A = 1,
    #[value(name = "CNAME")]
    Cname = 5,
    #[value(name = "PTR")]
    Ptr = 12,
    #[value(name = "AAAA")]
    Aaaa = 28,
    #[value(name = "SRV")]
    Srv = 33,
}

const ID: u16 = 0x5376;
const RECURSION_DESIRED: u16 = 0x0100;
const INTERNET: u16 = 1;

pub fn ask(args: &AskArgs) -> Result<()> {
    let question = question(&args.name, args.kind)?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let answer = match args.protocol {
        Protocol::Udp => by_udp(args.server, &question, timeout),
        Protocol::Tcp => by_tcp(args.server, &question, timeout),
    };
    let answer = answer.with_context(|| format!("{} did not answer", args.server))?;
    for line in records(&answer)? {
        println!("{line}");
    }
    Ok(())
}

fn question(name: &str, kind: Kind) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    for word in [ID, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..64).contains(n));
        message.push(length.with_context(|| format!("{label:?} is no label"))?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    for word in [kind as u16, INTERNET] {
        message.extend(word.to_be_bytes());
    }
    Ok(message)
}

fn by_udp(server: SocketAddr, question: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(question)?;
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn by_tcp(server: SocketAddr, question: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let length = u16::try_from(question.len()).map_err(|_| ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The answer section, or the code of an error.
fn records(message: &[u8]) -> Result<Vec<String>> {
    let mut reader = Reader { message, at: 0 };
    ensure!(reader.word()? == ID, "an answer to another question");
    let code = reader.word()? & 0xf;
    if code != 0 {
        return Ok(vec![format!("error {code}")]);
    }
    let [questions, answers, _, _] = [
        reader.word()?,
        reader.word()?,
        reader.word()?,
        reader.word()?,
    ];
    for _ in 0..questions {
        reader.name()?;
        reader.take(4)?;
    }
    (0..answers).map(|_| reader.record()).collect()
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.message.get(self.at..self.at + count);
        self.at += count;
        taken.context("the answer ends early")
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn name(&mut self) -> Result<String> {
        let mut name = String::new();
        let mut end = None;
        for _ in 0..128 {
            match self.byte()? {
                0 => {
                    self.at = end.unwrap_or(self.at);
                    return Ok(name);
                }
                high if high >= 0xc0 => {
                    let low = self.byte()?;
                    end = end.or(Some(self.at));
                    self.at = usize::from(high & 0x3f) << 8 | usize::from(low);
                }
                length => {
                    let label = self.take(length.into())?;
                    name += &String::from_utf8_lossy(label);
                    name.push('.');
                }
            }
        }
        bail!("a name that points at itself")
    }

    fn record(&mut self) -> Result<String> {
        self.name()?;
        let kind = self.word()?;
        self.take(6)?;
        let length = usize::from(self.word()?);
        let end = self.at + length;
        let text = match (kind, length) {
            (1, 4) => {
                let octets: [u8; 4] = self.take(4)?.try_into()?;
                format!("A {}", Ipv4Addr::from(octets))
            }
            (28, 16) => {
                let octets: [u8; 16] = self.take(16)?.try_into()?;
                format!("AAAA {}", Ipv6Addr::from(octets))
            }
            (5, _) => format!("CNAME {}", self.name()?),
            (12, _) => format!("PTR {}", self.name()?),
            (33, _) => {
                self.take(4)?;
                let port = self.word()?;
                format!("SRV {port} {}", self.name()?)
            }
            _ => format!("TYPE{kind}"),
        };
        self.at = end;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_pointer_is_read() {
        let mut message = question("a.b", Kind::A).unwrap();
        message[2] = 0x81;
        message[7] = 1;
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        assert_eq!(records(&message).unwrap(), ["A 10.0.0.1"]);
    }

    #[test]
    fn an_answer_that_ends_early_or_runs_in_a_circle_is_an_error() {
        let mut message = question("a.b", Kind::A).unwrap();
        message[7] = 1;
        assert!(records(&message).is_err());
        message.extend([0xc0, u8::try_from(message.len()).unwrap()]);
        assert!(records(&message).is_err());
    }
}
