//! The modules of a packaged kernel that the tests need, each after those that it needs itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What is not there is built in, or this kernel does not have it.
const WANTED: [&str; 13] = [
    "veth",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "tcp_diag",
    "udp_diag",
    "ipip",
    "ip6_tunnel",
    "geneve",
    "dummy",
];

pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

pub(super) fn in_order(folder: &Path) -> Result<Vec<Module>> {
    let mut there = BTreeMap::new();
    find(folder, &mut there)?;
    ensure!(
        !there.is_empty(),
        "{} has no modules: remove the folder above it and try again",
        folder.display()
    );
    let mut order = Vec::new();
    for name in WANTED {
        add(name, &there, &mut order)?;
    }
    Ok(order)
}

fn find(folder: &Path, there: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            find(&entry.path(), there)?;
        } else if let Some((name, "" | ".xz" | ".zst")) = name.split_once(".ko") {
            there.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

fn add(name: &str, there: &BTreeMap<String, PathBuf>, order: &mut Vec<Module>) -> Result<()> {
    let Some(path) = there.get(name) else {
        return Ok(());
    };
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let content = read(path)?;
    for needed in needs(&content) {
        add(&needed, there, order)?;
    }
    order.push(Module {
        name: name.to_owned(),
        content,
    });
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} cannot unpack {}",
        path.display()
    );
    Ok(output.stdout)
}

/// What its `.modinfo` says: `depends=stp,llc`, between zeroes.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next();
    let value = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let names = value.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_those_that_it_needs() {
        let folder = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        fs::create_dir_all(folder.join("net")).unwrap();
        for (file, needs) in [
            ("bridge.ko", "stp,llc"),
            ("net/stp.ko", "llc"),
            ("net/llc.ko", ""),
        ] {
            let content = format!("ELF\0license=GPL\0depends={needs}\0retpoline=Y\0");
            fs::write(folder.join(file), content).unwrap();
        }
        let order = in_order(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["llc", "stp", "bridge"]);
    }
}
