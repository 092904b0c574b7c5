use clap::CommandFactory;

use super::*;

fn parsed(line: &[&str]) -> Result<Cli, String> {
    parse(line.iter().map(OsString::from)).map_err(|e| {
        assert_eq!(e.exit_code(), if e.use_stderr() { 2 } else { 0 });
        e.to_string()
    })
}

fn run(line: &[&str]) -> Result<Run, String> {
    let line: Vec<&str> = ["svc-agent", "run"].iter().chain(line).copied().collect();
    match parsed(&line)?.verb {
        Verb::Run(run) => Ok(*run),
        other => panic!("{other:?}"),
    }
}

/// A settings file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("svc-agent-{}-{name}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_command_line_is_consistent_and_every_verb_has_examples() {
    let mut command = Cli::command();
    command.clone().debug_assert();
    command.build();
    for verb in command
        .get_subcommands_mut()
        .filter(|v| v.get_name() != "help")
    {
        assert!(
            verb.render_help().to_string().contains("Examples:"),
            "{}",
            verb.get_name()
        );
    }
}

#[test]
fn run_alone_has_the_documented_defaults() {
    let run = run(&[]).unwrap();
    assert_eq!(
        (run.xdp, run.socket_lb, run.nodeport_addresses),
        (Xdp::Auto, SocketLb::Tcp, NodePortAddresses::Primary)
    );
    assert_eq!(run.healthz_bind_address, "0.0.0.0:10256".parse().unwrap());
    assert_eq!(run.metrics_bind_address, "127.0.0.1:10249".parse().unwrap());
    assert_eq!(run.bpf_root, PathBuf::from(DEFAULT_BPF_ROOT));
    assert!(!run.external_cluster_ip && !run.unload_on_exit && run.node_ip.is_empty());
}

#[test]
fn flags_take_lists_and_an_empty_bind_address_means_none() {
    let run = run(&[
        "--node-ip=172.18.0.11",
        "--node-ip",
        "fd00:18::11",
        "--devices",
        "eth*,bond0",
        "--nodeport-addresses",
        "172.18.0.0/16,fd00::/8",
        "--healthz-bind-address=",
        "-v",
        "2",
        "--socket-lb",
        "host-only",
    ])
    .unwrap();
    assert_eq!(run.node_ip.len(), 2);
    assert!(run.devices.iter().any(|g| g.matches("eth3")));
    assert!(matches!(run.nodeport_addresses, NodePortAddresses::In(ranges) if ranges.len() == 2));
    assert_eq!(
        (run.healthz_bind_address, run.verbosity, run.socket_lb),
        (Bind(None), 2, SocketLb::HostOnly)
    );
}

#[test]
fn values_that_are_not_true_today_are_usage_errors() {
    for line in [
        &["--dsr", "gre"][..],
        &["--host-routing", "stack"],
        &["--conntrack-udp-timeout", "30"],
        &["--xdp", "fast"],
        &["--node-ip", "node1"],
        &["--nodeport-addresses", "secondary"],
        &["--kubeconfig", "a", "--manifests", "b"],
    ] {
        run(line).unwrap_err();
    }
    assert!(parsed(&["svc-agent", "shadow"]).is_err(), "not a verb yet");
    for dsr in ["off", "ipip", "geneve"] {
        assert!(run(&["--dsr", dsr]).is_ok());
    }
    for routing in ["auto", "bpf", "kernel"] {
        assert!(run(&["--host-routing", routing]).is_ok());
    }
}

#[test]
fn a_file_sets_what_the_command_line_does_not() {
    let file = File::new(
        "sets",
        "\
xdp: off
socket-lb: all
node-ip: [172.18.0.11, 'fd00:18::11']
devices: [eth*, bond0]
external-cluster-ip: true
unload-on-exit: false
verbosity: 1
nodeport-addresses: 172.18.0.0/16
manifests: /etc/manifests
",
    );
    let run = run(&[
        "--config",
        file.path(),
        "--socket-lb",
        "tcp",
        "--node-ip",
        "192.0.2.1",
    ])
    .unwrap();
    assert_eq!(
        (run.xdp, run.socket_lb, run.verbosity),
        (Xdp::Off, SocketLb::Tcp, 1)
    );
    assert_eq!(run.node_ip, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(run.devices.len(), 2);
    assert!(run.external_cluster_ip && !run.unload_on_exit);
    assert_eq!(run.manifests, Some("/etc/manifests".into()));
}

#[test]
fn a_wrong_setting_names_the_file_and_what_is_wrong() {
    for (text, what) in [
        ("xpd: off", "xpd is no setting"),
        ("external-cluster-ip: maybe", "true or false"),
        ("xdp: [", "is not YAML"),
        ("xdp: fast", "fast"),
        ("- a", "is not YAML settings"),
    ] {
        let file = File::new("wrong", text);
        let error = run(&["--config", file.path()]).unwrap_err();
        assert!(
            error.contains(what) && error.contains(file.path()),
            "{error}"
        );
    }
    assert!(
        run(&["--config", "/nowhere.yaml"])
            .unwrap_err()
            .contains("cannot be read")
    );
    assert!(run(&["--config", File::new("empty", "").path()]).is_ok());
}

#[test]
fn the_node_name_is_what_kubelet_would_write() {
    assert_eq!(
        run(&["--hostname-override", "Node1"])
            .unwrap()
            .node_name()
            .unwrap(),
        "node1"
    );
    assert!(!run(&[]).unwrap().node_name().unwrap().is_empty());
}

#[test]
fn lifetimes_are_given_as_kube_proxy_takes_them() {
    let run = run(&[
        "--conntrack-tcp-timeout-established=24h0m0s",
        "--conntrack-udp-timeout",
        "10s",
    ])
    .unwrap();
    assert_eq!(run.conntrack_tcp_timeout_established.or(1), 86_400);
    assert_eq!(run.conntrack_udp_timeout.or(1), 10);
    assert_eq!(run.conntrack_udp_timeout_stream.or(120), 120);
    assert_eq!(run.conntrack_tcp_timeout_close_wait.or(60), 60);
}

#[test]
fn the_clusters_ranges_are_few_enough_to_have_room() {
    let ranges = |count: usize| {
        let ranges: Vec<String> = (0..count)
            .map(|n| format!("10.{}.{}.0/24", n / 256, n % 256))
            .collect();
        run(&["--cluster-cidr", &ranges.join(",")])
    };
    assert_eq!(ranges(256).unwrap().cluster_cidr.len(), 256);
    let error = ranges(257).unwrap_err();
    assert!(error.contains("--cluster-cidr names 257 ranges"), "{error}");
}

#[test]
fn diff_takes_the_settings_that_the_agent_runs_with() {
    let file = File::new(
        "diff",
        "node-ip: [192.0.2.1]\nxdp: off\nmanifests: examples\n",
    );
    let cli = parsed(&["svc-agent", "diff", "--config", file.path(), "-o", "json"]).unwrap();
    let Verb::Diff(diff) = cli.verb else {
        panic!("not diff: {cli:?}");
    };
    assert_eq!(diff.run.node_ip, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(diff.run.manifests, Some("examples".into()));
    assert_eq!(diff.output, Form::Json);
    let wrong = File::new("diff-wrong", "output: json\n");
    let error = parsed(&["svc-agent", "diff", "--config", wrong.path()]).unwrap_err();
    assert!(error.contains("output is no setting"), "{error}");
}
