{{- define "svcplane.labels" -}}
app.kubernetes.io/name: svcplane
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "svcplane.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The API server's own address as JSON: given, or what the cluster says, or empty where there is no cluster to ask. */}}
{{- define "svcplane.apiServer" -}}
{{- $host := .Values.apiServer.host -}}
{{- $port := .Values.apiServer.port -}}
{{- if and (not $host) (lookup "v1" "Namespace" "" "default") -}}
{{- $slice := lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes" -}}
{{- if not (and $slice $slice.endpoints $slice.ports) -}}
{{- fail "apiServer.host is needed: the cluster does not say where its API server is (EndpointSlice default/kubernetes)" -}}
{{- end -}}
{{- $host = first (first $slice.endpoints).addresses -}}
{{- $port = (first $slice.ports).port -}}
{{- end -}}
{{- dict "host" $host "port" ($port | int | toString) | toJson -}}
{{- end }}

{{- /* The port of an `IP:PORT` setting of `config`, or of its default; empty if it is switched off. */}}
{{- define "svcplane.port" -}}
{{- $bind := .default -}}
{{- if hasKey .config .name -}}{{- $bind = get .config .name | default "" -}}{{- end -}}
{{- if $bind -}}{{ regexFind "[0-9]+$" $bind }}{{- end -}}
{{- end }}

{{- /* Security: what the agent and `cleanup` need to load, attach, pin and remove programs. */}}
{{- define "svcplane.securityContext" -}}
readOnlyRootFilesystem: true
# Container runtimes' default profile denies writing below /sys/fs/bpf.
appArmorProfile: {type: Unconfined}
seLinuxOptions: {level: s0, type: spc_t}
{{- if .sysAdmin }}
# To start with: the agent lets go of what it does not need once its programs are attached (--privileges). SYS_ADMIN:
# entering pods' network namespaces, and opening a program by its id, ask for it.
{{- else }}
# To start with: the agent lets go of what it does not need once its programs are attached (--privileges).
allowPrivilegeEscalation: false
{{- end }}
capabilities:
  drop: [ALL]
  add: [BPF, NET_ADMIN, NET_BIND_SERVICE, PERFMON{{ if .sysAdmin }}, SYS_ADMIN{{ end }}]
{{- end }}

{{- define "svcplane.kubectl" -}}
{{- $api := include "svcplane.apiServer" . | fromJson -}}
image: {{ .Values.uninstall.kubectlImage }}
command: [kubectl]
env:
- name: KUBERNETES_SERVICE_HOST
  value: {{ $api.host | squote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ $api.port | squote }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65535
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
{{- end }}
