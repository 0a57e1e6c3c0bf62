{{/* The spec of a pod of `helm test`, with a volume at /work. Arguments: the chart's root, script (with -e), and attributes of
the volume. */}}
{{- define "ovl-csi.testSpec" -}}
automountServiceAccountToken: false
terminationGracePeriodSeconds: 1
# Only on nodes with the driver.
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  seccompProfile:
    type: RuntimeDefault
containers:
- name: test
  image: {{ include "ovl-csi.imageName" (dict "name" .root.Values.test.image "root" .root) }}
  imagePullPolicy: IfNotPresent
  command:
  - sh
  - -ec
  - |
    {{- .script | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  volumeMounts:
  - name: work
    mountPath: /work
volumes:
- name: work
  csi:
    driver: {{ .root.Values.driverName }}
    {{- with .attributes }}
    volumeAttributes:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end -}}

{{/* Annotations of an object of `helm test`. Argument: its weight, which is its place in the order. */}}
{{- define "ovl-csi.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
