package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AccessPolicy allows requests from selected identities to selected destinations, in every mesh of a virtual mesh.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=accesspolicies,shortName=accesspol,categories=isthmus
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AccessPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is the policy.
	// +required
	Spec AccessPolicySpec `json:"spec"`
	// status is what the hub made of it.
	// +optional
	Status AccessPolicyStatus `json:"status,omitempty"`
}

// AccessPolicyList is a list of AccessPolicies.
//
// +kubebuilder:object:root=true
type AccessPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AccessPolicy `json:"items"`
}

// AccessPolicySpec says who may call what.
type AccessPolicySpec struct {
	// sourceSelector selects the callers; one that matches is enough. Absent: anyone.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	SourceSelector []IdentitySelector `json:"sourceSelector,omitempty"`
	// destinationSelector selects what may be called; one that matches is enough. Absent: everything.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	DestinationSelector []DestinationSelector `json:"destinationSelector,omitempty"`
	// allowedPaths of HTTP requests: exact, or with a * at the beginning or the end. Absent: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	AllowedPaths []string `json:"allowedPaths,omitempty"`
	// allowedMethods of HTTP requests. Absent: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=32
	AllowedMethods []string `json:"allowedMethods,omitempty"`
	// allowedPorts of the destination's pods. Absent: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	AllowedPorts []int32 `json:"allowedPorts,omitempty"`
}

// IdentitySelector selects callers; all that is given must hold.
//
// +kubebuilder:validation:XValidation:rule="has(self.kubeIdentityMatcher) || has(self.kubeServiceAccountRefs) || has(self.requestIdentityMatcher)",message="sourceSelector needs kubeIdentityMatcher, kubeServiceAccountRefs or requestIdentityMatcher; leave sourceSelector out to allow anyone"
type IdentitySelector struct {
	// kubeIdentityMatcher selects by namespace and cluster.
	// +optional
	KubeIdentityMatcher *KubeIdentityMatcher `json:"kubeIdentityMatcher,omitempty"`
	// kubeServiceAccountRefs selects by service account.
	// +optional
	KubeServiceAccountRefs *KubeServiceAccountRefs `json:"kubeServiceAccountRefs,omitempty"`
	// requestIdentityMatcher selects by the principal of a JSON Web Token (RFC 7519).
	// +optional
	RequestIdentityMatcher *RequestIdentityMatcher `json:"requestIdentityMatcher,omitempty"`
}

// KubeIdentityMatcher selects identities of namespaces and clusters.
type KubeIdentityMatcher struct {
	// namespaces of which the caller must be in one. Absent: any.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Namespaces []string `json:"namespaces,omitempty"`
	// clusters of which the caller must be in one. Absent: any.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Clusters []string `json:"clusters,omitempty"`
}

// KubeServiceAccountRefs names service accounts.
type KubeServiceAccountRefs struct {
	// serviceAccounts that are selected.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	ServiceAccounts []ClusterObjectRef `json:"serviceAccounts"`
}

// RequestIdentityMatcher selects by the principal of the request.
type RequestIdentityMatcher struct {
	// requestPrincipals of which the request must have one, "<issuer>/<subject>".
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	RequestPrincipals []string `json:"requestPrincipals,omitempty"`
	// notRequestPrincipals of which the request must have none.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	NotRequestPrincipals []string `json:"notRequestPrincipals,omitempty"`
}

// AccessPolicyStatus is what the hub made of an AccessPolicy.
type AccessPolicyStatus struct {
	ConditionedStatus `json:",inline"`
	// state sums up.
	// +optional
	State State `json:"state,omitempty"`
	// errors of the spec as a whole.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
	// accepted is the last spec that was valid.
	// +optional
	// +structType=atomic
	Accepted *AcceptedAccessPolicy `json:"accepted,omitempty"`
	// destinations says how destinations received this object, by "<name>.<namespace>"; 256 at most, those with errors first.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	Destinations map[string]ApprovalStatus `json:"destinations,omitempty"`
}

