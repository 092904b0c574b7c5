use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::cluster::{Cluster, Slice};
use crate::desired::{Protocol, ServiceName};

/// A folder that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "svc-agent-manifests-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.0.join(name), text).unwrap();
        self
    }

    /// As careful editors and `mv` do.
    fn replace(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(".new"), text).unwrap();
        std::fs::rename(self.0.join(".new"), self.0.join(name)).unwrap();
    }

    fn read(&self) -> (Objects, Vec<String>) {
        let (objects, refusals) = Folder::new(self.0.clone()).read();
        (objects, refusals.iter().map(ToString::to_string).collect())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn name(n: &str) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: n.into(),
    }
}

fn service(n: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {n}}}\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - port: {port}\n"
    )
}

const SELECTING: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: metrics, port: 9090}
";

fn pod(n: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {n}, labels: {{app: web, x: y}}}}\n{more}\n---\n"
    )
}

fn offered(objects: &Objects, ip: &str) -> Vec<(String, Protocol, u16)> {
    let ip: IpAddr = ip.parse().unwrap();
    let has = |slice: &&Slice| slice.endpoints.iter().any(|e| e.ip == ip);
    objects
        .slices
        .values()
        .filter(has)
        .flat_map(|slice| &slice.ports)
        .map(|(name, protocol, port)| (name.to_string(), *protocol, *port))
        .collect()
}

#[test]
fn named_target_ports_are_resolved_in_each_pod_by_name_and_protocol() {
    let ports = |http| {
        format!(
            "spec: {{nodeName: node1, containers: [{{name: c, ports: [{{name: http, protocol: UDP, containerPort: 1}}, \
             {{name: http, containerPort: {http}}}]}}]}}\nstatus: {{podIPs: [{{ip: 10.0.0.{http}}}, {{ip: 'fd00::{http}'}}]}}"
        )
    };
    let dir = Dir::new();
    let pods = [
        pod("a", &ports(81)),
        pod("b", &ports(82)),
        pod("c", "status: {podIP: 10.0.0.83}"),
    ]
    .concat();
    let (objects, refusals) = dir
        .write("web.yaml", SELECTING)
        .write("pods.yaml", &pods)
        .read();
    let http = |number| ("http".to_owned(), Protocol::Tcp, number);
    let metrics = ("metrics".to_owned(), Protocol::Tcp, 9090);
    assert_eq!(offered(&objects, "10.0.0.81"), [http(81), metrics.clone()]);
    assert_eq!(offered(&objects, "fd00::82"), [http(82), metrics.clone()]);
    assert_eq!(offered(&objects, "10.0.0.83"), [metrics]);
    let missing = "Service default/web: targetPort \"http\": Pod default/c has no TCP port of that name; it gets nothing from port 80";
    assert_eq!(refusals, [missing]);
}

#[test]
fn the_state_of_a_pod_is_the_state_of_its_endpoints() {
    let state = |more: &str, service: &str| {
        let dir = Dir::new();
        let (objects, _) = dir
            .write("web.yaml", service)
            .write("pods.yaml", &pod("a", more))
            .read();
        let endpoint = objects
            .slices
            .values()
            .flat_map(|s| &s.endpoints)
            .next()
            .cloned();
        endpoint.map(|e| (e.ready, e.serving, e.terminating))
    };
    let ready =
        "status: {podIP: 10.0.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}";
    let unready = "status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'False'}]}";
    let leaving = "status: {podIP: 10.0.0.1}\n".to_owned();
    let leaving = |n: &str| {
        pod(n, &leaving).replace(
            "labels:",
            "deletionTimestamp: '2026-01-01T00:00:00Z', labels:",
        )
    };
    assert_eq!(state(ready, SELECTING), Some((true, true, false)));
    assert_eq!(
        state("status: {podIP: 10.0.0.1}", SELECTING),
        Some((true, true, false))
    );
    assert_eq!(state(unready, SELECTING), Some((false, false, false)));
    assert_eq!(state("status: {phase: Pending}", SELECTING), None);
    assert_eq!(
        state("status: {podIP: 10.0.0.1, phase: Succeeded}", SELECTING),
        None
    );
    assert_eq!(
        state("status: {podIP: 10.0.0.1, phase: Failed}", SELECTING),
        None
    );
    assert_eq!(
        state(
            &format!("status: {{phase: Failed}}\n---\n{}", leaving("b")),
            SELECTING
        ),
        Some((false, true, true))
    );
    let published = SELECTING.replace("spec:\n", "spec:\n  publishNotReadyAddresses: true\n");
    assert_eq!(state(unready, &published), Some((true, true, false)));
}

#[test]
fn slices_of_the_folder_come_before_its_pods_and_a_selector_without_pods_is_named() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.9.9.9]}]\nports: [{name: http, port: 1}]\n";
    let dir = Dir::new();
    let (objects, refusals) = dir.write("web.yaml", SELECTING).read();
    assert!(objects.slices.is_empty());
    assert_eq!(
        refusals,
        ["Service default/web: its selector app=web matches no Pod: its clients are refused"]
    );
    let (objects, refusals) = dir
        .write("slice.yaml", slice)
        .write("pods.yaml", &pod("a", "status: {podIP: 10.0.0.1}"))
        .read();
    assert_eq!((objects.slices.len(), refusals.len()), (1, 0));
}

