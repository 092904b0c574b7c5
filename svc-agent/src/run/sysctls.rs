//! Lifetimes that are given hold for the kernel's own connection tracking, too, as with kube-proxy (D10): pods' direct
//! connections are tracked there. What is not given is left as it is; `cleanup` puts back what was changed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::config::Run;
use crate::dataplane::settings::{self, FOLDER};

/// Writes what is given and differs. That it cannot is no reason not to serve.
pub(super) fn set(options: &Run) {
    for (name, seconds) in [
        (
            "nf_conntrack_tcp_timeout_established",
            options.conntrack_tcp_timeout_established,
        ),
        (
            "nf_conntrack_tcp_timeout_close_wait",
            options.conntrack_tcp_timeout_close_wait,
        ),
        ("nf_conntrack_udp_timeout", options.conntrack_udp_timeout),
        (
            "nf_conntrack_udp_timeout_stream",
            options.conntrack_udp_timeout_stream,
        ),
    ] {
        if let Some(seconds) = seconds.0
            && let Err(error) = write(&options.procfs.join(FOLDER).join(name), seconds, |before| {
                if let Err(error) = settings::note(&options.bpf_root, name, before, seconds) {
                    tracing::warn!("{error}; cleanup will not put it back");
                }
            })
        {
            let help = match error.kind() {
                ErrorKind::InvalidInput => "give less: the kernel cannot count so long",
                ErrorKind::NotFound => {
                    "the kernel tracks no connections here, or --procfs is not the host's"
                }
                _ => "give --procfs one that can be written",
            };
            tracing::warn!(
                "cannot set net.netfilter.{name} to {seconds}: {error}; {help} (svc-agent's own flows live that long all the same)"
            );
        }
    }
}

/// Calls `changes` with what is there before it is something else.
fn write(file: &Path, seconds: u32, changes: impl FnOnce(u32)) -> std::io::Result<()> {
    let found = fs::read_to_string(file)?;
    match found.trim().parse() {
        Ok(found) if found == seconds => return Ok(()),
        Ok(found) => changes(found),
        // Not a number: nothing that could be put back.
        Err(_) => (),
    }
    fs::write(file, seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_written_where_it_differs() {
        let dir = std::env::temp_dir().join(format!("svcplane-sysctls-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("timeout");
        fs::write(&file, "60\n").unwrap();
        let mut was = Vec::new();
        write(&file, 60, |found| was.push(found)).unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "60\n",
            "not written again"
        );
        write(&file, 3_600, |found| was.push(found)).unwrap();
        assert_eq!(was, [60]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "3600");
        fs::remove_dir_all(&dir).unwrap();
        assert!(write(&file, 1, |_| ()).is_err());
    }
}
