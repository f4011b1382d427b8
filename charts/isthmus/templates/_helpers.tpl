{{- define "isthmus.labels" -}}
app.kubernetes.io/name: isthmus-hub
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: isthmus
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "isthmus.image" -}}
{{- with .Values.image }}{{ with .registry }}{{ . }}/{{ end }}{{ .name }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
