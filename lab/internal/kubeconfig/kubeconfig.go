// Package kubeconfig writes kubeconfig files (https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/) in which
// all certificates and keys are embedded, so that a file can be copied and still works.
package kubeconfig

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"text/template"
)

// Entry is one context of a kubeconfig: a cluster and a user of it.
type Entry struct {
	// Context, Cluster and User are names; User must be unique in the file.
	Context, Cluster, User string
	// Server is the URL of the API server.
	Server string
	// CA is the PEM of the certificate authority of the API server; Cert and Key are the user's.
	CA, Cert, Key []byte
}

//go:embed kubeconfig.tmpl
var text string

var tmpl = template.Must(template.New("kubeconfig").
	Funcs(template.FuncMap{"base64": base64.StdEncoding.EncodeToString}).Parse(text))

// Render writes one file of all entries. The first is its current context.
func Render(entries ...Entry) ([]byte, error) {
	var b bytes.Buffer
	err := tmpl.Execute(&b, entries)
	return b.Bytes(), err
}
