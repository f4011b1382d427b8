package bench

import (
	"fmt"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/network"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

const mib = 1 << 20

// BenchmarkMemory measures the memory of the programs: the agent of a cluster, and the hub, where ten other clusters have
// 100,000 Destinations, of which 10,000 are federated; and where a hostile member says of all of its 100,000 that they are.
// It is that of the process with all its code, at its peak and after garbage collection.
func BenchmarkMemory(b *testing.B) {
	for _, tc := range []struct {
		name                              string
		clusters, destinations, federated int
	}{
		{"small", 1, 1000, 1000},
		{"fleet", 10, 100_000, 10_000},
		{"hostile", 1, 100_000, 100_000},
	} {
		b.Run(fmt.Sprintf("%s/clusters=%d/destinations=%d/federated=%d", tc.name, tc.clusters, tc.destinations, tc.federated), func(b *testing.B) {
			w := newWorld(b)
			meshes := []string{"istiod-istio-system-east"}
			for i := range tc.clusters {
				meshes = append(meshes, w.stranger(i))
			}
			w.inParallel(tc.destinations, func(i int) error {
				return w.writeDestination(i%tc.clusters, i, i < tc.federated)
			})
			east := w.join("east", "203.0.113.1")
			w.virtualMesh(meshes...)
			w.imported(east, min(tc.federated, network.DefaultMaxImports))
			report(b, "agent", east.program)
			report(b, "hub", w.program)
			east.program.stop()
			east.start()
			w.eventually("the agent to be at work", func() error { return east.program.logged("at work") })
			report(b, "agent-restarted", east.program)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// report reports the memory of a program that has nothing more to do: after its next garbage collection, for which the
// runtime does not wait longer than two minutes.
func report(b *testing.B, name string, p *program) {
	b.Helper()
	before := p.collections()
	p.w.eventually("garbage collection", func() error {
		if n := p.collections(); n < before+2 { // one may have begun before
			return fmt.Errorf("%v since", n-before)
		}
		return nil
	})
	now, peak := p.memory()
	b.ReportMetric(float64(p.live())/mib, name+"-live-MiB")
	b.ReportMetric(float64(now)/mib, name+"-rss-MiB")
	b.ReportMetric(float64(peak)/mib, name+"-peak-MiB")
}

// stranger registers a cluster that nobody works for and writes its Mesh.
func (w *world) stranger(i int) (mesh string) {
	w.Helper()
	name := fmt.Sprintf("c%d", i)
	w.register(name)
	labels := map[string]string{"istio": "eastwestgateway"}
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: kube.ClusterNamespace(name), Name: kube.MeshName("istio-system", name)}}
	m.Spec = v1alpha1.MeshSpec{Cluster: name, Istio: v1alpha1.IstioMesh{
		RootNamespace: "istio-system", TrustDomain: "cluster.local", ClusterDomain: "cluster.local", IstiodServiceAccount: "istiod",
		Gateways: []v1alpha1.IngressGateway{{
			Name: "istio-eastwestgateway", Namespace: "istio-system", Class: v1alpha1.GatewayEastWest, Labels: labels, Selector: labels,
			Addresses: []string{fmt.Sprintf("203.0.113.%d", 100+i)},
			Ports:     []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443}},
		}},
	}}
	w.must(w.hub.Client.Create(w.ctx, m))
	return m.Name
}

// writeDestination writes a Destination of such a cluster as its agent would: a Service of two ports with the labels that Helm
// gives.
func (w *world) writeDestination(cluster, i int, federated bool) error {
	c := fmt.Sprintf("c%d", cluster)
	service, namespace := fmt.Sprintf("service-%d", i), fmt.Sprintf("team-%d", i%97)
	d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{
		Namespace: kube.ClusterNamespace(c), Name: kube.Qualified(service, namespace),
		Labels: map[string]string{v1alpha1.LabelManagedBy: "isthmus-agent-discovery"},
	}}
	d.Spec = v1alpha1.DestinationSpec{
		Cluster: c, Mesh: kube.MeshName("istio-system", c), Identities: []string{"spiffe://cluster.local/ns/" + namespace + "/sa/" + service},
		KubeService: v1alpha1.KubeService{
			Name: service, Namespace: namespace, Type: "ClusterIP",
			Labels: map[string]string{
				"app.kubernetes.io/name": service, "app.kubernetes.io/instance": service, "app.kubernetes.io/managed-by": "Helm",
				"helm.sh/chart": "service-1.2.3",
			},
			Selector: map[string]string{"app.kubernetes.io/name": service, "app.kubernetes.io/instance": service},
			Ports: []v1alpha1.KubeServicePort{
				{Name: "http", Port: 8080, Protocol: "TCP", TargetPort: "8080"}, {Name: "grpc-api", Port: 9090, Protocol: "TCP", TargetPort: "grpc"},
			},
			Subsets: map[string]v1alpha1.SubsetValues{"version": {Values: []string{"v1", "v2"}}},
		},
	}
	if federated {
		d.Labels[v1alpha1.LabelFederated] = "true"
	}
	if err := w.hub.Client.Create(w.ctx, d, client.FieldOwner("isthmus-agent-discovery")); err != nil || !federated {
		return err
	}
	d.Status.AppliedFederation = &v1alpha1.AppliedFederation{
		FederatedHostname: service + "." + namespace + ".svc." + c + ".global", FederatedToMeshes: []string{"*"}, VirtualMesh: "vm.isthmus-system",
	}
	d.Status.ObservedGeneration = d.Generation
	d.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, Message: "in force", LastTransitionTime: metav1.Now(),
	}}
	return w.hub.Client.Status().Update(w.ctx, d, client.FieldOwner("isthmus-agent-network"))
}

// imported waits until a cluster has n imports and its agent has said so.
func (w *world) imported(m *member, n int) {
	w.Helper()
	w.eventually(fmt.Sprintf("%d imports", n), func() error {
		var entries networkingv1.ServiceEntryList
		if err := m.Client.List(w.ctx, &entries, client.Limit(1)); err != nil {
			return err
		}
		got := len(entries.Items)
		if entries.RemainingItemCount != nil {
			got += int(*entries.RemainingItemCount)
		}
		if got != n {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
	w.settled(m)
}

// settled waits until the agent of a cluster reports that it has applied the virtual mesh.
func (w *world) settled(m *member) {
	w.Helper()
	w.eventually("the virtual mesh to be applied in "+m.name, func() error {
		mesh := &v1alpha1.Mesh{}
		if err := w.hub.Client.Get(w.ctx, m.meshKey(), mesh); err != nil {
			return err
		}
		if len(mesh.Status.AppliedVirtualMeshes) == 0 {
			return fmt.Errorf("status: %+v", mesh.Status)
		}
		return nil
	})
}
