package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// KubernetesCluster is a registered cluster. The heartbeat of its agent is a Lease in the cluster's namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=kc,categories=isthmus
// +kubebuilder:printcolumn:name="Connected",type=string,JSONPath=`.status.conditions[?(@.type=="Connected")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.status.agentVersion`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 54",message="metadata.name must be a DNS label of at most 54 characters: it becomes part of a namespace's name and of hostnames"
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name in ['system', 'agent'])",message="metadata.name must not be system or agent: the namespaces isthmus-system and isthmus-agent are taken"
type KubernetesCluster struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what registration said.
	// +required
	Spec KubernetesClusterSpec `json:"spec"`
	// status is what the hub sees of it.
	// +optional
	Status KubernetesClusterStatus `json:"status,omitempty"`
}

// KubernetesClusterList is a list of KubernetesClusters.
//
// +kubebuilder:object:root=true
type KubernetesClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []KubernetesCluster `json:"items"`
}

// KubernetesClusterSpec describes a registered cluster.
type KubernetesClusterSpec struct {
	// clusterDomain is the DNS domain of the cluster. Defaults to cluster.local.
	// +optional
	// +kubebuilder:default=cluster.local
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ClusterDomain string `json:"clusterDomain,omitempty"`
}

// KubernetesClusterStatus is what the hub sees of a cluster.
type KubernetesClusterStatus struct {
	ConditionedStatus `json:",inline"`
	// namespace of the cluster in the hub.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// agentVersion is the version of the agent.
	// +optional
	AgentVersion string `json:"agentVersion,omitempty"`
}

// Mesh is an Istio root namespace of one cluster with all its control planes, named
// "istiod-<root namespace>-<cluster>". Written by the agent of the cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=meshes,categories=isthmus
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.istio.revisions[0].version`
// +kubebuilder:printcolumn:name="Trust Domain",type=string,JSONPath=`.spec.istio.trustDomain`
// +kubebuilder:printcolumn:name="Virtual Mesh",type=string,JSONPath=`.status.certificateAuthority.virtualMesh`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Mesh struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what was discovered.
	// +required
	Spec MeshSpec `json:"spec"`
	// status is what is in use and what was applied.
	// +optional
	Status MeshStatus `json:"status,omitempty"`
}

// MeshList is a list of Meshes.
//
// +kubebuilder:object:root=true
type MeshList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Mesh `json:"items"`
}

// MeshSpec is what was discovered of a mesh.
type MeshSpec struct {
	// cluster is the registered name of the cluster, as the agent knows it. The namespace decides, not this field.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=54
	Cluster string `json:"cluster"`
	// istio describes the Istio mesh.
	// +required
	Istio IstioMesh `json:"istio"`
}

// IstioMesh describes an Istio mesh.
type IstioMesh struct {
	// rootNamespace of the mesh, such as istio-system.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	RootNamespace string `json:"rootNamespace"`
	// trustDomain of the mesh.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	TrustDomain string `json:"trustDomain"`
	// trustDomainAliases that the mesh accepts as its own.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	TrustDomainAliases []string `json:"trustDomainAliases,omitempty"`
	// clusterDomain is the DNS domain of the cluster.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// istiodServiceAccount is the service account of istiod.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	IstiodServiceAccount string `json:"istiodServiceAccount"`
	// revisions are the control planes of the mesh.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Revisions []IstioRevision `json:"revisions,omitempty"`
	// certificateAuthority says who signs the leaves of the mesh: Istiod, External (istio-csr, SPIRE, a cloud's CA) or Unknown.
	// +optional
	CertificateAuthority CertificateAuthorityKind `json:"certificateAuthority,omitempty"`
	// certificateAuthorityMessage says by what an external one was recognised.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	CertificateAuthorityMessage string `json:"certificateAuthorityMessage,omitempty"`
	// topology of the control plane.
	// +optional
	Topology MeshTopology `json:"topology,omitempty"`
	// smartDnsProxyingEnabled says that proxies resolve names of the mesh (ISTIO_META_DNS_CAPTURE).
	// +optional
	SmartDNSProxyingEnabled bool `json:"smartDnsProxyingEnabled,omitempty"`
	// network of the mesh (topology.istio.io/network).
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Network string `json:"network,omitempty"`
	// gateways through which traffic can enter.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Gateways []IngressGateway `json:"gateways,omitempty"`
}

// CertificateAuthorityKind is who signs the leaves of a mesh.
//
// +kubebuilder:validation:Enum=Istiod;External;Unknown
type CertificateAuthorityKind string

// Kinds of certificate authorities.
const (
	CertificateAuthorityIstiod   CertificateAuthorityKind = "Istiod"
	CertificateAuthorityExternal CertificateAuthorityKind = "External"
	CertificateAuthorityUnknown  CertificateAuthorityKind = "Unknown"
)

// MeshTopology is where the control plane of a mesh runs.
//
// +kubebuilder:validation:Enum=Local;Remote
type MeshTopology string

// Topologies.
const (
	// TopologyLocal: the control plane runs in the same cluster.
	TopologyLocal MeshTopology = "Local"
	// TopologyRemote: the cluster is served by a control plane elsewhere (external or primary-remote).
	TopologyRemote MeshTopology = "Remote"
)

// IstioRevision is one control plane.
type IstioRevision struct {
	// name of the revision; "default" where it has none.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// deployment that runs it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Deployment string `json:"deployment,omitempty"`
	// version of Istio, such as 1.31.1.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version,omitempty"`
	// replicas that are wanted.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Replicas int32 `json:"replicas,omitempty"`
	// multiRootMesh says that istiod takes changed roots without a restart (ISTIO_MULTIROOT_MESH).
	// +optional
	MultiRootMesh bool `json:"multiRootMesh,omitempty"`
	// proxyConfigXDSAgent says that proxies take changed roots without a restart by default (PROXY_CONFIG_XDS_AGENT).
	// +optional
	ProxyConfigXDSAgent bool `json:"proxyConfigXDSAgent,omitempty"`
}

