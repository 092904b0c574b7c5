//! The control plane: plain processes in a namespace that no node sees.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Lab;
use super::cluster::{API_SERVER, SERVICES, kubectl, pods_of, spawn, wait, within};
use crate::setup::run;

pub(super) fn start(lab: &Lab) -> Result<()> {
    let pki = lab.state("pki").display().to_string();
    let program = |name: &str, flags: String| -> Result<()> {
        let mut command = within("control", lab.bin(name));
        command.args(flags.split_whitespace());
        spawn(lab, name, &mut command).map(drop)
    };
    program(
        "etcd",
        format!(
            "--data-dir {} --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
             --listen-peer-urls http://127.0.0.1:2380",
            lab.state("etcd").display()
        ),
    )?;
    program(
        "kube-apiserver",
        format!(
            "--advertise-address={API_SERVER} --bind-address=0.0.0.0 --secure-port=6443 --etcd-servers=http://127.0.0.1:2379 \
             --service-cluster-ip-range={SERVICES} --client-ca-file={pki}/ca.crt --tls-cert-file={pki}/apiserver.crt \
             --tls-private-key-file={pki}/apiserver.key --kubelet-client-certificate={pki}/kubelet-client.crt \
             --kubelet-client-key={pki}/kubelet-client.key --kubelet-certificate-authority={pki}/ca.crt \
             --kubelet-preferred-address-types=InternalIP --service-account-key-file={pki}/sa.pub \
             --service-account-signing-key-file={pki}/sa.key \
             --service-account-issuer=https://kubernetes.default.svc.cluster.local --requestheader-client-ca-file={pki}/ca.crt \
             --requestheader-allowed-names=front-proxy --requestheader-username-headers=X-Remote-User \
             --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
             --proxy-client-cert-file={pki}/front-proxy.crt --proxy-client-key-file={pki}/front-proxy.key \
             --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true"
        ),
    )?;
    wait("the API server", Duration::from_secs(150), || {
        kubectl(lab)
            .args(["get", "--raw", "/readyz"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })?;
    let kubeconfigs = |who: &str| {
        let file = lab
            .state(&format!("{who}.kubeconfig"))
            .display()
            .to_string();
        format!(
            "--kubeconfig={file} --authentication-kubeconfig={file} --authorization-kubeconfig={file} --leader-elect=false"
        )
    };
    program(
        "kube-controller-manager",
        format!(
            "{} --use-service-account-credentials --root-ca-file={pki}/ca.crt --service-account-private-key-file={pki}/sa.key \
             --cluster-signing-cert-file={pki}/ca.crt --cluster-signing-key-file={pki}/ca.key --allocate-node-cidrs=false",
            kubeconfigs("controllers")
        ),
    )?;
    program("kube-scheduler", kubeconfigs("scheduler"))?;
    let nodes: String = (1..=lab.nodes)
        .map(|n| {
            let (zone, [pods4, pods6]) = ((n - 1) % 3 + 1, pods_of(n));
            format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: node{n}, labels: {{kubernetes.io/hostname: node{n}, topology.kubernetes.io/zone: zone{zone}}}}}, \
                 spec: {{podCIDR: {pods4}, podCIDRs: [{pods4}, '{pods6}']}}}}\n---\n"
            )
        })
        .collect();
    apply(lab, &nodes)
}

/// `kubectl apply` of manifests.
pub(super) fn apply(lab: &Lab, manifests: &str) -> Result<()> {
    let file = lab.state("apply.yaml");
    fs::write(&file, manifests).context("cannot write manifests")?;
    run(kubectl(lab)
        .args(["apply", "-f"])
        .arg(&file)
        .stdout(Stdio::null()))
}

/// `kubectl` with these words; its output is shown only when it fails.
pub(super) fn kube(lab: &Lab, words: &str) -> Result<()> {
    let mut command: Command = kubectl(lab);
    run(command.args(words.split_whitespace()).stdout(Stdio::null()))
}
