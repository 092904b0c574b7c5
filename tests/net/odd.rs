//! What is neither TCP nor UDP, and what is no connection: SCTP, pings, binds of node ports.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use svc_common::reason::Reason;
use xtask::topology::{Topology, in_namespace};
use xtask::traffic::Probe;

use crate::Case;
use crate::frames::{crc32c, sctp};
use crate::lab::Lab;
use crate::paths::{PODS, Way};
use crate::wire::{counted, udp_ways};

pub const CASES: &[Case] = &[
    Case {
        name: "pings_of_virtual_addresses_are_answered",
        settings: &[
            "socket_tcp",
            "packets_only",
            "packets_only_bridge",
            "xdp_native",
        ],
        test: pings,
    },
    Case {
        name: "sctp_ports_are_translated",
        settings: &["socket_tcp", "packets_only", "xdp_native"],
        test: sctp_ports,
    },
    Case {
        name: "binds_of_node_ports_are_counted_or_refused",
        settings: &["socket_tcp", "packets_only"],
        test: binds,
    },
    Case {
        name: "clients_behind_a_device_without_ethernet_headers_are_answered",
        settings: &["packets_only", "xdp_native"],
        test: layer3,
    },
];

fn ping(lab: &Lab, from: &str, to: IpAddr) -> bool {
    lab.tool(from, &format!("ping -n -c 2 -i 0.2 -W 1 {to}"))
        .is_ok()
}

fn pings(lab: &mut Lab) -> Result<()> {
    for way in udp_ways() {
        let (inside, vip) = (way.cluster_ip(1).ip(), way.load_balancer()?.ip());
        let empty = way.cluster_ip(4).ip();
        for from in ["pod-a", "pod-d", "node1", "node2"] {
            for to in [inside, vip, empty] {
                ensure!(ping(lab, from, to), "{from} → {to}: no answer");
            }
        }
        ensure!(ping(lab, "client", vip), "client → {vip}: no answer");
        ensure!(
            !ping(lab, "client", inside),
            "a ClusterIP answers the outside"
        );
        // The node answers for itself.
        let node = lab.address("node1", way.v6);
        ensure!(ping(lab, "client", node), "client → {node}: no answer");
    }
    Ok(())
}

const SCTP: i32 = 132;
const VIP_PORT: u16 = 36_412;
const POD_PORT: u16 = 9_999;
const NODE_PORT: u16 = 30_090;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: sctp-a}
spec:
  type: NodePort
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, 'fd00:96::20']
  selector: {one: a}
  ports:
  - {name: sctp, protocol: SCTP, port: 36412, targetPort: 9999, nodePort: 30090}
";

/// An SCTP packet as a raw socket gets it.
#[derive(Debug)]
struct Heard {
    from: IpAddr,
    sport: u16,
    dport: u16,
    payload: Vec<u8>,
}

/// A raw SCTP socket: this kernel need not have SCTP.
fn raw(v6: bool) -> Result<UdpSocket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket =
        Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP))).context("a raw SCTP socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket.into())
}

/// The next packet to one of our ports; its checksum must be right.
fn hear(socket: &UdpSocket, dport: u16) -> Result<Heard> {
    loop {
        let mut buffer = vec![0; 1 << 16];
        let (length, from) = socket.recv_from(&mut buffer).context("nothing came")?;
        // IPv4 raw sockets get the IP header too.
        let header = if from.is_ipv4() {
            usize::from(buffer[0] & 15) * 4
        } else {
            0
        };
        let packet = &buffer[header..length];
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        if port(2) != dport {
            continue;
        }
        let mut blank = packet.to_vec();
        blank[8..12].fill(0);
        ensure!(
            packet[8..12] == crc32c(&blank),
            "wrong CRC32c from {from}: {packet:02x?}"
        );
        return Ok(Heard {
            from: from.ip(),
            sport: port(0),
            dport: port(2),
            payload: packet[12..].to_vec(),
        });
    }
}

fn say(socket: &UdpSocket, src: IpAddr, sport: u16, to: SocketAddr, payload: &[u8]) -> Result<()> {
    let packet = sctp(src, to.ip())
        .sport(sport)
        .port(to.port())
        .payload(payload)
        .packet();
    let header = if to.is_ipv4() { 20 } else { 40 };
    socket.send_to(&packet[header..], SocketAddr::new(to.ip(), 0))?;
    Ok(())
}

