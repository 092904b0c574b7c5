//! The agent's log: its format, and its levels, which can be changed while it runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;

const LEVEL_NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

static LEVELS: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging to standard error.
pub fn start(verbosity: u8, format: LogFormat) {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(directives(verbosity)));
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        // Else who takes the log away ends the agent: it panics at saying that it cannot say anything.
        .log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => layer
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init();
    // Only the log that this is about can be changed.
    if started.is_ok() {
        let _ = LEVELS.set(handle);
    }
}

/// What `--verbosity` stands for.
fn directives(verbosity: u8) -> &'static str {
    match verbosity {
        0 => "info",
        1 => "info,svc_agent=debug",
        _ => "debug,svc_agent=trace",
    }
}

/// The levels in force.
pub fn levels() -> String {
    LEVELS
        .get()
        .and_then(|handle| handle.with_current(ToString::to_string).ok())
        .unwrap_or_else(|| "off".into())
}

/// Sets the levels: a verbosity, or levels by module such as `info,svc_agent::plan=debug`. Returns those in force.
pub fn set(text: &str) -> Result<String, String> {
    let filter = filter(text)?;
    let handle = LEVELS.get().ok_or("this process has no log\n")?;
    handle
        .reload(filter)
        .map_err(|error| format!("setting the levels: {error}\n"))?;
    let now = levels();
    tracing::info!("the log's levels are now {now}");
    Ok(now)
}

fn filter(text: &str) -> Result<EnvFilter, String> {
    if let Ok(verbosity) = text.parse() {
        return Ok(EnvFilter::new(directives(verbosity)));
    }
    let wrong = |what: &str| {
        format!(
            "{what:?} is neither a verbosity (0, 1, 2) nor LEVEL nor MODULE=LEVEL; such as info,svc_agent::plan=debug\n"
        )
    };
    for directive in text.split(',') {
        // A bare name would be a module, and all others silent.
        let (module, level) = directive
            .split_once('=')
            .unwrap_or(("svc_agent", directive));
        let level = level.trim().to_ascii_lowercase();
        if module.trim().is_empty() || !LEVEL_NAMES.contains(&level.as_str()) {
            return Err(wrong(directive));
        }
    }
    EnvFilter::try_new(text).map_err(|_| wrong(text))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn levels_are_a_verbosity_or_by_module() {
        for (text, levels) in [
            ("0", "info"),
            ("1", "svc_agent=debug,info"),
            ("warn", "warn"),
            ("info,svc_agent::plan=trace", "svc_agent::plan=trace,info"),
        ] {
            assert_eq!(filter(text).unwrap().to_string(), levels, "{text}");
        }
    }

    #[test]
    fn what_is_no_level_is_named() {
        for text in ["loud", "", "info,=debug", "svc_agent=loud", "-1", "info,"] {
            let error = filter(text).unwrap_err();
            assert!(error.contains("MODULE=LEVEL"), "{text}: {error}");
        }
    }
}
