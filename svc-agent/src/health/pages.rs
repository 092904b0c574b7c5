//! What the metrics address shows, as kube-proxy does: `/metrics`, `/proxyMode`, `/configz`, `/flagz`, `/statusz`, and the
//! health checks; and `PUT /debug/flags/v`, which changes the log's levels.

use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::http::Asked;
use super::{Answer, Health};
use crate::config::Settings;
use crate::logging;
use crate::metrics::{self, Format, Metrics};
use crate::privileges::Held;

/// As kube-proxy and its like say above their pages.
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";

const PATHS: [&str; 9] = [
    "/configz",
    "/debug/flags/v",
    "/flagz",
    "/healthz",
    "/livez",
    "/metrics",
    "/proxyMode",
    "/readyz",
    "/statusz",
];

/// All that is shown.
pub struct Pages {
    pub health: Arc<Health>,
    pub metrics: Metrics,
    pub registry: Arc<Registry>,
    pub settings: Settings,
    pub node_name: String,
    pub started: Timestamp,
}

impl Pages {
    pub(super) fn answer(&self, asked: &Asked) -> Option<Answer> {
        let plain = |body: String| Answer {
            well: true,
            content_type: "text/plain; charset=utf-8",
            body,
            weight: None,
        };
        Some(match asked.path.as_str() {
            "/metrics" => {
                let format = Format::of(&asked.accept);
                Answer {
                    content_type: format.content_type(),
                    ..plain(metrics::text(&self.registry, format))
                }
            }
            // The mode that kube-proxy would name: there is only one here.
            "/proxyMode" => plain("ebpf".into()),
            "/configz" => Answer {
                content_type: "application/json",
                ..plain(json!({ "svcplane.io": self.settings }).to_string())
            },
            "/flagz" => plain(self.flagz()),
            "/statusz" => plain(self.statusz(Timestamp::now())),
            "/debug/flags/v" => plain(format!("{}\n", logging::levels())),
            path => return self.health.answer(path, Timestamp::now()),
        })
    }

    fn flagz(&self) -> String {
        let mut text = format!("\nsvc-agent flags\n{WARNING}\n\n");
        for (name, value) in &self.settings {
            let value = match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            text += &format!("{name}={value}\n");
        }
        text
    }

    fn statusz(&self, now: Timestamp) -> String {
        let up = now.duration_since(self.started).as_secs();
        let mut text = format!(
            "\nsvc-agent statusz\n{WARNING}\n\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nBinary version: {}\n\
             Node: {}\nLog levels: {}\nHealthy: {}\n",
            self.started.strftime("%a %b %e %H:%M:%S UTC %Y"),
            up / 3600,
            up / 60 % 60,
            up % 60,
            env!("CARGO_PKG_VERSION"),
            self.node_name,
            logging::levels(),
            self.health.is_healthy(),
        );
        for trouble in self.health.trouble() {
            text += &format!("Trouble: {trouble}\n");
        }
        if let Ok(held) = Held::read() {
            text += &format!("Privileges: {held}\n");
        }
        text += &self.metrics.state.summary();
        text += &format!("\nPaths: {}\n", PATHS.join(" "));
        text
    }
}

/// kube-proxy's way to change its verbosity; levels by module are ours.
pub(super) fn put(asked: &Asked, text: &str) -> Option<Result<String, String>> {
    (asked.path == "/debug/flags/v").then(|| {
        logging::set(text.trim())
            .map(|levels| format!("successfully set the log's levels to {levels}\n"))
    })
}
