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

{{/* The key of a registry's text in the ConfigMap: keys know neither the `:` before a port nor an
IPv6 address's brackets. The file's path, which the driver reads, has the host as it is. */}}
{{- define "ovl-csi.registryKey" -}}
{{- regexReplaceAll "[^-._A-Za-z0-9]" . "_" -}}
{{- end -}}

{{/* What a probe asks: path, and the chart's values. */}}
{{- define "ovl-csi.health" -}}
httpGet:
  host: 127.0.0.1
  path: {{ .path }}
  port: {{ .Values.healthPort }}
{{- end -}}
