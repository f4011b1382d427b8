package rotating

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// state is all that concerns the trust of one virtual mesh.
type state struct {
	name     types.NamespacedName
	now      time.Time
	vm       *v1alpha1.VirtualMesh         // empty if it is gone
	accepted *v1alpha1.AcceptedVirtualMesh // nil if it is gone or being deleted
	known    *membership.VirtualMesh       // by it members are known by what they were accepted with; nil as accepted is
	trust    *accept.Trust                 // that was accepted; nil if there is none to provide a root for
	roots    []roots.Root                  // all there are, the oldest first
	foreign  []roots.Root                  // those of other virtual meshes under which members still sign
	root     *roots.Root                   // the one that is wanted; nil if there is none or it is lost
	orders   map[rotation.MeshID]*orderOf  // the orders of members, and those retained
	listed   map[rotation.MeshID]bool      // the members, as all that follows by the names of their orders
	members  map[rotation.MeshID]*memberOf // those to which the trust applies
	apart    map[rotation.MeshID]*memberOf // members that are to have roots of their own, by the orders of their CAs
	own      map[rotation.MeshID]*roots.Root
	evidence map[rotation.MeshID]rotation.Evidence
	beyond   map[rotation.MeshID]pki.RootID // lost roots to which agents say that they have come, beyond their orders
	doubted  time.Time                      // when to look again at what agents say of later issuances; zero if none does
	held     finding.Findings               // members to which nothing can be ordered yet, and why
	notice   *problem                       // why another root than root is not taken, although it may be wanted
	passes   bool                           // what is wrong with one that was provided, or is in use, passes by itself
	needed   bool                           // one that is retired cannot be erased yet
	words    []v1alpha1.CertificateVerification
}

type (
	orderOf  = v1alpha1.IssuedCertificate
	memberOf = v1alpha1.Mesh
)

// observe reads it.
func (r *Reconciler) observe(ctx context.Context, name types.NamespacedName, vm *v1alpha1.VirtualMesh) (*state, error) {
	s := &state{
		name: name, now: r.Now(), vm: vm,
		orders:   map[rotation.MeshID]*orderOf{},
		listed:   map[rotation.MeshID]bool{},
		members:  map[rotation.MeshID]*memberOf{},
		apart:    map[rotation.MeshID]*memberOf{},
		own:      map[rotation.MeshID]*roots.Root{},
		evidence: map[rotation.MeshID]rotation.Evidence{},
		beyond:   map[rotation.MeshID]pki.RootID{},
	}
	if vm.DeletionTimestamp.IsZero() {
		s.accepted, s.known, s.trust = vm.Status.Accepted, membership.Of(vm, nil), accept.TrustIn(vm.Status.Accepted)
	}
	var err error
	if s.roots, err = r.Roots.List(ctx, name); err != nil {
		return nil, err
	}
	for _, look := range []func(context.Context, *state) error{r.observeOrders, r.observeMembers, r.observeEvidence, r.observeClusters, r.observeWords} {
		if err := look(ctx, s); err != nil {
			return nil, err
		}
	}
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
		if s.owns(ic) && ic.DeletionTimestamp.IsZero() {
			s.orders[rotation.MeshID{Namespace: ic.Namespace, Name: ic.Name}] = ic
		}
	}
	return nil
}

// owns tells whether an order was made for this virtual mesh.
func (s *state) owns(ic *v1alpha1.IssuedCertificate) bool {
	ref := ic.Spec.VirtualMesh
	return ref.Name == s.name.Name && ref.Namespace == s.name.Namespace
}

