package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VirtualDestination is one name for a service that several clusters of a virtual mesh have: a client's own cluster serves it,
// and the others do when that fails.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=virtualdestinations,shortName=vdest,categories=isthmus
// +kubebuilder:printcolumn:name="Hostname",type=string,JSONPath=`.status.accepted.hostname`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VirtualDestination struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec says what the name stands for.
	// +required
	Spec VirtualDestinationSpec `json:"spec"`
	// status is what the hub made of it.
	// +optional
	Status VirtualDestinationStatus `json:"status,omitempty"`
}

// VirtualDestinationList is a list of VirtualDestinations.
//
// +kubebuilder:object:root=true
type VirtualDestinationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VirtualDestination `json:"items"`
}

// VirtualDestinationSpec says what a name stands for.
type VirtualDestinationSpec struct {
	// virtualMesh whose members get the name.
	// +required
	VirtualMesh ObjectRef `json:"virtualMesh"`
	// hostname is the name, of the form "<name>.<namespace>.svc.<suffix>". Defaults to that of the service, with the hostnameSuffix
	// of the virtual mesh.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Hostname string `json:"hostname,omitempty"`
	// service that the name stands for: it is called the same in all clusters.
	// +required
	Service ServiceRef `json:"service"`
	// clusters that serve it, by their registered names. No other cluster does, whatever services it has. Another cluster than
	// the client's own serves what it federates to the client's.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Clusters []string `json:"clusters,omitempty"`
	// ports of the service that the name has. A cluster whose service lacks one of them does not serve the name.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int32 `json:"ports,omitempty"`
	// outlierDetection says when an endpoint has failed.
	// +optional
	OutlierDetection *OutlierDetection `json:"outlierDetection,omitempty"`
}

// ServiceRef names a Kubernetes service.
type ServiceRef struct {
	// name of the service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// namespace of the service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// OutlierDetection says when an endpoint, a pod or another cluster's gateway, gets no requests for a while.
type OutlierDetection struct {
	// consecutiveErrors is after how many errors in a row: of connections, and answers 502, 503 and 504. Defaults to 5.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	ConsecutiveErrors *int32 `json:"consecutiveErrors,omitempty"`
	// interval at which endpoints are looked at that may get requests again. Defaults to "5s".
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// baseEjectionTime is for how long an endpoint gets no requests, times how often that happened. Defaults to "30s".
	// +optional
	BaseEjectionTime *metav1.Duration `json:"baseEjectionTime,omitempty"`
	// maxEjectionPercent of the endpoints may be without requests at a time. Defaults to 100, so that all of a cluster can fail.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxEjectionPercent *int32 `json:"maxEjectionPercent,omitempty"`
}

// VirtualDestinationStatus is what the hub made of a VirtualDestination.
type VirtualDestinationStatus struct {
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
	Accepted *AcceptedVirtualDestination `json:"accepted,omitempty"`
	// meshes that have the name, and what each makes of it.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Meshes []VirtualDestinationMesh `json:"meshes,omitempty"`
}

// AcceptedVirtualDestination is a spec that was found valid.
type AcceptedVirtualDestination struct {
	// generation of the spec.
	// +required
	Generation int64 `json:"generation"`
	// hostname that is in force.
	// +required
	Hostname string `json:"hostname"`
	// spec as accepted; its virtualMesh has a namespace.
	// +required
	Spec VirtualDestinationSpec `json:"spec"`
}

// VirtualDestinationMesh is what one mesh makes of a name.
type VirtualDestinationMesh struct {
	// name of the mesh, "<name>.<namespace>".
	// +required
	Name string `json:"name"`
	// state there.
	// +optional
	State State `json:"state,omitempty"`
	// clusters that serve the name there, the mesh's own first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Clusters []string `json:"clusters,omitempty"`
	// errors say which clusters do not serve it, and why.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Errors []string `json:"errors,omitempty"`
}