// IngressGateway is a gateway through which traffic can enter.
type IngressGateway struct {
	// name of the gateway's Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the gateway's Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// class says what the gateway was recognised as.
	// +optional
	Class GatewayClass `json:"class,omitempty"`
	// labels of the gateway's Service.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Labels map[string]string `json:"labels,omitempty"`
	// tlsPortName is the name of the port for TLS pass-through that Settings give for this cluster. Defaults to "tls".
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	TLSPortName string `json:"tlsPortName,omitempty"`
	// selector of the gateway's pods.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Selector map[string]string `json:"selector,omitempty"`
	// identities of the gateway's pods, SPIFFE IDs of the mesh. Told of gateways of limited trust alone.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=2048
	Identities []string `json:"identities,omitempty"`
	// addresses at which it is reachable from outside: IP addresses or DNS names.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Addresses []string `json:"addresses,omitempty"`
	// ports of the gateway.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Ports []GatewayPort `json:"ports,omitempty"`
}

// GatewayClass is what a gateway was recognised as.
//
// +kubebuilder:validation:Enum=EastWest;Ingress;Other;LimitedIngress;LimitedEgress
type GatewayClass string

// Classes of gateways, the preferred first; those of limited trust last.
const (
	// GatewayEastWest is labelled istio=eastwestgateway, or as Settings say. Federation prefers it.
	GatewayEastWest GatewayClass = "EastWest"
	// GatewayIngress is labelled istio=ingressgateway. Federation takes it where there is no other.
	GatewayIngress GatewayClass = "Ingress"
	// GatewayOther is any other gateway. Federation takes it only if ingressGatewaySelectors choose it.
	GatewayOther GatewayClass = "Other"
	// GatewayLimitedIngress is labelled isthmus.dev/gateway=ingress: under limited trust others enter by it, and by no other.
	GatewayLimitedIngress GatewayClass = "LimitedIngress"
	// GatewayLimitedEgress is labelled isthmus.dev/gateway=egress: under limited trust the mesh reaches others by it.
	GatewayLimitedEgress GatewayClass = "LimitedEgress"
)

// GatewayPort is a port of a gateway.
type GatewayPort struct {
	// name of the Service's port.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// port inside of the cluster.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// externalPort is the port at the addresses.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ExternalPort int32 `json:"externalPort"`
	// targetPort is the port of the gateway's pods.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	TargetPort int32 `json:"targetPort,omitempty"`
}