func (r *Reconciler) observeMembers(ctx context.Context, s *state) error {
	if s.trust == nil {
		return nil
	}
	for _, ref := range s.accepted.Spec.Meshes {
		id := s.order(ref)
		s.listed[id] = true
		mesh := &v1alpha1.Mesh{}
		err := r.Client.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, mesh)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err != nil || s.trust.Problem(mesh) != nil || s.hosts(mesh) == nil {
			continue // it keeps the order that it has
		}
		s.members[id] = mesh
		if ca := (rotation.MeshID{Namespace: ref.Namespace, Name: ref.Name}); ca != id && s.orders[ca] != nil && s.accepted.Spec.MTLSConfig.Limited.OwnRoots {
			s.apart[ca] = mesh
		}
		if s.orders[id] != nil {
			continue
		}
		// It may come from another virtual mesh; the count of issuances goes on.
		ic := &v1alpha1.IssuedCertificate{}
		err = r.Reader.Get(ctx, types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, ic)
		switch {
		case err == nil:
			s.orders[id] = ic
		case !apierrors.IsNotFound(err):
			return err
		default: // what CA it came with matters now
			if err := r.Reader.Get(ctx, client.ObjectKeyFromObject(mesh), mesh); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Reconciler) observeEvidence(ctx context.Context, s *state) error {
	for id, ic := range s.orders {
		e, err := rotation.Observe(ic)
		if err != nil {
			return fmt.Errorf("IssuedCertificate %s/%s: %w", ic.Namespace, ic.Name, err)
		}
		if err := r.observeForeign(ctx, s, e.Order); err != nil {
			return err
		}
		if err := r.observeSignatures(ctx, s, id, ic, &e); err != nil {
			return err
		}
		if ok, err := r.credible(ctx, s, id, e); err != nil {
			return err
		} else if !ok {
			e.Carried = nil
		}
		s.evidence[id] = e
	}
	for id, mesh := range s.members {
		if s.orders[id] != nil {
			continue
		}
		var e rotation.Evidence
		var why *finding.Finding
		if e.Own, why = s.comesWith(mesh); why != nil {
			why.Mesh = id.String()
			s.held = append(s.held, *why)
			continue
		}
		e.MultiRoot, e.Proxies = liveness(mesh)
		if err := r.observeSignatures(ctx, s, id, nil, &e); err != nil {
			return err
		}
		s.evidence[id] = e
	}
	slices.SortFunc(s.held, func(a, b finding.Finding) int { return cmp.Compare(a.Mesh, b.Mesh) })
	return nil
}

// order is that of a mesh under the trust that was accepted.
func (s *state) order(mesh v1alpha1.ObjectRef) rotation.MeshID {
	return rotation.MeshID{Namespace: mesh.Namespace, Name: s.trust.Order(mesh.Name)}
}

// concerns tells whether an order is for what the trust that was accepted is for. Those of another one, which a virtual mesh had
// before, are retained.
func (s *state) concerns(id rotation.MeshID) bool {
	_, purpose := membership.OrderedFor(id.Name)
	return s.trust == nil || purpose == s.trust.Purpose
}

// comesWith is what a mesh without an order has already. A finding says why nothing can be ordered yet.
func (s *state) comesWith(mesh *v1alpha1.Mesh) (*rotation.Own, *finding.Finding) {
	if !s.trust.ByGateways() {
		return ownCA(mesh)
	}
	if ingressOf(mesh) == nil {
		return nil, &finding.Finding{Reason: ReasonNoGateway, Message: "it has no gateways of limited trust: install the chart isthmus-gateways in its cluster (meshctl gateway install)"}
	}
	return nil, nil //nolint:nilnil // gateways have nothing before
}

// ingressOf is the gateway by which others enter a mesh under limited trust; nil if there is none.
func ingressOf(mesh *v1alpha1.Mesh) *v1alpha1.IngressGateway {
	i := slices.IndexFunc(mesh.Spec.Istio.Gateways, func(g v1alpha1.IngressGateway) bool { return g.Class == v1alpha1.GatewayLimitedIngress })
	if i < 0 {
		return nil
	}
	return &mesh.Spec.Istio.Gateways[i]
}

// observeForeign finds the roots of other virtual meshes under which the hub has ordered intermediates of members: they have
// come from there.
func (r *Reconciler) observeForeign(ctx context.Context, s *state, o *rotation.Order) error {
	ordered := []rotation.Intermediate{{Issuance: o.Issuance, Signer: o.Signer}}
	if o.Prepared != nil {
		ordered = append(ordered, *o.Prepared)
	}
	for _, i := range ordered {
		if i.Issuance == 0 || s.find(i.Signer) != nil {
			continue
		}
		root, err := r.Roots.Find(ctx, i.Signer)
		if roots.IsLost(err) {
			continue
		}
		if err != nil {
			return err
		}
		if root.Of(s.name) { // it has come back since the roots were listed, of which its Secret will tell
			continue
		}
		s.foreign = append(s.foreign, root)
	}
	return nil
}

// credible tells whether the hub may take up what an agent says that it carried out last. It may go beyond the order that
// stands, if the hub came out of a backup; but nobody gets to a root of another virtual mesh by saying so, nor beyond what
// can be written.
//
// Nor to a root of which there is no Secret. After a restore from a backup that is too old, that is one which was made since and
// is lost; else it may be the root of whoever has stolen the agent's credential, and the two cannot be told apart. So it is not
// taken up, which would make the mesh trust it, and as a signer would bring all to a halt as a lost one; and the order is not moved
// either, which could in time take the mesh back from a root that is in use. It goes on when the Secret is there.
func (r *Reconciler) credible(ctx context.Context, s *state, mesh rotation.MeshID, e rotation.Evidence) (bool, error) {
	c, o := e.Carried, e.Order
	if c == nil {
		return true, nil
	}
	if p := c.Position; p != nil && (len(p.ID) > maxID || p.Turn > maxAhead || p.Nudges > maxAhead) {
		return false, nil
	}
	highest := max(c.Issuance, c.Latest)
	if c.Prepared != nil {
		highest = max(highest, c.Prepared.Issuance)
	}
	if highest > o.Issuance+maxAhead || len(c.Roots) > maxOrdered-2 || c.Nudge > o.Nudge+maxAhead {
		return false, nil
	}
	ordered := namedIn(o)
	for _, id := range namedIn(c) {
		if s.find(id) != nil {
			continue
		}
		_, err := r.Roots.Find(ctx, id)
		switch lost := roots.IsLost(err); {
		case err != nil && !lost, !lost && !slices.Contains(ordered, id):
			return false, err
		case lost && c.Serial >= o.Serial && (names(*c, id) && !names(*o, id) || signs(*c, id) && !signs(*o, id)):
			s.beyond[mesh] = id
			return false, nil
		}
	}
	return true, nil
}

// signs tells whether the hub signs under a root what an order puts in use.
func signs(o rotation.Order, id pki.RootID) bool { return o.Issuance > 0 && o.Signer == id }

// namedIn are the roots that an order names. Those of a rotation are named by it for good, also that of another virtual mesh from
// which a mesh has come.
func namedIn(o *rotation.Order) []pki.RootID {
	out := append([]pki.RootID{o.Signer}, o.Roots...)
	if o.Prepared != nil {
		out = append(out, o.Prepared.Signer)
	}
	if p := o.Position; p != nil {
		out = append(out, p.Old, p.New)
	}
	return out
}

// Bounds of what is written into an order.
const (
	// maxAhead is how far an agent's word alone can move what is counted.
	maxAhead = 1 << 20
	// maxOrdered is how many roots an order takes.
	maxOrdered = 8
	// maxID is how long the ID of a rotation may be, so that the count of turns can follow it.
	maxID = 48
)

// ownCA is the CA that a mesh without an order has; nil if it has none. A finding says why nothing can be ordered yet.
func ownCA(mesh *v1alpha1.Mesh) (*rotation.Own, *finding.Finding) {
	hold := func(reason, message string) (*rotation.Own, *finding.Finding) {
		return nil, &finding.Finding{Reason: reason, Message: message}
	}
	ca := mesh.Status.CertificateAuthority
	switch {
	case ca == nil:
		return hold(v1alpha1.ReasonWaitingForAgents, "the CA that it uses is not known yet: wait until its agent has reported it")
	case len(ca.InUse) > 0 && !slices.Equal(ca.InUse, []string{ca.Signer}):
		return hold(v1alpha1.ReasonRestartRequired, "its istiods serve under another CA than its Secret holds: restart istiod, every replica, so that it takes up the Secret")
	case ca.Signer == "" && len(ca.Roots) > 0:
		return hold(v1alpha1.ReasonWaitingForAgents, "istiod publishes roots, and the CA that it uses is not seen: see that istiod runs")
	case ca.Signer == "":
		return nil, nil //nolint:nilnil // it has no CA
	}
	own := &rotation.Own{Key: ca.Source == v1alpha1.CASourceSelfSigned}
	var err error
	if own.Signer, err = pki.ParseRootID(ca.Signer); err != nil {
		return hold(v1alpha1.ReasonInvalid, "status.certificateAuthority.signer of its Mesh: "+err.Error())
	}
	for _, text := range ca.Roots {
		id, err := pki.ParseRootID(text)
		if err != nil {
			return hold(v1alpha1.ReasonInvalid, "status.certificateAuthority.roots of its Mesh: "+err.Error())
		}
		own.Roots = append(own.Roots, id)
	}
	if len(own.Roots) > maxOrdered-2 {
		return hold(v1alpha1.ReasonInvalid, fmt.Sprintf("it distributes %d roots, and %d at most can be taken over: remove those that nobody uses from root-cert.pem of its cacerts Secret", len(own.Roots), maxOrdered-2))
	}
	for _, id := range append(own.Roots, own.Signer) {
		if _, ok := certificateOf(id, ca.RootCertificates); !ok {
			return hold(v1alpha1.ReasonWaitingForAgents, "the certificate of its root "+id.Short()+" is not known yet: wait until its agent has reported it, or update the agent")
		}
	}
	return own, nil
}

// liveness tells of a mesh without an order what in it takes changed roots without a restart. Nothing else is known of its
// proxies.
func liveness(mesh *v1alpha1.Mesh) (multiRoot bool, proxies *rotation.Proxies) {
	multiRoot = len(mesh.Spec.Istio.Revisions) > 0
	for _, c := range mesh.Spec.Istio.Revisions {
		multiRoot = multiRoot && c.MultiRootMesh
	}
	if ca := mesh.Status.CertificateAuthority; ca != nil && ca.LiveProxies != nil {
		proxies = &rotation.Proxies{Total: int(ca.LiveProxies.Total), Live: int(ca.LiveProxies.Done)}
	}
	return multiRoot, proxies
}

// certificateOf finds the certificate of a root, if it is that.
func certificateOf(id pki.RootID, among []v1alpha1.RootCertificate) (string, bool) {
	for _, c := range among {
		if c.Fingerprint != id.String() {
			continue
		}
		if root, err := pki.ParseRoot([]byte(c.Certificate)); err == nil && root.ID() == id {
			return c.Certificate, true
		}
	}
	return "", false
}

// observeClusters tells whose agent is not connected.
func (r *Reconciler) observeClusters(ctx context.Context, s *state) error {
	var clusters v1alpha1.KubernetesClusterList
	if err := r.Client.List(ctx, &clusters, client.InNamespace(r.Namespace)); err != nil {
		return err
	}
	connected := map[string]bool{}
	for i := range clusters.Items {
		kc := &clusters.Items[i]
		connected[kube.ClusterNamespace(kc.Name)] = meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected)
	}
	for id, e := range s.evidence {
		e.Away = !connected[id.Namespace]
		s.evidence[id] = e
	}
	return nil
}

