package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition types. Ready, Reconciling and Stalled mean what kstatus says they mean.
const (
	// ConditionReady is true when everything that the spec asks for is in force.
	ConditionReady = "Ready"
	// ConditionReconciling is true while work is going on that needs no one's help.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is true when nothing will move before somebody acts; the message says who and how.
	ConditionStalled = "Stalled"
	// ConditionTrustEstablished is true on a VirtualMesh when every member mesh uses an intermediate under the shared root.
	ConditionTrustEstablished = "TrustEstablished"
	// ConditionVaultReachable is true on a VirtualMesh whose members reach the Vault server that signs for them, which lets them in.
	ConditionVaultReachable = "VaultReachable"
	// ConditionRootReady is true on a VirtualMesh whose shared root exists and whose private key the hub holds, or Vault.
	ConditionRootReady = "RootReady"
	// ConditionRotating is true on a VirtualMesh while its root is being replaced; the message says what holds that up.
	ConditionRotating = "Rotating"
	// ConditionMembersRetained is true on a VirtualMesh while meshes that are no members any more still get intermediates
	// under its root.
	ConditionMembersRetained = "MembersRetained"
	// ConditionClientMeshEnforced is false on a VirtualMesh that federates destinations to some members only while a member
	// that is left out cannot be told apart by its identities.
	ConditionClientMeshEnforced = "ClientMeshEnforced"
	// ConditionGatewayExclusive is false on a Mesh while something else than Isthmus lets traffic pass through the gateways
	// that federation uses.
	ConditionGatewayExclusive = "GatewayExclusive"
	// ConditionConnected is true on a KubernetesCluster whose agent has renewed its Lease in time.
	ConditionConnected = "Connected"
	// ConditionRestartPending is true on an IssuedCertificate and a VirtualMesh while something has to be restarted by hand.
	ConditionRestartPending = "RestartPending"
)

// Condition reasons that several kinds share; events use the same words.
const (
	// ReasonReady goes with Ready=True.
	ReasonReady = "Ready"
	// ReasonInvalid says that the spec was refused; what was accepted before stays in force.
	ReasonInvalid = "Invalid"
	// ReasonProgressing goes with Reconciling=True.
	ReasonProgressing = "Progressing"
	// ReasonSuspended says that spec.suspend holds everything as it is.
	ReasonSuspended = "Suspended"
	// ReasonRootKeyLost says that meshes use a root whose private key the hub does not hold any more.
	ReasonRootKeyLost = "RootKeyLost"
	// ReasonRootUnusable says that the root has expired, or that its Secret does not hold what it held.
	ReasonRootUnusable = "RootUnusable"
	// ReasonNotConnected says that member clusters do not report, so that what is in force there is not known.
	ReasonNotConnected = "NotConnected"
	// ReasonWaitingForAgents says that the hub waits for member clusters to report.
	ReasonWaitingForAgents = "WaitingForAgents"
	// ReasonRestartRequired says that istiod or workloads must be restarted to go on.
	ReasonRestartRequired = "RestartRequired"
)

// Labels and annotations. A label helps to find things; none of them proves or decides anything.
const (
	// LabelCluster names the registered cluster on the namespace that the hub keeps for it.
	LabelCluster = "isthmus.dev/cluster"
	// LabelVirtualMesh holds "<name>.<namespace>", shortened where it is too long, of the VirtualMesh an object was made for.
	LabelVirtualMesh = "isthmus.dev/virtual-mesh"
	// LabelManagedBy marks, with the name of the component, every object that Isthmus made and may delete.
	LabelManagedBy = "isthmus.dev/managed-by"
	// LabelRootFingerprint holds the first 32 hexadecimal digits of the SHA-256 of the root in a root Secret.
	LabelRootFingerprint = "isthmus.dev/root-fingerprint"
	// LabelRootRole is the role of a root Secret: Incoming, Signing or Outgoing.
	LabelRootRole = "isthmus.dev/root-role"
	// LabelFederated marks Destinations that their home mesh federates. Other agents find them by it, and judge for themselves.
	LabelFederated = "isthmus.dev/federated"
	// LabelGateway marks Services and pods of the gateways of limited trust with what they are: GatewayRoleIngress or
	// GatewayRoleEgress.
	LabelGateway = "isthmus.dev/gateway"
	// AnnotationExports holds, on the Lease of an agent, what each of its meshes federates: a JSON object from the name of the
	// Mesh to a generation of the VirtualMesh and a digest of the names of Destinations.
	AnnotationExports = "isthmus.dev/exports"
	// AnnotationDestination names, on what an agent makes in its cluster, the Destination it was made for: "<namespace>/<name>" in
	// the hub.
	AnnotationDestination = "isthmus.dev/destination"
	// AnnotationConvertedFrom names, on a VirtualMesh, the object of an older generation of the API that it follows:
	// "<group>/<version>/<namespace>/<name>".
	AnnotationConvertedFrom = "isthmus.dev/converted-from"
	// AnnotationAgentVersion is the version of the agent, on its Lease.
	AnnotationAgentVersion = "isthmus.dev/agent-version"
)

