package accept

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// Reasons that only this package gives.
const (
	// ReasonMeshNotFound says that a reference names no Mesh.
	ReasonMeshNotFound = "MeshNotFound"
	// ReasonMeshAmbiguous says that a reference without namespace fits several Meshes.
	ReasonMeshAmbiguous = "MeshAmbiguous"
	// ReasonMeshTaken says that the Mesh belongs to another VirtualMesh.
	ReasonMeshTaken = "MeshTaken"
	// ReasonMeshNotMember says that federation is asked for to a mesh that is no member.
	ReasonMeshNotMember = "MeshNotMember"
	// ReasonClusterLeaving says that the cluster of the mesh is being deregistered.
	ReasonClusterLeaving = "ClusterLeaving"
	// ReasonTrustNotShareable says that the hub cannot provide the CA of the mesh.
	ReasonTrustNotShareable = "TrustNotShareable"
	// ReasonTrustDomain says that members do not accept each other's trust domains.
	ReasonTrustDomain = "TrustDomainNotAccepted"
	// ReasonTrustDomainChanged says that a member reports another trust domain than that with which it was accepted.
	ReasonTrustDomainChanged = "TrustDomainChanged"
	// ReasonTrustDomainTaken says that a mesh would join with the trust domain of a member, where members have their own.
	ReasonTrustDomainTaken = "TrustDomainTaken"
)

// World is what a VirtualMesh is judged against.
type World struct {
	// Namespace of the hub.
	Namespace string
	// Meshes are all that agents report.
	Meshes []v1alpha1.Mesh
	// Holders say which other VirtualMesh a mesh belongs to; both in the form "<name>.<namespace>".
	Holders map[string]string
	// Leaving are the namespaces of clusters that are being deregistered.
	Leaving map[string]bool
	// Settings that are in force; nil if there are none.
	Settings *v1alpha1.SettingsSpec
	// Root is the source of the newest root in use; nil if there is none yet.
	Root *RootSource
	// ProvidedCAProblem says why the certificate authority in the Secret that the spec refers to is not usable.
	ProvidedCAProblem string
}

// MeshKey is the form "<name>.<namespace>" that names a mesh in status fields.
func MeshKey(name, namespace string) string { return name + "." + namespace }

// VirtualMesh returns what of vm is in force from now on: its spec, reduced to valid members, or what was accepted before
// (prev, which may be nil) where the spec as a whole is refused. An entry of spec.meshes that was accepted before stays while
// it is listed, whatever became of its mesh, until its cluster is deregistered. A nil result means that nothing is in force.
func VirtualMesh(prev *v1alpha1.AcceptedVirtualMesh, vm *v1alpha1.VirtualMesh, w World) (*v1alpha1.AcceptedVirtualMesh, finding.Findings) {
	kept := withoutLeaving(prev.DeepCopy(), w)
	if kept != nil {
		kept.Spec.Suspend = vm.Spec.Suspend
		kept.TrustDomains = trustDomains(kept.Spec.Meshes, prev.TrustDomains, TrustIn(kept), w)
	}
	if vm.Spec.Suspend {
		return kept, finding.Findings{{
			Field: "spec.suspend", Reason: v1alpha1.ReasonSuspended,
			Message: "everything stays as it is until suspend is unset",
		}}
	}

	spec := vm.Spec.DeepCopy()
	trust := checkTrust(spec.MTLSConfig)
	secret := checkSecret(spec.MTLSConfig, w)
	federation := checkFederation(spec, w)
	refused := len(trust) > 0 || len(secret) > 0 && !w.copied(spec.MTLSConfig) || len(federation) > 0
	fs := slices.Concat(trust, secret, federation)

	known := staying(spec, prev, w)
	members, problems := resolveMembers(spec, prev, known, w)
	fs = append(fs, problems...)
	if refused || len(members) == 0 {
		return kept, fs
	}
	spec.Meshes = members
	fs = append(fs, resolveSelectors(spec, members, w)...)
	accepted := &v1alpha1.AcceptedVirtualMesh{Generation: vm.Generation, Spec: *spec, TrustDomains: trustDomains(members, known, TrustOf(spec.MTLSConfig), w)}
	return accepted, append(fs, checkAliases(accepted, w)...)
}

