package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IssuedCertificate is the hub's order to one mesh: which intermediate to hold under which roots. The agent answers in
// status with what it did and what it saw. It has the name of its Mesh.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ic,categories=isthmus
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Issuance",type=integer,JSONPath=`.spec.issuance`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.certificate.notAfter`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IssuedCertificate struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is the order.
	// +required
	Spec IssuedCertificateSpec `json:"spec"`
	// status is the evidence.
	// +optional
	Status IssuedCertificateStatus `json:"status,omitempty"`
}

// IssuedCertificateList is a list of IssuedCertificates.
//
// +kubebuilder:object:root=true
type IssuedCertificateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IssuedCertificate `json:"items"`
}

// IssuedCertificateSpec is an order.
type IssuedCertificateSpec struct {
	// virtualMesh that the order serves.
	// +required
	VirtualMesh ObjectRef `json:"virtualMesh"`
	// serial rises with every order for this mesh. An agent carries out none whose serial is below that of the order that it
	// carried out last: that one comes from a hub which was restored from a backup, or from one that is thought dead.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Serial int64 `json:"serial,omitempty"`
	// issuance is which intermediate to use. They are counted from 1: a new one is ordered when it is needed (another signer,
	// other options, renewal, a key that was lost), and one signature is given for each. 0 is the CA that the mesh came with.
	// +required
	// +kubebuilder:validation:Minimum=0
	Issuance int64 `json:"issuance"`
	// prepared is an intermediate to hold beside the one in use, for the next step of a rotation.
	// +optional
	Prepared *PreparedIntermediate `json:"prepared,omitempty"`
	// latest is the highest issuance ever ordered for this mesh, if it is neither issuance nor that of prepared.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Latest int64 `json:"latest,omitempty"`
	// purpose of the certificate. Defaults to MeshCA.
	// +optional
	Purpose CertificatePurpose `json:"purpose,omitempty"`
	// hosts are the URI SANs of the certificate.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=2048
	Hosts []string `json:"hosts"`
	// certOptions of the intermediate, with every default filled in.
	// +required
	CertOptions CertOptions `json:"certOptions"`
	// signer is the fingerprint of the root under which the intermediate shall be: one of roots.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	Signer string `json:"signer"`
	// roots to distribute, in order.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Roots []RootCertificate `json:"roots"`
	// crossCertificate asks for a certificate of the signer under another of roots in the chain, so that those who do not
	// trust the signer yet accept what is below it.
	// +optional
	CrossCertificate *CrossCertificate `json:"crossCertificate,omitempty"`
	// agentCAs sign what is under roots of which the hub has no key. The agent asks them itself, and the hub signs nothing there.
	// +optional
	// +listType=map
	// +listMapKey=root
	// +kubebuilder:validation:MaxItems=2
	AgentCAs []AgentCA `json:"agentCAs,omitempty"`
	// restart says what has to be restarted for the order to be in force.
	// +optional
	Restart RequiredRestart `json:"restart,omitempty"`
	// issuedCertificateSecret is the Secret from which istiod takes its CA, or the gateways their certificate.
	// +required
	IssuedCertificateSecret SecretRef `json:"issuedCertificateSecret"`
	// rotation that the order belongs to, or the last one that it belonged to. Absent if the root was never replaced.
	// +optional
	Rotation *OrderRotation `json:"rotation,omitempty"`
	// autoRestartPods allows the agent to restart (rolling) what has to be restarted.
	// +optional
	AutoRestartPods bool `json:"autoRestartPods,omitempty"`
	// adoptExistingCA allows the agent to replace a Secret that somebody else made.
	// +optional
	AdoptExistingCA bool `json:"adoptExistingCA,omitempty"`
	// suspend tells the agent to change nothing.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// CertificatePurpose is what a certificate is for.
//
// +kubebuilder:validation:Enum=MeshCA;Gateway
type CertificatePurpose string

// Purposes of certificates.
const (
	// PurposeMeshCA is that of an intermediate with which istiod signs.
	PurposeMeshCA CertificatePurpose = "MeshCA"
	// PurposeGateway is that of the certificate by which the gateways of a mesh are known to those of others. It signs nothing.
	PurposeGateway CertificatePurpose = "Gateway"
)

// RootCertificate is a root to distribute.
type RootCertificate struct {
	// fingerprint is the SHA-256 of the certificate (DER), 64 hexadecimal digits.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	Fingerprint string `json:"fingerprint"`
	// certificate is the root, PEM.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32768
	Certificate string `json:"certificate"`
}

// AgentCA signs intermediates outside of the hub.
type AgentCA struct {
	// root is the fingerprint of the root under which it signs.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	Root string `json:"root"`
	// vault is the server that signs.
	// +required
	Vault VaultCA `json:"vault"`
}

// AgentCA returns the authority outside of the hub that signs under a root; nil if that is the hub.
func (s *IssuedCertificateSpec) AgentCA(root string) *AgentCA {
	for i := range s.AgentCAs {
		if s.AgentCAs[i].Root == root {
			return &s.AgentCAs[i]
		}
	}
	return nil
}

// PreparedIntermediate is an intermediate that is not in use.
type PreparedIntermediate struct {
	// issuance as in the order itself.
	// +required
	// +kubebuilder:validation:Minimum=0
	Issuance int64 `json:"issuance"`
	// signer is the fingerprint of the root under which it is.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	Signer string `json:"signer"`
}

// CrossCertificate is a certificate of one root under another.
type CrossCertificate struct {
	// certificate is PEM. Absent: the agent makes it with the key of the CA that the mesh came with.
	// +optional
	// +kubebuilder:validation:MaxLength=32768
	Certificate string `json:"certificate,omitempty"`
}

// RequiredRestart says what has to be restarted, one after the other.
type RequiredRestart struct {
	// istiod has to be, every replica: it does not take the change without a restart, or has to forget a root by which it lets clients in.
	// +optional
	Istiod bool `json:"istiod,omitempty"`
	// workloads and gateways have to be that are not as ordered: they do not follow without a restart.
	// +optional
	Workloads bool `json:"workloads,omitempty"`
}

// RotationStage is how far a mesh has come from one root to another.
//
// +kubebuilder:validation:Enum=OldOnly;OldSigns;NewSigns;NewOnly
type RotationStage string

// Stages of a rotation.
const (
	// StageOldOnly signs under the old root and trusts only that.
	StageOldOnly RotationStage = "OldOnly"
	// StageOldSigns signs under the old root and trusts both.
	StageOldSigns RotationStage = "OldSigns"
	// StageNewSigns signs under the new root and trusts both.
	StageNewSigns RotationStage = "NewSigns"
	// StageNewOnly signs under the new root and trusts only that.
	StageNewOnly RotationStage = "NewOnly"
)

// OrderRotation places an order in a rotation.
type OrderRotation struct {
	// rotationID identifies the rotation. It ends with ".<turn>" if the rotation was turned round.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RotationID string `json:"rotationID"`
	// turn counts how often the rotation was turned round.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Turn int64 `json:"turn,omitempty"`
	// step of the rotation.
	// +required
	Step RotationStep `json:"step"`
	// old is the fingerprint of the root that is replaced.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	Old string `json:"old"`
	// new is the fingerprint of the root that replaces it.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	New string `json:"new"`
	// stage that the order leads to.
	// +required
	Stage RotationStage `json:"stage"`
	// back says that the rotation goes back to the old root.
	// +optional
	Back bool `json:"back,omitempty"`
	// alone says that the rotation is that of this mesh alone, which joins the others.
	// +optional
	Alone bool `json:"alone,omitempty"`
	// half says that the way back takes two orders, of which this is the first.
	// +optional
	Half bool `json:"half,omitempty"`
	// closed says that the rotation is over, at this end of it.
	// +optional
	Closed bool `json:"closed,omitempty"`
	// nudges counts those given at this stage.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Nudges int32 `json:"nudges,omitempty"`
	// nudge is written, if above 0, into root-cert.pem as a comment, so that proxies take new leaves.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Nudge int64 `json:"nudge,omitempty"`
}

// IssuedCertificateState is how far an order has come.
//
// +kubebuilder:validation:Enum=PENDING;REQUESTED;ISSUED;FINISHED;FAILED
type IssuedCertificateState string

// States of an order.
const (
	// IssuedCertificatePending: the agent has not requested a certificate yet.
	IssuedCertificatePending IssuedCertificateState = "PENDING"
	// IssuedCertificateRequested: a CertificateRequest waits for the hub.
	IssuedCertificateRequested IssuedCertificateState = "REQUESTED"
	// IssuedCertificateIssued: the intermediate is in the Secret; istiod does not use it everywhere yet.
	IssuedCertificateIssued IssuedCertificateState = "ISSUED"
	// IssuedCertificateFinished: every istiod was seen to use the ordered signer and roots.
	IssuedCertificateFinished IssuedCertificateState = "FINISHED"
	// IssuedCertificateFailed: it needs help; the condition says which.
	IssuedCertificateFailed IssuedCertificateState = "FAILED"
)

// IssuedCertificateStatus is the evidence that an order was carried out.
type IssuedCertificateStatus struct {
	ConditionedStatus `json:",inline"`
	// state of the order.
	// +optional
	State IssuedCertificateState `json:"state,omitempty"`
	// error that holds the order.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	Error string `json:"error,omitempty"`
	// carried is the order that was carried out last. What is reported beside it was seen after that.
	// +optional
	Carried *CarriedOrder `json:"carried,omitempty"`
	// certificate is the intermediate in the Secret.
	// +optional
	Certificate *IntermediateStatus `json:"certificate,omitempty"`
	// prepared is the intermediate that is held beside it.
	// +optional
	Prepared *IntermediateStatus `json:"prepared,omitempty"`
	// keyLost is the issuance whose private key the agent does not hold (any more): the hub orders a new one.
	// +optional
	KeyLost int64 `json:"keyLost,omitempty"`
	// controlPlane is what was seen of istiod.
	// +optional
	ControlPlane *ControlPlaneEvidence `json:"controlPlane,omitempty"`
	// proxies is what was seen of the proxies.
	// +optional
	Proxies *ProxyEvidence `json:"proxies,omitempty"`
}

// CarriedOrder is an order in the words of the agent that carried it out.
type CarriedOrder struct {
	// serial of the order.
	// +optional
	Serial int64 `json:"serial,omitempty"`
	// issuance of the order.
	// +optional
	Issuance int64 `json:"issuance,omitempty"`
	// prepared of the order.
	// +optional
	Prepared *PreparedIntermediate `json:"prepared,omitempty"`
	// latest of the order.
	// +optional
	Latest int64 `json:"latest,omitempty"`
	// signer of the order.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Signer string `json:"signer,omitempty"`
	// roots are the fingerprints of those ordered.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=64
	Roots []string `json:"roots,omitempty"`
	// crossCertified says that a cross-certificate was ordered.
	// +optional
	CrossCertified bool `json:"crossCertified,omitempty"`
	// restart of the order.
	// +optional
	Restart *RequiredRestart `json:"restart,omitempty"`
	// rotation of the order.
	// +optional
	Rotation *OrderRotation `json:"rotation,omitempty"`
}

// Carried is the order in the words of an agent that has carried it out.
func (s *IssuedCertificateSpec) Carried() *CarriedOrder {
	c := &CarriedOrder{
		Serial: s.Serial, Issuance: s.Issuance, Prepared: s.Prepared, Latest: s.Latest, Signer: s.Signer,
		CrossCertified: s.CrossCertificate != nil, Rotation: s.Rotation,
	}
	if s.Restart != (RequiredRestart{}) { // an empty object would become null when it is applied
		c.Restart = &s.Restart
	}
	for _, r := range s.Roots {
		c.Roots = append(c.Roots, r.Fingerprint)
	}
	return c
}

// IntermediateStatus describes an intermediate.
type IntermediateStatus struct {
	// issuance for which it was signed.
	// +optional
	Issuance int64 `json:"issuance,omitempty"`
	// fingerprint is the SHA-256 of the certificate (DER), 64 hexadecimal digits.
	// +optional
	Fingerprint string `json:"fingerprint,omitempty"`
	// signer is the fingerprint of its root.
	// +optional
	Signer string `json:"signer,omitempty"`
	// roots are the fingerprints of the roots beside it, in order.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Roots []string `json:"roots,omitempty"`
	// serialNumber of the certificate, hexadecimal.
	// +optional
	SerialNumber string `json:"serialNumber,omitempty"`
	// notBefore of the certificate.
	// +optional
	NotBefore metav1.Time `json:"notBefore,omitempty"`
	// notAfter of the certificate.
	// +optional
	NotAfter metav1.Time `json:"notAfter,omitempty"`
}

// ControlPlaneEvidence is what was seen of the control planes of one mesh.
type ControlPlaneEvidence struct {
	// observedAt is when it was seen.
	// +optional
	ObservedAt metav1.Time `json:"observedAt,omitempty"`
	// replicas of istiod, each asked at its own address.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Replicas []IstiodReplica `json:"replicas,omitempty"`
	// rootConfigMaps counts the ConfigMaps in which istiod publishes its roots.
	// +optional
	RootConfigMaps *Progress `json:"rootConfigMaps,omitempty"`
	// published says that every ConfigMap of roots has held the ordered ones for longer than kubelets take to project it.
	// +optional
	Published bool `json:"published,omitempty"`
	// multiRoot says that every istiod takes changed roots without a restart (ISTIO_MULTIROOT_MESH).
	// +optional
	MultiRoot bool `json:"multiRoot,omitempty"`
}

// IstiodReplica is one replica of istiod as seen by a TLS handshake.
type IstiodReplica struct {
	// pod of the replica.
	// +required
	Pod string `json:"pod"`
	// revision of the control plane.
	// +optional
	Revision string `json:"revision,omitempty"`
	// signer is the fingerprint of the root that its serving certificate chains to.
	// +optional
	Signer string `json:"signer,omitempty"`
	// roots are the fingerprints of the roots that it was seen to hold.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Roots []string `json:"roots,omitempty"`
	// clients are the fingerprints of the roots, of those in question, under which it was seen to let clients in. It fixes
	// them when it starts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Clients []string `json:"clients,omitempty"`
	// intermediate is the fingerprint of the CA certificate that signed its serving certificate.
	// +optional
	Intermediate string `json:"intermediate,omitempty"`
	// error that kept it from being seen.
	// +optional
	Error string `json:"error,omitempty"`
}

// Progress is a count out of a total.
type Progress struct {
	// done so far.
	// +optional
	Done int32 `json:"done"`
	// total to do.
	// +optional
	Total int32 `json:"total"`
}

// ProxyEvidence is what was seen of the proxies of one mesh.
type ProxyEvidence struct {
	// observedAt is when it was seen.
	// +optional
	ObservedAt metav1.Time `json:"observedAt,omitempty"`
	// total number of proxies.
	// +optional
	Total int32 `json:"total"`
	// live counts proxies that take changed roots, and leaves with them, without a restart (PROXY_CONFIG_XDS_AGENT).
	// +optional
	Live int32 `json:"live,omitempty"`
	// trustsNew counts proxies that accept leaves under every ordered root.
	// +optional
	TrustsNew int32 `json:"trustsNew"`
	// signedByNew counts proxies whose own leaf is under the ordered signer.
	// +optional
	SignedByNew int32 `json:"signedByNew"`
	// refusesOld counts proxies that refuse leaves under the root which the order drops.
	// +optional
	RefusesOld int32 `json:"refusesOld,omitempty"`
	// behind counts live proxies that were seen not to be as ordered although they have had the time.
	// +optional
	Behind int32 `json:"behind,omitempty"`
	// unknown counts proxies that could not be seen.
	// +optional
	Unknown int32 `json:"unknown"`
	// laggards names some of those that are behind, with what to do about them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Laggards []string `json:"laggards,omitempty"`
}

// CertificateRequest asks the hub to sign an intermediate for an order. Its spec is immutable and its name is made from the
// hash of its public key.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=certreq,categories=isthmus
// +kubebuilder:printcolumn:name="Order",type=string,JSONPath=`.spec.issuedCertificate`
// +kubebuilder:printcolumn:name="Issuance",type=integer,JSONPath=`.spec.issuance`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type CertificateRequest struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is the request.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec of a CertificateRequest is immutable; create another one"
	Spec CertificateRequestSpec `json:"spec"`
	// status is the hub's answer.
	// +optional
	Status CertificateRequestStatus `json:"status,omitempty"`
}

