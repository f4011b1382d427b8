package rotation

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Stage is how far a mesh has come from one root to another.
type Stage int

// Stages, in the order in which they are passed; backwards when a rotation is rolled back.
const (
	OldOnly  Stage = iota // signs under old, trusts old
	OldSigns              // signs under old, trusts both
	NewSigns              // signs under new, trusts both
	NewOnly               // signs under new, trusts new
)

// track is the table of steps. From each stage only those beside it can be reached, and both directions obey the same two
// laws: nobody signs under a root before everybody trusts it, and nobody ceases to trust a root before everybody has ceased
// to use it.
var track = [...]struct {
	newSigner          bool
	trustOld, trustNew bool
	// forth and back are the names of the step that leads here, place is what a person calls it who speaks of it.
	forth, back, place v1alpha1.RotationStep
}{
	OldOnly:  {newSigner: false, trustOld: true, trustNew: false, forth: v1alpha1.StepPreviousCA, back: v1alpha1.StepPreviousCA, place: v1alpha1.StepPreviousCA},
	OldSigns: {newSigner: false, trustOld: true, trustNew: true, forth: v1alpha1.StepAddingNewRoot, back: v1alpha1.StepRollingBack, place: v1alpha1.StepAddingNewRoot},
	NewSigns: {newSigner: true, trustOld: true, trustNew: true, forth: v1alpha1.StepPropagatingNewIntermediate, back: v1alpha1.StepRollingBack, place: v1alpha1.StepPropagatingNewIntermediate},
	NewOnly:  {newSigner: true, trustOld: false, trustNew: true, forth: v1alpha1.StepDeletingOldRoot, back: v1alpha1.StepDeletingOldRoot, place: v1alpha1.StepDeletingOldRoot},
}

// Position places an order in a rotation.
type Position struct {
	// ID of the rotation.
	ID string
	// Turn counts how often the rotation was turned round.
	Turn int64
	// Old and New are the roots between which it goes.
	Old, New pki.RootID
	// Stage that the order leads to, and whether it goes back there.
	Stage Stage
	Back  bool
	// Alone: the rotation is that of this mesh alone, which joins.
	Alone bool
	// Nudges counts those given at this stage.
	Nudges int32
	// Half: the way back takes two orders, and this is the first. A mesh that signed under new ahead of its time first signs
	// under old again.
	Half bool
	// Closed: the rotation is over, at this end of it.
	Closed bool
}

// RotationID is the name by which people speak of the rotation. It changes when the rotation is turned round, so that what
// was said before that is not taken for something said after it.
func (p Position) RotationID() string {
	if p.Turn == 0 {
		return p.ID
	}
	return fmt.Sprintf("%s.%d", p.ID, p.Turn)
}

// Step is the name of the step.
func (p Position) Step() v1alpha1.RotationStep {
	if p.Back {
		return track[p.Stage].back
	}
	return track[p.Stage].forth
}

// place is the name of the stage in a person's word.
func (p Position) place() v1alpha1.RotationStep { return track[p.Stage].place }

// samePair tells whether two positions are between the same roots.
func (p Position) samePair(q *Position) bool { return q != nil && q.Old == p.Old && q.New == p.New }

// end is where the rotation ends in its direction.
func (p Position) end() Stage {
	if p.Back {
		return OldOnly
	}
	return NewOnly
}

// toward is the stage after s in the direction of p.
func (p Position) toward(s Stage) Stage {
	if p.Back {
		return max(s-1, OldOnly)
	}
	return min(s+1, NewOnly)
}

// reached tells whether s is at p's stage, or past it.
func (p Position) reached(s Stage) bool {
	if p.Back {
		return s <= p.Stage
	}
	return s >= p.Stage
}

// turned is the position after the rotation was turned round: the stage that it came from.
func (p Position) turned() Position {
	p.Back = !p.Back
	p.Stage = p.toward(p.Stage)
	p.Turn++
	return p
}

// stage is where an order stands in the rotation of p; false if it has no place in it.
func (p Position) stage(o *Order) (Stage, bool) {
	switch {
	case o == nil:
		return 0, false
	case p.samePair(o.Position):
		return o.Position.Stage, true
	case o.Signer == p.Old && !slices.Contains(o.Roots, p.New):
		return OldOnly, true
	case o.Signer == p.New && slices.Equal(o.Roots, []pki.RootID{p.New}):
		return NewOnly, true
	}
	return 0, false
}

// signer at the stage of p.
func (p Position) signer() pki.RootID {
	if track[p.Stage].newSigner {
		return p.New
	}
	return p.Old
}

// other is the root of the rotation that is not r.
func (p Position) other(r pki.RootID) pki.RootID {
	if r == p.New {
		return p.Old
	}
	return p.New
}

// roots are those of an order that had the given ones and is at the stage of p now. They are never reordered: before 1.31,
// istiod compares bundles by their bytes.
func (p Position) roots(had []pki.RootID) []pki.RootID {
	switch row := track[p.Stage]; {
	case p.Half:
		return had
	case !row.trustOld:
		return []pki.RootID{p.New}
	case !row.trustNew:
		return without(had, p.New)
	}
	return with(with(had, p.Old), p.New)
}

// dropped is the root that is not trusted any more at the stage of p.
func (p Position) dropped() (pki.RootID, bool) {
	switch {
	case p.Stage == OldOnly && !p.Half:
		return p.New, true
	case p.Stage == NewOnly:
		return p.Old, true
	}
	return pki.RootID{}, false
}

// movesLeaves tells whether the step to p changes the signer and not the roots, so that nothing moves leaves but a nudge.
func (p Position) movesLeaves() bool {
	return p.Stage == NewSigns && !p.Back || p.Stage == OldSigns && p.Back || p.Half
}

func with(ids []pki.RootID, id pki.RootID) []pki.RootID {
	if slices.Contains(ids, id) {
		return slices.Clone(ids)
	}
	return append(slices.Clone(ids), id)
}

func without(ids []pki.RootID, id pki.RootID) []pki.RootID {
	return slices.DeleteFunc(slices.Clone(ids), func(r pki.RootID) bool { return r == id })
}
