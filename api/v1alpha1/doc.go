// Package v1alpha1 holds the kinds of the Isthmus API, group isthmus.dev.
//
// Users write VirtualMesh, AccessPolicy, VirtualDestination, Settings and CertificateVerification in the hub's own namespace.
// The agent of a member cluster writes Mesh, Workload, Destination and CertificateRequest in the namespace that the hub keeps
// for that cluster; the hub answers there with IssuedCertificate. The namespace says who wrote an object, nothing in the object
// does.
//
// +kubebuilder:object:generate=true
// +groupName=isthmus.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "isthmus.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&VirtualMesh{}, &VirtualMeshList{},
		&AccessPolicy{}, &AccessPolicyList{},
		&VirtualDestination{}, &VirtualDestinationList{},
		&Settings{}, &SettingsList{},
		&CertificateVerification{}, &CertificateVerificationList{},
		&KubernetesCluster{}, &KubernetesClusterList{},
		&Mesh{}, &MeshList{},
		&Workload{}, &WorkloadList{},
		&Destination{}, &DestinationList{},
		&IssuedCertificate{}, &IssuedCertificateList{},
		&CertificateRequest{}, &CertificateRequestList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
