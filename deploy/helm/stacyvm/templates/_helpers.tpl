{{- define "stacyvm.fullname" -}}
{{- if contains "stacyvm" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-stacyvm" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What never changes of a part, so that it may be a selector. Takes a list: the root and the part. */}}
{{- define "stacyvm.selector" -}}
app.kubernetes.io/name: stacyvm
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "stacyvm.labels" -}}
{{ include "stacyvm.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "stacyvm-%s" (index . 0).Chart.Version }}
{{- end -}}

{{- define "stacyvm.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end -}}

{{/* The file of settings of the servers. What differs from pod to pod is in their environment. */}}
{{- define "stacyvm.serverConfig" -}}
data_dir: /var/lib/stacyvm
database:
  driver: postgres
  dsn_file: /etc/stacyvm/secrets/dsn
server:
  host: 0.0.0.0
  port: 7423
  {{- with .Values.server.trustedProxies }}
  trusted_proxies: {{ toJson . }}
  {{- end }}
auth:
  enabled: true
  worker_signing_key_file: /etc/stacyvm/secrets/signing.key
  {{- if .Values.secrets.adminKey.name }}
  admin_api_key_file: /etc/stacyvm/secrets/admin.key
  {{- end }}
worker:
  enabled: false
  {{- if .Values.rpcTls.enabled }}
  rpc_tls:
    enabled: true
    ca_file: /etc/stacyvm/tls/ca.crt
    client_cert_file: /etc/stacyvm/tls/tls.crt
    client_key_file: /etc/stacyvm/tls/tls.key
    server_name: {{ .Values.rpcTls.serverName | quote }}
  {{- end }}
rate_limit:
  enabled: true
  requests_per_minute: 1200
  burst: 200
defaults:
  max_ttl: 24h
  default_exec_timeout: 2m
  max_exec_timeout: 1h
  max_sandboxes: 5000
  max_sandboxes_per_owner: 200
  spawn_overflow: queue
logging:
  format: json
{{- end -}}

{{/* The file of settings of the workers. */}}
{{- define "stacyvm.workerConfig" -}}
data_dir: /var/lib/stacyvm
auth:
  enabled: true
  worker_signing_key_file: /etc/stacyvm/secrets/signing.key
worker:
  control_plane_url: {{ .Values.workers.controlPlaneUrl | default (printf "http://%s.%s.svc:%d" (include "stacyvm.fullname" .) .Release.Namespace (int .Values.server.service.port)) }}
  {{- if .Values.rpcTls.enabled }}
  rpc_tls:
    enabled: true
    server_cert_file: /etc/stacyvm/tls/tls.crt
    server_key_file: /etc/stacyvm/tls/tls.key
    client_ca_file: /etc/stacyvm/tls/ca.crt
    {{- with .Values.rpcTls.clientNames }}
    client_names: {{ toJson . }}
    {{- end }}
  {{- end }}
logging:
  format: json
{{- end -}}

{{/* The settings of servers with the operator's own before them. */}}
{{- define "stacyvm.serverFile" -}}
{{ mergeOverwrite (include "stacyvm.serverConfig" . | fromYaml) .Values.server.config | toYaml }}
{{- end -}}

{{- define "stacyvm.workerFile" -}}
{{ mergeOverwrite (include "stacyvm.workerConfig" . | fromYaml) .Values.workers.config | toYaml }}
{{- end -}}
