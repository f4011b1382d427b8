package network

import "context"

// Before anything is written for a virtual mesh, the hub is told that there will be something: it holds a VirtualMesh that is
// deleted until no mesh has anything of it, and one of which it knows nothing it lets go.

// isAnnounced reports whether the hub knows that a mesh of this cluster has, or will have, something of a virtual mesh.
func (n *network) isAnnounced(mesh, virtualMesh string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.announced[mesh] == virtualMesh
}

func (n *network) setAnnounced(mesh, virtualMesh string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.announced[mesh] = virtualMesh
}

// announce says that the hub knows now, and has looked at what waited for that.
func (n *network) announce(ctx context.Context, mesh, virtualMesh string) error {
	if n.isAnnounced(mesh, virtualMesh) {
		return nil
	}
	n.setAnnounced(mesh, virtualMesh) // first: what comes from now on waits no more
	waiting, err := n.concerned(ctx, difference{everything: true}, false)
	if err != nil {
		n.setAnnounced(mesh, "")
		return err
	}
	n.lookAt(waiting)
	n.lookAtMeshes(0)
	n.lookAtExternal()
	return nil
}
