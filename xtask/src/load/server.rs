//! The server: `xtask bear --cpu 1` bears every kind of work, each at its own port, until it is killed.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

use super::{BULK, REQUEST, Work, pin};
use crate::traffic::Protocol;

/// Answers what `load` asks.
#[derive(clap::Args, Debug)]
pub struct BearArgs {
    #[arg(long)]
    cpu: usize,
}

pub fn bear(args: &BearArgs) -> Result<()> {
    pin(args.cpu)?;
    let mut offers = Vec::new();
    for work in Work::ALL
        .into_iter()
        .filter(|work| *work != Work::UdpConnect)
    {
        for port in [work.port(), work.plain_port()] {
            offers.push((work, open(work, port)?));
        }
    }
    println!("ready");
    io::stdout().flush()?;
    thread::scope(|scope| {
        for (work, door) in &offers {
            scope.spawn(|| match door {
                Door::Tcp(listener) => serve(*work, listener),
                Door::Udp(socket) => datagram_answers(socket, *work == Work::UdpPackets),
            });
        }
    });
    Ok(())
}

enum Door {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

fn open(work: Work, port: u16) -> Result<Door> {
    let here = (Ipv6Addr::UNSPECIFIED, port);
    let door = match work.protocol() {
        Protocol::Tcp => TcpListener::bind(here).map(Door::Tcp),
        Protocol::Udp => UdpSocket::bind(here).map(Door::Udp),
    };
    door.with_context(|| format!("cannot listen on {} port {port}", work.protocol()))
}

fn serve(work: Work, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // A client that has gone away has said so by itself.
        match work {
            Work::TcpConnect => drop(answer(stream)),
            Work::TcpBulk => drop(thread::spawn(|| swallow(stream))),
            _ => drop(thread::spawn(|| answer(stream))),
        }
    }
}

/// Answers requests until the client closes.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut room = [0; REQUEST];
    loop {
        stream.read_exact(&mut room)?;
        stream.write_all(&room)?;
    }
}

/// Answers each mebibyte with a byte.
fn swallow(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut room = vec![0; 1 << 18];
    let mut length = 0;
    loop {
        let read = stream.read(&mut room)?;
        if read == 0 {
            return Ok(());
        }
        length += read;
        while length >= BULK {
            length -= BULK;
            stream.write_all(&room[..1])?;
        }
    }
}

/// Answers every datagram, or the last ones of trains: those that begin with 1.
fn datagram_answers(socket: &UdpSocket, last_only: bool) {
    let mut room = [0; REQUEST];
    loop {
        // An error here is a port-unreachable for an earlier answer.
        if let Ok((length, peer)) = socket.recv_from(&mut room)
            && (!last_only || room[0] == 1)
        {
            let _ = socket.send_to(&room[..length], peer);
        }
    }
}
