//! `svc-agent explain`: what would happen to a packet at each hook, and why. From the pinned maps alone, by the functions
//! that the programs are made of.
//!
//! `question` is what people write, `resolve` finds out what that means here, `tables` lends the maps to `trace`, which
//! sends the packet through; `judge` makes a [`report`] of it. `live` waits for such a packet, and tells what becomes of it.

mod endpoints;
mod hooks;
pub mod judge;
mod live;
mod question;
pub mod report;
mod resolve;
mod routes;
pub mod tables;
pub mod trace;
mod words;

pub(crate) use resolve::absent;
pub(crate) use words::mismatch;

pub use question::{Host, Origin, OriginHost, PortName, Target};

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::config::Explain;
use crate::dataplane::Pinned;
use crate::desired::ServiceName;
use crate::look;
use crate::source::once::Objects;
use judge::{Asked, judge};
use report::Explanation;
use tables::Maps;

pub use judge::Evidence;

/// Prints the answer.
pub fn explain(options: &Explain) -> Result<ExitCode> {
    let pinned = Pinned::open(&options.bpf_root)?;
    let mut maps = Maps::read(&pinned)?;
    maps.devices = look::devices().unwrap_or_default();
    let service = resolve::service_of(&options.target, &maps);
    let objects = look::objects(&options.look, service.as_ref())?;
    let from = match &options.from {
        Some(origin) => Some((client(origin, options, objects.as_ref())?, origin.port)),
        None => None,
    };
    let evidence = Evidence {
        maps: &maps,
        objects: objects.as_ref(),
        route: &routes::way_to,
    };
    let asked = asked(&options.target, from, evidence)?;
    let explanation = judge(&asked, evidence);
    if options.live {
        return live::follow(options, &asked, &explanation, &maps);
    }
    look::print(&explanation, options.output, Explanation::text)?;
    let failed = options.exit_code && explanation.verdict.is_failure();
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Answers a question. `from`: address and port of the client; None: a process of this node.
pub fn answer(
    target: &Target,
    from: Option<(IpAddr, Option<u16>)>,
    evidence: Evidence<'_>,
) -> Result<Explanation> {
    Ok(judge(&asked(target, from, evidence)?, evidence))
}

fn asked(
    target: &Target,
    from: Option<(IpAddr, Option<u16>)>,
    evidence: Evidence<'_>,
) -> Result<Asked> {
    let like = from.map(|(ip, _)| ip);
    let to = resolve::target(target, like, evidence.maps, evidence.objects)?;
    resolve::asked(from, to, evidence.maps, evidence.route)
}

/// The address of whoever asks: of a Pod the one of the target's family, if that is known.
fn client(origin: &Origin, options: &Explain, objects: Option<&Objects>) -> Result<IpAddr> {
    let (namespace, name) = match &origin.host {
        OriginHost::Address(ip) => return Ok(*ip),
        OriginHost::Pod { namespace, name } => (namespace, name),
    };
    if objects.is_none() {
        bail!(
            "the maps have no names of Pods; give --kubeconfig or --manifests, or --from the Pod's address"
        );
    }
    let wanted = format!("{namespace}/{name}");
    let known = objects.iter().flat_map(|objects| &objects.names);
    let mut ips: Vec<IpAddr> = known
        .filter(|(_, pod)| **pod == wanted)
        .map(|(ip, _)| *ip)
        .collect();
    if ips.is_empty() {
        let place = ServiceName {
            namespace: namespace.as_str().into(),
            name: "".into(),
        };
        ips = look::pod(&options.look, &place, name).with_context(|| {
            format!("looking for Pod {wanted}; --from its address needs no such look")
        })?;
    }
    let v6 = match &options.target.host {
        Host::Address(ip) => Some(ip.is_ipv6()),
        Host::Service { .. } => None,
    };
    let fits = |ip: &&IpAddr| v6.is_none_or(|v6| ip.is_ipv6() == v6);
    match ips.iter().find(fits) {
        Some(ip) => Ok(*ip),
        None if ips.is_empty() => bail!("no Pod {wanted} with an address is known"),
        None => bail!("Pod {wanted} has no address of the target's family"),
    }
}
