package network

import (
	"context"
	"maps"
	"slices"
	"strings"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// externalPrefix begins the annotation isthmus.dev/destination of what was made for an external service.
const externalPrefix = "external:"

// isPrefixed reports whether the annotation isthmus.dev/destination names something else than a Destination.
func isPrefixed(value string) bool {
	return strings.HasPrefix(value, externalPrefix) || strings.HasPrefix(value, namePrefix)
}

// displaces reports whether a rule would take the place of one of somebody else.
func (n *network) displaces(ctx context.Context, rule *networkingv1.DestinationRule) (bool, error) {
	for _, host := range covering(rule.Spec.Host) {
		var list networkingv1.DestinationRuleList
		err := n.istio.GetCache().List(ctx, &list, client.InNamespace(rule.Namespace), client.MatchingFields{byHost: host}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return false, err
		}
		for _, other := range list.Items {
			if federation.Displaces(rule, other) {
				return true, nil
			}
		}
	}
	return false, nil
}

// externalOf are the external services of which a rule of somebody else speaks, in whose place none of ours may be.
func (n *network) externalOf(rule *networkingv1.DestinationRule) (out []ctrl.Request) {
	v := n.view.Load()
	if v == nil || !slices.ContainsFunc(slices.Collect(maps.Values(v.own)), func(m *v1alpha1.Mesh) bool { return m.Spec.Istio.RootNamespace == rule.Namespace }) {
		return nil
	}
	var list networkingv1.ServiceEntryList
	suffix, wild := strings.CutPrefix(rule.Spec.Host, "*")
	opts := []client.ListOption{client.UnsafeDisableDeepCopy}
	if !wild {
		opts = append(opts, client.MatchingFields{byHost: rule.Spec.Host})
	}
	if err := n.istio.GetCache().List(context.Background(), &list, opts...); err != nil {
		return nil // the cache stops
	}
	for _, e := range list.Items {
		if !isOurs(e) && slices.ContainsFunc(e.Spec.Hosts, func(host string) bool { return !wild || strings.HasSuffix(host, suffix) }) {
			out = append(out, requestOf(e)...)
		}
	}
	return out
}

// reconcileExternal gives connections to an external service, a ServiceEntry of somebody else, the keepalive of the virtual
// mesh.
func (n *network) reconcileExternal(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := n.view.Load()
	if v == nil {
		return ctrl.Result{}, nil
	}
	entry := &networkingv1.ServiceEntry{}
	err := n.istio.GetCache().Get(ctx, req.NamespacedName, entry)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	gone := apierrors.IsNotFound(err)
	destination := externalPrefix + req.String()
	have, err := n.objects.madeFor(ctx, destination, &networkingv1.DestinationRule{})
	if err != nil {
		return ctrl.Result{}, err
	}
	var again ctrl.Result
	var want []client.Object
	for _, name := range slices.Sorted(maps.Keys(v.own)) {
		mesh := v.own[name]
		if v.frozen(mesh) {
			return ctrl.Result{}, nil
		}
		vm := v.of(mesh)
		if vm == nil || gone || !n.isAnnounced(name, vm.Name) {
			continue
		}
		for _, rule := range federation.Keepalive(vm, mesh, entry) {
			annotate(rule, membership.MeshKey(mesh))
			rule.Annotations[v1alpha1.AnnotationDestination] = destination
			displaced, err := n.displaces(ctx, rule)
			if err != nil {
				return ctrl.Result{}, err
			}
			if displaced {
				continue // a rule of somebody else speaks for this host
			}
			// An object of somebody else with the name of one of these has its own say: nothing is lost.
			if err := n.objects.apply(ctx, rule, labelOf(vm)); err != nil {
				if _, foreign := n.blocked.foreign(err, externController, req); !foreign {
					return ctrl.Result{}, err
				}
				again.RequeueAfter = refusedAgain
			}
			want = append(want, rule)
		}
	}
	for _, o := range have {
		mesh := v.meshes[o.GetAnnotations()[annotationMesh]]
		if slices.ContainsFunc(want, func(w client.Object) bool { return sameObject(w, o) }) {
			continue
		}
		if mesh == nil || v.of(mesh) == nil && !gone && !v.givenUp(o.GetLabels()[v1alpha1.LabelVirtualMesh], mesh) {
			continue
		}
		if err := n.objects.delete(ctx, o, "no keepalive is called for"); err != nil {
			return ctrl.Result{}, err
		}
	}
	return again, nil
}
