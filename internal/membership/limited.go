package membership

import (
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// Limited reports whether the members trust no root of each other's: only their gateways know those of other meshes.
func (vm *VirtualMesh) Limited() bool {
	return vm.Spec.MTLSConfig != nil && vm.Spec.MTLSConfig.Limited != nil
}

// gatewayDomain ends the trust domains of gateways, so that none of them is that of a mesh.
const gatewayDomain = ".gateways.isthmus.dev"

// maxGatewayDomain is what is left of a trust domain's 255 characters (SPIFFE ID specification, 2.1) for the virtual mesh's name.
const maxGatewayDomain = 255 - len(gatewayDomain)

// GatewayIdentity is the SPIFFE ID by which the gateways of a mesh are known to those of other members of a virtual mesh, whose
// name has the form "<name>.<namespace>".
func GatewayIdentity(virtualMesh string, mesh v1alpha1.ObjectRef) string {
	return "spiffe://" + naming.Short(virtualMesh, maxGatewayDomain) + gatewayDomain + "/cluster/" + Cluster(mesh.Namespace) + "/mesh/" + mesh.Name
}

// gatewayOrder ends the names of the orders (IssuedCertificate) of gateways. Names of Meshes have no dots.
const gatewayOrder = ".gateways"

// GatewayOrder is the name of the order for the gateways of a mesh. That for its CA has the name of the mesh itself.
func GatewayOrder(mesh string) string { return mesh + gatewayOrder }

// OrderedFor is the name of the mesh that an order, of a name, is for, and the purpose of what is ordered.
func OrderedFor(order string) (mesh string, purpose v1alpha1.CertificatePurpose) {
	if mesh, ok := strings.CutSuffix(order, gatewayOrder); ok {
		return mesh, v1alpha1.PurposeGateway
	}
	return order, v1alpha1.PurposeMeshCA
}

// WithTrust returns the virtual mesh with limited trust, or without: as it was, or will be, when it has changed from one to the
// other.
func (vm *VirtualMesh) WithTrust(limited bool) *VirtualMesh {
	out, spec := *vm, *vm.Spec
	spec.MTLSConfig = nil
	if limited {
		spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	}
	out.Spec = &spec
	return &out
}

// AppliedByOthers reports whether each other member than a mesh has in force what was accepted.
func (vm *VirtualMesh) AppliedByOthers(mesh *v1alpha1.Mesh) bool {
	for _, r := range vm.Spec.Meshes {
		if r != ref(mesh) && !slices.ContainsFunc(vm.Members, func(m *v1alpha1.Mesh) bool {
			return ref(m) == r && slices.ContainsFunc(m.Status.AppliedVirtualMeshes, func(a v1alpha1.AppliedVirtualMesh) bool {
				return a.Name == vm.Name && a.Generation >= vm.Generation
			})
		}) {
			return false
		}
	}
	return true
}
