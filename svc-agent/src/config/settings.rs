//! Every flag of `run` by name, with the value in force: given, from `--config` or the environment, or its default.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{ArgAction, CommandFactory};
use serde_json::Value;

use super::Cli;

/// Flag → value, as `--config` has it.
pub type Settings = BTreeMap<String, Value>;

/// Of a command line that was understood.
pub(super) fn of(argv: &[OsString]) -> Settings {
    let mut command = Cli::command();
    command.build();
    let Ok(matches) = command.try_get_matches_from_mut(argv) else {
        return Settings::new();
    };
    let (Some(run), Some(matches)) = (
        command.find_subcommand("run"),
        matches.subcommand_matches("run"),
    ) else {
        return Settings::new();
    };
    let mut settings = Settings::new();
    for arg in run.get_arguments() {
        let Some(name) = arg.get_long().filter(|name| *name != "help") else {
            continue;
        };
        let id = arg.get_id().as_str();
        let value = match arg.get_action() {
            ArgAction::SetTrue => Value::Bool(matches.get_flag(id)),
            action => {
                let values = matches.get_raw(id).into_iter().flatten();
                let mut texts: Vec<Value> = values
                    .map(|value| Value::String(value.to_string_lossy().into_owned()))
                    .collect();
                let list =
                    matches!(action, ArgAction::Append) || arg.get_value_delimiter().is_some();
                match (list, texts.len()) {
                    (true, _) => Value::Array(texts),
                    (false, 0) => Value::Null,
                    (false, _) => texts.swap_remove(0),
                }
            }
        };
        settings.insert(name.to_owned(), value);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, parse};
    use super::*;

    #[test]
    fn every_flag_is_told_with_the_value_in_force() {
        let argv = [
            "svc-agent",
            "run",
            "--devices=eth0,bond*",
            "--takeover",
            "-v",
            "1",
        ];
        let cli = parse(argv.map(Into::into)).unwrap();
        let Verb::Run(run) = cli.verb else {
            panic!("not run")
        };
        for (name, value) in [
            ("devices", serde_json::json!(["eth0", "bond*"])),
            ("takeover", true.into()),
            ("masquerade-all", false.into()),
            ("xdp", "auto".into()),
            ("verbosity", "1".into()),
            ("kubeconfig", Value::Null),
            ("node-ip", Value::Array(Vec::new())),
        ] {
            assert_eq!(run.settings.get(name), Some(&value), "{name}");
        }
        assert!(!run.settings.contains_key("help"));
    }
}
