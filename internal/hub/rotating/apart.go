package rotating

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// ReasonSharesRoot says that a member still has a CA under a root that it shared with others, and what is waited for to give it one of
// its own.
const ReasonSharesRoot = "SharesRoot"

// separate adds to a plan what gives members roots of their own where trust was shared before it was limited: for each a rotation in
// its mesh alone, one after the other. None begins before the gateways are as ordered and every member has left the way that needs the
// root in common; what is under way goes on.
func (r *Reconciler) separate(ctx context.Context, s *state, plan *rotation.Plan) error {
	may := s.rests(*plan) && !slices.ContainsFunc(slices.Collect(maps.Values(s.members)), func(m *memberOf) bool { return !s.hasApplied(m) })
	ids := slices.SortedFunc(maps.Keys(s.apart), func(a, b rotation.MeshID) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	for _, id := range ids {
		root := s.ownRoot(id)
		rests := root != nil && s.evidence[id].Order.Signer == root.ID() && !s.turns(id)
		if !rests && !s.turns(id) && !may { // it goes on with what it has
			plan.Findings = append(plan.Findings, finding.Finding{Mesh: id.String(), Reason: ReasonSharesRoot,
				Message: "it gets a root of its own when the gateways of all members are as ordered, and every member reaches the others through them"})
			root = s.find(s.evidence[id].Order.Signer)
		}
		if root == nil && may {
			var err error
			if root, err = r.makeOwnRoot(ctx, s, id); err != nil {
				return err
			}
		}
		if root == nil {
			continue // the root that it has is lost, which is said
		}
		s.own[id] = root
		alone := rotation.Next(s.alone(id, root), map[rotation.MeshID]rotation.Evidence{id: s.evidence[id]}, s.now)
		may = may && len(alone.Waiting) == 0 && !isOpen(alone.Orders[id]) // the next one waits for this one
		include(plan, alone)
	}
	return nil
}

// hasApplied tells whether a member reaches the others as the virtual mesh has it now.
func (s *state) hasApplied(mesh *memberOf) bool {
	return slices.ContainsFunc(mesh.Status.AppliedVirtualMeshes, func(a v1alpha1.AppliedVirtualMesh) bool {
		return a.Name == kube.Qualified(s.name.Name, s.name.Namespace) && a.Generation >= s.accepted.Generation
	})
}

// turns tells whether a mesh is on its way from one root to another.
func (s *state) turns(id rotation.MeshID) bool { return isOpen(*s.evidence[id].Order) }

func isOpen(o rotation.Order) bool { return o.Position != nil && !o.Position.Closed }

// ownRoot is the newest root of a mesh alone that can sign and is not to be replaced because of its age; nil if there is none.
func (s *state) ownRoot(id rotation.MeshID) *roots.Root {
	for i := len(s.roots) - 1; i >= 0; i-- {
		r := &s.roots[i]
		o := s.evidence[id].Order
		turns := isOpen(*o) && (o.Position.Old == r.ID() || o.Position.New == r.ID())
		if r.Source.Mesh == id.String() && r.Problem == nil && (turns || s.now.Before(s.replaceAt(r))) {
			return r
		}
	}
	return nil
}

// makeOwnRoot generates a root for a mesh alone, as the one that it shared was, if that was generated.
func (r *Reconciler) makeOwnRoot(ctx context.Context, s *state, id rotation.MeshID) (*roots.Root, error) {
	options := accept.RootOptions(nil)
	if shared := s.find(s.evidence[id].Order.Signer); shared != nil && shared.Source.Generated != nil {
		options = *shared.Source.Generated
	}
	root := roots.Root{
		Generation: s.lastGeneration() + 1, Role: v1alpha1.RootIncoming,
		Source: accept.RootSource{Generated: &options, Mesh: id.String()},
	}
	var err error
	if root.Material, err = r.generate(s.name, root.Generation, root.Source); err != nil {
		return nil, err
	}
	root.Certificate = root.Material.Root
	if err := r.keepRoot(ctx, s, root, ReasonRootGenerated); err != nil {
		return nil, err
	}
	made := s.ownRoot(id)
	if made == nil {
		return nil, fmt.Errorf("root %s was made and is not there", root.ID().Short())
	}
	return made, nil
}

// alone is what is wanted of a mesh by itself.
func (s *state) alone(id rotation.MeshID, root *roots.Root) rotation.Intent {
	in := s.intent()
	in.Root, in.RootPeriod = root.ID(), validity(root)
	if root.Source.Generated != nil {
		in.RootRatio = ratio(root.Source.Generated.SecretRotationGracePeriodRatio)
	}
	in.Rotation.ID = fmt.Sprintf("r%d-%.8s", root.Generation, root.ID().String())
	in.Rotation.Keys = s.keysFor(root)
	in.Members = map[rotation.MeshID]rotation.Member{id: asOrdered(s.orders[id])}
	return in
}

// include adds the plan of a mesh by itself to that of the virtual mesh. Of several rotations, that of the gateways is told of first.
func include(plan *rotation.Plan, alone rotation.Plan) {
	maps.Copy(plan.Orders, alone.Orders)
	maps.Copy(plan.Issued, alone.Issued)
	plan.Changed = append(plan.Changed, alone.Changed...)
	plan.Findings = append(plan.Findings, alone.Findings...)
	plan.Waiting = append(plan.Waiting, alone.Waiting...)
	if plan.Next.IsZero() || !alone.Next.IsZero() && alone.Next.Before(plan.Next) {
		plan.Next = alone.Next
	}
	for i, state := range alone.Words {
		if plan.Words[i] == v1alpha1.VerificationInvalid {
			plan.Words[i] = state
		}
	}
	told := plan.Step != v1alpha1.StepNotRotating && plan.Step != v1alpha1.StepFinished && plan.Step != v1alpha1.StepPreviousCA
	active := false
	for _, o := range alone.Orders {
		active = active || isOpen(o)
	}
	if !told && (active || plan.RotationID == "") && alone.RotationID != "" {
		plan.Step, plan.RotationID, plan.Place = alone.Step, alone.RotationID, alone.Place
	}
}

// ownRole is the part of a root of one mesh alone.
func (s *state) ownRole(root *roots.Root, plan rotation.Plan) v1alpha1.RootRole {
	signs := slices.ContainsFunc(slices.Collect(maps.Values(plan.Orders)), func(o rotation.Order) bool { return o.Signer == root.ID() })
	wanted := slices.ContainsFunc(slices.Collect(maps.Values(s.own)), func(r *roots.Root) bool { return r.ID() == root.ID() })
	switch {
	case signs:
		return v1alpha1.RootSigning
	case wanted:
		return v1alpha1.RootIncoming
	case refersTo(plan, root.ID()):
		return v1alpha1.RootOutgoing
	}
	return v1alpha1.RootRetired
}

// keysFor are the roots whose keys are at hand to certify another one.
func (s *state) keysFor(root *roots.Root) (out []pki.RootID) {
	for i := range s.roots {
		if r := &s.roots[i]; canCrossSign(r) && r.Certificate.MayCertify(root.Certificate) {
			out = append(out, r.ID())
		}
	}
	return out
}
