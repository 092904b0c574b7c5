//! CycloneDX 1.6: what the program is linked from, with licences and checksums, and how that hangs together. The same for
//! the same sources: no time, no random number.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Crates, Package, checksums};
use crate::image::Arch;

/// The document for one machine. `files`: what lies beside the program in its image, by where it lies and where it is now.
pub fn bill(arch: Arch, files: &[(String, PathBuf)]) -> Result<String> {
    let crates = Crates::of(&[arch])?;
    let (sums, shipped) = (checksums()?, crates.shipped());
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    let mut agent = Value::Null;
    for id in &shipped {
        let package = crates
            .packages
            .get(*id)
            .with_context(|| format!("cargo metadata does not describe {id}"))?;
        let mut component = component(package);
        if let Some(sum) = sums.get(&(package.name.clone(), package.version.clone())) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        }
        let linked = crates.linked.get(*id).into_iter().flatten();
        let mut linked: BTreeSet<String> = linked
            .filter_map(|id| Some(purl(crates.packages.get(id)?)))
            .collect();
        if package.source.is_none() && package.name == "svc-agent" {
            component["type"] = "application".into();
            // Its build script makes the object that it embeds.
            let object = crates.packages.values();
            linked.extend(
                object
                    .filter(|other| other.source.is_none() && other.name == "svc-ebpf")
                    .map(purl),
            );
            linked.extend(files.iter().map(|(path, _)| format!("file:{path}")));
            agent = component;
        } else {
            components.push(component);
        }
        dependencies.push(json!({"ref": purl(package), "dependsOn": linked}));
    }
    for (path, file) in files {
        components.push(json!({
            "type": "file",
            "bom-ref": format!("file:{path}"),
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": sha256(file)?}],
        }));
    }
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": agent,
            "properties": [{"name": "svcplane:architecture", "value": arch.name()}],
        },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn component(package: &Package) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": purl(package),
        "name": package.name,
        "version": package.version,
        "purl": purl(package),
    });
    if let Some(licence) = &package.license {
        // Older crates write `/` for OR.
        let words: Vec<&str> = licence.split('/').map(str::trim).collect();
        component["licenses"] = json!([{"expression": words.join(" OR ")}]);
    }
    if let Some(description) = &package.description {
        component["description"] = description.trim().into();
    }
    component
}

fn purl(package: &Package) -> String {
    // A version may have a `+`.
    let version = package.version.replace('+', "%2B");
    format!("pkg:cargo/{}@{version}", package.name)
}

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum")
        .arg(file)
        .output()
        .context("cannot run sha256sum")?;
    ensure!(
        output.status.success(),
        "sha256sum cannot read {}",
        file.display()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let sum = text.split_whitespace().next();
    // A backslash in front: the name has odd characters.
    Ok(sum
        .context("sha256sum said nothing")?
        .trim_start_matches('\\')
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        value[name]
            .as_str()
            .unwrap_or_else(|| panic!("{value} has no {name}"))
    }

    #[test]
    fn the_bill_names_everything_once_and_its_references_lead_somewhere() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let document = bill(Arch::HOST, &[("lib/x.so".into(), file)]).unwrap();
        assert_eq!(
            document,
            bill(
                Arch::HOST,
                &[(
                    "lib/x.so".into(),
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")
                )]
            )
            .unwrap()
        );
        let document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["specVersion"], "1.6");
        let agent = &document["metadata"]["component"];
        assert_eq!(text(agent, "name"), "svc-agent");
        let components = document["components"].as_array().unwrap();
        let mut refs = BTreeSet::from([text(agent, "bom-ref")]);
        for component in components {
            assert!(
                refs.insert(text(component, "bom-ref")),
                "{component} is there twice"
            );
            let ours = text(component, "name").starts_with("svc-");
            if let Some(hashes) = component.get("hashes") {
                assert_eq!(text(&hashes[0], "content").len(), 64);
            } else {
                assert!(ours, "{component} has no checksum");
            }
        }
        let names: BTreeSet<&str> = components.iter().map(|c| text(c, "name")).collect();
        for there in [
            "svc-common",
            "svc-ebpf",
            "aya",
            "aya-ebpf",
            "kube",
            "lib/x.so",
        ] {
            assert!(names.contains(there), "{there} is missing");
        }
        // What only tests and tools are built with.
        for not in [
            "svc-tests",
            "xtask",
            "svc-bench",
            "libtest-mimic",
            "proptest",
        ] {
            assert!(!names.contains(not), "{not} is not shipped");
        }
        let dependencies = document["dependencies"].as_array().unwrap();
        for dependency in dependencies {
            assert!(refs.contains(text(dependency, "ref")));
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(refs.contains(on.as_str().unwrap()), "{on} is not described");
            }
        }
    }
}