// observeSignatures adds to the agent's evidence what was signed: by the record of the requests, which agents cannot change,
// and by the agent's word where there is no such record, as after a restore from a backup. ic is nil if there is no order.
//
// What the cache does not have yet must neither be ordered once more, nor be taken for what an agent alone knows.
func (r *Reconciler) observeSignatures(ctx context.Context, s *state, id rotation.MeshID, ic *v1alpha1.IssuedCertificate, e *rotation.Evidence) error {
	signed, err := signatures(ctx, r.Client, id, e)
	if err == nil && (ic == nil || slices.ContainsFunc(reported(ic), func(c *v1alpha1.IntermediateStatus) bool { return e.Ahead(c.Issuance) })) {
		signed, err = signatures(ctx, r.Reader, id, e)
	}
	if err != nil || ic == nil {
		return err
	}
	recorded := *e
	for _, c := range reported(ic) {
		if c.Issuance >= e.Order.Issuance+maxAhead {
			continue
		}
		if recorded.Doubtful(c.Issuance, s.now) {
			s.doubt(e)
			continue
		}
		e.LastIssuance = max(e.LastIssuance, c.Issuance)
		if signed[c.Issuance] == nil {
			signed[c.Issuance] = &rotation.Period{SignedAt: c.NotBefore.Add(pki.ClockSkew), NotAfter: c.NotAfter.Time}
		}
	}
	if e.Order.Issuance > 0 {
		e.Signed = signed[e.Order.Issuance]
	}
	if p := e.Order.Prepared; p != nil && p.Issuance > 0 {
		e.PreparedSigned = signed[p.Issuance]
	}
	return nil
}

