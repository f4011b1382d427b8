package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// OrderOf reads an order.
func OrderOf(ic *v1alpha1.IssuedCertificate) (Order, error) {
	o, err := orderOf(ic.Spec.Carried())
	if err != nil {
		return Order{}, fmt.Errorf("spec.%w", err)
	}
	o.Contents = ContentsOf(ic.Spec.Hosts, ic.Spec.CertOptions)
	return o, nil
}

// orderOf reads all of an order but its contents. An error begins with the field that is at fault.
func orderOf(c *v1alpha1.CarriedOrder) (Order, error) {
	o := Order{Serial: c.Serial, Issuance: c.Issuance, Latest: c.Latest, Cross: c.CrossCertified}
	if c.Restart != nil {
		o.Restart = Restart{Istiod: c.Restart.Istiod, Workloads: c.Restart.Workloads}
	}
	var err error
	if o.Signer, err = pki.ParseRootID(c.Signer); err != nil {
		return Order{}, fmt.Errorf("signer: %w", err)
	}
	for i, r := range c.Roots {
		id, err := pki.ParseRootID(r)
		if err != nil {
			return Order{}, fmt.Errorf("roots[%d]: %w", i, err)
		}
		o.Roots = append(o.Roots, id)
	}
	if c.Prepared != nil {
		o.Prepared = &Intermediate{Issuance: c.Prepared.Issuance}
		if o.Prepared.Signer, err = pki.ParseRootID(c.Prepared.Signer); err != nil {
			return Order{}, fmt.Errorf("prepared.signer: %w", err)
		}
	}
	if c.Rotation != nil {
		if o.Position, err = positionOf(c.Rotation); err != nil {
			return Order{}, fmt.Errorf("rotation.%w", err)
		}
		o.Nudge = c.Rotation.Nudge
	}
	return o, nil
}

// stageNames are the stages in the API.
var stageNames = [...]v1alpha1.RotationStage{
	OldOnly: v1alpha1.StageOldOnly, OldSigns: v1alpha1.StageOldSigns, NewSigns: v1alpha1.StageNewSigns, NewOnly: v1alpha1.StageNewOnly,
}

func (s Stage) name() v1alpha1.RotationStage { return stageNames[s] }

func positionOf(r *v1alpha1.OrderRotation) (*Position, error) {
	p := &Position{ID: r.RotationID, Turn: r.Turn, Back: r.Back, Alone: r.Alone, Nudges: r.Nudges, Half: r.Half, Closed: r.Closed}
	stage := slices.Index(stageNames[:], r.Stage)
	if stage < 0 {
		return nil, fmt.Errorf("stage: %q is none", r.Stage)
	}
	p.Stage = Stage(stage)
	if r.Turn > 0 {
		var ok bool
		if p.ID, ok = strings.CutSuffix(r.RotationID, fmt.Sprintf(".%d", r.Turn)); !ok {
			return nil, fmt.Errorf("rotationID: %q does not end with the turn, .%d", r.RotationID, r.Turn)
		}
	}
	var err error
	if p.Old, err = pki.ParseRootID(r.Old); err != nil {
		return nil, fmt.Errorf("old: %w", err)
	}
	if p.New, err = pki.ParseRootID(r.New); err != nil {
		return nil, fmt.Errorf("new: %w", err)
	}
	return p, nil
}

