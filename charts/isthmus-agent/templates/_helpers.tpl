{{- define "isthmus-agent.labels" -}}
app.kubernetes.io/name: isthmus-agent
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: isthmus
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "isthmus-agent.image" -}}
{{- with .Values.image }}{{ with .registry }}{{ . }}/{{ end }}{{ .name }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}

{{/*
The condition, in CEL, that a is an address of federation.addressRange, as the agent writes it. API servers know ip() and cidr() in what
is new from 1.31 on: for IPv4 it does without, for IPv6 none before holds it up.
*/}}
{{- define "isthmus-agent.isFederationAddress" -}}
{{- $range := splitList "/" .Values.federation.addressRange }}
{{- if contains ":" .Values.federation.addressRange }}
{{- if semverCompare ">=1.31-0" .Capabilities.KubeVersion.Version -}}
isIP(a) && cidr('{{ .Values.federation.addressRange }}').containsIP(a)
{{- else -}}
true
{{- end }}
{{- else -}}
a.matches('^(0|[1-9][0-9]{0,2})([.](0|[1-9][0-9]{0,2})){3}$') && [a.split('.').map(o, int(o))].all(o, true
{{- range $i, $octet := splitList "." (first $range) }}
{{- $fixed := sub (last $range | int) (mul 8 $i) | max 0 | min 8 | int }}
{{- $size := index (list 256 128 64 32 16 8 4 2 1) $fixed }}
{{- $from := mul (div (int $octet) $size) $size }} && o[{{ $i }}] >= {{ $from }} && o[{{ $i }}] < {{ add $from $size }}
{{- end }})
{{- end }}
{{- end }}
