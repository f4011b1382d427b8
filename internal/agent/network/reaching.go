package network

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/reach"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

const (
	// reachSamples is how many destinations of a mesh are tried before a gateway is said not to lead to them: one may have no
	// pods.
	reachSamples = 3
	// reachAddresses are tried of one mesh, and for reachTime; reachHomes meshes at a time. Each mesh says itself how many it has.
	reachAddresses = 16
	reachTime      = 20 * time.Second
	reachHomes     = 16
	// roundInterval is between rounds, after roundsAtOnce: whenever another mesh changes there is one.
	roundInterval = 15 * time.Second
	roundsAtOnce  = 4
	// rootConfigMap is where istiod publishes the roots that proxies trust, under pki.RootCertKey.
	rootConfigMap = "istio-ca-root-cert"
)

// reconcileReach tries the way from this cluster to each mesh that it imports from, through each of that mesh's gateways.
func (n *network) reconcileReach(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := n.view.Load()
	again := ctrl.Result{RequeueAfter: n.GatewayProbeInterval}
	if n.GatewayProbeInterval == 0 || v == nil || v.own[req.Name] == nil {
		return again, nil
	}
	mesh := v.own[req.Name]
	vm := v.of(mesh)
	if vm == nil || vm.Spec.Federation == nil || vm.Spec.Federation.FlatNetwork {
		n.reports.setReach(mesh.Name, nil)
		return again, nil
	}
	if wait := n.rounds.try(mesh.Name, n.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	roots, err := n.trusted(ctx, vm, mesh)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := n.lookForAPIServers(ctx); err != nil {
		return ctrl.Result{}, err
	}
	prober := n.prober()
	var (
		mu    sync.Mutex
		found = map[string][]string{}
		homes sync.WaitGroup
		slots = make(chan struct{}, reachHomes)
	)
	for _, home := range vm.Members {
		if home.Name == mesh.Name && home.Namespace == mesh.Namespace {
			continue
		}
		targets, err := n.targets(ctx, vm, mesh, home, roots)
		if err != nil {
			return ctrl.Result{}, err
		}
		slots <- struct{}{}
		homes.Go(func() {
			defer func() { <-slots }()
			if problems := n.tryHome(ctx, prober, vm, home, targets); len(problems) > 0 {
				mu.Lock()
				found[home.Namespace] = append(found[home.Namespace], problems...)
				mu.Unlock()
			}
		})
	}
	homes.Wait()
	for _, problems := range found {
		slices.Sort(problems)
	}
	n.reports.setReach(mesh.Name, found)
	return again, nil
}

// prober asks nothing that belongs to this cluster.
func (n *network) prober() reach.Prober {
	return reach.Prober{Now: n.Now, Forbidden: func(ip string, port int32) bool { return reach.Local(ip) || n.isForbidden(ip, port) }}
}

// tryHome tries the gateways of one mesh, no more of them and for no longer than is left to one mesh.
func (n *network) tryHome(ctx context.Context, prober reach.Prober, vm *membership.VirtualMesh, home *v1alpha1.Mesh, targets []reach.Target) (found []string) {
	if len(targets) == 0 {
		return nil
	}
	var tried []string
	until := n.Now().Add(reachTime)
	gateways, _ := federation.ChosenGateways(vm, home)
	for _, g := range gateways {
		for _, address := range g.Addresses {
			where := endpoint(address, g.TLSPort.ExternalPort)
			if slices.Contains(tried, where) {
				continue
			}
			if len(tried) == reachAddresses || n.Now().After(until) || ctx.Err() != nil {
				return found
			}
			tried = append(tried, where)
			if problem := try(ctx, prober, targets, address, g.TLSPort.ExternalPort); problem != "" {
				found = append(found, problem)
			}
		}
	}
	return found
}

// targets are some destinations of a mesh that are imported from it, without address.
func (n *network) targets(ctx context.Context, vm *membership.VirtualMesh, mesh, home *v1alpha1.Mesh, roots pki.Bundle) (out []reach.Target, err error) {
	keys := slices.DeleteFunc(n.imports.keys(), func(k types.NamespacedName) bool { return k.Namespace != home.Namespace })
	slices.SortFunc(keys, func(a, b types.NamespacedName) int { return cmp.Compare(a.Name, b.Name) })
	for _, key := range keys {
		d := &v1alpha1.Destination{}
		if err := client.IgnoreNotFound(n.hub.GetClient().Get(ctx, key, d)); err != nil {
			return nil, err
		}
		if d.Spec.Mesh != home.Name {
			continue
		}
		if name, identities := federation.Entrance(vm, mesh, home, d); name != "" && len(identities) > 0 {
			out = append(out, reach.Target{Mesh: membership.MeshKey(home), SNI: name, Identities: identities, Roots: roots})
		}
		if len(out) == reachSamples {
			break
		}
	}
	return out, nil
}

// try reports why none of the targets is reached by a gateway; "" if one is.
func try(ctx context.Context, prober reach.Prober, targets []reach.Target, address string, port int32) (problem string) {
	for _, t := range targets {
		t.Address, t.Port = address, port
		verdict := prober.Probe(ctx, t)
		if problem = verdict.String(); problem == "" || verdict.Problem == reach.Unreachable {
			break
		}
		ctrl.LoggerFrom(ctx).V(1).Info("a destination is not reached", "problem", problem, "reason", fmt.Sprint(verdict.Err))
	}
	return problem
}

// trusted are the roots by which a mesh knows whom it meets in others: those that its proxies trust, under limited trust those that
// its gateways do.
func (n *network) trusted(ctx context.Context, vm *membership.VirtualMesh, mesh *v1alpha1.Mesh) (pki.Bundle, error) {
	var roots []byte
	if vm.Limited() {
		egress, _ := federation.ChosenEgress(mesh)
		if egress == nil {
			return pki.Bundle{}, nil
		}
		secret := &corev1.Secret{}
		err := n.live.Get(ctx, client.ObjectKey{Namespace: egress.Namespace, Name: v1alpha1.GatewaySecretName}, secret)
		if err != nil {
			return pki.Bundle{}, client.IgnoreNotFound(err)
		}
		roots = secret.Data[pki.TLSRootKey]
	} else {
		cm := &corev1.ConfigMap{}
		if err := n.live.Get(ctx, client.ObjectKey{Namespace: mesh.Spec.Istio.RootNamespace, Name: rootConfigMap}, cm); err != nil {
			return pki.Bundle{}, client.IgnoreNotFound(err)
		}
		roots = []byte(cm.Data[pki.RootCertKey])
	}
	bundle, err := pki.ParseBundle(roots)
	if err != nil {
		return pki.Bundle{}, nil //nolint:nilerr // no roots are published: who is met is asked all the same
	}
	return bundle, nil
}
