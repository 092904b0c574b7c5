use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

fn body(health: &Health, path: &str) -> (bool, serde_json::Value) {
    let answer = health
        .answer(path, "2026-01-01T00:00:00Z".parse().unwrap())
        .unwrap();
    (answer.well, serde_json::from_str(&answer.body).unwrap())
}

#[test]
fn nothing_is_well_before_the_first_full_sync() {
    let health = Health::default();
    assert!(!body(&health, "/healthz").0 && !body(&health, "/livez").0);
    health.synced();
    let (well, body) = body(&health, "/healthz");
    assert!(well && body["nodeEligible"] == true && body["healthy"] == true);
    assert_eq!(
        (&body["lastUpdated"], &body["currentTime"]),
        (
            &"2026-01-01T00:00:00Z".into(),
            &"2026-01-01T00:00:00Z".into()
        )
    );
    assert_eq!(body["status"]["IPv6"]["healthy"], true);
}

#[test]
fn a_doomed_node_stays_live() {
    let health = Health::default();
    health.synced();
    health.node_doomed(true);
    assert!(!body(&health, "/healthz").0);
    let (live, body) = body(&health, "/livez");
    assert!(live && body.get("nodeEligible").is_none());
}

#[test]
fn a_failed_write_is_unhealthy_until_it_is_made_up_for() {
    let health = Health::default();
    health.synced();
    health.failed();
    assert!(!body(&health, "/livez").0);
    health.synced();
    assert!(body(&health, "/livez").0);
}

