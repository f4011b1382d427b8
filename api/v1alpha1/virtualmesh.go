package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VirtualMesh joins meshes of several clusters: one trust, one namespace of services, one access policy.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=vmesh,categories=isthmus
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.rotation.step`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VirtualMesh struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what the virtual mesh shall be.
	// +required
	Spec VirtualMeshSpec `json:"spec"`
	// status is what the hub made of it.
	// +optional
	Status VirtualMeshStatus `json:"status,omitempty"`
}

// VirtualMeshList is a list of VirtualMeshes.
//
// +kubebuilder:object:root=true
type VirtualMeshList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VirtualMesh `json:"items"`
}

// VirtualMeshSpec is what a user wants of a virtual mesh.
type VirtualMeshSpec struct {
	// displayName is a name for people.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	DisplayName string `json:"displayName,omitempty"`
	// suspend freezes everything as it is: neither trust nor federation nor policy is changed until it is unset.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
	// meshes are the members. Absent namespace, or the hub's own, finds a Mesh by its name alone.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Meshes []ObjectRef `json:"meshes"`
	// mtlsConfig says how members trust each other. Absent: trust is managed elsewhere.
	// +optional
	MTLSConfig *MTLSConfig `json:"mtlsConfig,omitempty"`
	// federation says which destinations are reachable from other members. Absent: none.
	// +optional
	Federation *Federation `json:"federation,omitempty"`
	// globalAccessPolicy says what holds for a destination that no AccessPolicy selects. Defaults to MESH_DEFAULT.
	// +optional
	GlobalAccessPolicy GlobalAccessPolicy `json:"globalAccessPolicy,omitempty"`
}

// MTLSConfig says how the members of a virtual mesh trust each other.
//
// +kubebuilder:validation:XValidation:rule="has(self.shared) != has(self.limited)",message="mtlsConfig needs exactly one of shared and limited; leave mtlsConfig out if trust is managed elsewhere"
type MTLSConfig struct {
	// shared trust: one root for all members, one identity space.
	// +optional
	Shared *SharedTrust `json:"shared,omitempty"`
	// limited trust: no common root; dedicated gateways with certificates of their own connect the members.
	// +optional
	Limited *LimitedTrust `json:"limited,omitempty"`
	// autoRestartPods allows the agents to restart (rolling) what has to be restarted to take up new certificates.
	// If false, the status says what waits, and `meshctl mesh restart` does it.
	// +optional
	AutoRestartPods bool `json:"autoRestartPods,omitempty"`
	// adoptExistingCA allows a cacerts Secret that somebody else made to be replaced.
	// +optional
	AdoptExistingCA bool `json:"adoptExistingCA,omitempty"`
	// rotationVerificationMethod says what proves a step of a root rotation. Defaults to automatic.
	// +optional
	RotationVerificationMethod *RotationVerificationMethod `json:"rotationVerificationMethod,omitempty"`
	// rotationStrategy says how a root is replaced. Defaults to MULTI_ROOT.
	// +optional
	RotationStrategy RotationStrategy `json:"rotationStrategy,omitempty"`
}

// SharedTrust configures one root for all members.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.rootCertificateAuthority) && has(self.intermediateCertificateAuthority))",message="shared takes rootCertificateAuthority or intermediateCertificateAuthority, not both"
type SharedTrust struct {
	// rootCertificateAuthority is the root. Absent: one is generated with the default options.
	// +optional
	RootCertificateAuthority *RootCertificateAuthority `json:"rootCertificateAuthority,omitempty"`
	// intermediateCertificateAuthority has intermediates signed outside of the hub.
	// +optional
	IntermediateCertificateAuthority *IntermediateCertificateAuthority `json:"intermediateCertificateAuthority,omitempty"`
	// intermediateCertOptions are the options of the members' intermediates.
	// +optional
	IntermediateCertOptions *CertOptions `json:"intermediateCertOptions,omitempty"`
	// rotationTrigger starts a rotation of a generated root whenever its value changes; the value itself means nothing. It has no
	// effect on another root: one of a Secret is replaced by another one in the Secret, one of Vault by another one there.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	RotationTrigger string `json:"rotationTrigger,omitempty"`
}

// LimitedTrust configures the gateways' certificate authority of a virtual mesh without common root.
type LimitedTrust struct {
	// rootCertificateAuthority issues the certificates of the gateways. Absent: one is generated with the default options.
	// +optional
	RootCertificateAuthority *RootCertificateAuthority `json:"rootCertificateAuthority,omitempty"`
	// ownRoots gives each member that still has a CA under a root which the members shared before a root of its own, one member
	// after the other, by a rotation in that mesh alone. It begins when every member reaches the others through gateways.
	// +optional
	OwnRoots bool `json:"ownRoots,omitempty"`
	// gatewayCertOptions are the options of the gateways' certificates. ttlDays defaults to 30, and secretRotationGracePeriodRatio
	// to "0.5".
	// +optional
	GatewayCertOptions *CertOptions `json:"gatewayCertOptions,omitempty"`
	// rotationTrigger starts a rotation of a generated certificate authority of the gateways whenever its value changes; the value
	// itself means nothing. It has no effect on one of a Secret, which is replaced by another one in the Secret.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	RotationTrigger string `json:"rotationTrigger,omitempty"`
}

// RootCertificateAuthority is the source of a root.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.generated) && has(self.secret))",message="rootCertificateAuthority takes generated or secret, not both"
type RootCertificateAuthority struct {
	// generated has the hub make a self-signed root with these options.
	// +optional
	Generated *CertOptions `json:"generated,omitempty"`
	// secret holds a certificate authority, in one of three forms: root-cert.pem and key.pem; ca-cert.pem, ca-key.pem,
	// cert-chain.pem and root-cert.pem; or tls.crt, tls.key and ca.crt. It is copied when it is accepted.
	// +optional
	Secret *SecretRef `json:"secret,omitempty"`
}

// IntermediateCertificateAuthority is a signer of intermediates outside of the hub.
type IntermediateCertificateAuthority struct {
	// vault signs the intermediates.
	// +required
	Vault VaultCA `json:"vault"`
}

// VaultCA is a Vault or OpenBao server's PKI secrets engine.
//
// +kubebuilder:validation:XValidation:rule="has(self.tokenSecretRef) != has(self.kubernetesAuth)",message="vault needs exactly one of tokenSecretRef and kubernetesAuth"
type VaultCA struct {
	// caPath is the path that signs, such as pki/root/sign-intermediate, or pki/issuer/<name>/sign-intermediate for one of several
	// issuers.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	CAPath string `json:"caPath"`
	// csrPath makes Vault generate and export the key, such as pki_int/intermediate/generate/exported. Absent: the agent makes the key.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	CSRPath string `json:"csrPath,omitempty"`
	// server is the URL of the server.
	// +required
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://')",message="server must be a URL that begins with https:// or http://"
	Server string `json:"server"`
	// caBundle is the PEM bundle by which the server's certificate is verified. Absent: the agent's system roots.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	CABundle []byte `json:"caBundle,omitempty"`
	// namespace of Vault.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Namespace string `json:"namespace,omitempty"`
	// tokenSecretRef is a Secret of the agent's namespace whose key "token" holds a token.
	// +optional
	TokenSecretRef *LocalSecretRef `json:"tokenSecretRef,omitempty"`
	// kubernetesAuth logs in by Vault's Kubernetes auth method.
	// +optional
	KubernetesAuth *VaultKubernetesAuth `json:"kubernetesAuth,omitempty"`
}

// LocalSecretRef names a Secret of the agent's own namespace.
type LocalSecretRef struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// VaultKubernetesAuth is Vault's Kubernetes auth method.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.serviceAccountRef) && has(self.mountedSaPath))",message="kubernetesAuth takes serviceAccountRef or mountedSaPath, not both"
type VaultKubernetesAuth struct {
	// mountPath is where the auth method is mounted. Defaults to /v1/auth/kubernetes. {cluster} in it stands for the name of the
	// cluster that logs in.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	MountPath string `json:"mountPath,omitempty"`
	// role to log in as. {cluster} in it stands for the name of the cluster that logs in.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Role string `json:"role"`
	// secretTokenKey is the file of the token below mountedSaPath, which defaults to token; with serviceAccountRef, the key of the
	// token in a Secret of that ServiceAccount, in place of a token that is requested.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SecretTokenKey string `json:"secretTokenKey,omitempty"`
	// serviceAccountRef is a ServiceAccount of the agent's namespace that the agent may request tokens of.
	// +optional
	ServiceAccountRef *LocalSecretRef `json:"serviceAccountRef,omitempty"`
	// mountedSaPath is the directory of a token that is projected into the agent for Vault, or one below. Defaults to
	// /var/run/secrets/isthmus.dev/vault.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	MountedSAPath string `json:"mountedSaPath,omitempty"`
}

// RotationVerificationMethod says what proves that a step of a rotation is complete.
//
// +kubebuilder:validation:XValidation:rule="(has(self.none)?1:0)+(has(self.manual)?1:0)+(has(self.automatic)?1:0) == 1",message="rotationVerificationMethod needs exactly one of none, manual and automatic"
type RotationVerificationMethod struct {
	// none goes on by the evidence of the control planes alone.
	// +optional
	None *Empty `json:"none,omitempty"`
	// manual waits for a CertificateVerification at each step.
	// +optional
	Manual *Empty `json:"manual,omitempty"`
	// automatic proves each step by handshakes with every proxy.
	// +optional
	Automatic *AutomaticVerification `json:"automatic,omitempty"`
}

// Empty has no fields.
type Empty struct{}

// AutomaticVerification proves steps by handshakes with every proxy.
type AutomaticVerification struct {
	// soak is how long the evidence must hold before the next step is taken.
	// +optional
	Soak *metav1.Duration `json:"soak,omitempty"`
}

// RotationStrategy says how a root is replaced.
//
// +kubebuilder:validation:Enum=MULTI_ROOT;NONE
type RotationStrategy string

// Rotation strategies.
const (
	// RotationMultiRoot replaces a root in three steps without downtime.
	RotationMultiRoot RotationStrategy = "MULTI_ROOT"
	// RotationNone replaces a root in one step, with downtime.
	RotationNone RotationStrategy = "NONE"
)

// GlobalAccessPolicy says what holds for destinations that no AccessPolicy selects.
//
// +kubebuilder:validation:Enum=MESH_DEFAULT;ENABLED;DISABLED
type GlobalAccessPolicy string

// Global access policies.
const (
	// GlobalAccessPolicyMeshDefault is the mesh's own default; Istio's is to allow.
	GlobalAccessPolicyMeshDefault GlobalAccessPolicy = "MESH_DEFAULT"
	// GlobalAccessPolicyEnabled denies what no AccessPolicy allows.
	GlobalAccessPolicyEnabled GlobalAccessPolicy = "ENABLED"
	// GlobalAccessPolicyDisabled allows what no AccessPolicy speaks of.
	GlobalAccessPolicyDisabled GlobalAccessPolicy = "DISABLED"
)

// Federation exposes destinations to other members.
type Federation struct {
	// selectors say what is federated to whom; they add up. Absent: nothing; one empty selector: everything to everyone.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Selectors []FederationSelector `json:"selectors,omitempty"`
	// permissive is deprecated and means one empty selector; it is honoured when selectors is empty.
	// +optional
	Permissive *Empty `json:"permissive,omitempty"`
	// flatNetwork routes directly to the remote pods instead of through gateways, also where ingressGatewaySelectors choose some.
	// +optional
	FlatNetwork bool `json:"flatNetwork,omitempty"`
	// hostnameSuffix ends federated hostnames. Defaults to "global"; another one needs smart DNS proxying in every client mesh.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="hostnameSuffix must be a DNS name in lower case without leading or trailing dot, such as global"
	HostnameSuffix string `json:"hostnameSuffix,omitempty"`
	// shortHostnames gives each federated destination a further name, "<service>.<namespace>.<cluster>", as the first generation of
	// this API had it.
	// +optional
	ShortHostnames bool `json:"shortHostnames,omitempty"`
	// tcpKeepalive is set on connections that cross clusters or go to external services.
	// +optional
	TCPKeepalive *TCPKeepalive `json:"tcpKeepalive,omitempty"`
	// ingressGatewaySelectors choose the gateways through which cross-cluster traffic enters. They have no effect beside flatNetwork,
	// by which none passes through gateways.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	IngressGatewaySelectors []IngressGatewaySelector `json:"ingressGatewaySelectors,omitempty"`
	// tlsEnforcementSettings enforce TLS at the servers of this virtual mesh.
	// +optional
	TLSEnforcementSettings *TLSEnforcementSettings `json:"tlsEnforcementSettings,omitempty"`
}

// FederationSelector selects destinations and the meshes that get them.
type FederationSelector struct {
	// destinationSelectors select destinations; one that matches is enough. Absent: all.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	DestinationSelectors []DestinationSelector `json:"destinationSelectors,omitempty"`
	// meshes that get the destinations; each must be a member. Absent: all members.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Meshes []ObjectRef `json:"meshes,omitempty"`
}

// TCPKeepalive is a keepalive rule.
type TCPKeepalive struct {
	// probes that may stay unanswered before the connection is considered dead.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Probes *int32 `json:"probes,omitempty"`
	// time a connection is idle before probes are sent.
	// +optional
	Time *metav1.Duration `json:"time,omitempty"`
	// interval between probes.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
}

// IngressGatewaySelector chooses gateways.
type IngressGatewaySelector struct {
	// destinationSelectors select the gateways' services.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	DestinationSelectors []DestinationSelector `json:"destinationSelectors,omitempty"`
	// portName is the name of the service's port for TLS pass-through. Defaults to "tls".
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	PortName string `json:"portName,omitempty"`
}

// TLSEnforcementSettings enforce TLS at servers.
type TLSEnforcementSettings struct {
	// enforcementMode of the meshes. Defaults to UNSET.
	// +optional
	EnforcementMode TLSEnforcementMode `json:"enforcementMode,omitempty"`
}

// TLSEnforcementMode is a mode of Istio's PeerAuthentication.
//
// +kubebuilder:validation:Enum=UNSET;DISABLE;PERMISSIVE;STRICT
type TLSEnforcementMode string

// TLS enforcement modes.
const (
	TLSEnforcementUnset      TLSEnforcementMode = "UNSET"
	TLSEnforcementDisable    TLSEnforcementMode = "DISABLE"
	TLSEnforcementPermissive TLSEnforcementMode = "PERMISSIVE"
	TLSEnforcementStrict     TLSEnforcementMode = "STRICT"
)

// VirtualMeshStatus is what the hub made of a VirtualMesh.
type VirtualMeshStatus struct {
	ConditionedStatus `json:",inline"`
	// state sums up: ACCEPTED only when applied to all members. It reports and gates nothing.
	// +optional
	State State `json:"state,omitempty"`
	// errors of the spec as a whole.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
	// accepted is the last spec that was valid. The system acts on it and on nothing else; absent means unknown: change nothing.
	// +optional
	// +structType=atomic
	Accepted *AcceptedVirtualMesh `json:"accepted,omitempty"`
	// meshes says how each member received this object, by "<name>.<namespace>" of its Mesh.
	// +optional
	Meshes map[string]ApprovalStatus `json:"meshes,omitempty"`
	// destinations says how destinations received this object, by "<name>.<namespace>"; 256 at most, those with errors first.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	Destinations map[string]ApprovalStatus `json:"destinations,omitempty"`
	// destinationCounts counts all destinations by state.
	// +optional
	DestinationCounts map[string]int32 `json:"destinationCounts,omitempty"`
	// roots is the history of roots, the newest last; the last 10 are kept.
	// +optional
	// +listType=map
	// +listMapKey=generation
	// +kubebuilder:validation:MaxItems=10
	Roots []RootStatus `json:"roots,omitempty"`
	// deployedSharedTrust is the shared trust that every member was seen to use.
	// +optional
	DeployedSharedTrust *DeployedSharedTrust `json:"deployedSharedTrust,omitempty"`
	// rotation is the state of the latest rotation.
	// +optional
	Rotation *RotationStatus `json:"rotation,omitempty"`
}

// AcceptedVirtualMesh is a spec that was found valid.
type AcceptedVirtualMesh struct {
	// generation of the spec.
	// +required
	Generation int64 `json:"generation"`
	// spec as accepted: valid members only, each with the namespace of its Mesh.
	// +required
	Spec VirtualMeshSpec `json:"spec"`
	// trustDomains are those with which the members were accepted. Whatever a mesh reports later, others go by these until it
	// leaves.
	// +optional
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	TrustDomains []AcceptedTrustDomain `json:"trustDomains,omitempty"`
}

// AcceptedTrustDomain is the trust domain with which a mesh was accepted.
type AcceptedTrustDomain struct {
	// name of the Mesh.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the Mesh.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// trustDomain that it reported then.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	TrustDomain string `json:"trustDomain"`
}

// RootRole is the part that a root plays.
//
// +kubebuilder:validation:Enum=Incoming;Signing;Outgoing;Retired
type RootRole string

// Roles of a root.
const (
	// RootIncoming will sign.
	RootIncoming RootRole = "Incoming"
	// RootSigning signs.
	RootSigning RootRole = "Signing"
	// RootOutgoing has signed and is still distributed.
	RootOutgoing RootRole = "Outgoing"
	// RootRetired is not distributed any more; its key is erased.
	RootRetired RootRole = "Retired"
)

// RootStatus is one root of a virtual mesh.
type RootStatus struct {
	// generation counts the roots of this virtual mesh from 1.
	// +required
	Generation int64 `json:"generation"`
	// fingerprint is the SHA-256 of the certificate (DER), 64 hexadecimal digits.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	Fingerprint string `json:"fingerprint"`
	// role of the root.
	// +optional
	Role RootRole `json:"role,omitempty"`
	// subject of the certificate.
	// +optional
	Subject string `json:"subject,omitempty"`
	// notAfter is the end of the certificate.
	// +optional
	NotAfter metav1.Time `json:"notAfter,omitempty"`
	// certificate is the root, PEM.
	// +optional
	Certificate string `json:"certificate,omitempty"`
}

// DeployedSharedTrust is a shared trust that was seen in use.
type DeployedSharedTrust struct {
	// sharedTrust is the spec that was deployed.
	// +optional
	// +structType=atomic
	SharedTrust *SharedTrust `json:"sharedTrust,omitempty"`
	// root is the fingerprint of the root.
	// +optional
	Root string `json:"root,omitempty"`
}

// RotationStep is a state of the rotation of a root.
//
// +kubebuilder:validation:Enum=NOT_ROTATING;PREVIOUS_CA;ADDING_NEW_ROOT;PROPAGATING_NEW_INTERMEDIATE;DELETING_OLD_ROOT;VERIFYING;VERIFIED;ROLLING_BACK;FINISHED;FAILED
type RotationStep string

// Rotation states.
const (
	StepNotRotating                RotationStep = "NOT_ROTATING"
	StepPreviousCA                 RotationStep = "PREVIOUS_CA"
	StepAddingNewRoot              RotationStep = "ADDING_NEW_ROOT"
	StepPropagatingNewIntermediate RotationStep = "PROPAGATING_NEW_INTERMEDIATE"
	StepDeletingOldRoot            RotationStep = "DELETING_OLD_ROOT"
	StepVerifying                  RotationStep = "VERIFYING"
	StepVerified                   RotationStep = "VERIFIED"
	StepRollingBack                RotationStep = "ROLLING_BACK"
	StepFinished                   RotationStep = "FINISHED"
	StepFailed                     RotationStep = "FAILED"
)

// RotationStatus is the state of a rotation.
type RotationStatus struct {
	// rotationID identifies the rotation; a CertificateVerification names it.
	// +optional
	RotationID string `json:"rotationID,omitempty"`
	// step that the rotation is in.
	// +optional
	Step RotationStep `json:"step,omitempty"`
	// place is the step that a CertificateVerification has to name to speak of where the rotation is.
	// +optional
	Place RotationStep `json:"place,omitempty"`
	// since is when the step began.
	// +optional
	Since metav1.Time `json:"since,omitempty"`
	// waits says what the rotation waits for, mesh by mesh.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Waits []string `json:"waits,omitempty"`
	// conditions are the steps taken, the newest last; the last 50 are kept.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Conditions []CertificateRotationCondition `json:"conditions,omitempty"`
}

// CertificateRotationCondition is a step of a rotation at a time.
type CertificateRotationCondition struct {
	// timestamp of the record.
	// +optional
	Timestamp metav1.Time `json:"timestamp,omitempty"`
	// state of the rotation.
	// +optional
	State RotationStep `json:"state,omitempty"`
	// message for people.
	// +optional
	Message string `json:"message,omitempty"`
	// errors of the step.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
}
