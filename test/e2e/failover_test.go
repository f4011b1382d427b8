package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// stock is the service that both clusters have in the scenario of failover, and stockName the one name for it.
var stock = program{name: "stock", namespace: "default", ports: ports}

const stockName = "stock.default.svc.global"

// failover: one name for a service of both clusters. The client's own pods answer, those of the other cluster when there are none
// or when they fail, and the own ones again when they are back.
func failover(t *testing.T, w *world) {
	federate(t, w, everything)
	for _, context := range []string{management, remote} {
		w.deploy(t, context, stock)
	}
	for _, context := range []string{management, remote} {
		w.created(t, context, "-n", "istio-system", "serviceentry", federated("stock.default", other(context)))
	}
	w.apply(t, management, `
apiVersion: isthmus.dev/v1alpha1
kind: VirtualDestination
metadata: {name: stock, namespace: isthmus-system}
spec:
  virtualMesh: {name: virtual-mesh}
  service: {name: stock, namespace: default}
  clusters: [management-plane, remote-cluster]
  ports: [9080, 9000, 9090]
  outlierDetection: {consecutiveErrors: 3, interval: 1s, baseEjectionTime: 10s}
`)
	nameReady(t, w, "stock")
	urls := []string{"http://" + stockName + ":9080/", "grpc://" + stockName + ":9090", "tcp://" + stockName + ":9000"}
	answers := func(t *testing.T, context, by string) {
		t.Helper()
		for _, u := range urls[:2] {
			w.want(t, context, caller, answeredBy("stock", by), u)
		}
		w.want(t, context, caller, answered, urls[2])
	}
	// always asks some times over: nothing is answered by the other cluster while the own one works.
	always := func(t *testing.T, context, by string) {
		t.Helper()
		answers(t, context, by)
		for i := range 20 {
			if o := w.insist(context, caller, urls[i%2]); !answeredBy("stock", by)(o) {
				t.Fatalf("%s asks %s: %s", cluster(context), urls[i%2], o)
			}
		}
	}
	for _, context := range []string{management, remote} {
		always(t, context, context)
	}
	if o := w.want(t, remote, caller, answeredBy("stock", remote), urls[0]); o.caller() != "spiffe://cluster.local/ns/default/sa/caller" {
		t.Errorf("the server sees %q", o.caller())
	}
	w.seesFailures(t, remote, caller, "http://ratings:9080") // not of the name itself: its endpoints would be taken for failing

	t.Run("NoPodsLeft", func(t *testing.T) {
		load := w.startLoad(t, remote, caller, 40, urls...)
		scaleStock(t, w, 0)
		always(t, remote, management)
		scaleStock(t, w, 2)
		always(t, remote, remote)
		load.stopClean(t)
	})

	// What istiod has of this it has from the cluster, so it needs no agent.
	t.Run("WithoutAgentAndHub", func(t *testing.T) {
		takesLong(t)
		scaleAgent(t, w, remote, 0)
		w.kubectl(t, management, "-n", "isthmus-system", "scale", "deploy/isthmus-hub", "--replicas=0")
		load := w.startLoad(t, remote, caller, 40, urls...)
		scaleStock(t, w, 0)
		always(t, remote, management)
		scaleStock(t, w, 2)
		always(t, remote, remote)
		load.stopClean(t)
		w.kubectl(t, management, "-n", "isthmus-system", "scale", "deploy/isthmus-hub", "--replicas=1")
		w.kubectl(t, management, "-n", "isthmus-system", "rollout", "status", "deploy/isthmus-hub", "--timeout=90s")
		scaleAgent(t, w, remote, 1)
		w.connected(t, remote, "True")
	})

	// Pods that are killed without a word: what is on its way to them is lost, as it would be within one cluster.
	t.Run("PodsKilled", func(t *testing.T) {
		load := w.startLoad(t, remote, caller, 40, urls...)
		for range 3 {
			w.kubectl(t, remote, "-n", "default", "delete", "pods", "-l", "app=stock", "--force", "--grace-period=0")
			w.kubectl(t, remote, "-n", "default", "rollout", "status", "deploy/stock", "--timeout=90s")
		}
		always(t, remote, remote)
		s := load.stop(t)
		t.Logf("killed three times: %d of %d requests failed: %v", s.Failed, s.Sent, s.URLs)
		if s.Failed*20 > s.Sent {
			t.Errorf("%d of %d requests failed: %v\n%v", s.Failed, s.Sent, s.URLs, s.Failures[:min(len(s.Failures), 10)])
		}
	})

	// Pods that are ready and do not answer at one port: they are found out by their failures.
	t.Run("PodsThatFail", func(t *testing.T) {
		takesLong(t)
		broken := stock
		broken.args = []string{"--http=:9999"}
		w.deploy(t, remote, broken)
		eventually(t, time.Minute, "the other cluster answers", func() error {
			for range 5 {
				if o := w.call(remote, caller, urls[0]); !answeredBy("stock", management)(o) {
					return fmt.Errorf("%s", o)
				}
			}
			return nil
		})
		w.deploy(t, remote, stock)
		// As long as one that fails is known, some go to the other cluster.
		eventually(t, 2*time.Minute, "the own pods answer again, always", func() error {
			for i := range 20 {
				if o := w.insist(remote, caller, urls[i%2]); !answeredBy("stock", remote)(o) {
					return fmt.Errorf("%s: %s", urls[i%2], o)
				}
			}
			return nil
		})
		answers(t, remote, remote)
	})

	t.Run("NotFederated", func(t *testing.T) {
		federate(t, w, only("reviews.default"))
		ways := func(what string, want bool) {
			t.Helper()
			eventually(t, time.Minute, what, func() error {
				got := w.jsonpath(remote, "{.items[*].spec.endpoints[*].address}", "-n", "default", "serviceentries", "-l", "isthmus.dev/managed-by=isthmus-agent-network")
				if (got != "") != want {
					return fmt.Errorf("endpoints %q", got)
				}
				return nil
			})
		}
		ways("the remote cluster has no way to the other", false)
		always(t, remote, remote)
		federate(t, w, everything)
		ways("the remote cluster has a way to the other again", true)
		nameReady(t, w, "stock")
	})

	out := w.run(t, time.Minute, "meshctl", "describe", "virtualdestination", "stock", "--context", management)
	if !strings.Contains(out, stockName) || !strings.Contains(out, "WHEN THAT FAILS") {
		t.Errorf("describe says\n%s", out)
	}
	w.sound(t)
	w.kubectl(t, management, "-n", "isthmus-system", "delete", "virtualdestination", "stock")
	for _, context := range []string{management, remote} {
		eventually(t, time.Minute, cluster(context)+" gives the name up", func() error {
			if got := w.objects(t, context, ".spec.hosts"); strings.Contains(got, stockName) {
				return fmt.Errorf("there is\n%s", got)
			}
			return nil
		})
		w.kubectl(t, context, "-n", "default", "delete", "deploy,service,serviceaccount", "stock")
		w.gone(t, other(context), federated("stock.default", context))
	}
}

