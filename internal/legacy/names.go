package legacy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// longestMesh is the length to which names of meshes were cut.
const longestMesh = 63

// membersOf are the members of a virtual mesh.
func (c *conversion) membersOf(refs []objectRef) []v1alpha1.ObjectRef {
	if len(refs) == 0 {
		c.invalid("spec.meshes", "is empty: name at least one mesh")
	}
	return c.meshes("spec.meshes", refs)
}

// meshes are references to meshes by the names that they have here, each once. The namespace of the old installation is left
// out: here a Mesh lies in the namespace of its cluster, and is found by its name alone.
func (c *conversion) meshes(field string, refs []objectRef) (out []v1alpha1.ObjectRef) {
	for i, old := range refs {
		entry := fmt.Sprintf("%s[%d]", field, i)
		ref := c.mesh(entry, old)
		switch {
		case slices.Contains(out, ref):
			c.note(ReasonChanged, entry, "is left out: %s is listed already", ref.Name)
			continue
		case ref.Namespace != old.Namespace:
			c.note(ReasonChanged, entry, "%s/%s is %s here, a Mesh in the namespace of its cluster", old.Namespace, old.Name, ref.Name)
		case ref.Name != old.Name:
			c.note(ReasonChanged, entry, "%s is %s here", old.Name, ref.Name)
		}
		out = append(out, ref)
	}
	return out
}

// mesh is what a reference to a mesh is here.
func (c *conversion) mesh(field string, old objectRef) v1alpha1.ObjectRef {
	ref := v1alpha1.ObjectRef{Name: c.meshName(field+".name", old.Name)}
	if strings.HasPrefix(old.Namespace, v1alpha1.ClusterNamespacePrefix) && old.Namespace != c.hub {
		ref.Namespace = old.Namespace
	}
	return ref
}

// meshName is the name that a mesh has here. The first generation called it istio-<root namespace>-<cluster>, the others by the
// Deployment of its control plane: istiod-<root namespace>-<cluster>, with the revision after istiod if it has one. Here it is
// istiod-<root namespace>-<cluster>, whichever revisions it has.
func (c *conversion) meshName(field, old string) string {
	rest, found := strings.CutPrefix(old, "istiod-")
	if !found {
		rest, found = strings.CutPrefix(old, "istio-")
	}
	if !found {
		c.note(ReasonNotConverted, field, "%s is no name of a mesh of Istio, and only such meshes are possible: write the name of its Mesh (`kubectl get meshes -A`), or take it out", old)
		return old
	}
	if i := strings.Index(rest, "-istio-system-"); i >= 0 && !strings.HasPrefix(rest, "istio-system-") {
		rest = rest[i+1:]
	}
	if len(old) == longestMesh {
		c.note(ReasonNotConverted, field, "%s has as many characters as a name could have, so its end may have been cut: write the name of its Mesh, istiod-<root namespace>-<cluster>", old)
	}
	return "istiod-" + rest
}
