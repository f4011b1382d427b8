// Package kube holds what every part of Isthmus needs in dealing with a Kubernetes API: applying objects without ever
// touching somebody else's, writing status, and the rules by which things are named.
//
// It knows nothing of trust, federation or policy.
package kube
