use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "shop".into(),
        name: name.into(),
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn check(port: u16, count: usize) -> Option<HealthCheck> {
    Some(HealthCheck {
        port,
        ready: [(HERE, count)].into(),
    })
}

/// A port that nobody has now, and the listener that would keep others from it.
fn free_port() -> (u16, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind((HERE, 0)).unwrap();
    (listener.local_addr().unwrap().port(), listener)
}

fn healthy() -> Arc<Health> {
    let health = Arc::new(Health::default());
    health.synced();
    health
}

async fn ask(port: u16, line: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((HERE, port)).await?;
    stream
        .write_all(format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn a_load_balancer_is_told_what_kube_proxy_would_tell_it() {
    let (port, taken) = free_port();
    drop(taken);
    let health = healthy();
    let mut checks = NodePortChecks::new(health.clone());
    checks.set(&name("web"), check(port, 2));
    assert_eq!(checks.settle().await[&name("web")], []);
    for line in ["GET /", "GET /any/path", "POST /healthz"] {
        let text = ask(port, line).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{line}: {head}");
        for header in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            "x-load-balancing-endpoint-weight: 2",
        ] {
            assert!(head.contains(header), "{header}: {head}");
        }
        assert_eq!(
            body,
            r#"{"service":{"namespace":"shop","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#
        );
    }
    checks.set(&name("web"), check(port, 0));
    checks.settle().await;
    let text = ask(port, "GET /").await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 503") && text.contains("x-load-balancing-endpoint-weight: 0"),
        "{text}"
    );
    checks.set(&name("web"), check(port, 1));
    checks.settle().await;
    health.failed();
    let text = ask(port, "GET /").await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 503")
            && text.contains(r#""localEndpoints":1,"serviceProxyHealthy":false"#),
        "{text}"
    );
}

#[tokio::test]
async fn a_port_in_use_is_refused_by_name_and_had_once_it_is_free() {
    let (port, taken) = free_port();
    let mut checks = NodePortChecks::new(healthy());
    checks.set(&name("web"), check(port, 1));
    let refusals = checks.settle().await.remove(&name("web")).unwrap();
    let [Refusal { fault, .. }] = &refusals[..] else {
        panic!("{refusals:?}")
    };
    assert_eq!(fault.name(), "FailedToStartServiceHealthcheck");
    let text = refusals[0].to_string();
    assert!(
        text.starts_with(&format!(
            "Service shop/web: its health check at 127.0.0.1:{port} cannot be served: "
        )),
        "{text}"
    );
    drop(taken);
    assert!(checks.settle().await.is_empty(), "not before its time");
    checks.retry = Some(Instant::now());
    assert_eq!(checks.settle().await[&name("web")], []);
    assert!(checks.due().is_none());
    assert!(ask(port, "GET /").await.is_ok());
}

#[tokio::test]
async fn a_port_passes_from_one_service_to_another_and_closes_with_the_last() {
    let (port, taken) = free_port();
    drop(taken);
    let mut checks = NodePortChecks::new(healthy());
    checks.set(&name("b"), check(port, 1));
    checks.settle().await;
    let mut open = TcpStream::connect((HERE, port)).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    open.read_exact(&mut answer).await.unwrap();
    // The one that opens comes first by its name.
    checks.set(&name("a"), check(port, 3));
    checks.set(&name("b"), None);
    let outcome = checks.settle().await;
    assert!(outcome.values().all(Vec::is_empty), "{outcome:?}");
    assert!(ask(port, "GET /").await.unwrap().contains(r#""name":"a""#));
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).await.unwrap_or_default();
    assert!(
        !String::from_utf8_lossy(&rest).contains(r#""name":"a""#),
        "the old one's connections are closed"
    );
    checks.set(&name("a"), None);
    checks.settle().await;
    assert!(TcpStream::connect((HERE, port)).await.is_err());
}
