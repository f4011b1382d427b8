package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// crossTraffic is load in both clusters, on services of their own and of the other cluster; check ends it and fails the test
// for every request that failed.
func crossTraffic(t *testing.T, w *world) (check func()) {
	t.Helper()
	w.calm(t)
	var loads []*load
	for _, context := range []string{management, remote} {
		ratings, reviews := federated("ratings.default", other(context)), federated("reviews.default", other(context))
		urls := []string{
			"http://" + ratings + ":9080/", "tcp://" + ratings + ":9000", "grpc://" + reviews + ":9090", "tcp://" + reviews + ":9000",
			"http://ratings:9080/", "tcp://reviews:9000",
		}
		for _, u := range urls {
			w.want(t, context, caller, answered, u)
		}
		loads = append(loads, w.startLoad(t, context, caller, 40, urls...))
	}
	return func() {
		t.Helper()
		for _, l := range loads {
			l.stopClean(t)
		}
	}
}

// unwritten remembers what Isthmus has made in both clusters and what agents have reported of services; check fails the
// test if any of it was removed, added or written since.
func unwritten(t *testing.T, w *world) (check func()) {
	t.Helper()
	versions := func(context string) string {
		t.Helper()
		out := w.objects(t, context, ".metadata.resourceVersion")
		if context == management {
			out += w.kubectl(t, context, "get", "destinations,workloads", "-A", "-o",
				`jsonpath={range .items[*]}{"\n"}{.kind}/{.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}{end}`)
		}
		return out
	}
	before := map[string]string{management: versions(management), remote: versions(remote)}
	return func() {
		t.Helper()
		for context, was := range before {
			if now := versions(context); now != was {
				t.Errorf("%s: written although nothing has changed:\n%s", context, difference(was, now))
			}
		}
	}
}

// difference lists the lines that one of two texts has alone.
func difference(a, b string) string {
	var out []string
	only := func(sign, a, b string) {
		lines := map[string]bool{}
		for l := range strings.Lines(b) {
			lines[strings.TrimSpace(l)] = true
		}
		for l := range strings.Lines(a) {
			if l = strings.TrimSpace(l); !lines[l] {
				out = append(out, sign+" "+l)
			}
		}
	}
	only("-", a, b)
	only("+", b, a)
	return strings.Join(out, "\n")
}

