//! deploy/helm/svcplane by a real Helm: what it renders, what it refuses, and that an API server takes it. The plain
//! manifest and the schema's settings follow from it; UPDATE=1 rewrites them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use clap::{ArgAction, CommandFactory};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::discovery::{ApiCapabilities, Scope};
use serde_json::{Value, json};
use svc_agent::config::{self, Cli};
use xtask::agents::eventually;
use xtask::programs::asset;

use crate::server::{ADMIN, ApiServer};
use crate::topology;

const HEADER: &str = "\
# svcplane without Helm: what the chart in deploy/helm renders with its defaults (a test holds them equal).
#
# Two things are to be filled in: `image`, and in KUBERNETES_SERVICE_HOST and _PORT the API server's own address, because
# the ClusterIP of Service `kubernetes` answers only once the agent runs. Then: kubectl apply -f deploy/svcplane.yaml
";

/// Flags that the chart sets itself, or that are one node's.
const NOT_SETTINGS: &[&str] = &[
    "bpf-root",
    "cgroup-root",
    "config",
    "help",
    "hostname-override",
    "kubeconfig",
    "manifests",
    "node-ip",
    "procfs",
];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("deploy")
        .join(path)
}

fn updating() -> bool {
    std::env::var_os("UPDATE").is_some_and(|value| value == "1")
}

/// Helm with nothing of this machine's user.
fn alone(mut helm: Command, words: &[&str]) -> Output {
    let home = std::env::temp_dir().join("svcplane-helm");
    for name in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        helm.env(name, &home);
    }
    helm.env("KUBECONFIG", "/dev/null").args(words);
    helm.output().unwrap()
}

fn template(more: &[&str]) -> Output {
    let chart = deploy("helm/svcplane");
    let words = [
        "template",
        "svcplane",
        chart.to_str().unwrap(),
        "--namespace=kube-system",
    ];
    alone(
        Command::new(asset("helm").unwrap()),
        &[&words, more].concat(),
    )
}

fn rendered(more: &[&str]) -> String {
    let output = template(more);
    assert!(
        output.status.success(),
        "helm template {more:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn objects(manifests: &str) -> Vec<Value> {
    let documents = manifests.split("\n---\n");
    documents
        .map(|text| serde_saphyr::from_str::<Value>(text.trim_start_matches("---\n")).unwrap())
        .filter(|value| !value.is_null())
        .collect()
}

fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn the_plain_manifest_is_what_the_chart_renders_with_its_defaults() {
    let wanted = format!("{HEADER}{}", rendered(&["--no-hooks"]));
    let file = deploy("svcplane.yaml");
    if updating() {
        fs::write(&file, wanted).unwrap();
        return;
    }
    let found = fs::read_to_string(&file).unwrap();
    assert!(
        found == wanted,
        "deploy/svcplane.yaml is not what the chart renders: UPDATE=1 cargo xtask test --layer api chart"
    );
}

#[test]
fn the_charts_settings_are_the_flags_of_run() {
    let file = deploy("helm/svcplane/values.schema.json");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let settings: BTreeMap<&str, Value> = run
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?, arg)))
        .filter(|(name, _)| !NOT_SETTINGS.contains(name))
        .map(|(name, arg)| {
            let mut says = setting(arg);
            says["description"] = arg.get_help().unwrap().to_string().into();
            (name, says)
        })
        .collect();
    let settings = json!(settings);
    if updating() {
        schema["properties"]["config"]["properties"] = settings;
        let text = serde_json::to_string_pretty(&schema).unwrap();
        fs::write(&file, text + "\n").unwrap();
        return;
    }
    assert!(
        schema["properties"]["config"]["properties"] == settings,
        "values.schema.json does not know the flags of run: UPDATE=1 cargo xtask test --layer api chart"
    );
}

