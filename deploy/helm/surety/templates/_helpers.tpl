{{- /* Names, labels, and what all pods have in common. */ -}}

{{- define "surety.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- /* Labels that select the pods of one part: (list $ "service") */ -}}
{{- define "surety.selector" -}}
app.kubernetes.io/name: surety
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "surety.labels" -}}
{{ include "surety.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{- define "surety.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}

{{- /* The pod of a part but its containers: (list $ "monitor") */ -}}
{{- define "surety.pod" -}}
{{- $ := index . 0 -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1034
  runAsGroup: 1034
  fsGroup: 1034
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Pods of one part on different nodes, where that can be: (list $ "monitor") */ -}}
{{- define "surety.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "surety.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end -}}

{{- define "surety.securityContext" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- /* What every container is told: one home in the database and the object store, whatever machine it is on. */ -}}
{{- define "surety.env" -}}
- name: SURETY_HOME
  value: /var/lib/surety
- name: SURETY_MODEL_NAME
  value: {{ .Values.modelName | quote }}
- name: SURETY_MACHINE
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: SURETY_DATABASE
  valueFrom:
    secretKeyRef: {name: {{ .Values.secret | quote }}, key: database-url}
- name: SURETY_OBJECTS
  value: {{ .Values.objects.url | quote }}
- name: SURETY_LOG_KEY_FILE
  value: /run/secrets/surety/log.key
- name: SURETY_SUBJECT_KEY_FILE
  value: /run/secrets/surety/subject.key
{{- with .Values.trustedKeys }}
- name: SURETY_TRUSTED_KEYS
  value: {{ join " " . | quote }}
{{- end }}
{{- with .Values.registry.uri }}
- name: MLFLOW_TRACKING_URI
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "surety.envFrom" -}}
{{- with .Values.objects.secret -}}
envFrom:
  - secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "surety.mounts" -}}
- {name: home, mountPath: /var/lib/surety}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /run/secrets/surety, readOnly: true}
{{- end -}}

{{- /* Volumes but the home: (list $ "service"). Only the service reads the keys of callers. */ -}}
{{- define "surety.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 512Mi}
- name: secrets
  secret:
    secretName: {{ (index . 0).Values.secret | quote }}
    defaultMode: 288  # 0440
    items:
      - {key: log.key, path: log.key}
      - {key: subject.key, path: subject.key}
      {{- if eq (index . 1) "service" }}
      - {key: api-keys.json, path: api-keys.json}
      {{- end }}
{{- end -}}

{{- /* A container of the image of the commands: (dict "root" $ "name" "seal" "args" (list "log" "seal") "resources" …) */ -}}
{{- define "surety.command" -}}
- name: {{ .name }}
  image: {{ include "surety.image" .root.Values.tools.image | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: {{ toJson .args }}
  env: {{- include "surety.env" .root | nindent 4 }}
  {{- with include "surety.envFrom" .root }}{{ . | nindent 2 }}{{ end }}
  volumeMounts: {{- include "surety.mounts" .root | nindent 4 }}
  resources: {{- toYaml .resources | nindent 4 }}
  {{- include "surety.securityContext" .root | nindent 2 }}
{{- end -}}

{{- /* Where pods may connect to: names, the database, the object store: .Values.networkPolicy */ -}}
{{- define "surety.egress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- ports:
    - {port: {{ .databasePort }}, protocol: TCP}
  {{- with .databaseTo }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
- ports:
    {{- range .objectsPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .objectsTo }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
