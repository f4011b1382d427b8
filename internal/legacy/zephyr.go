package legacy

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// zephyrSpec is the spec of networking.zephyr.solo.io/v1alpha1.
type zephyrSpec struct {
	DisplayName          string      `json:"displayName" max:"256"`
	Meshes               []objectRef `json:"meshes" max:"256"`
	CertificateAuthority struct {
		Builtin  *certOptions `json:"builtin"`
		Provided *struct {
			Certificate *objectRef `json:"certificate"`
		} `json:"provided"`
	} `json:"certificateAuthority"`
	Federation struct {
		Mode federationMode `json:"mode"`
	} `json:"federation" exact:"true"`
	Shared               *struct{}         `json:"shared"`
	Limited              *struct{}         `json:"limited"`
	EnforceAccessControl enforcementPolicy `json:"enforceAccessControl"`
}

func (s *zephyrSpec) members() []objectRef { return s.Meshes }

func (s *zephyrSpec) convert(c *conversion) v1alpha1.VirtualMeshSpec {
	c.only("spec.shared", s.Shared != nil, "spec.limited", s.Limited != nil)
	root := s.root(c)
	trust := &v1alpha1.MTLSConfig{}
	if s.Limited != nil {
		trust.Limited = &v1alpha1.LimitedTrust{RootCertificateAuthority: root}
	} else { // this generation took shared where neither was given
		trust.Shared = &v1alpha1.SharedTrust{RootCertificateAuthority: root}
	}
	federation := everything() // the one mode there was, and the default
	federation.ShortHostnames = true
	c.note(ReasonDefaulted, "spec.federation", "services keep the names SERVICE.NAMESPACE.CLUSTER of this generation, by shortHostnames, and have SERVICE.NAMESPACE.svc.CLUSTER.global beside them")
	return v1alpha1.VirtualMeshSpec{
		DisplayName:        s.DisplayName,
		Meshes:             c.membersOf(s.Meshes),
		MTLSConfig:         trust,
		Federation:         federation,
		GlobalAccessPolicy: v1alpha1.GlobalAccessPolicy(s.EnforceAccessControl),
	}
}

func (s *zephyrSpec) root(c *conversion) *v1alpha1.RootCertificateAuthority {
	const field = "spec.certificateAuthority"
	ca := s.CertificateAuthority
	c.only(field+".builtin", ca.Builtin != nil, field+".provided", ca.Provided != nil)
	switch {
	case ca.Provided == nil:
		return c.root(field, ca.Builtin.convert(), nil, orgServiceMeshHub)
	case ca.Provided.Certificate == nil:
		c.invalid(field+".provided.certificate", "is missing: name the Secret that holds the root")
		return nil
	}
	return c.provided(field+".provided.certificate", *ca.Provided.Certificate)
}

// zephyrStatus is the status of networking.zephyr.solo.io/v1alpha1.
type zephyrStatus struct {
	ConfigStatus                   zephyrState `json:"configStatus"`
	CertificateStatus              zephyrState `json:"certificateStatus"`
	FederationStatus               zephyrState `json:"federationStatus"`
	AccessControlEnforcementStatus zephyrState `json:"accessControlEnforcementStatus"`
	Isthmus                        *converted  `json:"isthmus,omitempty"`
}

// zephyrState is how far one concern has come.
type zephyrState struct {
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
}

// States of a concern. That work is going on was UNKNOWN.
const (
	zephyrUnknown         = "UNKNOWN"
	zephyrAccepted        = "ACCEPTED"
	zephyrInvalid         = "INVALID"
	zephyrProcessingError = "PROCESSING_ERROR"
	zephyrConflict        = "CONFLICT"
)

func zephyrStatusOf(a *account) any {
	network := a.zephyrNetwork()
	return &zephyrStatus{
		ConfigStatus:                   a.zephyrConfig(),
		CertificateStatus:              a.zephyrCertificates(),
		FederationStatus:               a.zephyrFederation(network),
		AccessControlEnforcementStatus: network,
		Isthmus:                        a.converted(),
	}
}

func (a *account) zephyrConfig() zephyrState {
	ready, problems := a.condition(v1alpha1.ConditionReady), finding.Join(a.problems().Errors())
	switch {
	case a.invalid():
		return zephyrState{zephyrInvalid, problems}
	case ready == nil || a.VirtualMesh.Status.Accepted == nil && a.VirtualMesh.Status.State == v1alpha1.StatePending:
		return zephyrState{zephyrUnknown, problems}
	case a.VirtualMesh.Status.State == v1alpha1.StateInvalid && ready.Reason == accept.ReasonMeshTaken:
		return zephyrState{zephyrConflict, ready.Message}
	case a.VirtualMesh.Status.State == v1alpha1.StateInvalid:
		return zephyrState{zephyrInvalid, ready.Message}
	}
	return zephyrState{zephyrAccepted, problems}
}

func (a *account) zephyrCertificates() zephyrState {
	trust, root := a.condition(v1alpha1.ConditionTrustEstablished), a.condition(v1alpha1.ConditionRootReady)
	stalled := a.condition(v1alpha1.ConditionStalled)
	switch {
	case trust != nil && trust.Status == metav1.ConditionTrue:
		return zephyrState{zephyrAccepted, trust.Message}
	case a.failed():
		return zephyrState{zephyrProcessingError, a.message()}
	case root != nil && root.Status == metav1.ConditionFalse && stalled != nil && stalled.Status == metav1.ConditionTrue && stalled.Reason == root.Reason:
		return zephyrState{zephyrProcessingError, root.Message}
	}
	return zephyrState{zephyrUnknown, a.message()}
}

// zephyrNetwork is how far federation and policies have come in the members.
func (a *account) zephyrNetwork() zephyrState {
	switch {
	case a.inForce() == v1alpha1.StateAccepted:
		return zephyrState{State: zephyrAccepted}
	case a.failed():
		return zephyrState{zephyrProcessingError, a.message()}
	}
	return zephyrState{zephyrUnknown, a.message()}
}

func (a *account) zephyrFederation(network zephyrState) zephyrState {
	if a.VirtualMesh == nil {
		return network
	}
	if n := a.VirtualMesh.Status.DestinationCounts[string(v1alpha1.StateInvalid)]; n > 0 {
		return zephyrState{zephyrProcessingError, fmt.Sprintf("%d destinations have errors: see `meshctl describe virtualmesh %s`", n, a.VirtualMesh.Name)}
	}
	return network
}

// failed reports whether something could not be carried out in a member.
func (a *account) failed() bool {
	return a.inForce() == v1alpha1.StateFailed
}
