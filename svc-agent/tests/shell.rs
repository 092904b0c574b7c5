//! Completion scripts and manual pages, by the binary.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory;
use svc_agent::config::Cli;

fn agent(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svc-agent"))
        .args(words)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("svcplane-{name}-{}", std::process::id()))
}

fn verbs() -> Vec<String> {
    let cli = Cli::command();
    cli.get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .collect()
}

#[test]
fn every_shell_gets_a_script_that_knows_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = agent(&["completion", shell]);
        assert!(output.status.success(), "{shell}");
        let script = text(&output.stdout);
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell} does not know {verb}");
        }
    }
}

#[test]
fn bash_completes_verbs_flags_and_values() {
    let script = scratch("completion");
    let source = text(&agent(&["completion", "bash"]).stdout);
    let function = source
        .lines()
        .find_map(|line| line.trim().strip_prefix("complete -F "))
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .to_owned();
    fs::write(&script, source).unwrap();
    for (line, offered) in [
        ("svc-agent cl", "cleanup"),
        ("svc-agent run --unl", "--unload-on-exit"),
        ("svc-agent run --xdp n", "native"),
        ("svc-agent completion f", "fish"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let program = format!(
            "source {}; COMP_WORDS=({line}); COMP_CWORD={}; {function} svc-agent '{}' '{}'; echo \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = Command::new("bash")
            .arg("-c")
            .arg(program)
            .output()
            .unwrap();
        assert_eq!(text(&output.stdout).trim(), offered, "{line}: {output:?}");
    }
    fs::remove_file(script).unwrap();
}

/// What a verb says into a pipe that nobody reads, and how it ends.
fn unread(words: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Command::new(env!("CARGO_BIN_EXE_svc-agent"))
        .args(words)
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for words in [
        &["completion", "zsh"][..],
        &["--help"],
        &["run", "--help"],
        &["cleanup", "--bpf-root", "/sys/fs/bpf/nobodys"],
    ] {
        let output = unread(words);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{words:?}: {output:?}"
        );
    }
    // Whatever it has found, it exits as if it were read.
    let read = agent(&["check"]);
    let output = unread(&["check"]);
    assert_eq!(output.status.code(), read.status.code());
    assert_eq!(text(&output.stderr), text(&read.stderr));
}

#[test]
fn errors_that_nobody_reads_are_errors_and_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for words in [
        &["man", "/dev/null/man"][..],
        &["get", "services", "--bpf-root", "/none"],
    ] {
        let status = Command::new(env!("CARGO_BIN_EXE_svc-agent"))
            .args(words)
            .stderr(writer.try_clone().unwrap())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(1), "{words:?}");
    }
}

#[test]
fn a_disk_without_room_is_said() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_svc-agent"))
        .args(["completion", "zsh"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).starts_with("svc-agent: writing to standard output: No space left"),
        "{output:?}"
    );
}

#[test]
fn every_verb_has_a_manual_page_that_man_can_show() {
    let dir = scratch("man");
    let output = agent(&["man", dir.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let pages = verbs()
        .into_iter()
        .map(|verb| format!("svc-agent-{verb}.1"));
    for page in pages.chain(["svc-agent.1".to_owned()]) {
        let source = fs::read(dir.join(&page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let shown = Command::new("groff")
            .args(["-Kutf8", "-man", "-Tutf8", "-ww"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut groff) = shown else {
            println!("skipped: there is no groff");
            break;
        };
        groff.stdin.take().unwrap().write_all(&source).unwrap();
        let output = groff.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{page}: {}", text(&output.stderr));
        assert!(
            text(&output.stdout).contains("Examples:"),
            "{page} has no examples"
        );
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_cannot_be_had_is_said() {
    for (words, code, says) in [
        (&["completion"][..], 2, "<SHELL>"),
        (
            &["completion", "tcsh"],
            2,
            "possible values: bash, elvish, fish, powershell, zsh",
        ),
        (&["man"], 2, "<DIR>"),
        (
            &["man", "/dev/null/man"],
            1,
            "svc-agent: writing manual pages to /dev/null/man: ",
        ),
    ] {
        let output = agent(words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
}