// MeshStatus is what is in use in a mesh.
type MeshStatus struct {
	ConditionedStatus `json:",inline"`
	// certificateAuthority is the CA that was seen in the mesh. Absent: not looked yet.
	// +optional
	CertificateAuthority *MeshCertificateAuthority `json:"certificateAuthority,omitempty"`
	// gatewayCertificate is the certificate by which the gateways of limited trust know each other, as it was seen in use. Absent:
	// there is none.
	// +optional
	GatewayCertificate *MeshGatewayCertificate `json:"gatewayCertificate,omitempty"`
	// vault is what the agent found at the Vault server that the VirtualMesh of the mesh names. Absent: it names none, or nobody has
	// looked yet.
	// +optional
	Vault *MeshVault `json:"vault,omitempty"`
	// appliedVirtualMeshes says what was applied for each VirtualMesh.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	AppliedVirtualMeshes []AppliedVirtualMesh `json:"appliedVirtualMeshes,omitempty"`
	// appliedAccessPolicies says which generation of each AccessPolicy is in force at every destination of this mesh.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=2048
	AppliedAccessPolicies []AppliedAccessPolicy `json:"appliedAccessPolicies,omitempty"`
	// predecessor is what an installation of an older generation of this API has left in the cluster. Absent: nothing was found.
	// +optional
	Predecessor *PredecessorStatus `json:"predecessor,omitempty"`
	// appliedVirtualDestinations says what this mesh makes of each VirtualDestination.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	AppliedVirtualDestinations []AppliedVirtualDestination `json:"appliedVirtualDestinations,omitempty"`
	// errors found in this mesh; 50 at most.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
}

// PredecessorStatus is what an installation of an older generation of this API has left in a cluster.
type PredecessorStatus struct {
	// running are its controllers that run here, "<namespace>/<name>" of their Deployments. While they do, they write the same
	// cacerts that Isthmus writes.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Running []string `json:"running,omitempty"`
	// caCerts says that the CA in Secret cacerts was made by it.
	// +optional
	CACerts bool `json:"caCerts,omitempty"`
	// kinds counts the objects of Istio that it has made, by kind.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +kubebuilder:validation:MaxItems=16
	Kinds []PredecessorKind `json:"kinds,omitempty"`
	// imports counts the ServiceEntries among them by which this mesh calls services of other clusters in the old way. Unset, the
	// agent has not counted them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Imports *int32 `json:"imports,omitempty"`
	// objects are some of them, "<kind> <namespace>/<name>"; 20 at most.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	Objects []string `json:"objects,omitempty"`
}

// PredecessorKind counts objects of one kind.
type PredecessorKind struct {
	// kind of the objects.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// count of them.
	// +required
	// +kubebuilder:validation:Minimum=1
	Count int32 `json:"count"`
}

// MeshCertificateAuthority is the CA that was seen in a mesh.
type MeshCertificateAuthority struct {
	// source of the CA: SelfSigned, Plugged (a cacerts Secret of somebody else's) or Isthmus.
	// +optional
	Source CertificateAuthoritySource `json:"source,omitempty"`
	// virtualMesh for which Isthmus made it, "<name>.<namespace>".
	// +optional
	VirtualMesh string `json:"virtualMesh,omitempty"`
	// roots are the fingerprints of the roots in the Secret.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Roots []string `json:"roots,omitempty"`
	// rootCertificates are these roots.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	RootCertificates []RootCertificate `json:"rootCertificates,omitempty"`
	// signer is the fingerprint of the root that the CA certificate chains to.
	// +optional
	Signer string `json:"signer,omitempty"`
	// notAfter of the CA certificate.
	// +optional
	NotAfter *metav1.Time `json:"notAfter,omitempty"`
	// liveProxies counts the proxies that take changed roots without a restart (PROXY_CONFIG_XDS_AGENT), of all that there are.
	// +optional
	LiveProxies *Progress `json:"liveProxies,omitempty"`
	// inUse are the fingerprints of the roots under which the replicas of istiod were seen to serve.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	InUse []string `json:"inUse,omitempty"`
}

// MeshGatewayCertificate is the certificate of a mesh's gateways under limited trust.
type MeshGatewayCertificate struct {
	// virtualMesh for which it was made, "<name>.<namespace>".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	VirtualMesh string `json:"virtualMesh"`
	// signer is the fingerprint of the root under which every gateway was seen to serve.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Signer string `json:"signer,omitempty"`
	// roots are the fingerprints of those by which every gateway was seen to know others.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=64
	Roots []string `json:"roots,omitempty"`
	// notAfter of the certificate.
	// +optional
	NotAfter *metav1.Time `json:"notAfter,omitempty"`
}

// MeshVault is what an agent found at a Vault server.
type MeshVault struct {
	// virtualMesh that names the server, "<name>.<namespace>".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	VirtualMesh string `json:"virtualMesh"`
	// server that was asked, as the VirtualMesh names it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Server string `json:"server"`
	// namespace of Vault that was asked.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Namespace string `json:"namespace,omitempty"`
	// caPath whose root was asked for.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	CAPath string `json:"caPath"`
	// root that the chain of the signing authority ends in, as it was last seen.
	// +optional
	Root *RootCertificate `json:"root,omitempty"`
	// reason for which the agent saw no root, or was not let in, when it looked last; empty if neither. It becomes that of a condition.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z]+$`
	Reason string `json:"reason,omitempty"`
	// message says what is wrong and what to do about it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Message string `json:"message,omitempty"`
}

