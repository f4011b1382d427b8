// Package federation decides which destinations are reachable from other members of a virtual mesh, and what Istio needs to
// be told for that: by the home mesh, whose gateways admit what is federated and nothing else, and by each client mesh, which
// gives it a name. It is functions over values.
//
// What another cluster says is judged here and not believed: hostnames, SNI values and names of objects are made of the
// cluster's name in the hub and of DNS labels.
package federation

import (
	"cmp"
	"slices"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// Reasons that this package gives.
const (
	// ReasonGatewayService says that the Service is a gateway's: one that admits itself could be sent into a loop.
	ReasonGatewayService = "GatewayService"
	// ReasonExternalName says that the Service has no pods.
	ReasonExternalName = "ExternalName"
	// ReasonHeadless says that a pass-through gateway has no endpoints of the Service.
	ReasonHeadless = "Headless"
	// ReasonAmbient says that workloads behind the Service have no sidecars.
	ReasonAmbient = "Ambient"
	// ReasonInvalidName says that a name cannot be part of a hostname.
	ReasonInvalidName = "InvalidName"
	// ReasonInvalidPorts says that numbers or names of ports are impossible.
	ReasonInvalidPorts = "InvalidPorts"
	// ReasonNoPorts says that the Service has no TCP port.
	ReasonNoPorts = "NoPorts"
	// ReasonInvalidIdentity says that an identity is none that the home mesh can have given to a pod of the Service.
	ReasonInvalidIdentity = "InvalidIdentity"
	// ReasonNoIdentity says that no identity is known by which clients could verify the destination.
	ReasonNoIdentity = "NoIdentity"
	// ReasonTooMany says that a limit is reached.
	ReasonTooMany = "TooMany"
	// ReasonNoGateway says that the home mesh has no gateway that federation can use.
	ReasonNoGateway = "NoGateway"
	// ReasonForeignPassThrough says that a Gateway of somebody else lets pass more than is federated.
	ReasonForeignPassThrough = "ForeignPassThrough"
	// ReasonNotMember says that a mesh is not in the virtual mesh.
	ReasonNotMember = "NotMember"
	// ReasonNotFederated says that the virtual mesh does not federate the destination to the client mesh.
	ReasonNotFederated = "NotFederated"
	// ReasonForeignDestination says that a destination is none of the mesh that it is taken for.
	ReasonForeignDestination = "ForeignDestination"
	// ReasonSmartDNSRequired says that proxies of the client mesh would not resolve the hostname.
	ReasonSmartDNSRequired = "SmartDNSRequired"
	// ReasonNotTrusted says that two meshes were not seen to trust each other yet.
	ReasonNotTrusted = "NotTrusted"
	// ReasonForbiddenAddress says that an address is none at which another cluster can be.
	ReasonForbiddenAddress = "ForbiddenAddress"
	// ReasonNoEndpoints says that there is nothing to send to.
	ReasonNoEndpoints = "NoEndpoints"
	// ReasonSubsetsLeftOut says that subsets are not imported.
	ReasonSubsetsLeftOut = "SubsetsLeftOut"
	// ReasonShortHostnameLeftOut says that a destination has no short hostname in a client mesh.
	ReasonShortHostnameLeftOut = "ShortHostnameLeftOut"
	// ReasonShadowed says that a DestinationRule of somebody else takes the place of ours.
	ReasonShadowed = "DestinationRuleShadowed"
)

const (
	defaultSuffix        = "global"
	defaultClusterDomain = "cluster.local"
	// everyMember stands, in federatedToMeshes, for every other member.
	everyMember = "*"
)

// Federate says whether, and as what, a destination of a member mesh is federated. Without selection both results are nil.
// Findings without a result say why a selected destination is not federated; beside one they are worth knowing. Subsets and
// Endpoints of the result are the caller's to fill in.
func Federate(vm *membership.VirtualMesh, home *v1alpha1.Mesh, d *v1alpha1.Destination) (*v1alpha1.AppliedFederation, finding.Findings) {
	to := federatedTo(vm, home, d)
	if to == nil {
		return nil, nil
	}
	s, fs := describe(vm, home, d)
	if s != nil && !isFlat(vm) {
		if gateways, problems := ChosenGateways(vm, home); gateways == nil {
			s, fs = nil, append(fs, problems...)
		}
	}
	if s == nil {
		return nil, fs
	}
	short := ShortHostname(vm, d)
	if impossibleShort(short) != "" {
		short = ""
	}
	return &v1alpha1.AppliedFederation{FederatedHostname: s.hostname, ShortHostname: short, FederatedToMeshes: to, VirtualMesh: vm.Name}, fs
}

// isFlat reports whether clients reach pods themselves. Under limited trust they cannot: the hub does not accept both.
func isFlat(vm *membership.VirtualMesh) bool {
	return vm.Spec.Federation != nil && vm.Spec.Federation.FlatNetwork && !vm.Limited()
}

// Hostname is the name by which a destination is reached from other meshes: "<service>.<namespace>.svc.<cluster>.<suffix>".
func Hostname(vm *membership.VirtualMesh, d *v1alpha1.Destination) string {
	s := &d.Spec.KubeService
	return s.Name + "." + s.Namespace + ".svc." + membership.Cluster(d.Namespace) + "." + suffix(vm)
}

// ObjectName is the name, in the root namespace of a client mesh, of the objects of a federated destination: its hostname,
// shortened where that is too long.
func ObjectName(hostname string) string { return naming.Short(hostname, maxName) }

func suffix(vm *membership.VirtualMesh) string {
	if f := vm.Spec.Federation; f != nil {
		return cmp.Or(f.HostnameSuffix, defaultSuffix)
	}
	return defaultSuffix
}

// selectors are those that federate something to another mesh than home.
func selectors(vm *membership.VirtualMesh, home *v1alpha1.Mesh) (out []v1alpha1.FederationSelector) {
	f := vm.Spec.Federation
	if f == nil || !vm.Lists(home) {
		return nil
	}
	if len(f.Selectors) == 0 && f.Permissive != nil {
		return []v1alpha1.FederationSelector{{}}
	}
	for _, s := range f.Selectors {
		if len(s.Meshes) > 0 {
			s.Meshes = slices.DeleteFunc(slices.Clone(s.Meshes), func(ref v1alpha1.ObjectRef) bool {
				return ref == refTo(home) || !slices.Contains(vm.Spec.Meshes, ref)
			})
			if len(s.Meshes) == 0 {
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// federatedTo returns the meshes that selectors federate a destination of home to, sorted, or everyMember; nil if there are
// none.
func federatedTo(vm *membership.VirtualMesh, home *v1alpha1.Mesh, d *v1alpha1.Destination) (to []string) {
	if !isOf(d, home) {
		return nil
	}
	for _, s := range selectors(vm, home) {
		if !membership.Selects(s.DestinationSelectors, d) {
			continue
		}
		if len(s.Meshes) == 0 {
			return []string{everyMember}
		}
		for _, ref := range s.Meshes {
			to = append(to, ref.Name+"."+ref.Namespace)
		}
	}
	slices.Sort(to)
	return slices.Compact(to)
}

func refTo(m *v1alpha1.Mesh) v1alpha1.ObjectRef {
	return v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace}
}

// isOf reports whether a destination is one of a mesh. An agent writes its mesh's name into it; that it lies in the
// mesh's namespace proves that the agent may.
func isOf(d *v1alpha1.Destination, home *v1alpha1.Mesh) bool {
	return d.Namespace == home.Namespace && d.Spec.Mesh == home.Name
}