/// What a setting may be in YAML, as config/file.rs takes it.
fn setting(arg: &clap::Arg) -> Value {
    let possible: Vec<Value> = arg
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().into())
        .collect();
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return json!({"type": "boolean"});
    }
    if possible.contains(&"off".into()) {
        // A bare `off` is a boolean to Helm.
        let possible = [possible, vec![Value::Bool(false)]].concat();
        return json!({"enum": possible});
    }
    if !possible.is_empty() {
        return json!({"enum": possible});
    }
    if arg.get_value_delimiter().is_some() || matches!(arg.get_action(), ArgAction::Append) {
        return json!({"type": ["string", "array"], "items": {"type": "string"}});
    }
    json!({"type": ["string", "integer"]})
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let text = fs::read_to_string(deploy("helm/svcplane/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (values, says) in [
        ("imge.tag=1", "imge"),
        ("image.tagg=1", "tagg"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=latest", "digest"),
        ("image.repository=", "repository"),
        ("apiServer.port=0", "port"),
        ("apiServer.port=http", "port"),
        ("apiServer.host=https://10.0.0.1", "host"),
        ("config.xdpp=auto", "xdpp"),
        ("config.xdp=fast", "xdp"),
        ("config.masquerade-all=yes", "masquerade-all"),
        ("config.bpf-root=/tmp", "bpf-root"),
        ("config.manifests=/tmp", "manifests"),
        ("extraArgs=-v", "extraArgs"),
        ("tolerations=all", "tolerations"),
        ("maxUnavailable=most", "maxUnavailable"),
        ("maxUnavailable=0", "maxUnavailable"),
        ("cgroupRoot=cgroup", "cgroupRoot"),
        (
            "terminationGracePeriodSeconds=-1",
            "terminationGracePeriodSeconds",
        ),
        ("serviceMonitor.interval=often", "interval"),
        ("uninstall.cleanup=perhaps", "cleanup"),
        ("uninstall.timeoutSeconds=0", "timeoutSeconds"),
        ("rbac.listPods=yes", "listPods"),
        ("sysAdmin=perhaps", "sysAdmin"),
        ("sysAdmin=false,config.socket-lb=all", "sysAdmin"),
        ("serviceMonitor.enabled=true", "config.metrics-bind-address"),
        (
            "serviceMonitor.enabled=true,config.metrics-bind-address=127.0.0.1:1",
            "config.metrics-bind-address",
        ),
    ] {
        let output = template(&["--set", values]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values} is accepted");
        assert!(text.contains(says), "{values}: {text}");
    }
}

#[test]
fn values_reach_the_manifests() {
    for (values, kind, name, path, wanted) in [
        (
            "image.tag=v2",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/containers/0/image",
            json!("svc-agent:v2"),
        ),
        (
            "image.repository=r.example:5000/a/b,image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/containers/0/image",
            json!(
                "r.example:5000/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000"
            ),
        ),
        (
            "apiServer.host=fd00::1",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/containers/0/env/1/value",
            json!("fd00::1"),
        ),
        (
            "apiServer.port=443",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/containers/0/env/2/value",
            json!("443"),
        ),
        (
            "apiServer.host=10.0.0.1",
            "Job",
            "svc-agent-cleanup",
            "/spec/template/spec/initContainers/0/env/0/value",
            json!("10.0.0.1"),
        ),
        (
            "config.healthz-bind-address=0.0.0.0:2",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/containers/0/readinessProbe/httpGet/port",
            json!(2),
        ),
        (
            "config.healthz-bind-address=0.0.0.0:2",
            "DaemonSet",
            "svc-agent-cleanup",
            "/spec/template/spec/containers/0/ports/0/hostPort",
            json!(2),
        ),
        (
            "extraArgs={-v,2}",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/containers/0/args/6",
            json!("2"),
        ),
        (
            "cgroupRoot=/sys/fs/cgroup/unified",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/volumes/2/hostPath/path",
            json!("/sys/fs/cgroup/unified"),
        ),
        (
            "maxUnavailable=1",
            "DaemonSet",
            "svc-agent",
            "/spec/updateStrategy/rollingUpdate/maxUnavailable",
            json!(1),
        ),
        (
            "imagePullSecrets[0].name=s",
            "DaemonSet",
            "svc-agent-cleanup",
            "/spec/template/spec/imagePullSecrets/0/name",
            json!("s"),
        ),
        (
            "rbac.listPods=true",
            "ClusterRole",
            "svcplane:svc-agent",
            "/rules/3/resources/0",
            json!("pods"),
        ),
        (
            "sysAdmin=false",
            "DaemonSet",
            "svc-agent",
            "/spec/template/spec/containers/0/securityContext/capabilities/add",
            json!(["BPF", "NET_ADMIN", "NET_BIND_SERVICE", "PERFMON"]),
        ),
        (
            "sysAdmin=false",
            "DaemonSet",
            "svc-agent-cleanup",
            "/spec/template/spec/initContainers/0/securityContext/capabilities/add/4",
            json!("SYS_ADMIN"),
        ),
        (
            "podLabels.team=net",
            "DaemonSet",
            "svc-agent",
            "/spec/template/metadata/labels/team",
            json!("net"),
        ),
        (
            "serviceMonitor.enabled=true,config.metrics-bind-address=0.0.0.0:10249",
            "Service",
            "svc-agent-metrics",
            "/spec/ports/0/port",
            json!(10249),
        ),
        (
            "serviceMonitor.enabled=true,serviceMonitor.labels.release=prom,config.metrics-bind-address=[::]:1",
            "ServiceMonitor",
            "svc-agent",
            "/metadata/labels/release",
            json!("prom"),
        ),
    ] {
        let objects = objects(&rendered(&["--set", values]));
        let found = object(&objects, kind, name).pointer(path);
        assert_eq!(found, Some(&wanted), "{values}: {kind} {name} {path}");
    }
    let without = rendered(&[
        "--set",
        "config.healthz-bind-address=,uninstall.cleanup=false",
    ]);
    for gone in ["Probe:", "hostPort", "kind: Job", "post-delete"] {
        assert!(!without.contains(gone), "{gone} is in\n{without}");
    }
}

#[test]
fn a_changed_setting_rolls_the_daemonset_and_an_unchanged_one_does_not() {
    let mark = |more: &[&str]| {
        let objects = objects(&rendered(more));
        object(&objects, "DaemonSet", "svc-agent")["spec"]["template"]["metadata"]["annotations"]
            ["svcplane/config"]
            .clone()
    };
    assert_eq!(mark(&[]), mark(&["--set", "uninstall.cleanup=false"]));
    assert_ne!(mark(&[]), mark(&["--set", "config.dsr=ipip"]));
}

/// The agent's own parser takes what the chart writes for it.
#[test]
fn the_agent_understands_the_settings_that_the_chart_writes() {
    let values = std::env::temp_dir().join(format!("svcplane-values-{}.yaml", std::process::id()));
    fs::write(
        &values,
        "config: {xdp: off, socket-lb: all, cluster-cidr: [10.244.0.0/16, 'fd00:244::/56'], devices: 'eth*', verbosity: 1, \
         masquerade-all: true, nodeport-addresses: primary, conntrack-udp-timeout: 20s}",
    )
    .unwrap();
    for more in [&[][..], &["--values", values.to_str().unwrap()]] {
        let objects = objects(&rendered(more));
        let settings = object(&objects, "ConfigMap", "svc-agent")["data"]["config.yaml"]
            .as_str()
            .unwrap()
            .to_owned();
        let file = values.with_extension("config");
        fs::write(&file, &settings).unwrap();
        let args = object(&objects, "DaemonSet", "svc-agent")
            .pointer("/spec/template/spec/containers/0/args")
            .unwrap();
        let args = args
            .as_array()
            .unwrap()
            .iter()
            .map(|arg| arg.as_str().unwrap());
        let config = format!("--config={}", file.display());
        let argv = std::iter::once("svc-agent").chain(args.map(|arg| match arg {
            "--config=/etc/svcplane/config.yaml" => config.as_str(),
            arg => arg,
        }));
        config::parse(argv.map(|arg| OsStr::new(arg).to_owned()))
            .unwrap_or_else(|error| panic!("{error}\n{settings}"));
        fs::remove_file(&file).unwrap();
    }
    fs::remove_file(&values).unwrap();
}

/// Server-side apply, dry and strict: an unknown or misplaced field is an error.
fn taken(server: &ApiServer, objects: Vec<Value>) {
    for object in objects {
        let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
        let outcome = server.admin(|client| async move {
            let object: DynamicObject = serde_json::from_value(object)?;
            let types = object.types.clone().unwrap();
            let (resource, ApiCapabilities { scope, .. }) =
                kube::discovery::pinned_kind(&client, &(&types).try_into()?).await?;
            let api: Api<DynamicObject> = match scope {
                Scope::Cluster => Api::all_with(client, &resource),
                Scope::Namespaced => Api::namespaced_with(
                    client,
                    object.metadata.namespace.as_deref().unwrap(),
                    &resource,
                ),
            };
            let mut params = PatchParams::apply("chart").dry_run();
            params.field_validation = Some(ValidationDirective::Strict);
            let name = object.metadata.name.clone().unwrap();
            api.patch(&name, &params, &Patch::Apply(&object)).await?;
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{what}: {error:#}");
        }
    }
}

#[test]
fn an_api_server_takes_what_the_chart_renders_and_helm_installs_it() {
    let topology = topology();
    let server = ApiServer::start(&topology).unwrap();
    taken(&server, objects(&rendered(&[])));
    let everything = "serviceMonitor.enabled=true,config.metrics-bind-address=0.0.0.0:10249,imagePullSecrets[0].name=s,\
                      podLabels.team=net,podAnnotations.a=b,affinity.nodeAffinity=null,rbac.listPods=true,apiServer.host=192.0.2.1";
    let mut all = objects(&rendered(&["--set", everything]));
    // Its definition is the Prometheus operator's.
    all.retain(|object| object["kind"] != "ServiceMonitor");
    taken(&server, all);

    let kubeconfig = server.kubeconfig("admin", &server.url(), ADMIN).unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let chart = deploy("helm/svcplane");
    let chart = chart.to_str().unwrap();
    let helm = |words: &[&str]| {
        let command = topology.command("lan", asset("helm").unwrap()).unwrap();
        let output = alone(
            command,
            &[words, &["--namespace=kube-system", &kubeconfig]].concat(),
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    eventually(
        "the cluster says where its API server is",
        Duration::from_secs(30),
        || Ok(helm(&["install", "svcplane", chart, "--dry-run=server"]).0),
    )
    .unwrap();
    let (installed, text) = helm(&["install", "svcplane", chart]);
    assert!(installed, "{text}");
    let address = topology.place("lan").v4.to_string();
    assert!(text.contains(&format!("at {address}:6443")), "{text}");
    let (_, manifest) = helm(&["get", "manifest", "svcplane"]);
    let parts = objects(&manifest);
    let host = object(&parts, "DaemonSet", "svc-agent")
        .pointer("/spec/template/spec/containers/0/env/1/value");
    assert_eq!(host, Some(&json!(address)), "the API server's own address");
    let (upgraded, text) = helm(&["upgrade", "svcplane", chart, "--set", "config.xdp=off"]);
    assert!(upgraded, "{text}");
    // Of one node there is one dataplane.
    let (second, text) = helm(&["install", "another", chart]);
    assert!(!second && text.contains("svc-agent"), "{text}");
    // No kubelet runs here that would run what hooks make.
    let (gone, text) = helm(&["uninstall", "svcplane", "--no-hooks"]);
    assert!(gone, "{text}");
}