// scaleStock scales the remote cluster's and waits until it is so.
func scaleStock(t *testing.T, w *world, replicas int) {
	t.Helper()
	w.kubectl(t, remote, "-n", "default", "scale", "deploy/stock", fmt.Sprintf("--replicas=%d", replicas))
	w.kubectl(t, remote, "-n", "default", "rollout", "status", "deploy/stock", "--timeout=90s")
	if replicas == 0 {
		w.kubectl(t, remote, "-n", "default", "wait", "--for=delete", "pods", "-l", "app=stock", "--timeout=90s")
	}
}

// nameReady waits until a VirtualDestination is in force everywhere.
func nameReady(t *testing.T, w *world, name string) {
	t.Helper()
	eventually(t, time.Minute, "VirtualDestination "+name+" is Ready", func() error {
		out, err := w.try(time.Minute, "kubectl", "--context", management, "-n", "isthmus-system", "get", "virtualdestination", name, "-o", "json")
		if err != nil {
			return err
		}
		var vd struct {
			Metadata struct{ Generation int64 }
			Status   struct {
				State              string
				ObservedGeneration int64
				Meshes             json.RawMessage
				Errors             []string
			}
		}
		if err := json.Unmarshal([]byte(out), &vd); err != nil {
			return err
		}
		if vd.Status.State != "ACCEPTED" || vd.Status.ObservedGeneration != vd.Metadata.Generation {
			return fmt.Errorf("state %s, errors %v, meshes %s", vd.Status.State, vd.Status.Errors, vd.Status.Meshes)
		}
		return nil
	})
}
