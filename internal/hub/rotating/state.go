package rotating

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// state is all that concerns the trust of one virtual mesh.
type state struct {
	name     types.NamespacedName
	vm       *v1alpha1.VirtualMesh         // empty if it is gone
	accepted *v1alpha1.AcceptedVirtualMesh // nil if it is gone or being deleted
	roots    []roots.Root                  // all there are, the oldest first
	root     *roots.Root                   // the one that signs; nil if there is none or it is lost
	orders   map[rotation.MeshID]*orderOf  // the orders of members, and those retained
	members  map[rotation.MeshID]*memberOf // the meshes to which shared trust applies
	evidence map[rotation.MeshID]rotation.Evidence
	reported []report
}

type (
	orderOf  = v1alpha1.IssuedCertificate
	memberOf = v1alpha1.Mesh
)

// report is what an agent says of the CA of a member.
type report struct {
	mesh rotation.MeshID
	ca   *v1alpha1.MeshCertificateAuthority // nil if it has not looked yet
}

// observe reads it.
func (r *Reconciler) observe(ctx context.Context, name types.NamespacedName, vm *v1alpha1.VirtualMesh) (*state, error) {
	s := &state{
		name: name, vm: vm,
		orders:   map[rotation.MeshID]*orderOf{},
		members:  map[rotation.MeshID]*memberOf{},
		evidence: map[rotation.MeshID]rotation.Evidence{},
	}
	if vm.DeletionTimestamp.IsZero() {
		s.accepted = vm.Status.Accepted
	}
	var err error
	if s.roots, err = r.Roots.List(ctx, name); err != nil {
		return nil, err
	}
	if err := r.observeOrders(ctx, s); err != nil {
		return nil, err
	}
	if err := r.observeMembers(ctx, s); err != nil {
		return nil, err
	}
	for id := range s.orders {
		if err := r.observeSignatures(ctx, s, id); err != nil {
			return nil, err
		}
	}
	for id := range s.members {
		if s.orders[id] == nil {
			if err := r.observeSignatures(ctx, s, id); err != nil {
				return nil, err
			}
		}
	}
	s.root = s.current()
	return s, nil
}

func (r *Reconciler) observeOrders(ctx context.Context, s *state) error {
	list := &v1alpha1.IssuedCertificateList{}
	if err := r.Reader.List(ctx, list, client.MatchingLabels{
		v1alpha1.LabelVirtualMesh: kube.VirtualMeshLabel(s.name.Name, s.name.Namespace),
	}); err != nil {
		return err
	}
	for i := range list.Items {
		ic := &list.Items[i]
		if ref := ic.Spec.VirtualMesh; ref.Name == s.name.Name && ref.Namespace == s.name.Namespace && ic.DeletionTimestamp.IsZero() {
			s.orders[rotation.MeshID{Namespace: ic.Namespace, Name: ic.Name}] = ic
		}
	}
	return nil
}

func (r *Reconciler) observeMembers(ctx context.Context, s *state) error {
	if accept.SharedTrust(s.accepted) == nil {
		return nil
	}
	for _, ref := range s.accepted.Spec.Meshes {
		id := rotation.MeshID{Namespace: ref.Namespace, Name: ref.Name}
		mesh := &v1alpha1.Mesh{}
		err := r.Client.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, mesh)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err != nil || accept.SharedTrustProblem(mesh) != nil {
			continue // it keeps the order that it has
		}
		s.members[id] = mesh
		s.reported = append(s.reported, report{id, mesh.Status.CertificateAuthority})
		if s.orders[id] != nil {
			continue
		}
		// It may come from another virtual mesh; the count of issuances goes on.
		ic := &v1alpha1.IssuedCertificate{}
		err = r.Reader.Get(ctx, types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, ic)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err == nil {
			s.orders[id] = ic
		}
	}
	return nil
}

// maxAhead bounds how far an agent's word alone can move the count of issuances.
const maxAhead = 1 << 20

