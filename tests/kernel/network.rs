//! A namespace with the devices, routes and neighbours that `bpf_fib_lookup` needs to answer.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use svc_common::family::{Family, V4, V6};

use crate::world::at;

/// A device: its index and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
}

/// The devices of the calling thread's namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    pub(crate) nic: Device,
    pub(crate) second_nic: Device,
    pub(crate) pods: Device,
}

/// Every neighbour has this hardware address.
pub(crate) const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
pub(crate) const MTU: u16 = 1_500;

/// Runs `test` in a network of its own.
pub(crate) fn within(test: impl FnOnce(&Network) + Send) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the kernel layer loads eBPF programs: run it as root"
    );
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect(
            "the kernel layer makes network namespaces: run it as root, with CAP_SYS_ADMIN",
        );
        test(&Network::new());
    };
    let outcome = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("`ip` (iproute2) is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

impl Network {
    fn new() -> Self {
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/{name}"), value)
                .expect("root may set the namespace's sysctls");
        }
        ip("link set lo up");
        let network = Self {
            nic: device("nic", [2, 0, 0, 0, 0, 1]),
            second_nic: device("nic2", [2, 0, 0, 0, 0, 2]),
            pods: device("pods", [2, 0, 0, 0, 0, 3]),
        };
        network.route::<V4>(24);
        network.route::<V6>(64);
        wait_for_links();
        network
    }

    /// Networks by number: 0 and 3 are the node's own, 1 is pods here, 2 and 4 pods of nodes behind those, 5 pods
    /// of a node whose hardware address is unknown, 6 is nowhere, 9 outside.
    fn route<F: Family>(&self, length: u8) {
        let own = |net, host, device: &str| {
            ip(&format!(
                "addr add {}/{length} dev {device}{}",
                at::<F>(net, host),
                if F::VERSION == 6 { " nodad" } else { "" }
            ));
        };
        let neighbour = |addr: IpAddr, device: &str| {
            let mac = NEIGHBOUR.map(|byte| format!("{byte:02x}")).join(":");
            ip(&format!(
                "neigh add {addr} lladdr {mac} dev {device} nud permanent"
            ));
        };
        let via = |net, router: IpAddr| {
            ip(&format!(
                "route add {}/{length} via {router}",
                at::<F>(net, 0)
            ))
        };
        own(0, 1, "nic");
        own(3, 1, "nic2");
        ip(&format!("route add {}/{length} dev pods", at::<F>(1, 0)));
        for host in 1..10 {
            neighbour(at::<F>(1, host), "pods");
        }
        neighbour(at::<F>(0, 2), "nic");
        neighbour(at::<F>(3, 2), "nic2");
        via(2, at::<F>(0, 2));
        via(9, at::<F>(0, 2));
        via(4, at::<F>(3, 2));
        via(5, at::<F>(0, 5));
    }
}

/// One end of a veth pair; the other only makes it carry.
fn device(name: &str, mac: [u8; 6]) -> Device {
    let address = mac.map(|byte| format!("{byte:02x}")).join(":");
    ip(&format!(
        "link add {name} address {address} mtu {MTU} type veth peer name {name}-peer"
    ));
    ip(&format!("link set {name}-peer up"));
    ip(&format!("link set {name} up"));
    let index = nix::net::if_::if_nametoindex(name).expect("just made");
    Device { index, mac }
}

/// The kernel tells its routing tables about a link's carrier a little later.
fn wait_for_links() {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let routes = ["-4", "-6"].map(|family| {
            let output = Command::new("ip")
                .args([family, "route"])
                .output()
                .expect("`ip` was there before");
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        if !routes.iter().any(|routes| routes.contains("linkdown")) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "veth links did not come up: {routes:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
