package rotating

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// Reasons of the condition RootReady where Vault signs.
const (
	// ReasonVaultRootUnknown says that a member has not found the root of Vault.
	ReasonVaultRootUnknown = "VaultRootUnknown"
	// ReasonVaultRootsDiffer says that members have found different ones.
	ReasonVaultRootsDiffer = "VaultRootsDiffer"
)

// vaultRoot is the root that every member has found at the Vault server of the spec. If they have not all found the same,
// there is none, and the problem says why: the hub asks no Vault itself, and takes no member's word for what the others are to
// trust. Both are nil where Vault has no part.
func (s *state) vaultRoot() (*pki.Root, *problem) {
	if s.trust == nil || s.trust.Vault == nil {
		return nil, nil
	}
	vault := s.trust.Vault
	if len(s.members) == 0 {
		return nil, &problem{v1alpha1.ReasonWaitingForAgents, "no member to which the trust can be applied"}
	}
	var unseen, wrong []string
	found := map[pki.RootID]pki.Root{}
	finders := map[pki.RootID][]string{}
	for id, mesh := range s.members {
		v := mesh.Status.Vault
		switch {
		case v == nil || v.VirtualMesh != kube.Qualified(s.name.Name, s.name.Namespace) ||
			v.Server != vault.Server || v.Namespace != vault.Namespace || v.CAPath != vault.CAPath:
			unseen = append(unseen, id.String())
		case v.Root == nil:
			wrong = append(wrong, fmt.Sprintf("mesh %s: %.500s", id, v.Message))
		default:
			root, err := pki.ParseRoot([]byte(v.Root.Certificate))
			if err == nil {
				err = pki.CheckRoot(root, s.now)
			}
			if err != nil {
				s.passes = s.passes || passes(err)
				wrong = append(wrong, fmt.Sprintf("mesh %s: %v", id, err))
				continue
			}
			found[root.ID()] = root
			finders[root.ID()] = append(finders[root.ID()], id.String())
		}
	}
	slices.Sort(unseen)
	slices.Sort(wrong)
	switch {
	case len(wrong) > 0:
		return nil, &problem{ReasonVaultRootUnknown, "the root of Vault is not known everywhere: " + strings.Join(wrong, "; ")}
	case len(unseen) > 0:
		return nil, &problem{v1alpha1.ReasonWaitingForAgents, fmt.Sprintf("no root of Vault is taken before every member has found it: waiting for %v", unseen)}
	case len(found) > 1:
		var who []string
		for id, meshes := range finders {
			slices.Sort(meshes)
			who = append(who, fmt.Sprintf("root %s by %v", id.Short(), meshes))
		}
		slices.Sort(who)
		return nil, &problem{ReasonVaultRootsDiffer, "members have found different roots at Vault: " + strings.Join(who, ", ") +
			"; see that the server's name leads every cluster to the same Vault, or take a member out that you do not trust"}
	}
	for _, root := range found {
		return &root, nil
	}
	return nil, nil
}

// agentCAs are the authorities outside of the hub that an order needs. For the wanted root, that of the spec counts; for another
// one what the order says already, or what it was when the root was found.
func (s *state) agentCAs(id rotation.MeshID, o rotation.Order) (out []v1alpha1.AgentCA) {
	signers := map[pki.RootID]bool{}
	if o.Issuance > 0 {
		signers[o.Signer] = true
	}
	if p := o.Prepared; p != nil && p.Issuance > 0 {
		signers[p.Signer] = true
	}
	for _, signer := range slices.SortedFunc(maps.Keys(signers), func(a, b pki.RootID) int { return slices.Compare(a[:], b[:]) }) {
		root := s.find(signer)
		if root == nil || !root.Foreign() {
			continue
		}
		ca := v1alpha1.AgentCA{Root: signer.String(), Vault: *root.Source.Vault}
		if live := s.orders[id]; live != nil {
			if was := live.Spec.AgentCA(ca.Root); was != nil {
				ca = *was
			}
		}
		if s.trust != nil && s.trust.Vault != nil && s.root != nil && signer == s.root.ID() {
			ca.Vault = *s.trust.Vault
		}
		out = append(out, ca)
	}
	return out
}
