package rotating

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// problem is what keeps a root from signing; the reason is that of a condition.
type problem struct{ reason, message string }

// provideRoot finds the root that is wanted, or makes it.
func (r *Reconciler) provideRoot(ctx context.Context, s *state) (*problem, error) {
	found, unseen := s.vaultRoot()
	if p := s.problem(found); p != nil {
		return p, nil
	}
	if s.trust == nil {
		s.root = s.current()
		return nil, nil //nolint:nilnil // no other root is wanted
	}
	root := roots.Root{Source: accept.SourceOf(s.trust, "", r.Namespace)}
	if ref := root.Source.Secret; ref != nil {
		var err error
		root.Material, err = r.Roots.Provided(ctx, *ref)
		if unusable, ok := errors.AsType[*roots.ProblemError](err); ok {
			s.passes = unusable.Passes
			if s.root = s.current(); s.root != nil {
				return nil, nil //nolint:nilnil // it stays until there is another one
			}
			return &problem{v1alpha1.ReasonInvalid, unusable.Error()}, nil
		}
		if err != nil {
			return nil, err
		}
		root.Source.Certificate = pki.RootOf(root.Material.Certificate).ID().String()
		if p := s.otherwiseUsed(root.Material.Root); p != nil {
			if s.root = s.current(); s.root != nil {
				s.notice = p
				return nil, nil //nolint:nilnil // it stays until there is another one
			}
			return p, nil
		}
	}
	if root.Foreign() {
		if unseen != nil {
			if s.root = s.current(); s.root != nil {
				s.notice = unseen
				return nil, nil //nolint:nilnil // it stays until there is another one
			}
			return unseen, nil
		}
		root.Certificate, root.Source.Certificate = *found, found.ID().String()
	}
	if s.current() == nil {
		if p := s.unready(); p != nil {
			return p, nil
		}
	}
	if s.root = s.made(root.Source); s.root != nil {
		return nil, nil //nolint:nilnil // it is there
	}
	return nil, r.makeRoot(ctx, s, root)
}

// otherwiseUsed says that a root has another purpose already. Members that know each other's gateways by it must not come to know
// each other's workloads by it, nor the other way round.
func (s *state) otherwiseUsed(root pki.Root) *problem {
	for i := range s.roots {
		if r := &s.roots[i]; r.ID() == root.ID() && !r.Source.For(s.trust) {
			return &problem{v1alpha1.ReasonInvalid, fmt.Sprintf(
				"root %s has served this virtual mesh under the other trust, and a root of gateways must be none of meshes: provide another certificate authority", root.ID().Short())}
		}
	}
	return nil
}

// makeRoot keeps a root that was provided or found, or generates one.
func (r *Reconciler) makeRoot(ctx context.Context, s *state, root roots.Root) (err error) {
	reason := ReasonRootCopied
	root.Generation, root.Role = s.lastGeneration()+1, v1alpha1.RootIncoming
	if s.current() == nil {
		root.Role = v1alpha1.RootSigning
	}
	switch {
	case root.Foreign():
		reason = ReasonRootFound
	case root.Source.Generated != nil:
		reason = ReasonRootGenerated
		if root.Material, err = r.generate(s.name, root.Generation, root.Source); err != nil {
			return err
		}
	}
	if !root.Foreign() {
		root.Certificate = root.Material.Root
	}
	if err := r.keepRoot(ctx, s, root, reason); err != nil {
		return err
	}
	if s.root = s.made(root.Source); s.root == nil {
		return fmt.Errorf("root %s was made and is not there", root.ID().Short())
	}
	return nil
}

// keepRoot stores a root, and says so.
func (r *Reconciler) keepRoot(ctx context.Context, s *state, root roots.Root, reason string) (err error) {
	if err := r.Roots.Create(ctx, s.name, root); err != nil {
		return err
	}
	id := root.ID()
	log.FromContext(ctx).Info("Root made", "reason", reason, "generation", root.Generation, "fingerprint", id.String())
	r.Events.Eventf(s.vm, nil, corev1.EventTypeNormal, reason, "MakeRoot", "root %d, fingerprint %s, valid until %s",
		root.Generation, id.Short(), root.NotAfter().UTC().Format(time.RFC3339))
	s.roots, err = r.Roots.List(ctx, s.name)
	return err
}

// made is the newest root that was made from a source, can sign, and is not to be replaced because of its age; nil if there
// is none.
func (s *state) made(source accept.RootSource) *roots.Root {
	for i := len(s.roots) - 1; i >= 0; i-- {
		r := &s.roots[i]
		at := s.replaceAt(r)
		if r.Problem == nil && r.Source.Same(source) && (at.IsZero() || s.now.Before(at) || s.rotates(r.ID())) {
			return r
		}
	}
	return nil
}

