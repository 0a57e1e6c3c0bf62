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
{{- if or $allowed.namespaces (ne (toJson $allowed.default) (toJson (list "*"))) -}}
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