#[test]
fn a_file_may_have_several_documents_a_list_or_json() {
    let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"json"},"spec":{"clusterIP":"10.96.0.3","ports":[{"port":80}]}}"#;
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n",
        service("listed", 80).trim_end().replace('\n', "\n  ")
    );
    let dir = Dir::new();
    dir.write(
        "a.yaml",
        &format!(
            "# a comment\n---\n{}---\n---\n# nothing\n---\n{}",
            service("one", 80),
            service("two", 80)
        ),
    );
    dir.write(
        "b.json",
        &format!("{json}\n{}", json.replace("\"json\"", "\"json2\"")),
    )
    .write("c.yml", &list);
    dir.write("readme.txt", "{").write(".hidden.yaml", "{");
    dir.write(
        "d.yaml",
        "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: apps/v1\nkind: Deployment\n",
    );
    let (objects, refusals) = dir.read();
    let names: BTreeSet<&str> = objects.services.keys().map(|n| &*n.name).collect();
    assert_eq!(
        names,
        BTreeSet::from(["one", "two", "json", "json2", "listed"])
    );
    assert_eq!(
        refusals,
        ["apps/v1 Deployment: is of no use here; all such objects are skipped"]
    );
}

#[test]
fn a_broken_file_keeps_what_it_said_until_it_is_mended_or_gone() {
    let dir = Dir::new();
    dir.write("web.yaml", &service("web", 80));
    let mut folder = Folder::new(dir.0.clone());
    assert_eq!(folder.read().0.services[&name("web")].ports[0].port, 80);
    dir.write("web.yaml", "apiVersion: [");
    let (objects, refusals) = folder.read();
    assert_eq!((objects.services.len(), refusals.len()), (1, 1));
    dir.write("web.yaml", &service("web", 81));
    let (objects, refusals) = folder.read();
    assert_eq!(
        (objects.services[&name("web")].ports[0].port, refusals.len()),
        (81, 0)
    );
    std::fs::remove_file(dir.0.join("web.yaml")).unwrap();
    assert_eq!(folder.read().0, Objects::default());
    std::fs::remove_dir(&dir.0).unwrap();
    assert!(folder.read().1[0].to_string().contains("cannot be read"));
}

/// Takes in events until the Cluster is as wanted.
async fn until(
    cluster: &mut Cluster,
    events: &mut mpsc::Receiver<Event>,
    wanted: impl Fn(&Cluster) -> bool,
) {
    let waiting = async {
        while !(cluster.synced() && wanted(cluster)) {
            cluster.apply(events.recv().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting)
        .await
        .expect("the folder's change was not seen");
}

#[tokio::test]
async fn changes_are_seen_however_they_are_made() {
    let dir = Dir::new();
    dir.write("web.yaml", &service("web", 80));
    let (tx, mut rx) = mpsc::channel(8);
    let path = dir.0.clone();
    let source = tokio::spawn(async move { run(&path, tx).await });
    let mut cluster = Cluster::new("node1");
    let port = |n: &'static str, port: Option<u16>| {
        move |c: &Cluster| c.service(&name(n)).map(|s| s.ports[0].port) == port
    };

    until(&mut cluster, &mut rx, port("web", Some(80))).await;
    dir.write("web.yaml", &service("web", 81));
    until(&mut cluster, &mut rx, port("web", Some(81))).await;
    dir.replace("web.yaml", &service("web", 82));
    until(&mut cluster, &mut rx, port("web", Some(82))).await;
    dir.write("new.yaml", &service("new", 1));
    until(&mut cluster, &mut rx, port("new", Some(1))).await;
    std::fs::rename(dir.0.join("new.yaml"), dir.0.join("new.txt")).unwrap();
    until(&mut cluster, &mut rx, port("new", None)).await;
    std::fs::remove_file(dir.0.join("web.yaml")).unwrap();
    until(&mut cluster, &mut rx, port("web", None)).await;

    // Another folder in its place, as a whole.
    let other = Dir::new();
    other.write("web.yaml", &service("web", 90));
    let aside = other.0.with_extension("aside");
    std::fs::rename(&dir.0, &aside).unwrap();
    std::fs::rename(&other.0, &dir.0).unwrap();
    until(&mut cluster, &mut rx, port("web", Some(90))).await;
    dir.write("web.yaml", &service("web", 91));
    until(&mut cluster, &mut rx, port("web", Some(91))).await;
    std::fs::remove_dir_all(&aside).unwrap();

    // Nothing changes: nothing is said, and our own reading does not make us read.
    tokio::time::sleep(QUIET * 5).await;
    assert!(rx.try_recv().is_err());
    drop(rx);
    tokio::time::timeout(Duration::from_secs(5), source)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error() {
    let (tx, _rx) = mpsc::channel(1);
    let error = run(Path::new("/nowhere/at/all"), tx).await.unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/at/all")
            && error.to_string().contains("give --manifests"),
        "{error}"
    );
}

#[test]
fn the_examples_are_understood_and_every_service_with_pods_has_two_of_each_family() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let (objects, refusals) = Folder::new(dir).read();
    let refusals: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    assert_eq!(
        refusals,
        [
            "Service default/no-endpoints: its selector app=no-such-app matches no Pod: its clients are refused"
        ]
    );
    let mut backed = 0;
    for (name, service) in objects
        .services
        .iter()
        .filter(|(n, s)| pods::selects(s) && &*n.name != "no-endpoints")
    {
        let slices: Vec<&Slice> = objects
            .slices
            .values()
            .filter(|slice| slice.service == *name)
            .collect();
        for v4 in [true, false] {
            let endpoints = slices
                .iter()
                .flat_map(|s| &s.endpoints)
                .filter(|e| e.ip.is_ipv4() == v4 && e.ready);
            assert!(endpoints.count() >= 2, "{name}");
        }
        assert!(
            slices
                .iter()
                .all(|slice| slice.ports.len() == service.ports.len()),
            "{name}"
        );
        backed += 1;
    }
    assert_eq!((backed, objects.nodes.len()), (10, 2));
}