/// A packet there and one back: what the pod heard, and what the client.
fn exchange(
    topology: &Topology,
    pod: &str,
    (client, source): (&str, u16),
    to: SocketAddr,
    payload: &[u8],
) -> Result<(Heard, Heard)> {
    let v6 = to.is_ipv6();
    let address = |place: &str| topology.place(place).addresses()[usize::from(v6)];
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            in_namespace(&topology.place(pod).namespace_file(), || {
                let socket = raw(v6)?;
                ready.send(())?;
                let heard = hear(&socket, POD_PORT)?;
                let back = SocketAddr::new(heard.from, heard.sport);
                say(&socket, address(pod), heard.dport, back, &heard.payload)?;
                Ok(heard)
            })
        });
        is_ready
            .recv_timeout(Duration::from_secs(2))
            .context("the server did not start")?;
        let answer = in_namespace(&topology.place(client).namespace_file(), || {
            let socket = raw(v6)?;
            say(&socket, address(client), source, to, payload)?;
            hear(&socket, source)
        });
        let heard = server.join().map_err(|_| anyhow!("the server panicked"))?;
        let heard = heard.with_context(|| format!("{client} → {to}: the server"))?;
        Ok((heard, answer.context("the client")?))
    })
}

fn sctp_ports(lab: &mut Lab) -> Result<()> {
    lab.write("sctp.yaml", SERVICE)?;
    lab.wait_for("the SCTP Service is there", |all| all.contains("sctp-a"))?;
    let mut source = 5_000;
    for way in udp_ways() {
        let vip = SocketAddr::new(
            way.pick("10.96.0.20".parse()?, "fd00:96::20".parse()?),
            VIP_PORT,
        );
        let node_port = |node| SocketAddr::new(lab.address(node, way.v6), NODE_PORT);
        for (from, to, seen) in [
            ("pod-b", vip, "pod-b"),
            ("pod-d", vip, "pod-d"),
            ("client", node_port("node1"), "client"),
            ("client", node_port("node2"), "node2"),
            ("node2", vip, "node2"),
        ] {
            for size in [20, 1_200] {
                source += 1;
                let payload = vec![7; size];
                let (heard, answer) =
                    exchange(&lab.topology, "pod-a", (from, source), to, &payload)?;
                let what = format!("{from} → {to}: {:?} {}", heard.from, heard.sport);
                ensure!(heard.from == lab.address(seen, way.v6), "{what}");
                ensure!(
                    heard.payload == payload && answer.payload == payload,
                    "{what}"
                );
                let answered = SocketAddr::new(answer.from, answer.sport);
                ensure!(answered == to, "{what}: answered by {answered}");
            }
        }
    }
    std::fs::remove_file(lab.manifests.join("sctp.yaml"))?;
    lab.wait_for("the SCTP Service is gone", |all| !all.contains("sctp-a"))
}

/// Tries to bind a port on node1 by a process of its own, which the cgroup's programs see.
fn bind(lab: &Lab, way: Way, address: &str, port: u16) -> Result<(bool, String)> {
    let program = format!(
        "import socket; s=socket.socket(socket.AF_INET{}, socket.SOCK_{}); s.bind(('{address}', {port}))",
        way.pick("", "6"),
        if way.is_udp() { "DGRAM" } else { "STREAM" }
    );
    let output = lab
        .topology
        .command("node1", "python3")?
        .args(["-c", &program])
        .output()?;
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), why))
}