// observeSignatures adds to the agent's evidence what was signed: by the record of the requests, which agents cannot change,
// and by the agent's word where there is no such record, as after a restore from a backup.
func (r *Reconciler) observeSignatures(ctx context.Context, s *state, id rotation.MeshID) error {
	var e rotation.Evidence
	ic := s.orders[id]
	if ic != nil {
		var err error
		if e, err = rotation.Observe(ic); err != nil {
			return fmt.Errorf("IssuedCertificate %s/%s: %w", ic.Namespace, ic.Name, err)
		}
	}
	requests := &v1alpha1.CertificateRequestList{}
	if err := r.Client.List(ctx, requests, client.InNamespace(id.Namespace)); err != nil {
		return err
	}
	for i := range requests.Items {
		cr := &requests.Items[i]
		if cr.Spec.IssuedCertificate != id.Name || cr.Status.State != v1alpha1.CertificateRequestFinished {
			continue
		}
		e.LastIssuance = max(e.LastIssuance, cr.Spec.Issuance)
		if e.Order != nil && cr.Spec.Issuance == e.Order.Issuance {
			e.Signed = periodOf(cr)
		}
	}
	if ic != nil && e.Signed == nil && ic.Status.Certificate != nil {
		switch c := ic.Status.Certificate; {
		case c.Issuance == e.Order.Issuance:
			e.Signed = &rotation.Period{SignedAt: c.NotBefore.Add(pki.ClockSkew), NotAfter: c.NotAfter.Time}
		case c.Issuance > e.Order.Issuance && c.Issuance < e.Order.Issuance+maxAhead:
			e.LastIssuance = max(e.LastIssuance, c.Issuance)
		}
	}
	s.evidence[id] = e
	return nil
}

// periodOf is the validity of what was signed for a request.
func periodOf(cr *v1alpha1.CertificateRequest) *rotation.Period {
	chain, err := pki.ParseChain([]byte(cr.Status.SignedCertificate))
	if err != nil {
		return nil
	}
	p := &rotation.Period{SignedAt: chain[0].NotBefore.Add(pki.ClockSkew), NotAfter: chain[0].NotAfter}
	if ready := meta.FindStatusCondition(cr.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		p.SignedAt = ready.LastTransitionTime.Time
	}
	return p
}

// find returns a root by its fingerprint.
func (s *state) find(id pki.RootID) *roots.Root {
	for i := range s.roots {
		if s.roots[i].ID() == id {
			return &s.roots[i]
		}
	}
	return nil
}

// current is the root in use; nil if none is, or if it is lost.
func (s *state) current() *roots.Root {
	for _, id := range s.named() {
		if root := s.find(id.root); root != nil {
			return root
		}
	}
	return nil
}

// unused finds a root that was made from a source and that nothing has come to use yet.
func (s *state) unused(source accept.RootSource) *roots.Root {
	for i := len(s.roots) - 1; i >= 0; i-- {
		if r := &s.roots[i]; r.Problem == nil && r.Source.Same(source) {
			return r
		}
	}
	return nil
}