// Names and Secret types.
const (
	// SystemNamespace is the default namespace of the hub.
	SystemNamespace = "isthmus-system"
	// AgentNamespace is the default namespace of the agent in its own cluster. It is never the hub's: an agent in the hub's
	// cluster must not be able to read root keys.
	AgentNamespace = "isthmus-agent"
	// ClusterNamespacePrefix and the cluster's name make the name of the cluster's namespace in the hub.
	ClusterNamespacePrefix = "isthmus-"
	// AgentName is the name of the agent's ServiceAccount, Lease and credential Secret in its namespace of the hub.
	AgentName = "isthmus-agent"
	// GatewayRoleIngress and GatewayRoleEgress are values of LabelGateway.
	GatewayRoleIngress = "ingress"
	GatewayRoleEgress  = "egress"
	// GatewaySecretName is the Secret, in the namespace of the gateways of limited trust, with the certificate by which those of
	// several meshes know each other: tls.crt, tls.key and ca.crt. It is the credentialName of Istio's objects.
	GatewaySecretName = "isthmus-gateway"
	// GatewaysNamespace is the default namespace of the gateways of limited trust.
	GatewaysNamespace = "isthmus-gateways"
	// SettingsName is the only name that a Settings object may have.
	SettingsName = "settings"
	// Finalizer holds a VirtualMesh or KubernetesCluster until what was made for it is gone.
	Finalizer = "isthmus.dev/finalizer"
	// SecretTypeIntermediate is the type of a cacerts Secret that Isthmus creates.
	SecretTypeIntermediate = "isthmus.dev/ca-intermediate"
	// SecretTypeRoot is the type of the hub's root Secrets.
	SecretTypeRoot = "isthmus.dev/ca-root"
)

// State is the overall state of an object that users write.
//
// +kubebuilder:validation:Enum=PENDING;ACCEPTED;INVALID;FAILED
type State string

// States.
const (
	// StatePending: not processed yet, or accepted and not yet applied everywhere.
	StatePending State = "PENDING"
	// StateAccepted: valid, and applied to everything it selects.
	StateAccepted State = "ACCEPTED"
	// StateInvalid: refused; what was accepted before stays in force.
	StateInvalid State = "INVALID"
	// StateFailed: valid, but applying it failed.
	StateFailed State = "FAILED"
)

// ObjectRef names an object of a kind that follows from the field.
type ObjectRef struct {
	// name of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the object. Absent means the namespace of the object that refers to it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// SecretRef names a Secret.
type SecretRef struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the Secret. Absent means the hub's own namespace.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// ApprovalStatus says how an object was received by one mesh or for one destination.
type ApprovalStatus struct {
	// state for this mesh or destination.
	// +optional
	State State `json:"state,omitempty"`
	// errors found for this mesh or destination.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
	// acceptanceOrder is the place in the order of acceptance among the objects that apply to it, from 1.
	// +optional
	AcceptanceOrder int32 `json:"acceptanceOrder,omitempty"`
}

// CertOptions are the options of a generated CA certificate (RFC 5280).
type CertOptions struct {
	// ttlDays is the lifetime in days. Defaults to 365.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=36500
	TTLDays *int32 `json:"ttlDays,omitempty"`
	// rsaKeySizeBytes is the size of the RSA key in bits, in spite of its name: 2048, 3072, 4096 or 8192.
	// 256, 384 and 512 are taken at their word, as bytes. Defaults to 4096.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self in [2048, 3072, 4096, 8192, 256, 384, 512]",message="rsaKeySizeBytes must be 2048, 3072, 4096 or 8192 (bits), or 256, 384 or 512 (bytes)"
	RSAKeySizeBytes *int32 `json:"rsaKeySizeBytes,omitempty"`
	// orgName is the organisation in the subject. Defaults to "isthmus" for roots and to "Istio" for intermediates.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	OrgName string `json:"orgName,omitempty"`
	// secretRotationGracePeriodRatio is the part of its lifetime that a certificate has left when it is renewed: a decimal
	// string above 0 and below 1. Defaults to "0.10": a certificate of 365 days is renewed 36.5 days before it ends.
	// +optional
	// +kubebuilder:validation:MaxLength=12
	// +kubebuilder:validation:XValidation:rule="self.matches('^0?[.][0-9]*[1-9][0-9]*$')",message="secretRotationGracePeriodRatio must be a decimal above 0 and below 1, such as \"0.10\""
	SecretRotationGracePeriodRatio string `json:"secretRotationGracePeriodRatio,omitempty"`
}

// DestinationSelector selects Kubernetes services.
type DestinationSelector struct {
	// kubeServiceMatcher selects services by their properties.
	// +optional
	KubeServiceMatcher *KubeServiceMatcher `json:"kubeServiceMatcher,omitempty"`
	// kubeServiceRefs selects services by name.
	// +optional
	KubeServiceRefs *KubeServiceRefs `json:"kubeServiceRefs,omitempty"`
}

// KubeServiceMatcher selects services; all given criteria must hold, an empty one selects everything.
type KubeServiceMatcher struct {
	// labels that the service must carry.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Labels map[string]string `json:"labels,omitempty"`
	// namespaces of which the service must be in one.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:MinLength=1
	Namespaces []string `json:"namespaces,omitempty"`
	// clusters of which the service must be in one, by their registered name.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:MinLength=1
	Clusters []string `json:"clusters,omitempty"`
}

// KubeServiceRefs names services.
type KubeServiceRefs struct {
	// services that are selected.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Services []ClusterObjectRef `json:"services"`
}

// ClusterObjectRef names a namespaced object in a registered cluster.
type ClusterObjectRef struct {
	// name of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// clusterName is the registered name of the cluster; absent means every cluster.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	ClusterName string `json:"clusterName,omitempty"`
}

// ConditionedStatus is the part of a status that every kind has.
type ConditionedStatus struct {
	// observedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions of the object, by type.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
