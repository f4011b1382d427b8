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

// setAnnounced reports whether the hub was not known to know before.
func (n *network) setAnnounced(mesh, virtualMesh string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	news := n.announced[mesh] != virtualMesh
	n.announced[mesh] = virtualMesh
	return news
}

// announce says that the hub knows now, and has looked at what waited for that.
func (n *network) announce(ctx context.Context, mesh, virtualMesh string) error {
	if n.isAnnounced(mesh, virtualMesh) {
		return nil
	}
	own, err := n.allOwn(ctx)
	if err != nil {
		return err
	}
	if n.setAnnounced(mesh, virtualMesh) {
		n.enqueue(ownController, 0, own...)
		n.enqueue(importController, 0, n.allImports(difference{everything: true})...)
		names, err := n.allNames(ctx, difference{everything: true})
		if err != nil {
			return err
		}
		n.enqueue(nameController, 0, names...)
		n.lookAtMeshes(0)
		n.lookAtExternal()
	}
	return nil
}