// named are the roots of this virtual mesh that something refers to: orders, or, without any, what members report. Agents
// are not asked where there are orders: one of them could bring all to a halt.
func (s *state) named() (out []namedRoot) {
	for id, ic := range s.orders {
		if ref := ic.Spec.VirtualMesh; ref.Name == s.name.Name && ref.Namespace == s.name.Namespace {
			if e := s.evidence[id]; e.Order != nil {
				out = append(out, namedRoot{e.Order.Signer, "the order of mesh " + accept.MeshKey(id.Name, id.Namespace)})
			}
		}
	}
	if len(out) == 0 {
		for _, rep := range s.reported {
			if ca := rep.ca; ca != nil && ca.Source == v1alpha1.CASourceIsthmus && ca.VirtualMesh == accept.MeshKey(s.name.Name, s.name.Namespace) {
				if id, err := pki.ParseRootID(ca.Signer); err == nil {
					out = append(out, namedRoot{id, "mesh " + accept.MeshKey(rep.mesh.Name, rep.mesh.Namespace)})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b namedRoot) int { return slices.Compare([]string{a.by}, []string{b.by}) })
	return out
}

type namedRoot struct {
	root pki.RootID
	by   string
}

// problem says what keeps the root from signing: a root that is in use is missing, or its Secret is damaged.
func (s *state) problem() *problem {
	for _, n := range s.named() {
		if s.find(n.root) == nil {
			return &problem{v1alpha1.ReasonRootKeyLost, fmt.Sprintf(
				"%s uses root %s, whose Secret is missing from the hub; nothing is changed: restore the Secret from a backup, or make another VirtualMesh to give that root up",
				n.by, n.root.Short())}
		}
	}
	if s.root != nil && s.root.Problem != nil {
		return &problem{v1alpha1.ReasonRootUnusable, s.root.Problem.Error()}
	}
	return nil
}

// unseen are the members whose CA is not known yet.
func (s *state) unseen() (out []string) {
	for _, rep := range s.reported {
		if rep.ca == nil {
			out = append(out, accept.MeshKey(rep.mesh.Name, rep.mesh.Namespace))
		}
	}
	return out
}

// intent is what is wanted of the members, and of meshes that hold an intermediate without being members.
func (s *state) intent() rotation.Intent {
	cert := s.root.Certificate.Certificate()
	in := rotation.Intent{
		Root:       s.root.ID(),
		RootPeriod: rotation.Period{SignedAt: cert.NotBefore, NotAfter: s.root.Material.NotAfter()},
		RootRatio:  pki.DefaultRatio,
		Members:    map[rotation.MeshID]rotation.Member{},
	}
	if s.root.Source.Generated != nil {
		in.RootRatio = ratio(s.root.Source.Generated.SecretRotationGracePeriodRatio)
	}
	for id, ic := range s.orders {
		in.Members[id] = rotation.Member{
			Contents: rotation.ContentsOf(ic.Spec.Hosts, ic.Spec.CertOptions),
			Ratio:    ratio(ic.Spec.CertOptions.SecretRotationGracePeriodRatio),
		}
	}
	shared := accept.SharedTrust(s.accepted)
	if shared == nil {
		return in
	}
	if ca := shared.RootCertificateAuthority; ca != nil && ca.Generated != nil {
		in.RootRatio = ratio(accept.RootOptions(ca.Generated).SecretRotationGracePeriodRatio)
	}
	options := accept.IntermediateOptions(shared.IntermediateCertOptions)
	for id, mesh := range s.members {
		in.Members[id] = rotation.Member{
			Contents: rotation.ContentsOf(hosts(mesh), options),
			Ratio:    ratio(options.SecretRotationGracePeriodRatio),
		}
	}
	return in
}

// hosts are the identities of a mesh's CA: the SPIFFE ID of its istiod.
func hosts(m *v1alpha1.Mesh) []string {
	i := m.Spec.Istio
	return []string{fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", i.TrustDomain, i.RootNamespace, i.IstiodServiceAccount)}
}

// ratio was checked when it was accepted.
func ratio(s string) pki.Ratio {
	r, err := pki.ParseRatio(s)
	if err != nil {
		return pki.DefaultRatio
	}
	return r
}

// providedRoot is a copy of the certificate authority that the user provides.
func (r *Reconciler) providedRoot(ctx context.Context, shared *v1alpha1.SharedTrust) (root roots.Root, err error) {
	root.Material, err = r.Roots.Provided(ctx, *shared.RootCertificateAuthority.Secret)
	if err != nil {
		return root, err
	}
	root.Source = accept.SourceOf(shared, pki.RootOf(root.Material.Certificate).ID().String(), r.Namespace)
	return root, nil
}

// generate makes a root.
func (r *Reconciler) generate(name types.NamespacedName, generation int64, source accept.RootSource) (pki.Material, error) {
	o := source.Generated
	key, err := pki.NewKey(int(*o.RSAKeySizeBytes))
	if err != nil {
		return pki.Material{}, err
	}
	return pki.NewRoot(key, pki.RootOptions{
		Organization: o.OrgName, VirtualMesh: kube.Qualified(name.Name, name.Namespace), Generation: int(generation),
		TTL: time.Duration(*o.TTLDays) * 24 * time.Hour,
	}, r.Now())
}

// lastGeneration is that of the newest root ever heard of.
func (s *state) lastGeneration() (n int64) {
	for _, r := range s.roots {
		n = max(n, r.Generation)
	}
	for _, r := range s.vm.Status.Roots {
		n = max(n, r.Generation)
	}
	return n
}