// CertificateRequestList is a list of CertificateRequests.
//
// +kubebuilder:object:root=true
type CertificateRequestList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CertificateRequest `json:"items"`
}

// CertificateRequestSpec is a request for a signature.
type CertificateRequestSpec struct {
	// issuedCertificate is the name of the order, in the same namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	IssuedCertificate string `json:"issuedCertificate"`
	// issuance of the order that is asked for.
	// +required
	// +kubebuilder:validation:Minimum=1
	Issuance int64 `json:"issuance"`
	// certificateSigningRequest is a PKCS #10 request (RFC 2986), PEM.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32768
	CertificateSigningRequest string `json:"certificateSigningRequest"`
}

// CertificateRequestState is the hub's answer in a word.
//
// +kubebuilder:validation:Enum=PENDING;FINISHED;FAILED
type CertificateRequestState string

// States of a request.
const (
	// CertificateRequestPending: not answered yet; the condition may say what it waits for.
	CertificateRequestPending CertificateRequestState = "PENDING"
	// CertificateRequestFinished: signed.
	CertificateRequestFinished CertificateRequestState = "FINISHED"
	// CertificateRequestFailed: refused for good.
	CertificateRequestFailed CertificateRequestState = "FAILED"
)

// CertificateRequestStatus is the hub's answer.
type CertificateRequestStatus struct {
	ConditionedStatus `json:",inline"`
	// state of the request.
	// +optional
	State CertificateRequestState `json:"state,omitempty"`
	// error says why it was refused.
	// +optional
	Error string `json:"error,omitempty"`
	// signedCertificate is the intermediate, PEM.
	// +optional
	SignedCertificate string `json:"signedCertificate,omitempty"`
	// certChain are the certificates above it, up to and including the root, PEM.
	// +optional
	CertChain string `json:"certChain,omitempty"`
	// signer is the fingerprint of the root.
	// +optional
	Signer string `json:"signer,omitempty"`
}

