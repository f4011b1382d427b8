package federation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

const shortHostnames = "spec.federation.shortHostnames"

// ShortHostname is the further name by which a destination is reached from other meshes, "<service>.<namespace>.<cluster>"; "" if
// the virtual mesh asks for none. No other hostname that is made here has three labels.
func ShortHostname(vm *membership.VirtualMesh, d *v1alpha1.Destination) string {
	if f := vm.Spec.Federation; f == nil || !f.ShortHostnames {
		return ""
	}
	s := &d.Spec.KubeService
	return s.Name + "." + s.Namespace + "." + membership.Cluster(d.Namespace)
}

// IsShortHostname reports whether a hostname that was made here is a short one.
func IsShortHostname(host string) bool { return strings.Count(host, ".") == 2 }

// impossibleShort says what speaks against a short hostname in every mesh; "" if nothing does.
func impossibleShort(host string) string {
	switch {
	case host == "":
		return ""
	case strings.HasSuffix(host, ".svc"):
		return "in each cluster SERVICE.NAMESPACE.svc is a Service of its own"
	case !isFQDN(host):
		return "the name of the cluster is a number, so that names which end in it are no hostnames"
	}
	return ""
}

// Takes reports whether a client mesh gets a short hostname, if it imports the destination and nobody else has the name.
func (c Client) Takes(short string) bool { return c.unfitShort(short) == nil }

// unfitShort says why a client mesh does not get a short hostname. The message is the same for all services of a cluster.
func (c Client) unfitShort(host string) *finding.Finding {
	cluster := host[strings.LastIndexByte(host, '.')+1:]
	domain := clusterDomain(c.Mesh)
	why := impossibleShort(host)
	switch {
	case why != "":
	case strings.HasSuffix(host, "."+domain):
		why = fmt.Sprintf("such names lie in the cluster domain of mesh %s, %s", c.Mesh.Name, domain)
	case topLevel(cluster) && !slices.Contains(c.ShortHostnameClusters, cluster):
		why = fmt.Sprintf("such names could be of the internet, as %s has letters only; if they are not, list it in federation.shortHostnameClusters of the chart "+
			"isthmus-agent in this cluster", cluster)
	default:
		return nil
	}
	return &finding.Finding{Field: shortHostnames, Reason: ReasonShortHostnameLeftOut, Mesh: membership.MeshKey(c.Mesh), Message: fmt.Sprintf(
		"services of cluster %s are not called SERVICE.NAMESPACE.%s here: %s; SERVICE.NAMESPACE.svc.%s.SUFFIX is their name", cluster, cluster, why, cluster)}
}

// topLevel reports whether a label may be a top-level domain of the internet. Those have letters only, or are internationalised
// ones (RFC 1123, 2.1; ICANN's gTLD Applicant Guidebook, 2.2.1.3.2).
func topLevel(label string) bool {
	return strings.HasPrefix(label, "xn--") || !strings.ContainsAny(label, "-0123456789")
}
