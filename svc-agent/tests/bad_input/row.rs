//! A row: what is put into the folder, what is said about it, what is served. And what most rows are made of.

use std::fs;
use std::path::Path;

/// What was made, what is expected to be said (in parts, one after the other) and to be served.
pub struct Row {
    pub input: String,
    pub says: Vec<String>,
    pub serves: Vec<String>,
    pub make: Box<dyn Fn(&Path)>,
}

pub fn row(input: &str, says: &[&str], serves: &[&str], make: impl Fn(&Path) + 'static) -> Row {
    Row {
        input: input.into(),
        says: says.iter().map(ToString::to_string).collect(),
        serves: serves.iter().map(ToString::to_string).collect(),
        make: Box::new(make),
    }
}

pub fn file(
    name: &'static str,
    bytes: impl AsRef<[u8]> + 'static,
    says: &[&str],
    serves: &[&str],
) -> Row {
    let text = String::from_utf8_lossy(bytes.as_ref()).into_owned();
    let input: String = format!("{name}: {text}").chars().take(200).collect();
    row(&input, says, serves, move |dir| {
        fs::write(dir.join(name), bytes.as_ref()).unwrap();
    })
}

/// A Service `bad` with these fields in its spec, and one endpoint.
pub fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n---\n{SLICE}"
    )
}

pub const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {name: bad, labels: {kubernetes.io/service-name: bad}}\naddressType: IPv4\n\
                     endpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 8080}, {name: good, port: 8080}]\n";
/// What is served of `bad` at its ClusterIP.
pub const BAD: &str = "bad 10.96.0.1:80/TCP→10.0.0.1:8080";
pub const ALONE: &str = "bad 10.96.0.1:80/TCP→";
pub const AT: &str = "clusterIP: 10.96.0.1";