// CertificateVerification is a person's word on a step of a rotation.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=cv,categories=isthmus
// +kubebuilder:printcolumn:name="Virtual Mesh",type=string,JSONPath=`.spec.virtualMesh.name`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.spec.step`
// +kubebuilder:printcolumn:name="Action",type=string,JSONPath=`.spec.action`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type CertificateVerification struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is the word.
	// +required
	Spec CertificateVerificationSpec `json:"spec"`
	// status is what came of it.
	// +optional
	Status CertificateVerificationStatus `json:"status,omitempty"`
}

// CertificateVerificationList is a list of CertificateVerifications.
//
// +kubebuilder:object:root=true
type CertificateVerificationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CertificateVerification `json:"items"`
}

// CertificateVerificationSpec is a person's word on a step of a rotation.
type CertificateVerificationSpec struct {
	// virtualMesh whose rotation it speaks of.
	// +required
	VirtualMesh ObjectRef `json:"virtualMesh"`
	// rotationID of the rotation, from status.rotation.rotationID of the VirtualMesh.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RotationID string `json:"rotationID"`
	// step that is spoken of.
	// +required
	Step RotationStep `json:"step"`
	// action to take. Defaults to CONTINUE.
	// +optional
	// +kubebuilder:default=CONTINUE
	Action VerificationAction `json:"action,omitempty"`
	// waive lists meshes that are not waited for.
	// +optional
	// +listType=map
	// +listMapKey=mesh
	// +kubebuilder:validation:MaxItems=64
	Waive []Waiver `json:"waive,omitempty"`
}

