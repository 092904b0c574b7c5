//! Writes to an API server what it is told, line by line, for `cargo xtask bench programming`:
//! `METHOD PATH BODY` → `NANOSECONDS ok`, or the error instead of `ok`; in the order of the requests, sent without waiting.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Requests under way.
const AT_ONCE: usize = 64;

fn main() -> Result<()> {
    let kubeconfig = std::env::args().nth(1).context("give a kubeconfig")?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(Path::new(&kubeconfig)))
}

async fn serve(kubeconfig: &Path) -> Result<()> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let (lines, mut requests) = mpsc::channel::<String>(AT_ONCE);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let (under_way, mut answers) = mpsc::channel::<JoinHandle<(u64, String)>>(AT_ONCE);
    let say = tokio::spawn(async move {
        while let Some(answer) = answers.recv().await {
            let (when, what) = answer.await?;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{when} {what}")?;
            out.flush()?;
        }
        anyhow::Ok(())
    });
    while let Some(line) = requests.recv().await {
        let client = client.clone();
        let answer = tokio::spawn(async move {
            let what = match request(&client, &line).await {
                Ok(()) => "ok".to_owned(),
                Err(error) => format!("{error:#}").replace('\n', " "),
            };
            (now(), what)
        });
        if under_way.send(answer).await.is_err() {
            break;
        }
    }
    drop(under_way);
    say.await?
}

async fn request(client: &Client, line: &str) -> Result<()> {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (method, path, body) = (word(), word(), word());
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if body == "null" { "" } else { body };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", kind)
        .body(body.as_bytes().to_vec())?;
    client.request_text(request).await?;
    Ok(())
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| {
        now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
    })
}
