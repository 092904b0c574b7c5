//! `--config FILE`: its settings become flags behind those of the command line, so that one parser checks both.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use serde_json::Value;

use super::Cli;

/// Parses a command line of `run`, or of a verb that takes its flags, again, with the file's settings for the flags that
/// it does not have. Also returns the command line that this makes.
pub(super) fn parse_with(
    mut argv: Vec<OsString>,
    path: &Path,
) -> Result<(Cli, Vec<OsString>), clap::Error> {
    let mut command = Cli::command();
    command.build();
    // Without the usage of the command line, which is not what is wrong.
    let wrong = |what: String| {
        clap::Error::raw(
            ErrorKind::ValueValidation,
            format!("{}: {what}\n", path.display()),
        )
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let settings: Option<BTreeMap<String, Value>> = serde_saphyr::from_str(&text)
        .map_err(|e| wrong(format!("is not YAML settings: {}", e.without_snippet())))?;
    let matches = command.try_get_matches_from_mut(&argv)?;
    for (name, value) in settings.unwrap_or_default() {
        argv.extend(flags(&command, &matches, &name, &value).map_err(&wrong)?);
    }
    let matches = Cli::command()
        .try_get_matches_from(&argv)
        .map_err(|e| match e.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => e,
            kind => clap::Error::raw(
                kind,
                format!("{} or the command line: {}\n", path.display(), what(&e)),
            ),
        })?;
    Ok((Cli::from_arg_matches(&matches)?, argv))
}

/// One setting as flags; none, when the command line has it.
fn flags(
    command: &Command,
    matches: &ArgMatches,
    name: &str,
    value: &Value,
) -> Result<Vec<OsString>, String> {
    let (verb, given) = matches.subcommand().expect("a verb is required");
    let verb = command.find_subcommand(verb).expect("it was parsed");
    let arg = verb
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name) && !["help", "config", "output"].contains(&name));
    let arg = arg.ok_or_else(|| format!("{name} is no setting; see svc-agent run --help"))?;
    if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
        return Ok(Vec::new());
    }
    let flags = match value {
        Value::Null => Vec::new(),
        Value::Bool(on) if is_switch(arg) => on.then(|| format!("--{name}")).into_iter().collect(),
        _ if is_switch(arg) => return Err(format!("{name} is true or false, not {value}")),
        Value::Array(list)
            if matches!(arg.get_action(), ArgAction::Append)
                && arg.get_value_delimiter().is_none() =>
        {
            list.iter()
                .map(|v| Ok(format!("--{name}={}", text(name, v)?)))
                .collect::<Result<_, String>>()?
        }
        Value::Array(list) => {
            let list: Vec<String> = list
                .iter()
                .map(|v| text(name, v))
                .collect::<Result<_, _>>()?;
            vec![format!("--{name}={}", list.join(","))]
        }
        value => vec![format!("--{name}={}", text(name, value)?)],
    };
    Ok(flags.into_iter().map(OsString::from).collect())
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn text(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(s) => Ok(s.clone()),
        Value::Number(n) => Ok(n.to_string()),
        // YAML 1.1 readers take a bare `off` for a boolean.
        Value::Bool(false) => Ok("off".into()),
        Value::Bool(true) | Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(format!("{name} cannot be {value}"))
        }
    }
}

/// What is wrong and which values are possible, without the usage.
fn what(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}