// VerificationAction is what to do with a rotation.
//
// +kubebuilder:validation:Enum=CONTINUE;ROLLBACK
type VerificationAction string

// Actions.
const (
	// VerificationContinue goes on to the next step.
	VerificationContinue VerificationAction = "CONTINUE"
	// VerificationRollback goes back a step.
	VerificationRollback VerificationAction = "ROLLBACK"
)

// Waiver takes a mesh out of what is waited for.
type Waiver struct {
	// mesh that is not waited for, "<name>.<namespace>".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Mesh string `json:"mesh"`
	// reason for it, which is kept.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason"`
}

// VerificationState is what came of a verification.
//
// +kubebuilder:validation:Enum=PENDING;VERIFIED;INVALID
type VerificationState string

// States of a verification.
const (
	// VerificationPending: not looked at yet.
	VerificationPending VerificationState = "PENDING"
	// VerificationVerified: it has moved the rotation.
	VerificationVerified VerificationState = "VERIFIED"
	// VerificationInvalid: it is about no rotation or step that is under way, and moves nothing.
	VerificationInvalid VerificationState = "INVALID"
)

// CertificateVerificationStatus is what came of a verification.
type CertificateVerificationStatus struct {
	ConditionedStatus `json:",inline"`
	// state of the verification.
	// +optional
	State VerificationState `json:"state,omitempty"`
	// errors found.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
}
