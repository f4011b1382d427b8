package e2e

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

const third = "third-cluster-context"

// TestTrustDomains joins three meshes, each with a trust domain of its own that the others take for an alias of theirs. There,
// identities tell clusters apart: policies by cluster are enforced, and so is to which meshes something is federated.
func TestTrustDomains(t *testing.T) {
	takesLong(t)
	domains := map[string]string{management: "cluster.local", remote: "remote.example", third: "third.example"}
	w := newWorld(t, "e2e-domains", "--clusters", "management-plane,remote-cluster,third-cluster",
		"--trust-domain", "remote-cluster="+domains[remote], "--trust-domain", "third-cluster="+domains[third])
	contexts := []string{management, remote, third}
	for _, context := range contexts {
		var aliases []string
		for _, o := range contexts {
			if o != context {
				aliases = append(aliases, domains[o])
			}
		}
		w.meshConfig(t, context, "trustDomainAliases: ["+strings.Join(aliases, ", ")+"]")
	}
	w.install(t, contexts...)
	w.apply(t, management, `
apiVersion: isthmus.dev/v1alpha1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: isthmus-system}
spec:
  mtlsConfig: {autoRestartPods: true, shared: {}}
  federation: {selectors: [{}]}
  meshes:
  - {name: istiod-istio-system-management-plane}
  - {name: istiod-istio-system-remote-cluster}
  - {name: istiod-istio-system-third-cluster}
`)
	w.ready(t, "virtual-mesh", 5*time.Minute)
	for _, context := range contexts {
		w.deploy(t, context, caller)
	}

	details := federated("details.default", management)
	url := map[string]string{management: "http://details:9080/", remote: "http://" + details + ":9080/", third: "http://" + details + ":9080/"}
	// reached says from which clusters details is, and is not.
	reached := func(from ...string) {
		t.Helper()
		allowed := map[string]bool{}
		for _, context := range from {
			allowed[context] = true
			o := w.want(t, context, caller, answeredBy("details", management), url[context])
			if want := "spiffe://" + domains[context] + "/ns/default/sa/caller"; o.caller() != want {
				t.Errorf("the server sees %s, want %s", o.caller(), want)
			}
		}
		for _, context := range contexts {
			if !allowed[context] {
				w.want(t, context, caller, denied, url[context])
			}
		}
	}
	reached(contexts...)
	// The other way: the identity of a server in another trust domain is verified too.
	w.want(t, management, caller, answeredBy("reviews", remote), "http://"+federated("reviews.default", remote)+":9080/")

	t.Run("Policies", func(t *testing.T) {
		const to = "destinationSelector: [{kubeServiceRefs: {services: [{name: details, namespace: default}]}}]"
		for clusters, from := range map[string][]string{
			"remote-cluster":                  {remote},
			"management-plane":                {management},
			"management-plane, third-cluster": {management, third},
		} {
			w.policy(t, "details", "{sourceSelector: [{kubeIdentityMatcher: {namespaces: [default], clusters: ["+clusters+"]}}], "+to+"}")
			reached(from...)
		}
		w.policy(t, "details", "{sourceSelector: [{kubeServiceAccountRefs: {serviceAccounts: [{name: caller, namespace: default, clusterName: third-cluster}]}}], "+to+"}")
		reached(third)
		w.policy(t, "details", "{sourceSelector: [{kubeServiceAccountRefs: {serviceAccounts: [{name: caller, namespace: default}]}}], "+to+"}")
		reached(contexts...)
		w.deletePolicies(t, "details")
		reached(contexts...)
	})

	t.Run("ClientMeshes", func(t *testing.T) {
		federate(t, w, `{"selectors":[{"destinationSelectors":[{"kubeServiceRefs":{"services":[{"name":"details","namespace":"default"}]}}],"meshes":[{"name":"istiod-istio-system-remote-cluster"}]}]}`)
		w.gone(t, third, details)
		w.want(t, remote, caller, answeredBy("details", management), url[remote])
		w.want(t, management, caller, answeredBy("details", management), url[management])
		// Without a name, by a forged one: the gateway lets it pass, and the server does not.
		gateway := w.gatewayAddress(t, management)
		forged := []string{"-sni", sni("details.default", 9080), "-alpn", "istio", "-cert", "/certs/cert-chain.pem", "-key", "/certs/key.pem", "http://" + gateway + ":15443/"}
		w.want(t, remote, caller, answered, forged...)
		w.want(t, third, caller, func(o outcome) bool { return o.Kind == "http 403" }, forged...)
		if status, reason, message := w.condition("virtual-mesh", "ClientMeshEnforced"); status == "False" {
			t.Errorf("ClientMeshEnforced is %s, %s: %s", status, reason, message)
		}
		federate(t, w, everything)
		w.want(t, third, caller, answeredBy("details", management), url[third])
	})
}

// meshConfig adds a line to the configuration of a mesh.
func (w *world) meshConfig(t *testing.T, context, line string) {
	t.Helper()
	config := w.jsonpath(context, "{.data.mesh}", "-n", "istio-system", "configmap", "istio")
	if config == "" {
		t.Fatalf("%s: no mesh configuration", context)
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]any{"mesh": strings.TrimRight(config, "\n") + "\n" + line + "\n"}})
	if err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, context, "-n", "istio-system", "patch", "configmap", "istio", "--type=merge", "-p", string(patch))
	eventually(t, time.Minute, "istiod of "+cluster(context)+" has "+line, func() error {
		out, err := w.try(time.Minute, "kubectl", "--context", context, "-n", "istio-system", "exec", "deploy/istiod", "--", "pilot-discovery", "request", "GET", "/debug/mesh")
		if err == nil && !strings.Contains(out, `"trustDomainAliases"`) {
			err = errors.New("not yet")
		}
		return err
	})
}
