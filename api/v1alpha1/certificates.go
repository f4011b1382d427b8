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
	// issuance counts the intermediates ordered for this mesh, from 1: it rises when a new one is needed (another signer,
	// other options, renewal, a key that was lost). One signature is given per issuance.
	// +required
	// +kubebuilder:validation:Minimum=1
	Issuance int64 `json:"issuance"`
	// hosts are the URI SANs of the intermediate.
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
	// issuedCertificateSecret is the Secret from which istiod takes its CA.
	// +required
	IssuedCertificateSecret SecretRef `json:"issuedCertificateSecret"`
	// rotation step that the order belongs to. Absent outside of rotations.
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

// OrderRotation places an order in a rotation.
type OrderRotation struct {
	// rotationID identifies the rotation.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RotationID string `json:"rotationID"`
	// step of the rotation.
	// +required
	Step RotationStep `json:"step"`
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
	Error string `json:"error,omitempty"`
	// certificate is the intermediate in the Secret.
	// +optional
	Certificate *IntermediateStatus `json:"certificate,omitempty"`
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
	// roots are the fingerprints of the ordered roots that it was seen to hold.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Roots []string `json:"roots,omitempty"`
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
	// trustsNew counts proxies that accept leaves under the ordered signer.
	// +optional
	TrustsNew int32 `json:"trustsNew"`
	// signedByNew counts proxies whose own leaf is under the ordered signer.
	// +optional
	SignedByNew int32 `json:"signedByNew"`
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
