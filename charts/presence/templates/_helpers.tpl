{{/* The beginning of the names of all objects: the release's name when it says presence already. */}}
{{- define "presence.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The operator's name: of its Deployment, its rights, its Lease and what else belongs to it. */}}
{{- define "presence.operator" -}}
{{ include "presence.fullname" . }}-operator
{{- end -}}

{{- define "presence.serviceAccount" -}}
{{ default (ternary (include "presence.operator" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end -}}

{{/* Labels of an object: (list . "operator"). */}}
{{- define "presence.labels" -}}
{{- $root := first . -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{ include "presence.selector" . }}
{{- end -}}

{{/* The labels by which a component's pods are found; they never change. */}}
{{- define "presence.selector" -}}
app.kubernetes.io/name: presence
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/*
A file of the repository as it stands, with the labels of this release before its own: (list . "files/crds/x.yaml" "annotations").
Every such file has labels; the text is not parsed, so nothing in it can change.
*/}}
{{- define "presence.file" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (index . 1) -}}
{{- $added := list "  labels:" -}}
{{- $added = append $added (printf "    helm.sh/chart: %s" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")) -}}
{{- $added = append $added (printf "    app.kubernetes.io/version: %s" ($root.Chart.AppVersion | replace "+" "_" | quote)) -}}
{{- $added = append $added (printf "    app.kubernetes.io/managed-by: %s" $root.Release.Service) -}}
{{- $added = append $added (printf "    app.kubernetes.io/instance: %s" $root.Release.Name) -}}
{{- with $root.Values.commonLabels }}{{ $added = append $added (toYaml . | indent 4) }}{{ end -}}
{{- with index . 2 }}{{ $added = prepend $added (printf "  annotations:\n    %s" .) }}{{ end -}}
{{- regexReplaceAllLiteral "(?m)^  labels:$" $text (join "\n" $added) -}}
{{- end -}}

{{- define "presence.image" -}}
{{- $repository := required "image.repository is missing: build the image with the Dockerfile of the repository, push it, and name it: --set image.repository=registry.example.com/presence-operator" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* What every pod of the operator's image has in common. */}}
{{- define "presence.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "presence.container" -}}
image: {{ include "presence.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
# What a container says last explains its failure, where kubectl describe finds it.
terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{/* The Secret with the database's address, and its key. */}}
{{- define "presence.dsnSecret" -}}
{{ default (printf "%s-dsn" (include "presence.fullname" .)) .Values.mirror.existingSecret.name }}
{{- end -}}

{{- define "presence.dsnKey" -}}
{{ ternary .Values.mirror.existingSecret.key "PRESENCE_DSN" (ne .Values.mirror.existingSecret.name "") }}
{{- end -}}

{{/*
The address that the chart writes into a Secret of its own; nothing when it is somebody else's. With the evaluation
database of this release the address follows from it.
*/}}
{{- define "presence.dsn" -}}
{{- if and .Values.mirror.enabled (not .Values.mirror.existingSecret.name) -}}
{{- if .Values.mirror.dsn -}}
{{ .Values.mirror.dsn }}
{{- else if .Values.dolt.enabled -}}
{{- $host := default (printf "%s-dolt.%s.svc" (include "presence.fullname" .) .Release.Namespace) .Values.dolt.clusterIP -}}
mysql://presence:{{ include "presence.doltPassword" . }}@{{ ternary (printf "[%s]" $host) $host (contains ":" $host) }}:3306/beads
{{- else -}}
{{- fail "the mirror needs a database: name a Secret with its address (mirror.existingSecret.name), or write the address (mirror.dsn=mysql://<user>:<password>@<host>:3306/<database>), or try a Dolt in the cluster (dolt.enabled=true), or do without history (mirror.enabled=false)" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The password given, else the one that the Secret has already, else a new one: the same in all templates. */}}
{{- define "presence.doltPassword" -}}
{{- if not .Values.dolt.password -}}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (printf "%s-dolt" (include "presence.fullname" .)) -}}
{{- $known := dig "data" "password" "" $kept | b64dec -}}
{{- $_ := set .Values.dolt "password" (default (randAlphaNum 32) $known) -}}
{{- end -}}
{{ .Values.dolt.password }}
{{- end -}}

{{/* The same digest as `presence-operator migrate --print-hash`: name, NUL, content, NUL of every file in order of names. */}}
{{- define "presence.schemaHash" -}}
{{- $text := "" -}}
{{- range $path, $content := .Files.Glob "files/migrations/*.sql" -}}
{{- $text = printf "%s%s\x00%s\x00" $text (base $path) (toString $content) -}}
{{- end -}}
{{ sha256sum $text }}
{{- end -}}

{{- define "presence.schemaName" -}}
{{ include "presence.fullname" . }}-schema-{{ include "presence.schemaHash" . | trunc 8 }}
{{- end -}}

{{/* When the schema is migrated: before anything changes; after it, where the database comes with this release. */}}
{{- define "presence.schemaEvents" -}}
{{ ternary "post-install,post-upgrade,post-rollback" "pre-install,pre-upgrade,pre-rollback" .Values.dolt.enabled }}
{{- end -}}

{{/* Where `helm test` makes its claim. */}}
{{- define "presence.testNamespace" -}}
{{ default (default .Release.Namespace (first .Values.namespaces)) .Values.test.namespace }}
{{- end -}}

{{/* What the operator may do on the boards. docs/operations.md ("Rights") tells why; a test shows that all of it is needed. */}}
{{- define "presence.rules" -}}
- apiGroups: [presence.dev]
  resources: [presenceclaims, agentsessions]
  verbs: [get, list, watch, delete]
- apiGroups: [presence.dev]
  resources: [presenceclaims/status, agentsessions/status]
  verbs: [patch]
# Not a verb of the API server: the admission policies take whoever has it for the operator.
- apiGroups: [presence.dev]
  resources: [presenceclaims]
  verbs: [operate]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# One Lease for each resource that was ever claimed exclusively, named after it; so no resourceNames.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update]
{{- end -}}
