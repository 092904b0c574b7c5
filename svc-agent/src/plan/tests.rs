mod property;
mod room;
mod world;
mod writes;

use std::collections::BTreeSet;
use std::net::IpAddr;

use svc_common::table::{Scope, address_flags, frontend_flags};

use self::world::World;
use super::{Capacities, Changes, Planner, Write};
use crate::desired::{
    Algorithm, Endpoint, Frontend, FrontendAddr, FrontendKind, Listed, Port, Protocol, Run,
    Service, ServiceName, ServicePortName,
};

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn port_name(service: &str, port: &str) -> ServicePortName {
    ServicePortName {
        service: name(service),
        port: port.into(),
    }
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint {
        ip: text.parse().unwrap(),
        port: 8080,
        local: false,
        weight: 1,
    }
}

/// What BACKENDS should know of an endpoint that is in all sets.
fn listed(endpoint: &Endpoint) -> ((IpAddr, u16), Listed) {
    let listed = Listed {
        serving: true,
        in_cluster_set: true,
        in_local_set: true,
        local: false,
        remote: false,
        weight: endpoint.weight,
    };
    ((endpoint.ip, endpoint.port), listed)
}

fn at(ip: &str, port: u16, scope: Scope) -> FrontendAddr {
    FrontendAddr {
        ip: ip.parse().unwrap(),
        port,
        protocol: Protocol::Tcp,
        scope,
    }
}

/// A Service of one port: frontends (address, kind, scope) on one random run.
fn service(
    service: &str,
    frontends: &[(&str, FrontendKind, Scope)],
    endpoints: &[&str],
) -> Service {
    let run = |algorithm| Run {
        algorithm,
        endpoints: endpoints.iter().map(|e| endpoint(e)).collect(),
    };
    let frontend = |&(ip, kind, scope): &(&str, FrontendKind, Scope)| {
        let run = usize::from(scope == Scope::External);
        (
            at(ip, 80, scope),
            Frontend {
                kind,
                run,
                drop_when_empty: false,
                local_set: false,
                restricted: false,
            },
        )
    };
    Service {
        ports: vec![Port {
            name: port_name(service, "http"),
            affinity: 0,
            runs: vec![run(Algorithm::Random), run(Algorithm::Maglev)],
            frontends: frontends.iter().map(frontend).collect(),
            listed: endpoints.iter().map(|e| listed(&endpoint(e))).collect(),
            ranges: BTreeSet::new(),
        }],
    }
}

const CLUSTER: (FrontendKind, Scope) = (FrontendKind::ClusterIp, Scope::Internal);

fn cluster_ip(name: &str, ip: &str, endpoints: &[&str]) -> Service {
    service(name, &[(ip, CLUSTER.0, CLUSTER.1)], endpoints)
}

fn settle(planner: &mut Planner) {
    let closed = planner.close_generation();
    planner.release(closed);
}