// checkTrust finds what makes the trust configuration as a whole unusable.
func checkTrust(m *v1alpha1.MTLSConfig) (fs finding.Findings) {
	t := TrustOf(m)
	if t == nil {
		return nil
	}
	fs = checkOptions(t.optionsField, t.options)
	if t.Vault != nil {
		_, problems := EndpointsOf(VaultFor(t.Vault, "x")) // whatever the cluster
		fs = append(fs, problems...)
	}
	if t.Root == nil {
		return fs
	}
	return append(fs, checkOptions(t.rootField()+".generated", t.Root.Generated)...)
}

// checkSecret finds that the provided certificate authority cannot be used.
func checkSecret(m *v1alpha1.MTLSConfig, w World) finding.Findings {
	t := TrustOf(m)
	if t.Secret() == nil || w.ProvidedCAProblem == "" {
		return nil
	}
	return finding.Findings{{Field: t.rootField() + ".secret", Reason: v1alpha1.ReasonInvalid, Message: w.ProvidedCAProblem}}
}

// copied reports whether the root in use is a copy of the Secret that the spec refers to: what became of the original since
// then is of no account.
func (w World) copied(m *v1alpha1.MTLSConfig) bool {
	t := TrustOf(m)
	return t.Secret() != nil && w.Root != nil && w.Root.Secret != nil && w.Root.For(t) &&
		SecretRef(*t.Secret(), w.Namespace) == *w.Root.Secret
}

// resolveMembers returns the entries of spec.meshes that are in force, each with its namespace. known are the trust domains of
// those that were accepted before.
func resolveMembers(spec *v1alpha1.VirtualMeshSpec, prev *v1alpha1.AcceptedVirtualMesh, known []v1alpha1.AcceptedTrustDomain, w World) (
	members []v1alpha1.ObjectRef, fs finding.Findings,
) {
	trust := TrustOf(spec.MTLSConfig)
	for i, ref := range spec.Meshes {
		field := fmt.Sprintf("spec.meshes[%d]", i)
		resolved, problem := w.resolve(ref, prev)
		if problem == nil {
			mesh := w.mesh(resolved)
			problem = w.taken(resolved)
			if problem == nil {
				problem = cmp.Or(checkIdentity(mesh), checkTrustDomain(known, mesh, trust.ByGateways()))
			}
			if problem == nil && trust != nil {
				problem = trust.Problem(mesh)
			}
			namesake := func(o v1alpha1.ObjectRef) bool { return o.Name == resolved.Name && o.Namespace != resolved.Namespace }
			if k := slices.IndexFunc(members, namesake); problem == nil && trust.ByGateways() && k >= 0 {
				problem = &finding.Finding{Reason: ReasonMeshAmbiguous, Message: fmt.Sprintf(
					"the member of namespace %s has the same name, by which gateways tell meshes apart: register one of the two clusters under another name", members[k].Namespace)}
			}
		}
		problem = cmp.Or(w.leaving(resolved), problem)
		if problem != nil {
			problem.Field, problem.Mesh = field, MeshKey(resolved.Name, resolved.Namespace)
			fs = append(fs, *problem)
		}
		stays := problem == nil || wasAccepted(prev, resolved) && problem.Reason != ReasonMeshTaken && !w.Leaving[resolved.Namespace]
		if stays && !slices.Contains(members, resolved) {
			members = append(members, resolved)
		}
	}
	return members, fs
}