// signatures are the validities of what was signed for an order, by their issuances. The last of them is added to the evidence.
func signatures(ctx context.Context, reader client.Reader, order rotation.MeshID, e *rotation.Evidence) (map[int64]*rotation.Period, error) {
	requests := &v1alpha1.CertificateRequestList{}
	if err := reader.List(ctx, requests, client.InNamespace(order.Namespace)); err != nil {
		return nil, err
	}
	signed := map[int64]*rotation.Period{}
	for i := range requests.Items {
		cr := &requests.Items[i]
		if cr.Spec.IssuedCertificate != order.Name || cr.Status.State != v1alpha1.CertificateRequestFinished {
			continue
		}
		e.LastIssuance = max(e.LastIssuance, cr.Spec.Issuance)
		p := periodOf(cr)
		signed[cr.Spec.Issuance] = p
		if p != nil && p.SignedAt.After(e.LastSigned) {
			e.LastSigned = p.SignedAt
		}
	}
	return signed, nil
}

// reported are the intermediates that an agent says to have.
func reported(ic *v1alpha1.IssuedCertificate) []*v1alpha1.IntermediateStatus {
	return slices.DeleteFunc([]*v1alpha1.IntermediateStatus{ic.Status.Certificate, ic.Status.Prepared},
		func(c *v1alpha1.IntermediateStatus) bool { return c == nil })
}