// Write writes the order into a spec, so that OrderOf reads it again. What is no part of an order stays as it is, and so do
// the certificates of the roots and the cross-certificate, which are for the caller to fill in.
func (o Order) Write(spec *v1alpha1.IssuedCertificateSpec) {
	spec.Serial, spec.Issuance, spec.Latest, spec.Signer = o.Serial, o.Issuance, o.Latest, o.Signer.String()
	spec.Restart = v1alpha1.RequiredRestart{Istiod: o.Restart.Istiod, Workloads: o.Restart.Workloads}
	spec.Hosts = o.Contents.Hosts
	spec.CertOptions.OrgName = o.Contents.Organization
	spec.CertOptions.TTLDays, spec.CertOptions.RSAKeySizeBytes = &o.Contents.TTLDays, &o.Contents.KeyBits
	spec.Roots = nil
	for _, id := range o.Roots {
		spec.Roots = append(spec.Roots, v1alpha1.RootCertificate{Fingerprint: id.String()})
	}
	spec.Prepared = nil
	if p := o.Prepared; p != nil {
		spec.Prepared = &v1alpha1.PreparedIntermediate{Issuance: p.Issuance, Signer: p.Signer.String()}
	}
	spec.CrossCertificate = nil
	if o.Cross {
		spec.CrossCertificate = &v1alpha1.CrossCertificate{}
	}
	spec.Rotation = nil
	if p := o.Position; p != nil {
		spec.Rotation = &v1alpha1.OrderRotation{
			RotationID: p.RotationID(), Turn: p.Turn, Step: p.Step(), Old: p.Old.String(), New: p.New.String(), Stage: p.Stage.name(),
			Back: p.Back, Alone: p.Alone, Half: p.Half, Closed: p.Closed, Nudges: p.Nudges, Nudge: o.Nudge,
		}
	}
}

// ContentsOf are the contents of an intermediate with these options, in which every default is filled in.
func ContentsOf(hosts []string, o v1alpha1.CertOptions) Contents {
	c := Contents{Hosts: hosts, Organization: o.OrgName}
	if o.TTLDays != nil {
		c.TTLDays = *o.TTLDays
	}
	if o.RSAKeySizeBytes != nil {
		c.KeyBits = *o.RSAKeySizeBytes
	}
	return c
}

// maxFailed is how much of an agent's error is told of, in bytes.
const maxFailed = 512

// Observe reads the evidence that an agent has given. What was signed is for the caller to add: it knows better.
func Observe(ic *v1alpha1.IssuedCertificate) (Evidence, error) {
	order, err := OrderOf(ic)
	if err != nil {
		return Evidence{}, err
	}
	e := Evidence{Order: &order, KeyLost: ic.Status.KeyLost, Carried: carried(ic.Status.Carried, order.Contents)}
	if c := ic.Status.Certificate; c != nil {
		e.Held = &Held{Issuance: c.Issuance, Signer: pki.RootIDOrZero(c.Signer)}
	}
	if ic.Status.State == v1alpha1.IssuedCertificateFailed && ic.Status.ObservedGeneration == ic.Generation {
		e.Failed = cmp.Or(finding.Short(ic.Status.Error, maxFailed), "its agent cannot carry the order out: see the conditions of its IssuedCertificate")
	}
	if cp := ic.Status.ControlPlane; cp != nil {
		e.MultiRoot, e.Published, e.Since = cp.MultiRoot, cp.Published, cp.ObservedAt.Time
		for _, r := range cp.Replicas {
			e.Replicas = append(e.Replicas, Replica{Signer: pki.RootIDOrZero(r.Signer), Roots: parseAll(r.Roots), Clients: parseAll(r.Clients)})
		}
	}
	if p := ic.Status.Proxies; p != nil {
		e.Proxies = &Proxies{
			Total: int(p.Total), Live: int(p.Live), Leaf: int(p.SignedByNew), Trust: int(p.TrustsNew), Refuse: int(p.RefusesOld), Laggards: int(p.Behind),
		}
		if p.ObservedAt.After(e.Since) {
			e.Since = p.ObservedAt.Time
		}
	}
	return e, nil
}

// carried reads what an agent says that it carried out; what makes no sense answers no order. Agents do not say what an
// intermediate contains, so it is taken to be what is ordered.
func carried(c *v1alpha1.CarriedOrder, contents Contents) *Order {
	if c == nil {
		return nil
	}
	o, err := orderOf(c)
	if err != nil {
		return nil
	}
	o.Contents = contents
	return &o
}

func parseAll(ids []string) (out []pki.RootID) {
	for _, id := range ids {
		out = append(out, pki.RootIDOrZero(id))
	}
	return out
}
