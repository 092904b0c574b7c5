//! The text of a manifest file → Kubernetes objects, or where it is wrong.

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Clone, Debug)]
pub(super) enum Object {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Node(Box<Node>),
    Pod(Box<Pod>),
    /// Of no use here: its apiVersion and kind.
    Other(String),
}

/// What makes a file useless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Counted from 1.
    pub(super) document: usize,
    pub(super) line: usize,
    pub(super) what: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

/// Where in the text of a document, and what.
type Error = (Option<u64>, String);

/// All objects of a file of YAML documents.
pub(super) fn yaml(text: &str) -> Result<Vec<Object>, Problem> {
    let mut objects = Vec::new();
    for (document, (start, text)) in (1..).zip(documents(text)) {
        object(&mut objects, &Yaml(text))
            .map_err(|(line, what)| problem(document, start, line, what))?;
    }
    Ok(objects)
}

/// All objects of a file of JSON values.
pub(super) fn json(text: &str) -> Result<Vec<Object>, Problem> {
    let mut objects = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    for document in 1.. {
        let Some(value) = values.next() else { break };
        let value = value.map_err(|e| {
            problem(
                document,
                0,
                Some(e.line() as u64),
                without_place(&e.to_string()),
            )
        })?;
        // The value has no blanks around it and ends where the reader stands.
        let start = values.byte_offset() - value.get().len();
        let start = text[..start].matches('\n').count();
        object(&mut objects, &Json(value.get()))
            .map_err(|(line, what)| problem(document, start, line, what))?;
    }
    Ok(objects)
}

fn problem(document: usize, start: usize, line: Option<u64>, what: String) -> Problem {
    Problem {
        document,
        line: start + line.unwrap_or(1).max(1) as usize,
        what,
    }
}

/// Something that can be read as several types, with the line when it cannot.
trait Source {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Error>;
}

struct Yaml<'a>(&'a str);

impl Source for Yaml<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_saphyr::from_str(self.0).map_err(|e| {
            let e = e.without_snippet();
            (
                e.location().map(|l| l.line()),
                without_place(e.to_string().lines().next().unwrap_or_default()),
            )
        })
    }
}

struct Json<'a>(&'a str);

impl Source for Json<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.0)
            .map_err(|e| (Some(e.line() as u64), without_place(&e.to_string())))
    }
}

struct Item(Value);

impl Source for Item {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_value(self.0.clone()).map_err(|e| (None, e.to_string()))
    }
}

fn object(objects: &mut Vec<Object>, source: &impl Source) -> Result<(), Error> {
    // A document of comments only is none.
    let Some(Kind { api_version, kind }) = source.read::<Option<Kind>>()? else {
        return Ok(());
    };
    objects.push(match (api_version.as_str(), kind.as_str()) {
        ("v1", "Service") => Object::Service(Box::new(source.read()?)),
        ("discovery.k8s.io/v1", "EndpointSlice") => Object::Slice(Box::new(source.read()?)),
        ("v1", "Node") => Object::Node(Box::new(source.read()?)),
        ("v1", "Pod") => Object::Pod(Box::new(source.read()?)),
        ("v1", "List") => {
            for (i, item) in (1..).zip(source.read::<List>()?.items) {
                object(objects, &Item(item))
                    .map_err(|(line, what)| (line, format!("item {i}: {what}")))?;
            }
            return Ok(());
        }
        ("", _) | (_, "") => {
            return Err((
                None,
                "no apiVersion and kind; it is no Kubernetes object".into(),
            ));
        }
        (version, kind) => Object::Other(format!("{version} {kind}")),
    });
    Ok(())
}

/// The documents of a YAML stream, with the number of lines before each. A line that begins with `---` ends a document
/// wherever it stands, and only such a line does (YAML 1.2.2 §9.1.2).
fn documents(text: &str) -> Vec<(usize, &str)> {
    let is_marker = |line: &str| {
        line.strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut documents = Vec::new();
    let (mut from, mut first_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) {
            documents.push((first_line, &text[from..at]));
            (from, first_line) = (at, number);
        }
        at += line.len();
    }
    documents.push((first_line, &text[from..]));
    let is_empty = |text: &str| {
        text.lines().all(|l| {
            l.trim().is_empty()
                || l.starts_with(['#', '%'])
                || ["---", "..."].contains(&l.trim_end())
        })
    };
    documents.retain(|(_, text)| !is_empty(text));
    documents
}

/// A parser's message without its own "at line 1, column 2", which counts from the start of the document.
fn without_place(message: &str) -> String {
    message
        .split(" at line ")
        .next()
        .unwrap_or(message)
        .to_owned()
}
