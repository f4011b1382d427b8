package rotation

import (
	"fmt"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// OrderOf reads an order.
func OrderOf(ic *v1alpha1.IssuedCertificate) (Order, error) {
	signer, err := pki.ParseRootID(ic.Spec.Signer)
	if err != nil {
		return Order{}, fmt.Errorf("spec.signer: %w", err)
	}
	o := Order{Issuance: ic.Spec.Issuance, Contents: ContentsOf(ic.Spec.Hosts, ic.Spec.CertOptions), Signer: signer}
	for i, r := range ic.Spec.Roots {
		id, err := pki.ParseRootID(r.Fingerprint)
		if err != nil {
			return Order{}, fmt.Errorf("spec.roots[%d].fingerprint: %w", i, err)
		}
		o.Roots = append(o.Roots, id)
	}
	return o, nil
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

// Observe reads the evidence that an agent has given. What was signed is for the caller to add: it knows better.
func Observe(ic *v1alpha1.IssuedCertificate) (Evidence, error) {
	order, err := OrderOf(ic)
	if err != nil {
		return Evidence{}, err
	}
	e := Evidence{Order: &order, KeyLost: ic.Status.KeyLost}
	if c := ic.Status.Certificate; c != nil {
		e.Held = &Held{Issuance: c.Issuance, Signer: parseOrZero(c.Signer)}
	}
	if cp := ic.Status.ControlPlane; cp != nil {
		for _, r := range cp.Replicas {
			seen := Replica{Signer: parseOrZero(r.Signer)}
			for _, id := range r.Roots {
				seen.Roots = append(seen.Roots, parseOrZero(id))
			}
			e.Replicas = append(e.Replicas, seen)
		}
	}
	return e, nil
}

// parseOrZero takes what an agent could not see, and what makes no sense, for no root at all.
func parseOrZero(s string) pki.RootID {
	id, err := pki.ParseRootID(s)
	if err != nil {
		return pki.RootID{}
	}
	return id
}