// doubt has a look at a mesh again when what its agent says is to be taken.
func (s *state) doubt(e *rotation.Evidence) {
	s.doubted = earlier(s.doubted, e.LastSigned.Add(rotation.ReportInterval))
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

// find returns a root by its fingerprint, the best of several Secrets of it.
func (s *state) find(id pki.RootID) *roots.Root {
	var found *roots.Root
	for _, all := range [][]roots.Root{s.roots, s.foreign} {
		for i := range all {
			if r := &all[i]; r.ID() == id && (found == nil || r.BetterThan(*found)) {
				found = r
			}
		}
	}
	return found
}

// intent is what is wanted of the members, and of meshes that hold an intermediate without being members.
func (s *state) intent() rotation.Intent {
	in := rotation.Intent{
		Root:       s.root.ID(),
		RootPeriod: validity(s.root),
		RootRatio:  s.rootRatio(),
		Members:    map[rotation.MeshID]rotation.Member{},
		Rotation: &rotation.Rotation{
			ID:      fmt.Sprintf("r%d-%.8s", s.root.Generation, s.root.ID().String()),
			Words:   s.spoken(),
			Periods: map[pki.RootID]rotation.Period{},
		},
	}
	for _, all := range [][]roots.Root{s.roots, s.foreign} {
		for i := range all {
			if r := &all[i]; r.Problem == nil {
				in.Rotation.Periods[r.ID()] = validity(r)
			}
		}
	}
	in.Rotation.Keys = s.keysFor(s.root)
	for id, ic := range s.orders {
		if s.apart[id] != nil {
			continue
		}
		m := asOrdered(ic)
		m.Retained = !s.listed[id]
		in.Members[id] = m
	}
	if s.trust == nil {
		return in
	}
	in.Rotation.Strategy = s.accepted.Spec.MTLSConfig.RotationStrategy
	in.Rotation.Verification = verification(s.accepted.Spec.MTLSConfig.RotationVerificationMethod)
	replicas := ""
	if s.trust.ByGateways() {
		replicas = "gateway"
	}
	for id, mesh := range s.members {
		if len(s.held.About(id.String())) > 0 {
			continue
		}
		in.Members[id] = rotation.Member{
			Contents: rotation.ContentsOf(s.hosts(mesh), s.trust.Options),
			Ratio:    ratio(s.trust.Options.SecretRotationGracePeriodRatio),
			Replicas: replicas,
		}
	}
	return in
}

// asOrdered is what is wanted of a mesh that goes on with what it has.
func asOrdered(ic *orderOf) rotation.Member {
	return rotation.Member{
		Contents: rotation.ContentsOf(ic.Spec.Hosts, ic.Spec.CertOptions),
		Ratio:    ratio(ic.Spec.CertOptions.SecretRotationGracePeriodRatio),
	}
}

// rootRatio is the part of the validity of a root that is left when it is to be replaced.
func (s *state) rootRatio() pki.Ratio {
	if s.trust != nil && s.trust.Root != nil && s.trust.Root.Generated != nil {
		return ratio(accept.RootOptions(s.trust.Root.Generated).SecretRotationGracePeriodRatio)
	}
	if s.root != nil && s.root.Source.Generated != nil {
		return ratio(s.root.Source.Generated.SecretRotationGracePeriodRatio)
	}
	return pki.DefaultRatio
}

func validity(r *roots.Root) rotation.Period {
	return rotation.Period{SignedAt: r.Certificate.Certificate().NotBefore, NotAfter: r.NotAfter()}
}

// canCrossSign tells whether the key of a root is at hand, with room for another root and a mesh's CA below.
func canCrossSign(r *roots.Root) bool {
	if r.Problem != nil || r.Foreign() || pki.RootOf(r.Material.Certificate).ID() != r.ID() {
		return false
	}
	c := r.Material.Certificate
	limited := c.MaxPathLen > 0 || c.MaxPathLenZero
	return !limited || c.MaxPathLen >= 2
}

// verification is automatic unless something else is chosen.
func verification(m *v1alpha1.RotationVerificationMethod) rotation.Verification {
	switch {
	case m == nil:
	case m.Manual != nil:
		return rotation.Verification{Method: rotation.Manual}
	case m.None != nil:
		return rotation.Verification{Method: rotation.None}
	case m.Automatic != nil && m.Automatic.Soak != nil:
		return rotation.Verification{Soak: m.Automatic.Soak.Duration}
	}
	return rotation.Verification{}
}

// hosts are the identities of a mesh's CA, which is the SPIFFE ID of its istiod, or of its gateways. The trust domain is that with
// which the mesh was accepted, whatever it reports; there are none as long as it was accepted with none.
func (s *state) hosts(m *v1alpha1.Mesh) []string {
	if s.trust.ByGateways() {
		return []string{membership.GatewayIdentity(kube.Qualified(s.name.Name, s.name.Namespace), v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace})}
	}
	i := s.known.AsAccepted(m).Spec.Istio
	if i.TrustDomain == "" {
		return nil
	}
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
