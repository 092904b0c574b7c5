#!/usr/bin/env bash
# PID 1 of a node, in fresh net, mount, uts and pid namespaces: makes the node's own view of the file system, then runs
# containerd, kubelet and, if asked, kube-proxy. Started by `cargo xtask e2e` with
# LAB BIN NODE NODE_IP NODE_IPS POD_CIDR_V4 POD_CIDR_V6 CLUSTER_DNS CGROUP CNI_PLUGIN KUBE_PROXY.
set -euo pipefail
STATE=$LAB/state/$NODE
hostname "$NODE"

# The node's own cgroup2 subtree: a socket hook at its root sees this node's processes.
UNIFIED=/sys/fs/cgroup/unified
if [ -d $UNIFIED ]; then mkdir -p "$UNIFIED$CGROUP"; echo 0 > "$UNIFIED$CGROUP/cgroup.procs"; fi
# /sys of this network namespace, with the cgroups kept, and a bpf file system of the node's own.
mkdir -p "$STATE/cgroup"; mount --rbind /sys/fs/cgroup "$STATE/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$STATE/cgroup" /sys/fs/cgroup; umount -l "$STATE/cgroup"
[ ! -d $UNIFIED ] || mount --bind "$UNIFIED$CGROUP" $UNIFIED
mount -t bpf bpf /sys/fs/bpf
# Kubelet insists on these; the machine's own stay as they are.
mkdir -p "$STATE/sysctl"
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  file=$STATE/sysctl/$(basename "${setting%=*}")
  echo "${setting#*=}" > "$file"; mount --bind "$file" "/proc/sys/${setting%=*}"
done
mount -t tmpfs tmpfs /run; mkdir -p /run/netns /run/lock /run/containerd
for folder in var/lib/kubelet var/lib/containerd var/lib/cni var/log/pods var/log/containers etc/cni etc/containerd \
    etc/kubernetes opt/cni opt/containerd usr/libexec/kubernetes; do
  mkdir -p "/$folder" "$STATE/root/$folder"; mount --bind "$STATE/root/$folder" "/$folder"
done
mkdir -p /opt/cni/bin /etc/cni/net.d /etc/kubernetes/manifests; mount --bind "$BIN/cni" /opt/cni/bin
echo 'nameserver 172.30.0.1' > "$STATE/resolv.conf"; mount --bind "$STATE/resolv.conf" "$(readlink -f /etc/resolv.conf)"
printf '127.0.0.1 localhost\n%s %s\n' "$NODE_IP" "$NODE" > "$STATE/hosts"; mount --bind "$STATE/hosts" /etc/hosts
mount --make-rshared /

PKI=$LAB/state/pki
cp "$LAB/state/$NODE.kubeconfig" /etc/kubernetes/kubelet.kubeconfig
cp "$LAB/state/proxy.kubeconfig" /etc/kubernetes/proxy.kubeconfig
cat > /etc/cni/net.d/10-e2e.conflist <<C
{"cniVersion":"1.0.0","name":"e2e","plugins":[
 {$CNI_PLUGIN,"ipMasq":false,"mtu":1500,
  "ipam":{"type":"host-local","ranges":[[{"subnet":"$POD_CIDR_V4"}],[{"subnet":"$POD_CIDR_V6"}]],
          "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}],"dataDir":"/var/lib/cni/ipam"}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
C
# runc could not lower an oom_score_adj without CAP_SYS_RESOURCE, which nested machines lack.
cat > /etc/containerd/config.toml <<C
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "$(grep -m1 /pause: "$LAB/images/names")"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
C
cat > /var/lib/kubelet/config.yaml <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/$NODE.crt
tlsPrivateKeyFile: $PKI/$NODE.key
clusterDomain: cluster.local
clusterDNS: [$CLUSTER_DNS]
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
staticPodPath: /etc/kubernetes/manifests
resolvConf: /etc/resolv.conf
maxPods: 110
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 24h
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%"}
registerWithTaints: []
C

export PATH=$BIN:$PATH
containerd --config /etc/containerd/config.toml > "$STATE/containerd.log" 2>&1 &
for _ in $(seq 100); do [ -S /run/containerd/containerd.sock ] && ctr version > /dev/null 2>&1 && break; sleep 0.2; done
for image in "$LAB"/images/*.tar; do ctr -n k8s.io images import --local "$image"; done
kubelet --config /var/lib/kubelet/config.yaml --kubeconfig /etc/kubernetes/kubelet.kubeconfig --root-dir /var/lib/kubelet \
  --hostname-override "$NODE" --node-ip "$NODE_IPS" --v=2 > "$STATE/kubelet.log" 2>&1 &
[ -z "$KUBE_PROXY" ] || kube-proxy --config "$STATE/kube-proxy.yaml" --hostname-override "$NODE" > "$STATE/kube-proxy.log" 2>&1 &
trap 'exit 0' TERM
while :; do sleep 3600 & wait $! || true; done