// CertificateAuthoritySource is where the CA of a mesh comes from.
//
// +kubebuilder:validation:Enum=SelfSigned;Plugged;Isthmus
type CertificateAuthoritySource string

// Sources of a CA.
const (
	CASourceSelfSigned CertificateAuthoritySource = "SelfSigned"
	CASourcePlugged    CertificateAuthoritySource = "Plugged"
	CASourceIsthmus    CertificateAuthoritySource = "Isthmus"
)

// AppliedVirtualMesh says what was applied for a VirtualMesh.
type AppliedVirtualMesh struct {
	// name of the VirtualMesh, "<name>.<namespace>".
	// +required
	Name string `json:"name"`
	// generation of the accepted spec that was applied.
	// +optional
	Generation int64 `json:"generation,omitempty"`
}

// AppliedAccessPolicy says which generation of an AccessPolicy was applied.
type AppliedAccessPolicy struct {
	// name of the AccessPolicy, "<name>.<namespace>".
	// +required
	Name string `json:"name"`
	// generation of the accepted spec that was applied.
	// +optional
	Generation int64 `json:"generation,omitempty"`
}

// AppliedVirtualDestination says what a mesh makes of a VirtualDestination.
type AppliedVirtualDestination struct {
	// name of the VirtualDestination, "<name>.<namespace>".
	// +required
	Name string `json:"name"`
	// generation of the accepted spec that was applied.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// clusters that serve it in this mesh, its own first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	Clusters []string `json:"clusters,omitempty"`
	// errors say which clusters do not serve it, and why.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Errors []string `json:"errors,omitempty"`
}

// Workload is a controller whose pods are in a mesh, named "<kind>.<name>.<namespace>". Written by the agent of the cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wl,categories=isthmus
// +kubebuilder:printcolumn:name="Mesh",type=string,JSONPath=`.spec.mesh`
// +kubebuilder:printcolumn:name="Data Plane",type=string,JSONPath=`.spec.dataPlane`
// +kubebuilder:printcolumn:name="Service Account",type=string,JSONPath=`.spec.serviceAccount`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Workload struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what was discovered.
	// +required
	Spec WorkloadSpec `json:"spec"`
	// status of the workload.
	// +optional
	Status WorkloadStatus `json:"status,omitempty"`
}

// WorkloadList is a list of Workloads.
//
// +kubebuilder:object:root=true
type WorkloadList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Workload `json:"items"`
}

// WorkloadSpec is what was discovered of a workload.
type WorkloadSpec struct {
	// cluster is the registered name of the cluster.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=54
	Cluster string `json:"cluster"`
	// mesh is the name of the Mesh, in the same namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Mesh string `json:"mesh"`
	// controller of the pods.
	// +required
	Controller ControllerRef `json:"controller"`
	// podSelector is the selector by which the controller finds its pods, if it is one of labels alone.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	PodSelector map[string]string `json:"podSelector,omitempty"`
	// podLabels of the pod template.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	PodLabels map[string]string `json:"podLabels,omitempty"`
	// serviceAccount of the pods.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// dataPlane says how the workload is in the mesh.
	// +optional
	DataPlane DataPlane `json:"dataPlane,omitempty"`
	// revision of the control plane that serves it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Revision string `json:"revision,omitempty"`
}

// DataPlane is how a workload is in a mesh.
//
// +kubebuilder:validation:Enum=Sidecar;Gateway;Ambient;Proxyless
type DataPlane string

// Data planes.
const (
	DataPlaneSidecar   DataPlane = "Sidecar"
	DataPlaneGateway   DataPlane = "Gateway"
	DataPlaneAmbient   DataPlane = "Ambient"
	DataPlaneProxyless DataPlane = "Proxyless"
)

// ControllerRef names a controller of pods.
type ControllerRef struct {
	// apiVersion of the controller, such as apps/v1.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	APIVersion string `json:"apiVersion,omitempty"`
	// kind of the controller, such as Deployment.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// name of the controller.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the controller.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
}

// WorkloadStatus is the status of a workload.
type WorkloadStatus struct {
	ConditionedStatus `json:",inline"`
}

// Destination is a service of a mesh, named "<service>.<namespace>". Written by the agent of the cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dest,categories=isthmus
// +kubebuilder:printcolumn:name="Mesh",type=string,JSONPath=`.spec.mesh`
// +kubebuilder:printcolumn:name="Federated As",type=string,JSONPath=`.status.appliedFederation.federatedHostname`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Destination struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what was discovered.
	// +required
	Spec DestinationSpec `json:"spec"`
	// status is what was applied.
	// +optional
	Status DestinationStatus `json:"status,omitempty"`
}

