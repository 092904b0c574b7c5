use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use super::*;
use crate::cluster::Cluster;
use crate::desired::ServiceName;

/// As much of an API server as a watcher needs: lists, watches, and its end.
struct ApiServer {
    addr: SocketAddr,
    watched: broadcast::Sender<String>,
    serving: JoinHandle<()>,
}

impl ApiServer {
    /// Lists these Services at this resource version; knows no older one.
    async fn start(addr: &str, services: &[&str], version: u32) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let watched = broadcast::Sender::new(8);
        let list: Vec<String> = services.iter().map(|name| service(name)).collect();
        let (list, events) = (list.join(","), watched.clone());
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(answer(stream, list.clone(), version, events.subscribe()));
            }
        });
        Self {
            addr,
            watched,
            serving,
        }
    }

    async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

fn service(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"namespace":"default","name":"{name}","resourceVersion":"1"}},"spec":{{"clusterIP":"10.96.0.1"}}}}"#
    )
}

async fn answer(
    stream: TcpStream,
    services: String,
    version: u32,
    mut events: broadcast::Receiver<String>,
) {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    let mut line = String::new();
    stream.read_line(&mut request).await.unwrap();
    while stream.read_line(&mut line).await.unwrap() > 2 {
        line.clear();
    }
    let is_services = request.contains("/services?");
    let mut stream = stream.into_inner();
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    if !request.contains("watch=true") {
        assert!(
            !is_services || request.contains("labelSelector=%21service.kubernetes.io%2Fheadless"),
            "{request}"
        );
        assert!(
            !request.contains("/nodes?") || request.contains("fieldSelector=metadata.name%3Dnode1"),
            "{request}"
        );
        let items = if is_services { services } else { String::new() };
        let list = format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{items}]}}"#);
        stream.write_all(list.as_bytes()).await.unwrap();
    } else if !request.contains(&format!("resourceVersion={version}")) {
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#;
        stream.write_all(gone.as_bytes()).await.unwrap();
    } else {
        while let (true, Ok(event)) = (is_services, events.recv().await) {
            stream
                .write_all(format!("{event}\n").as_bytes())
                .await
                .unwrap();
        }
        std::future::pending().await
    }
}

/// Takes in events until exactly these Services are there.
async fn until(cluster: &mut Cluster, events: &mut mpsc::Receiver<Event>, services: &[&str]) {
    let names = |c: &Cluster| {
        c.services()
            .map(|(n, _)| n.name.to_string())
            .collect::<Vec<_>>()
    };
    let waiting = async {
        while !(cluster.synced() && names(cluster) == services) {
            cluster.apply(events.recv().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("what the API server says was not seen");
}

#[tokio::test]
async fn watches_survive_the_end_of_the_api_server_and_forget_what_the_next_one_does_not_list() {
    let first = ApiServer::start("127.0.0.1:0", &["a", "b"], 1).await;
    let addr = first.addr;
    let client = Client::try_from(Config::new(format!("http://{addr}").parse().unwrap())).unwrap();
    let (tx, mut events) = mpsc::channel(8);
    let nodes = Nodes::Named("node1".into());
    let source = tokio::spawn(async move {
        run(client, nodes, tx, &Notices::default(), &Watches::default()).await
    });
    let mut cluster = Cluster::new("node1");

    until(&mut cluster, &mut events, &["a", "b"]).await;
    // The watch may still be on its way.
    while first.watched.receiver_count() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first
        .watched
        .send(format!(r#"{{"type":"DELETED","object":{}}}"#, service("a")))
        .unwrap();
    first
        .watched
        .send(format!(r#"{{"type":"ADDED","object":{}}}"#, service("c")))
        .unwrap();
    until(&mut cluster, &mut events, &["b", "c"]).await;

    first.stop().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        cluster
            .service(&ServiceName {
                namespace: "default".into(),
                name: "c".into()
            })
            .is_some()
    );
    let second = ApiServer::start(&addr.to_string(), &["c", "d"], 2).await;
    until(&mut cluster, &mut events, &["c", "d"]).await;

    drop(events);
    source.abort();
    second.stop().await;
}

#[test]
fn waiting_grows_to_five_seconds_and_starts_anew_after_success() {
    let mut retry = Retry::default();
    let waits: Vec<u128> = retry
        .by_ref()
        .take(7)
        .map(|wait| wait.as_millis())
        .collect();
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
    retry.reset();
    assert_eq!(retry.next(), Some(Retry::FIRST));
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_an_error_that_says_what_to_do() {
    let error = client(Some(Path::new("/nowhere/kubeconfig")))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("reading the kubeconfig: ") && error.contains("--kubeconfig"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_for_https_can_be_made() {
    // Without a cryptography provider compiled in, this is where it would show.
    assert!(Client::try_from(Config::new("https://127.0.0.1:6443".parse().unwrap())).is_ok());
}

#[test]
fn the_api_servers_address_is_that_of_the_url_if_it_is_written_as_one() {
    for (url, at) in [
        ("https://172.18.0.11:6443", Some("172.18.0.11:6443")),
        ("https://[fd00::1]:6443/", Some("[fd00::1]:6443")),
        ("https://10.96.0.1", Some("10.96.0.1:443")),
        ("https://[fd00::1]/prefix", Some("[fd00::1]:443")),
        ("https://api.example.org:6443", None),
        ("not a url", None),
    ] {
        assert_eq!(of_url(url), at.map(|at| at.parse().unwrap()), "{url}");
    }
}