// resolve finds the Mesh that a reference means. With a problem, the reference is returned as well as it could be completed.
func (w World) resolve(ref v1alpha1.ObjectRef, prev *v1alpha1.AcceptedVirtualMesh) (v1alpha1.ObjectRef, *finding.Finding) {
	byName := ref.Namespace == "" || ref.Namespace == w.Namespace
	fits := func(o v1alpha1.ObjectRef) bool {
		return o.Name == ref.Name && (byName || o.Namespace == ref.Namespace)
	}
	var found []v1alpha1.ObjectRef
	for i := range w.Meshes {
		if o := (v1alpha1.ObjectRef{Name: w.Meshes[i].Name, Namespace: w.Meshes[i].Namespace}); fits(o) {
			found = append(found, o)
		}
	}
	if prev != nil {
		before := slices.DeleteFunc(slices.Clone(prev.Spec.Meshes), func(o v1alpha1.ObjectRef) bool { return !fits(o) })
		if i := slices.IndexFunc(before, func(o v1alpha1.ObjectRef) bool { return slices.Contains(found, o) }); i >= 0 {
			return before[i], nil
		}
		if len(before) > 0 { // a namesake of another cluster does not take its place
			o := before[0]
			return o, &finding.Finding{Reason: ReasonMeshNotFound, Message: fmt.Sprintf(
				"the Mesh %s/%s is gone; the member is kept until it is removed from spec.meshes or its cluster is deregistered", o.Namespace, o.Name)}
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if byName {
		ref.Namespace = w.Namespace
	}
	if len(found) == 0 {
		return ref, &finding.Finding{Reason: ReasonMeshNotFound, Message: fmt.Sprintf(
			"no Mesh has the name %s: check the name (`kubectl get meshes -A`) and that its cluster is registered and connected", ref.Name)}
	}
	var names []string
	for _, o := range found {
		names = append(names, o.Namespace+"/"+o.Name)
	}
	return ref, new(ambiguous("", ref.Name, "Meshes", names))
}

// ambiguous finds that several objects, each "<namespace>/<name>", have the name that a reference gives.
func ambiguous(field, name, what string, found []string) finding.Finding {
	slices.Sort(found)
	return finding.Finding{Field: field, Reason: ReasonMeshAmbiguous, Message: fmt.Sprintf(
		"several %s have the name %s: add the namespace, one of %s", what, name, strings.Join(found, ", "))}
}

func (w World) mesh(ref v1alpha1.ObjectRef) *v1alpha1.Mesh {
	for i := range w.Meshes {
		if m := &w.Meshes[i]; m.Name == ref.Name && m.Namespace == ref.Namespace {
			return m
		}
	}
	return nil
}

func (w World) taken(ref v1alpha1.ObjectRef) *finding.Finding {
	holder, ok := w.Holders[MeshKey(ref.Name, ref.Namespace)]
	if !ok {
		return nil
	}
	return &finding.Finding{Reason: ReasonMeshTaken, Message: fmt.Sprintf(
		"the mesh belongs to VirtualMesh %s, which was accepted first: remove it there or here", holder)}
}

func (w World) leaving(ref v1alpha1.ObjectRef) *finding.Finding {
	if !w.Leaving[ref.Namespace] {
		return nil
	}
	return &finding.Finding{Reason: ReasonClusterLeaving, Message: "the cluster of the mesh is being deregistered: remove the mesh from spec.meshes"}
}

func wasAccepted(prev *v1alpha1.AcceptedVirtualMesh, ref v1alpha1.ObjectRef) bool {
	return prev != nil && slices.Contains(prev.Spec.Meshes, ref)
}

var (
	trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`) // as in the SPIFFE ID specification, 2.1
	dnsName     = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)
)

// checkIdentity makes sure that the SPIFFE ID of the mesh's istiod can be written.
func checkIdentity(m *v1alpha1.Mesh) *finding.Finding {
	i := m.Spec.Istio
	for _, part := range []struct {
		what, value string
		form        *regexp.Regexp
	}{
		{"trust domain", i.TrustDomain, trustDomain},
		{"root namespace", i.RootNamespace, dnsName},
		{"service account of istiod", i.IstiodServiceAccount, dnsName},
	} {
		if !part.form.MatchString(part.value) {
			return &finding.Finding{Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf("the %s %q of the mesh cannot be part of a SPIFFE ID", part.what, part.value)}
		}
	}
	return nil
}

// SharedTrustProblem says why the hub cannot provide the certificate authority of a mesh, or returns nil.
func SharedTrustProblem(m *v1alpha1.Mesh) *finding.Finding {
	i := m.Spec.Istio
	problem := func(message string) *finding.Finding {
		if i.CertificateAuthorityMessage != "" {
			message += " (" + i.CertificateAuthorityMessage + ")"
		}
		return &finding.Finding{Reason: ReasonTrustNotShareable, Message: message}
	}
	switch {
	case i.Topology == v1alpha1.TopologyRemote:
		return problem("the control plane of the mesh runs in another cluster, which alone can share trust: list its Mesh instead")
	case i.CertificateAuthority == v1alpha1.CertificateAuthorityExternal:
		return problem("the certificates of the mesh are not signed by istiod, so shared trust cannot be applied: let istiod sign them, or leave mtlsConfig out")
	case i.CertificateAuthority != v1alpha1.CertificateAuthorityIstiod:
		return problem("it is not known who signs the certificates of the mesh: see that its istiod runs and its agent is connected")
	}
	return nil
}
