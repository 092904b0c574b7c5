//! deploy/kubectl/kubectl-svcplane before a kubectl that answers as it is told, by every sh that is here.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Notes what it is asked. `exec` answers with the files POD.out and POD.err, and the code in POD.code.
const KUBECTL: &str = r#"#!/bin/sh
printf '%s\n' "$*" >>"$FAKE/asked"
case " $* " in
  *' get pods '*)
    [ -f "$FAKE/agents" ] || { echo 'The connection to the server was refused' >&2; exit 1; }
    cat "$FAKE/agents" ;;
  *' get pod web '*) printf node2 ;;
  *' get pod new '*) ;;
  *' get pod '*) echo 'Error from server (NotFound): pods not found' >&2; exit 1 ;;
  *' exec '*)
    while [ "$1" != --namespace ]; do shift; done
    pod=$3
    cat "$FAKE/$pod.out"
    cat "$FAKE/$pod.err" >&2 2>/dev/null
    exit "$(cat "$FAKE/$pod.code" 2>/dev/null || echo 0)" ;;
esac
"#;

struct Cluster {
    dir: PathBuf,
    sh: &'static str,
}

impl Cluster {
    fn new(sh: &'static str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("svcplane-kubectl-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let kubectl = dir.join("kubectl");
        fs::write(&kubectl, KUBECTL).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Self { dir, sh };
        cluster.file(
            "agents",
            "node2 kube-system svc-agent-b true\nnode1 kube-system svc-agent-a false\nlong-node3 kube-system svc-agent-c true\n",
        );
        for pod in ["a", "b", "c"] {
            cluster.file(
                &format!("svc-agent-{pod}.out"),
                &format!("NAME\nweb-{pod}\n"),
            );
        }
        cluster
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }

    fn run(&self, words: &[&str]) -> Output {
        let _ = fs::remove_file(self.dir.join("asked"));
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy/kubectl/kubectl-svcplane");
        let path = format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap());
        let mut shell = self.sh.split(' ');
        Command::new(shell.next().unwrap())
            .args(shell)
            .arg(script)
            .args(words)
            .env("PATH", path)
            .env("FAKE", &self.dir)
            .output()
            .unwrap()
    }

    /// The last thing that kubectl was asked.
    fn asked(&self) -> String {
        let asked = fs::read_to_string(self.dir.join("asked")).unwrap_or_default();
        asked.lines().last().unwrap_or_default().to_owned()
    }

    fn prints(&self, words: &[&str], stdout: &str) {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert_eq!(text(&output.stdout), stdout, "{}: {words:?}", self.sh);
    }

    fn fails(&self, words: &[&str], code: i32, says: &str) {
        let output = self.run(words);
        let said = text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}: {words:?}: {said}",
            self.sh
        );
        assert!(said.contains(says), "{}: {words:?}: {said}", self.sh);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn clusters() -> impl Iterator<Item = Cluster> {
    let shells = ["sh", "dash", "bash", "busybox sh"];
    shells
        .into_iter()
        .filter(|shell| {
            let mut words = shell.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words).args(["-c", "true"]);
            command.output().is_ok_and(|output| output.status.success())
        })
        .map(Cluster::new)
}

#[test]
fn a_verb_runs_in_the_pod_of_the_node_that_is_named() {
    for cluster in clusters() {
        for words in [
            &["--node", "node1", "get", "flows", "-n", "shop", "web"][..],
            &["get", "flows", "--node=node1", "-n", "shop", "web"],
            &["get", "flows", "-n", "shop", "web", "--node", "node1"],
        ] {
            cluster.prints(words, "NAME\nweb-a\n");
            assert_eq!(
                cluster.asked(),
                "exec --namespace kube-system svc-agent-a --container svc-agent -- /svc-agent get flows -n shop web"
            );
        }
    }
}

#[test]
fn a_pod_stands_for_its_node() {
    for cluster in clusters() {
        for pod in ["web", "shop/web"] {
            cluster.prints(&["get", "backends", "--pod", pod], "NAME\nweb-b\n");
        }
        cluster.fails(
            &["get", "backends", "--pod", "new"],
            1,
            "pod new is on no node yet",
        );
        cluster.fails(
            &["get", "backends", "--pod", "x/y"],
            1,
            "cannot find pod x/y",
        );
    }
}

#[test]
fn without_a_node_a_ready_agent_is_asked_and_named() {
    for cluster in clusters() {
        let output = cluster.run(&["get", "services"]);
        assert_eq!(text(&output.stdout), "NAME\nweb-c\n");
        assert_eq!(text(&output.stderr), "node long-node3\n");
        cluster.file("agents", "node1 kube-system svc-agent-a false\n");
        cluster.fails(
            &["get", "services"],
            1,
            "no agent is ready; name a node: node1",
        );
    }
}