// replaceAt is when a root is to be replaced by a new one: a generated one when its grace period begins; zero for one that was
// provided, and for one that cannot be read.
func (s *state) replaceAt(r *roots.Root) time.Time {
	if r.Source.Generated == nil || r.Problem != nil {
		return time.Time{}
	}
	cert := r.Certificate.Certificate()
	left := float64(cert.NotAfter.Sub(cert.NotBefore.Add(pki.ClockSkew))) * float64(s.rootRatio())
	return cert.NotAfter.Add(-time.Duration(left))
}

// rotates tells whether a rotation of the virtual mesh from or to a root is under way: that is not replaced by a third one
// only because time passes.
func (s *state) rotates(id pki.RootID) bool {
	for _, e := range s.evidence {
		if p := e.Order; p != nil && p.Position != nil && !p.Position.Closed && !p.Position.Alone && (p.Position.Old == id || p.Position.New == id) {
			return true
		}
	}
	return false
}

// current is the root that is in use, or that a rotation under way leads to; nil if there is none, or if it is lost.
func (s *state) current() *roots.Root {
	var ends, joins []pki.RootID
	for _, id := range s.ordered() {
		p := s.evidence[id].Order.Position
		switch {
		case p == nil || p.Closed || !s.concerns(id):
		case p.Alone:
			joins = append(joins, p.New)
		case p.Back:
			ends = append(ends, p.Old)
		default:
			ends = append(ends, p.New)
		}
	}
	for _, n := range s.named() {
		if s.concerns(n.order) {
			ends = append(ends, n.root)
		}
	}
	for _, id := range append(ends, joins...) {
		if root := s.find(id); root != nil {
			return root
		}
	}
	return nil
}

