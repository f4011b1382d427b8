package kube

import (
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// ShortName is naming.Short.
func ShortName(s string, limit int) string { return naming.Short(s, limit) }

// MeshName is the name of the Mesh of an Istio root namespace in a cluster.
func MeshName(rootNamespace, cluster string) string {
	return "istiod-" + rootNamespace + "-" + cluster
}

// ClusterNamespace is the namespace that the hub keeps for a registered cluster.
func ClusterNamespace(cluster string) string {
	return v1alpha1.ClusterNamespacePrefix + cluster
}

// ClusterOf returns the registered cluster whose namespace in the hub is given; false for any other namespace.
func ClusterOf(namespace string) (string, bool) {
	c, ok := strings.CutPrefix(namespace, v1alpha1.ClusterNamespacePrefix)
	return c, ok && c != "" && namespace != v1alpha1.SystemNamespace && namespace != v1alpha1.AgentNamespace
}

// Qualified is the form "<name>.<namespace>" in which status fields name an object.
func Qualified(name, namespace string) string {
	return name + "." + namespace
}

// SplitQualified is the reverse of Qualified: a name may have dots, a namespace has none.
func SplitQualified(qualified string) (name, namespace string, ok bool) {
	i := strings.LastIndexByte(qualified, '.')
	if i < 0 {
		return "", "", false
	}
	return qualified[:i], qualified[i+1:], true
}

// VirtualMeshLabel is the value of the label isthmus.dev/virtual-mesh for a VirtualMesh.
func VirtualMeshLabel(name, namespace string) string {
	return ShortName(Qualified(name, namespace), 63)
}

// RequestName is the name of the CertificateRequest that the agent makes for a mesh's order with the key of the given name
// (pki.PublicKeyName): a request under that name cannot be about another key.
func RequestName(mesh, keyName string) string {
	return ShortName(mesh, 200) + "-" + keyName
}