// connected waits until a cluster is shown as connected, or as away.
func (w *world) connected(t *testing.T, context, want string) {
	t.Helper()
	eventually(t, 4*time.Minute, fmt.Sprintf("%s: Connected is %s", cluster(context), want), func() error {
		got := w.jsonpath(management, `{.status.conditions[?(@.type=="Connected")].status}`, "-n", "isthmus-system", "kubernetescluster", cluster(context))
		if got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// programsDown: with the hub away, and with the agents away, everything that runs goes on; back, they write nothing.
func programsDown(t *testing.T, w *world) {
	federate(t, w, everything)
	w.policy(t, "any", "{sourceSelector: [{kubeIdentityMatcher: {}}], destinationSelector: "+to("reviews.default")+"}")
	quiet := unwritten(t, w)
	check := crossTraffic(t, w)
	w.kubectl(t, management, "-n", "isthmus-system", "scale", "deploy/isthmus-hub", "--replicas=0")
	eventually(t, time.Minute, "the hub is gone", func() error {
		if out := w.jsonpath(management, "{.items[*].metadata.name}", "-n", "isthmus-system", "pods", "-l", "app.kubernetes.io/name=isthmus-hub"); out != "" {
			return errors.New(out)
		}
		return nil
	})
	for _, context := range []string{management, remote} {
		scaleAgent(t, w, context, 0)
	}
	for _, context := range []string{management, remote} {
		scaleAgent(t, w, context, 1) // with the hub away still
	}
	w.kubectl(t, management, "-n", "isthmus-system", "scale", "deploy/isthmus-hub", "--replicas=1")
	w.kubectl(t, management, "-n", "isthmus-system", "rollout", "status", "deploy/isthmus-hub", "--timeout=90s")
	w.connected(t, management, "True")
	w.connected(t, remote, "True")
	appears(t, w)
	check()
	quiet()
	w.deletePolicies(t, "any")
}

// appears proves that the agents of both clusters are at work: a new service gets its name in the other cluster, and one that
// is deleted loses it.
func appears(t *testing.T, w *world) {
	t.Helper()
	for _, context := range []string{management, remote} {
		w.apply(t, context, service("newcomer", "default", "ratings", ports))
	}
	for _, context := range []string{management, remote} {
		host := federated("newcomer.default", other(context))
		eventually(t, 2*time.Minute, cluster(context)+" gets the name "+host, func() error {
			_, err := w.try(time.Minute, "kubectl", "--context", context, "-n", "istio-system", "get", "serviceentry", host)
			return err
		})
		w.want(t, context, caller, answeredBy("ratings", other(context)), "http://"+host+":9080/")
		w.kubectl(t, other(context), "-n", "default", "delete", "service", "newcomer")
		w.gone(t, context, host)
	}
}

// apiServersDown: the API server of either cluster goes away and comes back; the management cluster's is the hub's too.
func apiServersDown(t *testing.T, w *world) {
	for _, context := range []string{remote, management} {
		quiet := unwritten(t, w)
		check := crossTraffic(t, w)
		w.run(t, time.Minute, "lab", "kill", "kube-apiserver", "--name", w.name, "--cluster", cluster(context))
		if _, err := w.try(20*time.Second, "kubectl", "--context", context, "get", "ns"); err == nil {
			t.Fatal("the API server answers although it was killed")
		}
		// While it is away the other agent starts over and sees half of the world.
		if context == management {
			w.kubectl(t, remote, "-n", "isthmus-agent", "rollout", "restart", "deploy/isthmus-agent")
			w.kubectl(t, remote, "-n", "isthmus-agent", "rollout", "status", "deploy/isthmus-agent", "--timeout=90s")
		}
		w.run(t, 2*time.Minute, "lab", "restart", "kube-apiserver", "--name", w.name, "--cluster", cluster(context))
		eventually(t, 2*time.Minute, "the API server answers", func() error {
			_, err := w.try(20*time.Second, "kubectl", "--context", context, "get", "ns")
			return err
		})
		w.connected(t, management, "True")
		w.connected(t, remote, "True")
		appears(t, w)
		check()
		quiet()
	}
}

// clusterCutOff: a cluster is cut off, first from the hub and then from everything, for longer than its Lease is good, and
// its agent starts over in the meantime. Nobody concludes anything from that.
func clusterCutOff(t *testing.T, w *world) {
	quiet := unwritten(t, w)
	check := crossTraffic(t, w)
	w.run(t, time.Minute, "lab", "partition", "--name", w.name, "--cluster", "remote-cluster", "--from", "management-plane", "--api-server")
	eventually(t, 2*time.Minute, "what the agent said last is old", func() error {
		renewed, err := time.Parse(time.RFC3339, w.jsonpath(management, "{.spec.renewTime}", "-n", "isthmus-remote-cluster", "lease", "isthmus-agent"))
		if age := time.Since(renewed); err != nil || age < 45*time.Second {
			return fmt.Errorf("it is of %s ago: %w", age, err)
		}
		return nil
	})
	for _, context := range []string{remote, management} {
		w.kubectl(t, context, "-n", "isthmus-agent", "rollout", "restart", "deploy/isthmus-agent")
		w.kubectl(t, context, "-n", "isthmus-agent", "rollout", "status", "deploy/isthmus-agent", "--timeout=90s")
	}
	// The rest of the world goes on: a service that only the agent that is away could report.
	w.apply(t, remote, service("unseen", "default", "ratings", ports))
	check() // names and gateways went on working
	quiet()
	w.run(t, time.Minute, "lab", "partition", "--name", w.name, "--cluster", "remote-cluster")
	w.want(t, management, caller, refusal, "tcp://"+federated("ratings.default", remote)+":9000")
	w.want(t, remote, caller, answered, "tcp://ratings:9000")
	w.run(t, time.Minute, "lab", "heal", "--name", w.name)
	w.connected(t, remote, "True")
	w.created(t, management, "-n", "istio-system", "serviceentry", federated("unseen.default", remote))
	w.want(t, management, caller, answered, "tcp://"+federated("ratings.default", remote)+":9000")
	w.kubectl(t, remote, "-n", "default", "delete", "service", "unseen")
	w.gone(t, management, federated("unseen.default", remote))
	check = crossTraffic(t, w)
	appears(t, w)
	check()
	quiet()
}

// serviceChurn: services come, change and go in both clusters, and no request to others fails. ISTHMUS_E2E_CHURN says for how
// long.
func serviceChurn(t *testing.T, w *world) {
	duration := 20 * time.Second
	if s := os.Getenv("ISTHMUS_E2E_CHURN"); s != "" {
		var err error
		if duration, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	w.deploy(t, management, program{name: "restless", namespace: "default"})
	quiet := unwritten(t, w)
	check := crossTraffic(t, w)
	const many = 10
	rounds := 0
	for start := time.Now(); time.Since(start) < duration; rounds++ {
		for _, context := range []string{management, remote} {
			var manifest, names strings.Builder
			for i := range many {
				port := ports
				if (rounds+i)%2 == 0 {
					port = "[{name: http, port: 9080}]"
				}
				name := fmt.Sprintf("churn-%d", i)
				manifest.WriteString(service(name, "default", map[bool]string{true: "ratings", false: "reviews"}[(rounds+i)%3 == 0], port))
				names.WriteString(" " + name)
			}
			w.apply(t, context, manifest.String())
			if rounds%3 == 2 {
				w.kubectl(t, context, append([]string{"-n", "default", "delete", "service", "--wait=false"}, strings.Fields(names.String())...)...)
			}
		}
		// Pods come and go too.
		w.kubectl(t, management, "-n", "default", "scale", "deploy/restless", fmt.Sprintf("--replicas=%d", 1+rounds%2))
	}
	t.Logf("%d rounds of %d services in each cluster", rounds, many)
	for _, context := range []string{management, remote} {
		for i := range many {
			w.kubectl(t, context, "-n", "default", "delete", "service", fmt.Sprintf("churn-%d", i), "--ignore-not-found")
		}
	}
	for _, context := range []string{management, remote} {
		eventually(t, time.Minute, "no name is left of services that are gone", func() error {
			if hosts := strings.Join(w.hosts(context), " "); strings.Contains(hosts, "churn-") {
				return errors.New(hosts)
			}
			return nil
		})
	}
	check()
	quiet()
	w.kubectl(t, management, "-n", "default", "delete", "deploy,serviceaccount", "restless")
}

// unfederated ends federation, and with it what the scenarios about it have deployed.
func unfederated(t *testing.T, w *world) {
	patchVM(t, w, `{"spec":{"federation":null,"globalAccessPolicy":null}}`)
	w.ready(t, "virtual-mesh", time.Minute)
	for _, context := range []string{management, remote} {
		if left := w.objects(t, context, ".metadata.uid"); left != "" {
			t.Errorf("%s: nothing is federated any more, and there is\n%s", context, left)
		}
		w.kubectl(t, context, "delete", "namespace", "elsewhere", "--wait=false")
		w.kubectl(t, context, "-n", "default", "delete", "deploy,serviceaccount", "caller", "nameless", "outside", "--ignore-not-found", "--wait=false")
	}
}
