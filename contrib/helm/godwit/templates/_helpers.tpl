{{- define "godwit.namespace" -}}{{ .Values.namespace.name | default .Release.Namespace }}{{- end -}}
{{- define "godwit.image" -}}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end -}}
{{- define "godwit.labels" -}}
app.kubernetes.io/name: godwit
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- /* What install and uninstall have to be told alike. */ -}}
{{- define "godwit.installArgs" -}}
- --owner=kubernetes
- --containerd-program={{ .Values.containerd.program }}
- --containerd-config={{ .Values.containerd.config }}
- --containerd-socket={{ .Values.containerd.socket }}
- {{ printf "--restart-command=%s" (join "," .Values.containerd.restartCommand) | quote }}
- --state-dir={{ .Values.node.stateDir }}
{{- end -}}