// AcceptedAccessPolicy is a spec that was found valid.
type AcceptedAccessPolicy struct {
	// generation of the spec.
	// +required
	Generation int64 `json:"generation"`
	// spec as accepted.
	// +required
	Spec AccessPolicySpec `json:"spec"`
}

// Settings are the settings of the whole system: one object, named "settings".
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=settings,singular=settings,categories=isthmus
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'settings'",message="metadata.name of Settings must be \"settings\": there is one object for the whole system"
type Settings struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec are the settings.
	// +required
	Spec SettingsSpec `json:"spec"`
	// status is what the hub made of them.
	// +optional
	Status SettingsStatus `json:"status,omitempty"`
}

// SettingsList is a list of Settings.
//
// +kubebuilder:object:root=true
type SettingsList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Settings `json:"items"`
}

// SettingsSpec are the settings of the whole system.
type SettingsSpec struct {
	// mtls are the defaults of client-side TLS.
	// +optional
	MTLS *MTLSSettings `json:"mtls,omitempty"`
	// discovery options.
	// +optional
	Discovery *DiscoverySettings `json:"discovery,omitempty"`
}

// MTLSSettings are the defaults of client-side TLS.
type MTLSSettings struct {
	// istio meshes.
	// +optional
	Istio *IstioMTLSSettings `json:"istio,omitempty"`
}

// IstioMTLSSettings are the defaults of client-side TLS in Istio meshes.
type IstioMTLSSettings struct {
	// tlsMode of generated DestinationRules.
	// +optional
	TLSMode IstioTLSMode `json:"tlsMode,omitempty"`
}

// IstioTLSMode is a TLS mode of Istio's DestinationRule.
//
// +kubebuilder:validation:Enum=DISABLE;SIMPLE;ISTIO_MUTUAL
type IstioTLSMode string

// TLS modes of clients.
const (
	IstioTLSModeDisable IstioTLSMode = "DISABLE"
	IstioTLSModeSimple  IstioTLSMode = "SIMPLE"
	IstioTLSModeMutual  IstioTLSMode = "ISTIO_MUTUAL"
)

// DiscoverySettings say what agents discover.
type DiscoverySettings struct {
	// excludedNamespaces are not looked at in any cluster.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	ExcludedNamespaces []string `json:"excludedNamespaces,omitempty"`
	// istio meshes.
	// +optional
	Istio *IstioDiscoverySettings `json:"istio,omitempty"`
}

// IstioDiscoverySettings say what agents discover of Istio.
type IstioDiscoverySettings struct {
	// ingressGatewayDetectors say how gateways are recognised, by name of the cluster or "*" for all others.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	IngressGatewayDetectors map[string]IngressGatewayDetector `json:"ingressGatewayDetectors,omitempty"`
}

// IngressGatewayDetector says how a gateway is recognised.
type IngressGatewayDetector struct {
	// gatewayWorkloadLabels that a gateway's pods carry. Defaults to istio=eastwestgateway, then istio=ingressgateway.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	GatewayWorkloadLabels map[string]string `json:"gatewayWorkloadLabels,omitempty"`
	// gatewayTlsPortName is the name of the service's port for TLS pass-through. Defaults to "tls".
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	GatewayTLSPortName string `json:"gatewayTlsPortName,omitempty"`
}

// SettingsStatus is what the hub made of Settings.
type SettingsStatus struct {
	ConditionedStatus `json:",inline"`
	// state sums up.
	// +optional
	State State `json:"state,omitempty"`
	// errors of the spec.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
	// accepted is the last spec that was valid.
	// +optional
	// +structType=atomic
	Accepted *AcceptedSettings `json:"accepted,omitempty"`
}

// AcceptedSettings is a spec that was found valid.
type AcceptedSettings struct {
	// generation of the spec.
	// +required
	Generation int64 `json:"generation"`
	// spec as accepted.
	// +required
	Spec SettingsSpec `json:"spec"`
}
