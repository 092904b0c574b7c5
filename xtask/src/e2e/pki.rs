//! A certificate authority, and a certificate and kubeconfig for everybody.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::Lab;
use super::cluster::{API_SERVER, node_ip};
use crate::setup::run;

/// Makes what is not there yet.
pub(super) fn make(lab: &Lab) -> Result<()> {
    let pki = lab.state("pki");
    fs::create_dir_all(&pki).context("cannot make the folder of certificates")?;
    let openssl = |args: &str| {
        run(Command::new("openssl")
            .args(args.split_whitespace())
            .current_dir(&pki)
            .stderr(std::process::Stdio::null()))
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 365 -subj /CN=svcplane-e2e",
    )?;
    openssl("genrsa -out sa.key 2048")?;
    openssl("rsa -in sa.key -pubout -out sa.pub")?;
    let names = format!(
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:{API_SERVER}"
    );
    let mut who = vec![
        (
            "apiserver".to_owned(),
            "/CN=kube-apiserver".to_owned(),
            names,
        ),
        (
            "kubelet-client".to_owned(),
            "/O=system:masters/CN=kubelet-client".to_owned(),
            String::new(),
        ),
        (
            "front-proxy".to_owned(),
            "/CN=front-proxy".to_owned(),
            String::new(),
        ),
        (
            "admin".to_owned(),
            "/O=system:masters/CN=admin".to_owned(),
            String::new(),
        ),
        (
            "controllers".to_owned(),
            "/CN=system:kube-controller-manager".to_owned(),
            String::new(),
        ),
        (
            "scheduler".to_owned(),
            "/CN=system:kube-scheduler".to_owned(),
            String::new(),
        ),
        (
            "proxy".to_owned(),
            "/CN=system:kube-proxy".to_owned(),
            String::new(),
        ),
    ];
    who.extend((1..=lab.nodes).map(|n| {
        (
            format!("node{n}"),
            format!("/O=system:nodes/CN=system:node:node{n}"),
            format!("DNS:node{n},IP:{}", node_ip(n)),
        )
    }));
    for (name, subject, names) in who {
        openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -subj {subject} -out {name}.csr"
        ))?;
        let mut extensions =
            "keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n"
                .to_owned();
        if !names.is_empty() {
            extensions.push_str(&format!("subjectAltName={names}\n"));
        }
        fs::write(pki.join("extensions"), extensions).context("cannot write extensions")?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out {name}.crt -extfile extensions"
        ))?;
        let file = |kind: &str| pki.join(format!("{name}.{kind}")).display().to_string();
        let kubeconfig = format!(
            "{{apiVersion: v1, kind: Config, current-context: e2e,\n\
             clusters: [{{name: e2e, cluster: {{server: 'https://{API_SERVER}:6443', certificate-authority: {}}}}}],\n\
             users: [{{name: me, user: {{client-certificate: {}, client-key: {}}}}}],\n\
             contexts: [{{name: e2e, context: {{cluster: e2e, user: me}}}}]}}\n",
            pki.join("ca.crt").display(),
            file("crt"),
            file("key"),
        );
        fs::write(lab.state(&format!("{name}.kubeconfig")), kubeconfig)
            .context("cannot write a kubeconfig")?;
    }
    Ok(())
}
