//! The flags of `svc-agent monitor`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Cidr, DEFAULT_BPF_ROOT};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent monitor                              all that is dropped or refused, and every new flow
  svc-agent monitor --drops -n shop              what does not get through to a namespace's Services
  svc-agent monitor --service web:http --from 10.244.1.0/24
  svc-agent monitor -o json | jq .reason         a JSON object a line

Packets of known flows cost nothing more while it runs. Several may run at once. Ends with Ctrl-C, or when nobody
reads its output; events that came faster than they were read are counted as lost.")]
pub struct Monitor {
    /// Only what is dropped or refused.
    #[arg(long)]
    pub drops: bool,
    /// Only new flows: first packets, and sockets that were connected to a backend.
    #[arg(long)]
    pub flows: bool,
    /// Only of Services in this namespace.
    #[arg(short = 'n', long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Only of the Service of this name, or of one of its ports.
    #[arg(long, value_name = "NAME[:PORT]")]
    pub service: Option<String>,
    /// Only from clients with this address, or in this range; sockets, whose address is not known yet, are left out.
    #[arg(long, value_name = "IP|CIDR", value_parser = client)]
    pub from: Option<Cidr>,
    #[arg(short = 'o', long, value_enum, default_value_t = Stream::Text)]
    pub output: Stream,
    /// Folder of the pinned maps.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
}

/// How a stream of events is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    Text,
    /// One object a line.
    Json,
}

fn client(text: &str) -> Result<Cidr, String> {
    match text.parse() {
        Ok(ip) => Ok(Cidr::host(ip)),
        Err(_) => text.parse().map_err(|_| {
            format!("{text:?} is no address and no range, such as 10.244.1.7 or 10.244.1.0/24")
        }),
    }
}
