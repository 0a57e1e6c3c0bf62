{{/* The name that the objects' names begin with: the release's, with the chart's unless it says that already. */}}
{{- define "ovl-csi.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The same for objects that have no namespace: two releases may have one name in two namespaces. */}}
{{- define "ovl-csi.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "ovl-csi.fullname" .) -}}
{{- end -}}

{{/* Labels that pick the release's own pods; a DaemonSet's can never be changed. */}}
{{- define "ovl-csi.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "ovl-csi.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "ovl-csi.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* What the keys of a registry in the ConfigMap begin with: keys know neither the `:` before a port nor an
IPv6 address's brackets. The file's path, which the driver reads, has the host as it is. */}}
{{- define "ovl-csi.registryKey" -}}
{{- regexReplaceAll "[^-._A-Za-z0-9]" . "_" -}}
{{- end -}}

{{/* A registry's hosts.toml, from the text alone, or from `hosts` and `ca`. */}}
{{- define "ovl-csi.registryHosts" -}}
{{- if kindIs "string" .entry -}}
{{- .entry | trim -}}
{{- else if and .entry.hosts .entry.ca (not (contains "ca.crt" .entry.hosts)) -}}
{{- fail (printf "registries: %s has a ca, and its hosts do not use it: write ca = \"/etc/ovl-csi/hosts/%s/ca.crt\" where it is meant" .host .host) -}}
{{- else if .entry.hosts -}}
{{- .entry.hosts | trim -}}
{{- else -}}
ca = {{ printf "/etc/ovl-csi/hosts/%s/ca.crt" .host | quote }}
{{- end -}}
{{- end -}}

{{/* What pods may have, for the driver, if it is less than everything. */}}
{{- define "ovl-csi.policy" -}}
{{- $allowed := .Values.policy.allowedImages -}}
{{- $refused := .Values.policy.refusedImages -}}
{{- if and .Values.registry.enabled (not .Values.registry.allowImages) -}}
{{- $refused = append $refused (printf "%s/*" (include "ovl-csi.registryHost" .)) -}}
{{- end -}}
{{- if or $refused $allowed.namespaces (ne (toJson $allowed.default) (toJson (list "*"))) -}}
refusedImages = {{ toJson $refused }}

[allowedImages]
default = {{ toJson $allowed.default }}
{{- with $allowed.namespaces }}

[allowedImages.namespaces]
{{- range $namespace, $images := . }}
{{ $namespace | quote }} = {{ toJson $images }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* What a probe asks: path, and the chart's values. */}}
{{- define "ovl-csi.health" -}}
httpGet:
  host: 127.0.0.1
  path: {{ .path }}
  port: {{ .Values.healthPort }}
{{- end -}}

{{/* All registries with an entry: those of the values, and the release's own. As YAML. */}}
{{- define "ovl-csi.registries" -}}
{{- $all := deepCopy .Values.registries -}}
{{- if .Values.registry.enabled -}}
{{- $host := include "ovl-csi.registryHost" . -}}
{{- $server := printf "server = \"https://%s\"" (include "ovl-csi.registryAddress" .) -}}
{{- $_ := set $all $host (printf "%s\nca = \"/etc/ovl-csi/hosts/%s/ca.crt\"" $server $host) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* The name of the release's own registry in the cluster. */}}
{{- define "ovl-csi.registryName" -}}
{{- printf "%s-registry.%s.svc" (include "ovl-csi.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* The same as references write it. */}}
{{- define "ovl-csi.registryHost" -}}
{{- printf "%s:5000" (include "ovl-csi.registryName" .) -}}
{{- end -}}

{{/* The cluster's address of the release's own registry. The driver is on the node's network, where a Service has no name: so the
address has to be known before the Service is made. It is what the values say, else the Service's that is there, else a fixed distance
from the API server's own. */}}
{{- define "ovl-csi.registryIP" -}}
{{- $have := dig "spec" "clusterIP" "" (lookup "v1" "Service" .Release.Namespace (printf "%s-registry" (include "ovl-csi.fullname" .))) -}}
{{- $first := dig "spec" "clusterIP" "" (lookup "v1" "Service" "default" "kubernetes") -}}
{{- if .Values.registry.clusterIP -}}
{{- .Values.registry.clusterIP -}}
{{- else if $have -}}
{{- $have -}}
{{- else if regexMatch "^[0-9]+([.][0-9]+){3}$" $first -}}
{{- $parts := splitList "." $first -}}
{{- $last := add (last $parts | atoi) 49 -}}
{{- if gt $last 254 -}}
{{- fail (printf "registry.clusterIP has to be given: no address follows from that of the API server, %s" $first) -}}
{{- end -}}
{{- printf "%s.%d" (initial $parts | join ".") $last -}}
{{- else -}}
{{- fail "registry.clusterIP has to be given: a free address of the cluster's Services, which helm cannot see here" -}}
{{- end -}}
{{- end -}}

{{/* The same with the port, as in a URL. */}}
{{- define "ovl-csi.registryAddress" -}}
{{- $ip := include "ovl-csi.registryIP" . -}}
{{- if contains ":" $ip -}}
{{- printf "[%s]:5000" $ip -}}
{{- else -}}
{{- printf "%s:5000" $ip -}}
{{- end -}}
{{- end -}}

{{/* The Secret with what opens the release's own registry, which nodes have. */}}
{{- define "ovl-csi.registrySecret" -}}
{{- default (printf "%s-registry-client" (include "ovl-csi.fullname" .)) .Values.registry.existingSecret -}}
{{- end -}}

{{/* The Secret of the registry alone. */}}
{{- define "ovl-csi.registryServerSecret" -}}
{{- default (printf "%s-registry-server" (include "ovl-csi.fullname" .)) .Values.registry.existingServerSecret -}}
{{- end -}}

{{/* The Secret that cert-manager makes of the registry's certificate; empty where it does not. */}}
{{- define "ovl-csi.registryCertManagerSecret" -}}
{{- if .Values.registry.certManager.issuer -}}
{{- printf "%s-registry-tls" (include "ovl-csi.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* An image by its tag, and by its digest if it has one: image, and the tag where that is empty. */}}
{{- define "ovl-csi.image" -}}
{{- $name := printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- with .image.digest -}}
{{- printf "%s@%s" $name . -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* Secrets that nodes may read to push: those of the values, and that of the release's own registry. As a JSON array. */}}
{{- define "ovl-csi.pushSecrets" -}}
{{- $all := .Values.snapshots.pushSecrets -}}
{{- if .Values.registry.enabled -}}
{{- $all = append $all (include "ovl-csi.registrySecret" .) -}}
{{- end -}}
{{- $all | uniq | toJson -}}
{{- end -}}

{{/* The user that the API server knows a ServiceAccount of the release by: component, and the chart's root. */}}
{{- define "ovl-csi.user" -}}
{{- printf "system:serviceaccount:%s:%s-%s" .root.Release.Namespace (include "ovl-csi.fullname" .root) .component -}}
{{- end -}}

{{/* A container that is let do nothing but run. */}}
{{- define "ovl-csi.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* When the registry's Secrets are made, and what of that stays: nothing. The order is given. */}}
{{- define "ovl-csi.registrySecretsHook" -}}
helm.sh/hook: pre-install,pre-upgrade,pre-rollback
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
