//! `svc-agent describe service NAME`: one Service as the maps of this node have it, with what the cluster says about it
//! where that can be asked.

mod description;
mod page;

use anyhow::{Result, bail};

use crate::config::{Describe, Described};
use crate::dataplane::Pinned;
use crate::desired::ServiceName;
use crate::explain::absent;
use crate::explain::tables::Maps;
use crate::look;
use crate::plan::Label;
use crate::sockets;

pub use description::{CountItem, Description, EndpointItem, ObjectItem, PortItem};
pub use page::{Page, description};

/// Prints the page.
pub fn describe(options: &Describe) -> Result<()> {
    let Described::Service = options.what;
    let pinned = Pinned::open(&options.bpf_root)?;
    let maps = Maps::read(&pinned)?;
    let name = ServiceName {
        namespace: options.namespace.as_str().into(),
        name: options.name.as_str().into(),
    };
    let objects = look::objects(&options.look, Some(&name))?;
    let of_it = |text: &String| Label::parse(text).is_some_and(|label| label.port.service == name);
    if !maps.snapshot.services.values().any(of_it) {
        bail!(
            "{}",
            absent(&options.namespace, &options.name, &maps, objects.as_ref())
        );
    }
    let page = Page {
        name: &name,
        maps: &maps,
        objects: objects.as_ref(),
        sockets: sockets::live(&pinned.connected_sockets()?),
        counts: pinned.counts(maps.snapshot.services.keys().copied())?,
    };
    look::print(&description(&page), options.output, ToString::to_string)
}
