package evidence

import (
	"maps"
	"testing"

	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
)

// The pods of a controller yield one and the same listener, whichever is looked at.
func TestListenerIsThatOfTheController(t *testing.T) {
	template := map[string]string{"app": "ingress", "istio": "ingressgateway"}
	of := func(name string, more map[string]string) ProxyPod {
		p := pod("10.0.0.1")
		p.Name, p.Kind = name, Gateway
		p.Controller, p.HasController = restart.Target{Kind: restart.Deployment, Namespace: "shop", Name: "ingress"}, true
		p.Labels = maps.Clone(template)
		maps.Copy(p.Labels, more)
		return p
	}
	for _, p := range []ProxyPod{
		of("ingress-abc-1", map[string]string{"pod-template-hash": "abc", "istio.io/rev": "1-30", "topology.kubernetes.io/zone": "a"}),
		of("ingress-0", map[string]string{
			"controller-revision-hash": "x", "statefulset.kubernetes.io/pod-name": "ingress-0", "apps.kubernetes.io/pod-index": "0",
		}),
	} {
		before := maps.Clone(p.Labels)
		g := Listener(p)
		if g.Name != "isthmus-canary-ingress" || g.Namespace != "shop" || !maps.Equal(g.Spec.Selector, template) {
			t.Errorf("%s: %s/%s for %v", p.Name, g.Namespace, g.Name, g.Spec.Selector)
		}
		if !maps.Equal(p.Labels, before) {
			t.Errorf("the labels of %s were changed", p.Name)
		}
	}
	alone := of("single", nil)
	alone.HasController = false
	if name := Listener(alone).Name; name != "isthmus-canary-single" {
		t.Errorf("a pod of its own: %s", name)
	}
}
