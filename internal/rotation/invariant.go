package rotation

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// ProxyView is what matters of one workload's proxy.
type ProxyView struct {
	Mesh MeshID
	Name string
	// Anchors are the roots that its leaf chains to: one, or with a cross-certificate two. None: it has no leaf.
	Anchors []pki.RootID
	// Trusts are the roots that it accepts leaves under.
	Trusts []pki.RootID
}

// Safe is the invariant of a rotation: each workload accepts each of its peers. Two within one mesh are peers; whether two
// of different meshes are, is for the caller to say.
func Safe(proxies []ProxyView, peers func(a, b MeshID) bool) error {
	for _, server := range proxies {
		for _, client := range proxies {
			if server.Mesh != client.Mesh && !peers(server.Mesh, client.Mesh) {
				continue
			}
			if len(client.Anchors) > 0 && !slices.ContainsFunc(client.Anchors, func(r pki.RootID) bool { return slices.Contains(server.Trusts, r) }) {
				return fmt.Errorf("%s of %s refuses %s of %s, whose leaf chains to none of the roots that it trusts",
					server.Name, server.Mesh, client.Name, client.Mesh)
			}
		}
	}
	return nil
}
