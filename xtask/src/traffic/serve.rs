//! The server: `xtask serve --name pod-a --tcp 8080 --udp 5353`.

use std::io::{self, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

/// Answers with its name until it is killed.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    #[arg(long)]
    name: String,
    #[arg(long)]
    tcp: Vec<u16>,
    #[arg(long)]
    udp: Vec<u16>,
}

pub fn serve(args: &ServeArgs) -> Result<()> {
    thread::scope(|scope| {
        for port in &args.tcp {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port))
                .with_context(|| format!("cannot listen on tcp port {port}"))?;
            scope.spawn(move || accept(&args.name, &listener));
        }
        for port in &args.udp {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port))
                .with_context(|| format!("cannot listen on udp port {port}"))?;
            scope.spawn(move || answer(&args.name, &socket));
        }
        println!("ready");
        io::stdout().flush()?;
        Ok(())
    })
}

fn accept(name: &str, listener: &TcpListener) {
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            scope.spawn(move || greet_and_echo(name, stream));
        }
    });
}

fn greet_and_echo(name: &str, mut stream: TcpStream) -> io::Result<()> {
    let peer = plain(stream.peer_addr()?);
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name} {peer}\n").as_bytes())?;
    let mut reader = stream.try_clone()?;
    io::copy(&mut reader, &mut stream).map(drop)
}

fn answer(name: &str, socket: &UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        // An error here is a port-unreachable for an earlier answer.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut reply = format!("{name} {}\n", plain(peer)).into_bytes();
        reply.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&reply, peer);
    }
}

/// `::ffff:10.0.0.1` is 10.0.0.1; scope ids do not show.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
