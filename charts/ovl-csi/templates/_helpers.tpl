{{/* Prefix of the objects' names: the release's name, and the chart's name unless the release's name contains it. */}}
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

{{/* The same for cluster-scoped objects: two releases can have one name in two namespaces. */}}
{{- define "ovl-csi.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "ovl-csi.fullname" .) -}}
{{- end -}}

{{/* Labels that select the release's own pods. They cannot be changed in a DaemonSet. */}}
{{- define "ovl-csi.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "ovl-csi.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "ovl-csi.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Prefix of a registry's keys in the ConfigMap. A key cannot contain the `:` before a port, nor the brackets of an
IPv6 address. The path of the file, which the driver reads, contains the host unchanged. */}}
{{- define "ovl-csi.registryKey" -}}
{{- regexReplaceAll "[^-._A-Za-z0-9]" . "_" -}}
{{- end -}}

{{/* A registry's hosts.toml, from the text alone, or from `hosts` and `ca`. */}}
{{- define "ovl-csi.registryHostsToml" -}}
{{- if kindIs "string" .entry -}}
{{- .entry | trim -}}
{{- else if and .entry.hosts .entry.ca (not (contains "ca.crt" .entry.hosts)) -}}
{{- fail (printf "registries: %s has a ca, but its hosts do not use it: add ca = \"/etc/ovl-csi/hosts/%s/ca.crt\" to the host that needs it" .host .host) -}}
{{- else if .entry.hosts -}}
{{- .entry.hosts | trim -}}
{{- else -}}
ca = {{ printf "/etc/ovl-csi/hosts/%s/ca.crt" .host | quote }}
{{- end -}}
{{- end -}}

{{/* The image policy, as the driver's policy.toml. Empty if all images are allowed. */}}
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

{{/* The variables of the nodes' proxies, as items of `env`. Empty without a proxy. */}}
{{- define "ovl-csi.proxy" -}}
{{- with .Values.proxy -}}
{{- if and .existingSecret (or .https .http) -}}
{{- fail "proxy.existingSecret replaces proxy.https and proxy.http: leave these empty" -}}
{{- end -}}
{{- if .existingSecret }}
- name: HTTPS_PROXY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: https
- name: HTTP_PROXY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: http
      optional: true
{{- end }}
{{- with .https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- if or .existingSecret .https .http }}
- name: NO_PROXY
  value: {{ include "ovl-csi.noProxy" $ | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The servers without a proxy: those of the values, and those in the cluster. Only kubeadm stores the network of all
pods where it can be read. */}}
{{- define "ovl-csi.noProxy" -}}
{{- $direct := concat .Values.proxy.noProxy (list ".svc" ".cluster.local") -}}
{{- if .Values.registry.enabled -}}
{{- $direct = append $direct (include "ovl-csi.registryIP" .) -}}
{{- end -}}
{{- range dig "items" list (lookup "networking.k8s.io/v1" "ServiceCIDR" "" "") -}}
{{- $direct = concat $direct (dig "spec" "cidrs" list .) -}}
{{- end -}}
{{- $kubeadm := lookup "v1" "ConfigMap" "kube-system" "kubeadm-config" -}}
{{- $pods := dig "data" "ClusterConfiguration" "" $kubeadm | fromYaml | dig "networking" "podSubnet" "" -}}
{{- concat $direct (splitList "," $pods | compact) | uniq | join "," -}}
{{- end -}}

{{/* The request of a probe. Arguments: path, and the chart's values. */}}
{{- define "ovl-csi.health" -}}
httpGet:
  host: 127.0.0.1
  path: {{ .path }}
  port: {{ .Values.healthPort }}
{{- end -}}

{{/* All registries with an entry: those of the values, and the release's own registry. As YAML. Fails for a key that is no
registry: the driver would look for its hosts.toml under another name. */}}
{{- define "ovl-csi.registries" -}}
{{- $all := deepCopy .Values.registries -}}
{{- $label := "[a-z0-9]([a-z0-9-]*[a-z0-9])?" -}}
{{- $address := "\\[[0-9a-f:.]+\\]" -}}
{{- $alone := printf "^(localhost|%s([.]%s)+|%s)$" $label $label $address -}}
{{- $withPort := printf "^(%s([.]%s)*|%s):[1-9][0-9]{0,4}$" $label $label $address -}}
{{- range $key := keys $all | sortAlpha -}}
{{- if not (or (regexMatch $alone $key) (regexMatch $withPort $key)) -}}
{{- fail (printf "registries: the key %q is not a registry: write localhost, or a name or an address with a dot or a port (registry.example, registry:5000, 10.0.0.5, [fd00::1]:5000), in lower case, without https:// and without a path" $key) -}}
{{- end -}}
{{- end -}}
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

{{/* The same, as image references write it. */}}
{{- define "ovl-csi.registryHost" -}}
{{- printf "%s:5000" (include "ovl-csi.registryName" .) -}}
{{- end -}}

{{/* The cluster IP of the release's own registry. The driver is on the host network, where the name of a Service does not
resolve, so the address must be known before the Service is created. It is the address in the values, else the one of the
existing Service, else the API server's own address plus a fixed number. */}}
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
{{- fail (printf "registry.clusterIP must be set: no address can be computed from the one of the API server, %s" $first) -}}
{{- end -}}
{{- printf "%s.%d" (initial $parts | join ".") $last -}}
{{- else -}}
{{- fail "registry.clusterIP must be set to a free address of the cluster's Services, because helm cannot read the cluster here" -}}
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

{{/* Fails if the registry would have no volume for its images: without a size, or if the cluster has no default StorageClass.
`helm template` cannot read the cluster, and renders the claim. A claim that exists has its class already. */}}
{{- define "ovl-csi.checkRegistryStorage" -}}
{{- $storage := .Values.registry.storage -}}
{{- $ephemeral := "or registry.storage.ephemeral: true, to keep the images in the registry's pod and lose them with it" -}}
{{- if not $storage.size -}}
{{- fail (printf "registry.storage.size is empty: set it, %s" $ephemeral) -}}
{{- end -}}
{{- $canRead := lookup "v1" "Service" "default" "kubernetes" -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .Release.Namespace (printf "%s-registry" (include "ovl-csi.fullname" .)) -}}
{{- if and $canRead (not $claim) (not $storage.className) -}}
{{- $defaults := list -}}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items -}}
{{- $annotations := default dict .metadata.annotations -}}
{{- range list "storageclass.kubernetes.io/is-default-class" "storageclass.beta.kubernetes.io/is-default-class" -}}
{{- $defaults = ternary (append $defaults .) $defaults (eq (get $annotations .) "true") -}}
{{- end -}}
{{- end -}}
{{- if not $defaults -}}
{{- fail (printf "the cluster has no default StorageClass for the volume of the registry: set registry.storage.className, %s" $ephemeral) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the login and the CA of the release's own registry, for the nodes. */}}
{{- define "ovl-csi.registrySecret" -}}
{{- default (printf "%s-registry-client" (include "ovl-csi.fullname" .)) .Values.registry.existingSecret -}}
{{- end -}}

{{/* The Secret for the registry only. */}}
{{- define "ovl-csi.registryServerSecret" -}}
{{- default (printf "%s-registry-server" (include "ovl-csi.fullname" .)) .Values.registry.existingServerSecret -}}
{{- end -}}

{{/* The Secret in which cert-manager stores the registry's certificate. Empty without cert-manager. */}}
{{- define "ovl-csi.registryCertManagerSecret" -}}
{{- if .Values.registry.certManager.issuer -}}
{{- printf "%s-registry-tls" (include "ovl-csi.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The name of an image from the registry of global.imageRegistry, or as it is. Arguments: name, and the chart's root. */}}
{{- define "ovl-csi.imageName" -}}
{{- $registry := dig "imageRegistry" "" (default dict .root.Values.global) -}}
{{- $first := splitList "/" .name | first -}}
{{- if not $registry -}}
{{- .name -}}
{{- else if and (contains "/" .name) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- printf "%s%s" $registry (trimPrefix $first .name) -}}
{{- else -}}
{{- printf "%s/%s" $registry .name -}}
{{- end -}}
{{- end -}}

{{/* The reference of an image, with its digest if it has one. Arguments: image, the default of its tag, and the chart's
root. */}}
{{- define "ovl-csi.image" -}}
{{- $repository := .image.repository -}}
{{- if .root -}}
{{- $repository = include "ovl-csi.imageName" (dict "name" $repository "root" .root) -}}
{{- end -}}
{{- $name := printf "%s:%s" $repository (default .tag .image.tag) -}}
{{- with .image.digest -}}
{{- printf "%s@%s" $name . -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* Secrets that nodes may read to push: those of the values, and the one of the release's own registry. As a JSON array. */}}
{{- define "ovl-csi.pushSecrets" -}}
{{- $all := .Values.snapshots.pushSecrets -}}
{{- if .Values.registry.enabled -}}
{{- $all = append $all (include "ovl-csi.registrySecret" .) -}}
{{- end -}}
{{- $all | uniq | toJson -}}
{{- end -}}

{{/* The user name of a ServiceAccount of the release. Arguments: component, and the chart's root. */}}
{{- define "ovl-csi.user" -}}
{{- printf "system:serviceaccount:%s:%s-%s" .root.Release.Namespace (include "ovl-csi.fullname" .root) .component -}}
{{- end -}}

{{/* The security context of a container without any privileges. */}}
{{- define "ovl-csi.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Annotations of the hook that creates the registry's Secrets; its objects are removed afterwards. Argument: its weight. */}}
{{- define "ovl-csi.registrySecretsHook" -}}
helm.sh/hook: pre-install,pre-upgrade,pre-rollback
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
