//! Connections that go on, one after the other, while something changes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xtask::topology::Topology;
use xtask::traffic::{Answer, Probe, Running, spread};

/// How many answers in a row must come from the right pods.
const STEADY: usize = 40;

pub struct Stream {
    answers: Arc<Mutex<Vec<(Instant, Answer)>>>,
    _probe: Running,
}

impl Stream {
    pub fn start(topology: &Topology, from: &str, to: SocketAddr) -> Result<Self> {
        let mut probe = Probe::tcp(to)
            .count(1_000_000)
            .pause(Duration::from_millis(2))
            .command(topology, from)?;
        let mut child = probe
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a probe")?;
        let lines = BufReader::new(child.stdout.take().context("the probe has no stdout")?).lines();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&answers);
        std::thread::spawn(move || {
            for answer in lines
                .map_while(Result::ok)
                .filter_map(|line| line.parse().ok())
            {
                lock(&into).push((Instant::now(), answer));
            }
        });
        Ok(Self {
            answers,
            _probe: Running(child),
        })
    }

    pub fn settle(&self, time: Duration) {
        sleep(time);
    }

    /// Waits until only these pods answer, and all of them; returns when the first answer of the new kind came: the
    /// first after which all was right.
    pub fn follows(
        &self,
        expected: &[&str],
        begin: Instant,
        timeout: Duration,
    ) -> Option<Duration> {
        while begin.elapsed() < timeout {
            sleep(Duration::from_millis(10));
            let answers = lock(&self.answers);
            let since = &answers[answers.partition_point(|(at, _)| *at < begin)..];
            let Some(steady) = since.len().checked_sub(STEADY) else {
                continue;
            };
            let right = |answer: &Answer| answer.by().is_some_and(|by| expected.contains(&by));
            if !since[steady..].iter().all(|(_, answer)| right(answer)) {
                continue;
            }
            let seen = spread(
                &since[steady..]
                    .iter()
                    .map(|(_, answer)| answer.clone())
                    .collect::<Vec<_>>(),
            );
            if seen.len() != expected.len() {
                continue;
            }
            // Followed: from the last wrong answer on, and once each expected pod has answered.
            let last_wrong = since
                .iter()
                .rposition(|(_, answer)| !right(answer))
                .map_or(0, |index| index + 1);
            let last_new = expected
                .iter()
                .filter_map(|pod| since.iter().position(|(_, a)| a.by() == Some(pod)))
                .max();
            return Some(since[last_wrong.max(last_new.unwrap_or(0))].0 - begin);
        }
        None
    }

    pub fn since(&self, begin: Instant) -> Vec<Answer> {
        let answers = lock(&self.answers);
        answers
            .iter()
            .filter(|(at, _)| *at >= begin)
            .map(|(_, answer)| answer.clone())
            .collect()
    }

    pub fn last(&self, count: usize) -> BTreeMap<String, usize> {
        let answers = lock(&self.answers);
        let start = answers.len().saturating_sub(count);
        spread(
            &answers[start..]
                .iter()
                .map(|(_, answer)| answer.clone())
                .collect::<Vec<_>>(),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