#[test]
fn words_reach_the_agent_as_they_were_given() {
    for cluster in clusters() {
        cluster.prints(
            &[
                "--node", "node2", "explain", "a  b", "*", "$HOME", "--from", "x",
            ],
            "NAME\nweb-b\n",
        );
        assert!(
            cluster
                .asked()
                .ends_with("-- /svc-agent explain a  b * $HOME --from x"),
            "{}",
            cluster.asked()
        );
    }
}

#[test]
fn diff_is_told_the_settings_that_the_agent_has() {
    for cluster in clusters() {
        let chart = "diff -o text --config=/etc/svcplane/config.yaml --cgroup-root=/host/cgroup";
        for (words, asked) in [
            (&["diff", "-o", "text"][..], chart),
            (&["diff", "--config=/x"], "diff --config=/x"),
            (&["explain", "diff"], "explain diff"),
        ] {
            cluster.prints(&[&["--node", "node2"], words].concat(), "NAME\nweb-b\n");
            assert!(
                cluster.asked().ends_with(&format!("-- /svc-agent {asked}")),
                "{}",
                cluster.asked()
            );
        }
    }
}

#[test]
fn kubectls_own_options_go_to_kubectl() {
    for cluster in clusters() {
        cluster.prints(
            &[
                "--context",
                "a b",
                "--kubeconfig=/k",
                "check",
                "--node",
                "node2",
            ],
            "NAME\nweb-b\n",
        );
        assert!(
            cluster
                .asked()
                .starts_with("--context=a b --kubeconfig=/k exec "),
            "{}",
            cluster.asked()
        );
    }
}

#[test]
fn every_node_answers_side_by_side() {
    for cluster in clusters() {
        let table = "long-node3  NAME\nlong-node3  web-c\nnode1       NAME\nnode1       web-a\nnode2       NAME\nnode2       web-b\n";
        cluster.prints(&["get", "services", "--all-nodes"], table);
        for pod in ["a", "b", "c"] {
            cluster.file(
                &format!("svc-agent-{pod}.out"),
                &format!("{{\"pod\": \"{pod}\"}}\n"),
            );
        }
        for output in [&["-o", "json"][..], &["-ojson"], &["--output=json"]] {
            let output = cluster.run(&[&["get", "services", "--all-nodes"], output].concat());
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                json,
                serde_json::json!({"node1": {"pod": "a"}, "node2": {"pod": "b"}, "long-node3": {"pod": "c"}})
            );
        }
        let yaml = "long-node3:\n  {\"pod\": \"c\"}\nnode1:\n  {\"pod\": \"a\"}\nnode2:\n  {\"pod\": \"b\"}\n";
        cluster.prints(&["get", "services", "--all-nodes", "-o", "yaml"], yaml);
        let output = cluster.run(&["monitor", "--all-nodes", "-o", "json"]);
        let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(
            lines[0], "long-node3  {\"pod\": \"c\"}",
            "what goes on for ever comes line by line"
        );
        assert_eq!(lines.len(), 3);
    }
}

#[test]
fn a_node_that_fails_is_named_and_the_others_answer() {
    for cluster in clusters() {
        cluster.file("svc-agent-a.out", "");
        cluster.file("svc-agent-a.err", "svc-agent: no maps\n");
        cluster.file("svc-agent-a.code", "1");
        let output = cluster.run(&["get", "services", "--all-nodes", "-o", "json"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr), "node1       svc-agent: no maps\n");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_eq!(json["node1"], serde_json::Value::Null);
        cluster.fails(&["check", "--node", "node1"], 1, "no maps");
        cluster.file("svc-agent-a.code", "2");
        cluster.fails(&["get", "--node", "node1"], 2, "");
        cluster.fails(&["get", "--all-nodes"], 2, "");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for cluster in clusters() {
        for (words, code, says) in [
            (&[][..], 2, "Usage: kubectl svcplane"),
            (&["--nod", "node1", "get"], 2, "--nod is no option"),
            (&["get", "services", "--node"], 2, "--node needs a value"),
            (&["get", "services", "--node="], 2, "--node needs a value"),
            (
                &["get", "services", "--node", ""],
                2,
                "--node needs a value",
            ),
            (
                &["get", "--node", "node1", "--all-nodes"],
                2,
                "exclude each other",
            ),
            (
                &["get", "--node", "node9"],
                1,
                "no agent runs on node node9; there are: long-node3 node1 node2",
            ),
            (&["run"], 2, "run is what the DaemonSet does"),
            (&["cleanup", "--all-nodes"], 2, "delete the DaemonSet first"),
        ] {
            cluster.fails(words, code, says);
        }
        assert!(cluster.run(&["--help"]).status.success());
        cluster.file("agents", "");
        cluster.fails(&["get", "services"], 1, "no agent runs in this cluster");
        fs::remove_file(cluster.dir.join("agents")).unwrap();
        cluster.fails(&["get", "services"], 1, "cannot list the pods");
    }
}