// ordered are the meshes that have an order, in the order of their names.
func (s *state) ordered() []rotation.MeshID {
	return slices.SortedFunc(maps.Keys(s.orders), func(a, b rotation.MeshID) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
}

// named are the roots under which the hub has signed what is in use, by its orders, or, without any, by what members report.
// Agents are not asked where there are orders: one of them could bring all to a halt.
func (s *state) named() (out []namedRoot) {
	if len(s.orders) == 0 {
		for id, mesh := range s.members {
			if root, err := pki.ParseRootID(s.signerOf(mesh)); err == nil {
				out = append(out, namedRoot{root, "mesh " + id.String(), id})
			}
		}
		slices.SortFunc(out, func(a, b namedRoot) int { return slices.Compare([]string{a.by}, []string{b.by}) })
		return out
	}
	for _, id := range s.ordered() {
		if o := s.evidence[id].Order; o.Issuance > 0 && s.owns(s.orders[id]) {
			out = append(out, namedRoot{o.Signer, "the order of mesh " + id.String(), id})
		}
	}
	return out
}

type namedRoot struct {
	root  pki.RootID
	by    string
	order rotation.MeshID
}

// signerOf is the root that a mesh reports to have of this virtual mesh; "" if it has none.
func (s *state) signerOf(mesh *v1alpha1.Mesh) string {
	vm := kube.Qualified(s.name.Name, s.name.Namespace)
	if s.trust.ByGateways() {
		if c := mesh.Status.GatewayCertificate; c != nil && c.VirtualMesh == vm {
			return c.Signer
		}
		return ""
	}
	if ca := mesh.Status.CertificateAuthority; ca != nil && ca.Source == v1alpha1.CASourceIsthmus && ca.VirtualMesh == vm {
		return ca.Signer
	}
	return ""
}

// problem says what keeps a root from signing: one that is in use is missing, or its Secret is damaged. One that has expired
// can be replaced, and one that all find at Vault is simply written down again.
func (s *state) problem(found *pki.Root) *problem {
	for _, n := range s.named() {
		switch root := s.find(n.root); {
		case root == nil && found != nil && found.ID() == n.root:
		case root == nil:
			return &problem{v1alpha1.ReasonRootKeyLost, fmt.Sprintf(
				"%s uses root %s, whose Secret is missing from the hub; nothing is changed: restore the Secret from a backup; without one, release its meshes and have them join another VirtualMesh (docs/operations/backup-and-restore.md)",
				n.by, n.root.Short())}
		case root.Problem != nil && s.now.Before(root.Certificate.Certificate().NotAfter):
			s.passes = s.passes || passes(root.Problem)
			return &problem{v1alpha1.ReasonRootUnusable, root.Problem.Error()}
		}
	}
	return nil
}

// passes tells whether time alone mends what is wrong with a root.
func passes(err error) bool {
	invalid, ok := errors.AsType[*pki.InvalidError](err)
	return ok && invalid.Passes()
}

// unready says why no first root is made yet.
func (s *state) unready() *problem {
	var unseen []string
	for _, f := range s.held.With(v1alpha1.ReasonWaitingForAgents) {
		unseen = append(unseen, f.Mesh)
	}
	if len(unseen) > 0 {
		return &problem{v1alpha1.ReasonWaitingForAgents, fmt.Sprintf("no root is made before every member has reported the CA that it uses: waiting for %v", unseen)}
	}
	if len(s.members) == 0 {
		return &problem{v1alpha1.ReasonWaitingForAgents, "no member to which the trust can be applied"}
	}
	return nil
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

// assignRoles labels the roots with their parts in the orders of a plan. One that has none any more is retired when all is at
// rest.
func (r *Reconciler) assignRoles(ctx context.Context, s *state, plan rotation.Plan) error {
	if s.trust == nil {
		return nil
	}
	for i := range s.roots {
		root := &s.roots[i]
		role := s.role(root, plan)
		if role == root.Role || root.ID().IsZero() || role == v1alpha1.RootRetired && !s.rests(plan) {
			continue
		}
		if err := r.Roots.SetRole(ctx, *root, role); err != nil {
			return err
		}
		root.Role = role
	}
	return nil
}

// role of a root in the orders of a plan.
func (s *state) role(root *roots.Root, plan rotation.Plan) v1alpha1.RootRole {
	signs := map[pki.RootID]bool{}
	for id, o := range plan.Orders {
		signs[o.Signer] = signs[o.Signer] || s.listed[id]
	}
	if root.Source.Mesh != "" {
		return s.ownRole(root, plan)
	}
	wanted := s.root.ID()
	others := slices.ContainsFunc(s.roots, func(r roots.Root) bool { return r.ID() != wanted && signs[r.ID()] })
	switch {
	case root == s.root && (signs[wanted] || !others):
		return v1alpha1.RootSigning
	case root == s.root:
		return v1alpha1.RootIncoming
	case root.ID() == wanted || !refersTo(plan, root.ID()):
		return v1alpha1.RootRetired
	case signs[root.ID()] && !signs[wanted]:
		return v1alpha1.RootSigning
	}
	return v1alpha1.RootOutgoing
}

// refersTo tells whether an order has a part for a root.
func refersTo(plan rotation.Plan, id pki.RootID) bool {
	for _, o := range plan.Orders {
		if names(o, id) {
			return true
		}
	}
	return false
}

func names(o rotation.Order, id pki.RootID) bool {
	p := o.Position
	return o.Signer == id || slices.Contains(o.Roots, id) || o.Prepared != nil && o.Prepared.Signer == id ||
		p != nil && !p.Closed && (p.Old == id || p.New == id)
}

// rests tells whether nothing rotates, and all is as ordered.
func (s *state) rests(plan rotation.Plan) bool {
	return len(plan.Waiting) == 0 && !s.isRotating(plan)
}

// isRotating tells whether a member is on its way from one root to another.
func (s *state) isRotating(plan rotation.Plan) bool {
	for id, o := range plan.Orders {
		if (s.listed[id] || s.apart[id] != nil) && o.Position != nil && !o.Position.Closed {
			return true
		}
	}
	return false
}

// erase deletes the keys of roots that are retired, and of which the status says so. No order of anybody may need them: a
// mesh may have gone to another virtual mesh.
func (r *Reconciler) erase(ctx context.Context, s *state) error {
	retired := slices.DeleteFunc(slices.Clone(s.roots), func(root roots.Root) bool { return root.Role != v1alpha1.RootRetired })
	if len(retired) == 0 {
		return nil
	}
	all := &v1alpha1.IssuedCertificateList{}
	if err := r.Reader.List(ctx, all); err != nil {
		return err
	}
	for _, root := range retired {
		needed := slices.ContainsFunc(all.Items, func(ic v1alpha1.IssuedCertificate) bool {
			o, err := rotation.OrderOf(&ic)
			return err != nil || root.ID() != s.root.ID() && names(o, root.ID())
		})
		if needed {
			s.needed = true
			continue
		}
		if err := r.Roots.Erase(ctx, root); err != nil {
			return err
		}
		if root.Foreign() {
			continue // there was no key here
		}
		log.FromContext(ctx).Info("Root key erased", "generation", root.Generation, "fingerprint", root.ID().String())
		r.Events.Eventf(s.vm, nil, corev1.EventTypeNormal, ReasonRootErased, "EraseRoot", "root %d, fingerprint %s: its key is erased, as nothing is under it any more", root.Generation, root.ID().Short())
	}
	return nil
}
