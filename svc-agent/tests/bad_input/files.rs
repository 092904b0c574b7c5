//! Every malformed thing that a folder can hold.

use std::fs;
use std::os::unix::fs::symlink;

use super::GOOD;
use super::row::{ALONE, AT, BAD, Row, file, row, service};

const STAYS: &str = "what the file said last stays";

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    let good = service(&format!("{AT}, ports: [{{port: 80}}]"));
    let whole = |start: &str, what: &str| format!("file {start}…{what}");
    let broken = |name: &'static str, text: &str, start: &str, what: &str| {
        let says = whole(&format!("{name} {start}"), what);
        file(name, text.to_owned().into_bytes(), &[&format!("{says}…{STAYS}")], &[])
    };
    let laughs: String = std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned())
        .chain((1..12).map(|i| {
            let last = format!("*a{}", i - 1);
            format!("a{i}: &a{i} [{}]\n", [last.as_str(); 10].join(", "))
        }))
        .collect();
    let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"bad"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
    vec![
        // What is no manifest at all.
        broken("bad.yaml", &format!("{good}---\napiVersion: v1\nkind: Service\nspec: [\n"), "document 3 line", ""),
        broken("bad.yaml", "apiVersion: v1\nkind: Service\n\tmetadata: {}\n", "document 1 line", ""),
        broken("bad.yaml", "just words\n", "document 1 line 1", ""),
        broken("bad.yaml", "- a\n- b\n", "document 1 line 1", ""),
        broken("bad.yaml", "kind: Service\n", "document 1 line 1", "no apiVersion and kind"),
        broken("bad.yaml", "apiVersion: v1\nkind: List\nitems: [{kind: Pod}]", "document 1 line 1", "item 1: no apiVersion"),
        broken("bad.yaml", &good.replace("port: 80}", "port: eighty}"), "document 1 line 4", "i32"),
        broken("bad.yaml", &good.replace("port: 80}", "port: 99999999999}"), "document 1 line 4", ""),
        broken("bad.yaml", &good.replace("port: 80}", "port: 80.5}"), "document 1 line 4", ""),
        broken("bad.yaml", &good.replace("metadata: {name: bad}", "metadata: {name: bad, name: worse}"), "document 1 line 3", "duplicate"),
        broken("bad.yaml", &good.replace("ready: true", "").replace("10.0.0.1]", "10.0.0.1], conditions: {ready: perhaps}"), "document 2 line", ""),
        broken("bad.yaml", &format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {}{}\n", "[".repeat(100_000), "]".repeat(100_000)), "document 1 line", ""),
        broken("bad.yaml", &format!("apiVersion: v1\nkind: Service\n{laughs}"), "document 1 line", ""),
        broken("bad.yaml", &format!("{}\n", "x".repeat(10 << 20)), "document 1 line", ""),
        broken("bad.json", "{\"apiVersion\": \"v1\",\n \"kind\": }", "document 1 line 2", "expected value"),
        broken("bad.json", "{}\n\n{}", "document 1 line 1", "no apiVersion"),
        broken("bad.json", &json.replace("80", "1e99"), "document 1 line 1", "invalid"),
        broken("bad.json", &format!("{json}\n\n{}", json.replace("[{\"port\":80}]", "1")), "document 2 line 3", "invalid type"),
        broken("bad.json", &"[".repeat(100_000), "document 1 line 1", ""),
        file("bad.yaml", b"\x7fELF\x02\x01\x01\x00\xff\xfe\xfd", &["file bad.yaml document 1 line 1: is not UTF-8 text; what the file said last stays"], &[]),
        file("bad.yaml", b"a: b\n\xff\xfeb\x00a\x00", &["file bad.yaml document 1 line 2: is not UTF-8 text"], &[]),
        // What is read all the same.
        file("bad.yaml", "", &[], &[]),
        file("bad.yaml", "\n \n# nothing\n---\n---\n", &[], &[]),
        file("bad.json", "", &[], &[]),
        file("bad.yaml", good.replace('\n', "\r\n"), &[], &[BAD]),
        file("bad.yaml", format!("\u{feff}{good}"), &[], &[BAD]),
        file("bad.json", format!("\u{feff}{json}"), &[], &[ALONE]),
        file("bad.yaml", format!("%YAML 1.2\n---\n{good}...\n"), &[], &[BAD]),
        file("bad.yaml", good.replace("[{addresses: [10.0.0.1]}]", "&e [{addresses: [10.0.0.1]}]").replace("ports: [{port: 8080}", "unknown: *e\nports: [{port: 8080}"), &[], &[BAD]),
        file("bad.yaml", format!("# {}\n{good}", "x".repeat(10 << 20)), &[], &[BAD]),
        file("bad.yaml", format!("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items: [{json}]\n"), &[], &[ALONE]),
        file("bad.txt", "{", &[], &[]),
        file(".bad.yaml", "{", &[], &[]),
        // Objects of no use.
        file("bad.yaml", good.replace("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"), &["discovery.k8s.io/v1beta1 EndpointSlice: is of no use here; all such objects are skipped"], &[ALONE]),
        file("bad.yaml", "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: apps/v1\nkind: Deployment\n", &["apps/v1 Deployment: is of no use here; all such objects are skipped"], &[]),
        file("bad.yaml", "apiVersion: v1\nkind: service\n", &["v1 service: is of no use here; all such objects are skipped"], &[]),
        file("bad.yaml", good.replace("metadata: {name: bad}\n", ""), &["Service: has no metadata.name; it is skipped"], &[]),
        file("bad.yaml", format!("{good}---\n{}", good.replace("80", "81")), &["EndpointSlice default/bad: is there twice; the first one is used", "Service default/bad: is there twice; the first one is used"], &[BAD]),
        file("later.yaml", GOOD.replace("10.96.0.9", "10.96.0.1"), &["EndpointSlice default/good: is there twice; the first one is used", "Service default/good: is there twice; the first one is used"], &[]),
        // Two Services that want one address: the one that comes first by name has it.
        file("bad.yaml", GOOD.replace("good", "worse"), &["Service default/worse: 10.96.0.9 port 80/TCP belongs to the older Service default/good; give one of them another address or port"], &[]),
        // What is no file.
        row("a folder", &["file bad.yaml: is a folder: only the files beside it are read; what it said last stays"], &[], |dir| {
            fs::create_dir(dir.join("bad.yaml")).unwrap();
        }),
        row("a link to nothing", &["file bad.yaml: is a link to a file that is not there; what it said last stays"], &[], |dir| {
            symlink("nowhere", dir.join("bad.yaml")).unwrap();
        }),
        row("a link to itself", &["file bad.yaml: cannot be read: …; what it said last stays"], &[], |dir| {
            symlink("bad.yaml", dir.join("bad.yaml")).unwrap();
        }),
        row("a pipe", &["file bad.yaml: is no regular file; what it said last stays"], &[], |dir| {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&dir.join("bad.yaml"), mode).unwrap();
        }),
        row("a device without end", &["file bad.yaml: is no regular file; what it said last stays"], &[], |dir| {
            symlink("/dev/zero", dir.join("bad.yaml")).unwrap();
        }),
        row("a file that is too large", &["file bad.yaml: is larger than 256 MiB: split it; what it said last stays"], &[], |dir| {
            let file = fs::File::create(dir.join("bad.yaml")).unwrap();
            file.set_len((256 << 20) + 1).unwrap();
        }),
        row("a good link", &[], &[BAD], move |dir| {
            fs::write(dir.join("target"), &good).unwrap();
            symlink("target", dir.join("bad.yaml")).unwrap();
        }),
    ]
}