// DestinationList is a list of Destinations.
//
// +kubebuilder:object:root=true
type DestinationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Destination `json:"items"`
}

// DestinationSpec is what was discovered of a destination.
type DestinationSpec struct {
	// cluster is the registered name of the cluster.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=54
	Cluster string `json:"cluster"`
	// mesh is the name of the Mesh, in the same namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Mesh string `json:"mesh"`
	// kubeService describes a Kubernetes Service.
	// +required
	KubeService KubeService `json:"kubeService"`
	// identities are the SPIFFE IDs of the workloads behind it, sorted.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=2048
	Identities []string `json:"identities,omitempty"`
	// dataPlanes by which the workloads behind it are in the mesh, sorted.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	DataPlanes []DataPlane `json:"dataPlanes,omitempty"`
}

// KubeService describes a Kubernetes Service.
type KubeService struct {
	// name of the Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// namespace of the Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// labels of the Service.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Labels map[string]string `json:"labels,omitempty"`
	// selector of the pods.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Selector map[string]string `json:"selector,omitempty"`
	// type of the Service: ClusterIP, NodePort, LoadBalancer, ExternalName or Headless.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Type string `json:"type,omitempty"`
	// ports of the Service.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Ports []KubeServicePort `json:"ports,omitempty"`
	// subsets are the labels by which the pods behind it differ, with their values.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Subsets map[string]SubsetValues `json:"subsets,omitempty"`
}

// SubsetValues are the values of a label.
type SubsetValues struct {
	// values that occur, sorted.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	Values []string `json:"values"`
}

// KubeServicePort is a port of a Service.
type KubeServicePort struct {
	// name of the port.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// port number.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// protocol of the port: TCP, UDP or SCTP.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Protocol string `json:"protocol,omitempty"`
	// appProtocol of the port.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	AppProtocol string `json:"appProtocol,omitempty"`
	// targetPort of the pods: a number or a name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	TargetPort string `json:"targetPort,omitempty"`
	// nodePort of the port.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort,omitempty"`
}

// DestinationStatus is what was applied to a destination.
type DestinationStatus struct {
	ConditionedStatus `json:",inline"`
	// appliedFederation says how it is federated.
	// +optional
	AppliedFederation *AppliedFederation `json:"appliedFederation,omitempty"`
	// appliedAccessPolicies are the names of the policies in force, in order of acceptance.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	AppliedAccessPolicies []string `json:"appliedAccessPolicies,omitempty"`
	// rejectedAccessPolicies are policies that select this destination and cannot be enforced at it: nobody is allowed by them.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	RejectedAccessPolicies []RejectedAccessPolicy `json:"rejectedAccessPolicies,omitempty"`
	// errors found.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Errors []string `json:"errors,omitempty"`
}

// RejectedAccessPolicy is a policy that cannot be enforced at a destination.
type RejectedAccessPolicy struct {
	// name of the AccessPolicy, "<name>.<namespace>".
	// +required
	Name string `json:"name"`
	// errors say why.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Errors []string `json:"errors,omitempty"`
}

// AppliedFederation says how a destination is federated.
type AppliedFederation struct {
	// federatedHostname is its name in other meshes.
	// +optional
	FederatedHostname string `json:"federatedHostname,omitempty"`
	// shortHostname is its further name in other meshes, where the virtual mesh asks for it.
	// +optional
	ShortHostname string `json:"shortHostname,omitempty"`
	// federatedToMeshes are the meshes that may have it, "<name>.<namespace>"; the one entry "*" stands for every other member.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	FederatedToMeshes []string `json:"federatedToMeshes,omitempty"`
	// virtualMesh that asks for it, "<name>.<namespace>".
	// +optional
	VirtualMesh string `json:"virtualMesh,omitempty"`
	// subsets are the names of the subsets that a DestinationRule of the home mesh defines for the service; they have the
	// same names in other meshes.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Subsets []string `json:"subsets,omitempty"`
	// endpoints are the pods themselves, where the network is flat.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	Endpoints []FederatedEndpoint `json:"endpoints,omitempty"`
}

// FederatedEndpoint is a pod behind a federated destination in a flat network.
type FederatedEndpoint struct {
	// address of the pod.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address"`
	// ports of the pod by name of the Service's port; "port-<number>" stands for a port without name.
	// +optional
	// +kubebuilder:validation:MaxProperties=256
	Ports map[string]int32 `json:"ports,omitempty"`
}