fn binds(lab: &mut Lab) -> Result<()> {
    // A node port that nobody else uses here, and its neighbour.
    let (taken, free) = (30_085, 30_099);
    let mut before = counted(lab, Reason::NodePortBound)?;
    let ways = Way::ALL.map(|way| (way, if way.is_udp() { 30_058 } else { taken }));
    // Without socket load balancing the hooks are only there when they are asked for.
    if lab.setting.socket_lb != "off" {
        for (way, port) in ways {
            let any = way.pick("0.0.0.0", "::");
            let (bound, why) = bind(lab, way, any, port)?;
            ensure!(bound, "{any} {port}: {why}");
            let (bound, why) = bind(lab, way, any, free)?;
            ensure!(bound, "{any} {free}: {why}");
            let now = counted(lab, Reason::NodePortBound)?;
            ensure!(
                now == before + 1,
                "{any} {port}: counted {before}, then {now}"
            );
            before = now;
        }
    }
    restart(lab, &["--protect-node-ports"])?;
    for (way, port) in ways {
        let own = lab.address("node1", way.v6).to_string();
        for address in [
            way.pick("0.0.0.0", "::"),
            way.pick("127.0.0.1", "::1"),
            &own,
        ] {
            let (bound, why) = bind(lab, way, address, port)?;
            ensure!(
                !bound && why.contains("Address already in use"),
                "{address} {port}: {why}"
            );
            let (bound, why) = bind(lab, way, address, free)?;
            ensure!(bound, "{address} {free}: {why}");
        }
    }
    restart(lab, &[])
}

fn restart(lab: &mut Lab, flags: &[&str]) -> Result<()> {
    // Their listeners' ports must be free.
    lab.agents.clear();
    lab.start(flags)
}

/// A TUN device of a place, without Ethernet headers, and the frames that go through it.
fn tun(lab: &Lab, place: &str, own: [&str; 2]) -> Result<File> {
    lab.tool(place, "ip tuntap add mode tun name svct0")?;
    let file = in_namespace(&lab.topology.place(place).namespace_file(), || {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        const TUNSETIFF: nix::libc::c_ulong = 0x4004_54ca;
        // struct ifreq: the name, and IFF_TUN | IFF_NO_PI.
        let mut request = [0u8; 40];
        request[..5].copy_from_slice(b"svct0");
        request[16..18].copy_from_slice(&0x1001u16.to_ne_bytes());
        // SAFETY: the kernel reads and writes a struct ifreq, which is 40 bytes long.
        let status = unsafe { nix::libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        ensure!(
            status == 0,
            "TUNSETIFF: {}",
            std::io::Error::last_os_error()
        );
        Ok(file)
    })?;
    for address in own {
        lab.tool(place, &format!("ip addr add {address} dev svct0 nodad"))?;
    }
    lab.tool(place, "ip link set svct0 up")?;
    Ok(file)
}

/// Carries frames from one device to the other until it is told to stop.
fn carry(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match from.read(&mut buffer) {
            Ok(length) => drop(to.write(&buffer[..length])),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The client's way to the Services' addresses is a tunnel to node1.
fn layer3(lab: &mut Lab) -> Result<()> {
    restart(lab, &["--devices", "eth0,svct0"])?;
    let ends = (
        tun(lab, "node1", ["10.77.0.1/24", "fd77::1/64"])?,
        tun(lab, "client", ["10.77.0.2/24", "fd77::2/64"])?,
    );
    for vip in ["192.0.2.127/32", "2001:db8:2::127/128"] {
        lab.tool("client", &format!("ip route replace {vip} dev svct0"))?;
    }
    // The node must have noticed the device.
    std::thread::sleep(Duration::from_secs(1));
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| carry(&ends.0, &ends.1, &stop));
        scope.spawn(|| carry(&ends.1, &ends.0, &stop));
        let outcome = through_the_tunnel(lab);
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    for place in ["node1", "client"] {
        lab.tool(place, "ip link del svct0")?;
    }
    restart(lab, &[])?;
    outcome
}

fn through_the_tunnel(lab: &Lab) -> Result<()> {
    for way in Way::ALL {
        let vip = way.load_balancer()?;
        lab.answered_afresh("client", way.protocol, vip, &PODS)
            .with_context(|| way.name())?;
        ensure!(ping(lab, "client", vip.ip()), "{vip} does not answer pings");
        let bytes = if way.is_udp() { 1_000 } else { 1 << 20 };
        let answers = Probe::new(way.protocol, vip)
            .bytes(bytes)
            .count(5)
            .timeout(Duration::from_secs(10))
            .run(&lab.topology, "client")?;
        ensure!(
            answers.iter().all(|answer| answer.by().is_some()),
            "{vip}: {answers:?}"
        );
    }
    Ok(())
}