async fn get(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn the_listener_answers_and_turns_away() {
    let health = Arc::new(Health::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answers = health.clone();
    tokio::spawn(accept(
        listener,
        Arc::new(Paths {
            get: move |asked: Asked| {
                std::future::ready(answers.answer(&asked.path, Timestamp::now()))
            },
            put: no_put,
        }),
    ));
    assert!(get(addr, "GET /healthz").await.starts_with("HTTP/1.1 503"));
    health.synced();
    let text = get(addr, "GET /healthz").await;
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("content-type: application/json"),
        "{text}"
    );
    assert!(get(addr, "GET /other").await.starts_with("HTTP/1.1 404"));
    assert!(get(addr, "POST /healthz").await.starts_with("HTTP/1.1 405"));
    let busy = serve_health(addr, health, Metrics::default())
        .await
        .err()
        .unwrap();
    assert!(
        busy.to_string()
            .starts_with(&format!("listening on {addr}: ")),
        "{busy}"
    );
}

#[tokio::test]
async fn who_asks_is_answered_however_many_are_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = || Answer {
        well: true,
        content_type: "text/plain",
        body: String::new(),
        weight: None,
    };
    tokio::spawn(accept(listener, Arc::new(http::Always(answer))));
    let mut silent = Vec::new();
    for _ in 0..http::MOST + 1 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let asked = std::time::Instant::now();
    assert!(get(addr, "GET /").await.starts_with("HTTP/1.1 200"));
    assert!(asked.elapsed() < std::time::Duration::from_secs(2));
    // The first two made room for the last silent one and for who asked; the others may still ask.
    for first in &mut silent[..2] {
        let ended = first.read(&mut [0; 1]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let last = silent.last_mut().unwrap();
    last.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    last.read_to_string(&mut text).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200"),
        "{text}"
    );
}

#[test]
fn a_family_whose_test_packet_fails_is_unhealthy_and_the_other_is_not() {
    let health = Health::default();
    health.synced();
    health.tested(&[Ok(()), Err("no answer".into())]);
    let (well, answer) = body(&health, "/livez");
    assert!(!well && answer["healthy"] == false);
    assert_eq!(
        (
            &answer["status"]["IPv4"]["healthy"],
            &answer["status"]["IPv6"]["healthy"]
        ),
        (&true.into(), &false.into())
    );
    assert!(!body(&health, "/readyz").0);
    assert!(health.trouble()[0].contains("self-test of IPv6 fails"));
    health.tested(&[Ok(()), Ok(())]);
    assert!(body(&health, "/livez").0 && health.trouble().is_empty());
}

async fn pages() -> (SocketAddr, Arc<Pages>) {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let metrics = Metrics::default();
    let registry = metrics.registry("/nowhere".into(), crate::notices::Notices::default(), 10);
    let pages = Arc::new(Pages {
        health: Arc::default(),
        metrics,
        registry: Arc::new(registry),
        settings: [("xdp".to_owned(), "auto".into())].into(),
        node_name: "n1".into(),
        started: Timestamp::UNIX_EPOCH,
    });
    tokio::spawn(serve_metrics(free, pages.clone()).await.unwrap());
    (free, pages)
}

#[tokio::test]
async fn metrics_are_made_anew_for_each_scrape_and_the_mode_is_told() {
    let (at, pages) = pages().await;
    let scrape = get(at, "GET /metrics").await;
    assert!(
        scrape.contains("content-type: text/plain; version=0.0.4")
            && scrape.contains("\nkubeproxy_proxy_livez_total{code=\"200\"} 0\n"),
        "{scrape}"
    );
    pages.metrics.answered("/livez", true);
    assert!(
        get(at, "GET /metrics")
            .await
            .contains("\nkubeproxy_proxy_livez_total{code=\"200\"} 1\n")
    );
    let mode = get(at, "GET /proxyMode").await;
    assert!(
        mode.starts_with("HTTP/1.1 200") && mode.ends_with("ebpf"),
        "{mode}"
    );
}

#[tokio::test]
async fn settings_and_state_are_shown() {
    let (at, _) = pages().await;
    let configz = get(at, "GET /configz").await;
    assert!(
        configz.ends_with(r#"{"svcplane.io":{"xdp":"auto"}}"#),
        "{configz}"
    );
    assert!(get(at, "GET /flagz").await.ends_with("\nxdp=auto\n"));
    let status = get(at, "GET /statusz").await;
    assert!(
        status.contains("\nNode: n1\n") && status.contains("\nTrouble: not everything"),
        "{status}"
    );
    assert!(get(at, "GET /healthz").await.starts_with("HTTP/1.1 503"));
    assert!(get(at, "GET /nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn levels_are_put_and_nothing_else_is() {
    let (at, _) = pages().await;
    let put = |path: &str, body: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nContent-Length: {}\r\nHost: x\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    for (path, body, status) in [
        ("/debug/flags/v", "loud", "400"),
        ("/metrics", "1", "405"),
        ("/debug/flags/v", &"x".repeat(5000), "413"),
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(put(path, body).as_bytes()).await.unwrap();
        let mut text = vec![0; 12];
        stream.read_exact(&mut text).await.unwrap();
        assert_eq!(text, format!("HTTP/1.1 {status}").into_bytes(), "{path}");
    }
}

fn answer(body: &str) -> Answer {
    Answer {
        well: true,
        content_type: "text/plain",
        body: body.to_owned(),
        weight: None,
    }
}

/// A listener that says the same to everybody.
async fn saying(body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(accept(
        listener,
        Arc::new(http::Always(move || answer(&body))),
    ));
    addr
}

#[tokio::test]
async fn who_does_not_finish_a_request_is_sent_away() {
    let at = saying(String::new()).await;
    let started = std::time::Instant::now();
    let mut slow = TcpStream::connect(at).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-More: ")
        .await
        .unwrap();
    let mut text = String::new();
    let _ = slow.read_to_string(&mut text).await;
    assert!(!text.contains(" 200 "), "{text}");
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (at, _) = pages().await;
    let mut slow = TcpStream::connect(at).await.unwrap();
    slow.write_all(b"PUT /debug/flags/v HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
        .await
        .unwrap();
    let mut text = vec![0; 12];
    slow.read_exact(&mut text).await.unwrap();
    assert_eq!(text, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused() {
    let at = saying(String::new()).await;
    for request in [
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(40_000)),
        format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200)),
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // It may be closed before everything is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut text = vec![0; 12];
        match stream.read_exact(&mut text).await {
            Ok(_) => assert!(text.starts_with(b"HTTP/1.1 4"), "{text:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn a_long_answer_arrives_whole_however_slowly_it_is_read() {
    let at = saying("x".repeat(4 << 20)).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.len() > 4 << 20, "{} bytes", bytes.len());
}

#[tokio::test]
async fn pages_are_made_two_at_a_time() {
    use std::sync::atomic::AtomicUsize;

    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (now.clone(), most.clone());
    let make = by_turns(move |asked: &Asked| {
        peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(2));
        inside.fetch_sub(1, Ordering::SeqCst);
        Some(asked.path.clone())
    });
    let ask = |number: usize| {
        make(Asked {
            path: number.to_string(),
            accept: String::new(),
        })
    };
    let all = futures::future::join_all((0..50).map(ask)).await;
    assert!(
        all.iter()
            .zip(0..)
            .all(|(said, number)| *said == Some(format!("{number}")))
    );
    let most = most.load(Ordering::SeqCst);
    assert!((1..=AT_ONCE).contains(&most), "{most} at once");
    assert_eq!(now.load(Ordering::SeqCst), 0);
}
