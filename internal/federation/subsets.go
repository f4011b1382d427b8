package federation

import (
	"slices"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// SubsetsOf are the names of the subsets that apply at the gateways of a mesh to a service of it: of the DestinationRule that
// the gateway's proxy uses for the service's host.
func SubsetsOf(home *v1alpha1.Mesh, gatewayNamespace string, service *v1alpha1.KubeService, rules []*networkingv1.DestinationRule) []string {
	var names []string
	for _, r := range rulesFor(home, gatewayNamespace, service, rules) {
		for _, s := range r.Spec.Subsets {
			if len(validation.IsDNS1123Label(s.GetName())) == 0 {
				names = append(names, s.GetName())
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxSubsets)]
}

// rulesFor finds the rules that istiod merges into the one that a proxy of a namespace uses for a service: of the first of
// these that has any, the proxy's namespace unless that is the root namespace, the service's, and the root namespace (Istio:
// pilot/pkg/model/push_context.go, destinationRule).
func rulesFor(home *v1alpha1.Mesh, proxy string, service *v1alpha1.KubeService, rules []*networkingv1.DestinationRule) []*networkingv1.DestinationRule {
	root, domain := home.Spec.Istio.RootNamespace, clusterDomain(home)
	host := service.Name + "." + service.Namespace + ".svc." + domain
	of := func(namespace string, which func(*networkingv1.DestinationRule) bool) []*networkingv1.DestinationRule {
		var list []*networkingv1.DestinationRule
		for _, r := range rules {
			if r.Namespace == namespace && r.Spec.WorkloadSelector == nil && which(r) {
				list = append(list, r)
			}
		}
		return mostSpecific(list, host, domain)
	}

	local := func(r *networkingv1.DestinationRule) bool { return exportedTo(r, proxy) }
	if proxy == root {
		local = private // the others of the root namespace are for everybody, and come last
	}
	if found := of(proxy, local); found != nil {
		return found
	}
	for _, namespace := range []string{service.Namespace, root} {
		found := of(namespace, func(r *networkingv1.DestinationRule) bool { return !private(r) })
		found = slices.DeleteFunc(found, func(r *networkingv1.DestinationRule) bool { return !exportedTo(r, proxy) })
		if len(found) > 0 {
			return found
		}
	}
	return nil
}
