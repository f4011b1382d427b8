package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// everything is the federation of the guide.
const everything = `{"selectors":[{}]}`

// only federates services of the management cluster, each "<service>.<namespace>".
func only(services ...string) string {
	var refs []string
	for _, s := range services {
		name, namespace, _ := strings.Cut(s, ".")
		refs = append(refs, fmt.Sprintf(`{"name":%q,"namespace":%q,"clusterName":"management-plane"}`, name, namespace))
	}
	return `{"selectors":[{"destinationSelectors":[{"kubeServiceRefs":{"services":[` + strings.Join(refs, ",") + `]}}]}]}`
}

// federation is the guide's section "Multi-cluster mesh federation": each cluster has names for the services of the other, by
// which they are reached with the identity of the caller.
func federation(t *testing.T, w *world) {
	callers(t, w)
	federate(t, w, everything)
	for context, want := range map[string][]string{
		management: {"ratings.default", "reviews.default"},
		remote:     {"details.default", "productpage.default", "ratings.default", "reviews.default"},
	} {
		for i := range want {
			want[i] = federated(want[i], other(context))
		}
		if got := w.hosts(context); !slices.Equal(got, want) {
			t.Errorf("%s: ServiceEntries for %q, want %q", context, got, want)
		}
	}
	for _, context := range []string{management, remote} {
		for _, service := range []string{"reviews", "ratings"} {
			host := federated(service+".default", other(context))
			for _, url := range []string{"http://" + host + ":9080/", "grpc://" + host + ":9090"} {
				o := w.want(t, context, caller, answeredBy(service, other(context)), url)
				if want := "spiffe://cluster.local/ns/default/sa/caller"; o.caller() != want {
					t.Errorf("%s: the server sees %q, want %s", url, o.caller(), want)
				}
			}
			w.want(t, context, caller, answered, "tcp://"+host+":9000")
			// The cluster's own service keeps its name.
			w.want(t, context, caller, answeredBy(service, context), "http://"+service+":9080/")
		}
	}
	out := w.run(t, time.Minute, "meshctl", "describe", "destination", "reviews.default", "--namespace", "isthmus-management-plane", "--context", management)
	if host := federated("reviews.default", management); !strings.Contains(out, host) {
		t.Errorf("describe does not name %s:\n%s", host, out)
	}
	w.sound(t)
}

// federatedSubsets: subsets that the home cluster defines can be used by name.
func federatedSubsets(t *testing.T, w *world) {
	host := federated("reviews.default", management)
	w.apply(t, management, `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
`)
	subsets := func(want string) {
		t.Helper()
		eventually(t, time.Minute, "the client has subsets "+want, func() error {
			if got := w.jsonpath(remote, "{.spec.subsets[*].name}", "-n", "istio-system", "destinationrule", host); got != want {
				return fmt.Errorf("it has %q", got)
			}
			return nil
		})
	}
	subsets("v1 v2")
	w.apply(t, remote, fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [%[1]s]
  http: [{route: [{destination: {host: %[1]s, subset: v2}}]}]
  tcp: [{match: [{port: 9000}], route: [{destination: {host: %[1]s, subset: v2}}]}]
`, host))
	for _, url := range []string{"http://" + host + ":9080/", "grpc://" + host + ":9090"} {
		second := func(o outcome) bool { return answered(o) && o.version() == "v2" }
		w.want(t, remote, caller, second, url)
		for range 8 {
			if o := w.insist(remote, caller, url); !second(o) {
				t.Fatalf("subset v2: %s", o)
			}
		}
	}
	w.want(t, remote, caller, answered, "tcp://"+host+":9000")
	w.kubectl(t, remote, "-n", "default", "delete", "virtualservice", "reviews")
	w.kubectl(t, management, "-n", "default", "delete", "destinationrule", "reviews")
	subsets("")
	w.want(t, remote, caller, answeredBy("reviews", management), "http://"+host+":9080/")
}

// federatedTCP: the port of a federated TCP service catches no other traffic to that port, with and without DNS capture.
func federatedTCP(t *testing.T, w *world) {
	// TCP as far as Istio knows; what answers says who it is.
	postgres := "[{name: tcp-postgres, port: 5432, targetPort: 9080}]"
	w.apply(t, management, service("database", "default", "details", postgres))
	w.apply(t, remote, service("localbase", "default", "ratings", postgres))
	host := federated("database.default", management)
	w.created(t, remote, "-n", "istio-system", "serviceentry", host)
	address := w.jsonpath(remote, "{.spec.addresses[0]}", "-n", "istio-system", "serviceentry", host)
	unmeshed := w.jsonpath(remote, "{.items[0].status.podIP}", "-n", "default", "pods", "-l", "app=outside")
	if address == "" || unmeshed == "" {
		t.Fatalf("addresses: %q and %q", address, unmeshed)
	}
	for from, name := range map[*program]string{&caller: host, &nameless: address} {
		w.want(t, remote, *from, answeredBy("details", management), "http://"+name+":5432/")
		w.want(t, remote, *from, answeredBy("ratings", remote), "http://localbase:5432/")
		w.want(t, remote, *from, answeredBy("outside", remote), "http://"+unmeshed+":5432/")
	}
	w.kubectl(t, management, "-n", "default", "delete", "service", "database")
	w.gone(t, remote, host)
	w.kubectl(t, remote, "-n", "default", "delete", "service", "localbase")
}

// federationAdmits: a gateway lets in what is federated and nothing else, whatever a holder of a valid certificate asks for.
func federationAdmits(t *testing.T, w *world) {
	w.deploy(t, management, program{name: "ledger", namespace: "elsewhere", ports: ports}, program{
		name: "bare", namespace: "default", annotations: []string{`sidecar.istio.io/inject: "false"`}, ports: ports,
	})
	refused := func(names ...string) {
		t.Helper()
		for _, s := range names {
			w.forged(t, remote, s, refusal)
		}
	}
	never := []string{
		sni("istiod.istio-system", 15012), sni("istio-eastwestgateway.istio-system", 15443), sni("kubernetes.default", 443), sni("bare.default", 9080),
		"ledger.elsewhere.svc.cluster.local", "*.default.svc.cluster.local",
	}
	// Narrow.
	federate(t, w, only("reviews.default"))
	w.gone(t, remote, federated("ratings.default", management))
	w.forged(t, remote, sni("reviews.default", 9080), answered)
	refused(append(never, sni("ratings.default", 9080), sni("ratings.default", 9000), sni("ledger.elsewhere", 9080))...)
	// Wide: a whole namespace, by one host of the gateway.
	federate(t, w, `{"selectors":[{"destinationSelectors":[{"kubeServiceMatcher":{"namespaces":["default"]}}]}]}`)
	w.forged(t, remote, sni("ratings.default", 9080), answered)
	refused(append(never, sni("ledger.elsewhere", 9080))...)
	hosts := w.jsonpath(management, "{.items[*].spec.servers[*].hosts}", "-n", "istio-system", "gateways.networking.istio.io", "-l", "isthmus.dev/managed-by=isthmus-agent-network")
	if hosts != `["*.default.svc.cluster.local"]` {
		t.Errorf("hosts of the gateway: %s", hosts)
	}
	// Another namespace beside it, then narrow again: what was open is closed.
	federate(t, w, `{"selectors":[{"destinationSelectors":[{"kubeServiceMatcher":{"namespaces":["default","elsewhere"]}}]}]}`)
	w.forged(t, remote, sni("ledger.elsewhere", 9080), answered)
	refused(never...)
	federate(t, w, only("ledger.elsewhere"))
	w.forged(t, remote, sni("ledger.elsewhere", 9080), answered)
	refused(append(never, sni("ratings.default", 9080), sni("reviews.default", 9080))...)
	w.gone(t, remote, federated("reviews.default", management))
	if got := w.hosts(management); len(got) > 0 {
		t.Errorf("nothing of the remote cluster is selected, and the management cluster has names for %q", got)
	}
	// An invalid edit changes nothing.
	patchVM(t, w, `{"spec":{"federation":{"selectors":[{}],"tcpKeepalive":{"time":"1500ms"}}}}`)
	eventually(t, time.Minute, "an edit with an error is refused as a whole", func() error {
		state := w.jsonpath(management, "{.status.state} {.status.errors}", "-n", "isthmus-system", "virtualmesh", "virtual-mesh")
		if !strings.Contains(state, "INVALID") || !strings.Contains(state, "tcpKeepalive.time") {
			return errors.New(state)
		}
		return nil
	})
	w.forged(t, remote, sni("ledger.elsewhere", 9080), answered)
	refused(sni("ratings.default", 9080))
	// Nothing at all.
	federate(t, w, `{}`)
	refused(sni("ledger.elsewhere", 9080), sni("reviews.default", 9080))
	for _, context := range []string{management, remote} {
		if left := w.objects(t, context, ".metadata.uid"); left != "" {
			t.Errorf("%s: nothing is federated, and there is\n%s", context, left)
		}
	}
	w.kubectl(t, management, "-n", "elsewhere", "delete", "deploy,service", "ledger")
	w.kubectl(t, management, "-n", "default", "delete", "deploy,service", "bare")
}

// federationReports: what cannot be federated, and what others do that changes what federation promises, is said where users
// look.
func federationReports(t *testing.T, w *world) {
	federate(t, w, everything)
	host := federated("reviews.default", management)
	said := func(what string, get func() string, words ...string) {
		t.Helper()
		eventually(t, time.Minute, what, func() error {
			got := get()
			for _, word := range words {
				if !strings.Contains(got, word) {
					return fmt.Errorf("no %q in %s", word, got)
				}
			}
			return nil
		})
	}
	headless := func() string {
		return w.jsonpath(management, "{.status.errors}", "-n", "isthmus-management-plane", "destination", "headless.default")
	}
	w.apply(t, management, `
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: default}
spec: {clusterIP: None, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
`)
	said("a headless service is refused", headless, "headless")
	w.kubectl(t, management, "-n", "default", "delete", "service", "headless")

	exclusive := func() string {
		_, reason, message := w.condition("virtual-mesh", "GatewayExclusive")
		return reason + ": " + message
	}
	w.apply(t, management, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: cross-network-gateway, namespace: istio-system}
spec: {selector: {istio: eastwestgateway}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: ["*.local"]}]}
`)
	said("a Gateway that opens all of the mesh is told", exclusive, "ForeignPassThrough", "cross-network-gateway")
	w.kubectl(t, management, "-n", "istio-system", "delete", "gateway.networking.istio.io", "cross-network-gateway")
	said("its end is told", exclusive, "nothing else")

	mesh := func() string {
		return w.jsonpath(management, "{.status.errors}", "-n", "isthmus-remote-cluster", "mesh", "istiod-istio-system-remote-cluster")
	}
	w.apply(t, remote, "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: mine, namespace: default}, spec: {host: "+host+", trafficPolicy: {loadBalancer: {simple: RANDOM}}}}")
	said("a DestinationRule that takes the place of ours is told, with what to copy", mesh, "default/mine", "ISTIO_MUTUAL", sni("reviews.default", 9080))
	w.kubectl(t, remote, "-n", "default", "delete", "destinationrule", "mine")
	eventually(t, time.Minute, "its end is told", func() error {
		if got := mesh(); strings.Contains(got, "default/mine") {
			return errors.New(got)
		}
		return nil
	})

	// An object of somebody else is not touched.
	name := federated("taken.default", management)
	w.apply(t, remote, "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: "+name+", namespace: istio-system}, spec: {hosts: [taken.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}}")
	w.apply(t, management, service("taken", "default", "ratings", ports))
	said("an object in the way is told", mesh, name)
	if hosts := w.jsonpath(remote, "{.spec.hosts[*]}", "-n", "istio-system", "serviceentry", name); hosts != "taken.example" {
		t.Errorf("a ServiceEntry of somebody else was written: %s", hosts)
	}
	w.kubectl(t, remote, "-n", "istio-system", "delete", "serviceentry", name)
	w.want(t, remote, caller, answeredBy("ratings", management), "http://"+name+":9080/")
	w.kubectl(t, management, "-n", "default", "delete", "service", "taken")
	w.gone(t, remote, name)
}

// federatedIdentity: who answers must be who the home cluster says is behind the service.
func federatedIdentity(t *testing.T, w *world) {
	federate(t, w, everything)
	host := federated("ratings.default", management)
	w.want(t, remote, caller, answeredBy("ratings", management), "http://"+host+":9080/")
	w.want(t, remote, caller, answered, "tcp://"+host+":9000")
	// While the agent that could tell is away, the service is led to somebody else: clients refuse the impostor.
	scaleAgent(t, w, management, 0)
	w.kubectl(t, management, "-n", "default", "patch", "service", "ratings", "--type=merge", "-p", `{"spec":{"selector":{"app":"details"}}}`)
	// Every one of these is a handshake of its own. One that takes too long may have gone to the former pods.
	refused := func(o outcome) bool { return refusal(o) && o.Kind != "timeout" }
	w.want(t, remote, caller, refused, "tcp://"+host+":9000")
	for range 10 {
		if o := w.call(remote, caller, "http://"+host+":9080/"); o.service() == "details" {
			t.Fatalf("another workload poses as ratings: %s", o)
		}
		if o := w.call(remote, caller, "tcp://"+host+":9000"); answered(o) {
			t.Fatal("another workload poses as ratings over TCP")
		}
	}
	// With it, it is the word of who may write Services in that namespace.
	scaleAgent(t, w, management, 1)
	w.want(t, remote, caller, answered, "tcp://"+host+":9000")
	w.kubectl(t, management, "-n", "default", "patch", "service", "ratings", "--type=merge", "-p", `{"spec":{"selector":{"app":"ratings"}}}`)
	w.want(t, remote, caller, answered, "tcp://"+host+":9000")
}

func scaleAgent(t *testing.T, w *world, context string, replicas int) {
	t.Helper()
	w.kubectl(t, context, "-n", "isthmus-agent", "scale", "deploy/isthmus-agent", fmt.Sprintf("--replicas=%d", replicas))
	if replicas > 0 {
		w.kubectl(t, context, "-n", "isthmus-agent", "rollout", "status", "deploy/isthmus-agent", "--timeout=90s")
		return
	}
	eventually(t, time.Minute, "the agent of "+cluster(context)+" is gone", func() error {
		if out := w.jsonpath(context, "{.items[*].metadata.name}", "-n", "isthmus-agent", "pods", "-l", "app.kubernetes.io/part-of=isthmus"); out != "" {
			return errors.New(out)
		}
		return nil
	})
}

// federatedRollout: a rollout that changes the service account fails no request; without pods a service stays known.
func federatedRollout(t *testing.T, w *world) {
	mover := program{name: "mover", namespace: "default", account: "mover-one", ports: ports}
	w.deploy(t, management, mover)
	w.kubectl(t, management, "-n", "default", "scale", "deploy/mover", "--replicas=2")
	w.kubectl(t, management, "-n", "default", "rollout", "status", "deploy/mover", "--timeout=60s")
	host := federated("mover.default", management)
	w.created(t, remote, "-n", "istio-system", "serviceentry", host)
	for _, url := range []string{"http://" + host + ":9080/", "grpc://" + host + ":9090", "tcp://" + host + ":9000"} {
		w.want(t, remote, caller, answered, url)
	}
	w.seesFailures(t, remote, caller, "http://"+host+":9080")
	l := w.startLoad(t, remote, caller, 60, "http://"+host+":9080/", "grpc://"+host+":9090", "tcp://"+host+":9000")
	w.apply(t, management, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: mover-two, namespace: default}}`)
	w.kubectl(t, management, "-n", "default", "patch", "deploy", "mover", "--type=merge", "-p", `{"spec":{"template":{"spec":{"serviceAccountName":"mover-two"}}}}`)
	w.kubectl(t, management, "-n", "default", "rollout", "status", "deploy/mover", "--timeout=90s")
	eventually(t, time.Minute, "the pods of the old service account are gone", func() error {
		accounts := w.jsonpath(management, "{.items[*].spec.serviceAccountName}", "-n", "default", "pods", "-l", "app=mover")
		if accounts != "mover-two mover-two" {
			return errors.New(accounts)
		}
		return nil
	})
	l.stopClean(t)
	eventually(t, 2*time.Minute, "the old identity is not accepted any more", func() error {
		names := w.jsonpath(remote, "{.spec.subjectAltNames[*]}", "-n", "istio-system", "serviceentry", host)
		if names != "spiffe://cluster.local/ns/default/sa/mover-two" {
			return errors.New(names)
		}
		return nil
	})
	uid := w.jsonpath(remote, "{.metadata.uid}", "-n", "istio-system", "serviceentry", host)
	w.kubectl(t, management, "-n", "default", "scale", "deploy/mover", "--replicas=0")
	w.want(t, remote, caller, refusal, "http://"+host+":9080/")
	w.kubectl(t, management, "-n", "default", "scale", "deploy/mover", "--replicas=1")
	w.want(t, remote, caller, answeredBy("mover", management), "http://"+host+":9080/")
	if now := w.jsonpath(remote, "{.metadata.uid}", "-n", "istio-system", "serviceentry", host); now != uid {
		t.Errorf("the ServiceEntry was made anew while the service had no pods: %s, then %s", uid, now)
	}
	w.kubectl(t, management, "-n", "default", "delete", "service,deploy", "mover")
	w.gone(t, remote, host)
}

// federationOptions: every option of a federation is seen in what Envoy does.
func federationOptions(t *testing.T, w *world) {
	host, url := federated("reviews.default", management), "http://"+federated("reviews.default", management)+":9080/"

	// permissive, as of old, and keepalive.
	federate(t, w, `{"permissive":{},"tcpKeepalive":{"probes":3,"time":"17s","interval":"5s"}}`)
	w.want(t, remote, caller, answeredBy("reviews", management), url)
	eventually(t, time.Minute, "Envoy keeps connections alive", func() error {
		out, err := w.try(time.Minute, "istioctl", "--context", remote, "proxy-config", "cluster", "deploy/caller.default", "--fqdn", host, "-o", "json")
		for _, port := range []string{"9000", "9080", "9090"} {
			if !strings.Contains(out, `"outbound|`+port+`||`+host+`"`) {
				return fmt.Errorf("no cluster of port %s: %w", port, err)
			}
		}
		if n := strings.Count(out, `"keepaliveTime": 17`); n != 3 {
			return fmt.Errorf("%d of 3 ports have the keepalive: %w", n, err)
		}
		if n := strings.Count(out, `"maxConnectionDuration": "30s"`); n < 2 { // HTTP and gRPC
			return fmt.Errorf("requests are begun on one connection for ever at all ports but %d: %w", n, err)
		}
		return nil
	})

	// Another suffix: the old name goes.
	federate(t, w, `{"selectors":[{}],"hostnameSuffix":"mesh.example"}`)
	w.want(t, remote, caller, answeredBy("reviews", management), "http://reviews.default.svc.management-plane.mesh.example:9080/")
	w.gone(t, remote, host)

	// The names of the first generation, beside the others, and no more when nobody asks for them.
	federate(t, w, `{"selectors":[{}],"shortHostnames":true}`)
	short := "reviews.default." + cluster(management)
	w.want(t, remote, caller, answeredBy("reviews", management), "http://"+short+":9080/")
	w.want(t, remote, caller, answered, "tcp://"+short+":9000")
	w.want(t, remote, caller, answeredBy("reviews", management), "grpc://"+short+":9090")
	w.want(t, remote, caller, answeredBy("reviews", management), url)
	federate(t, w, everything)
	w.gone(t, remote, short)
	w.want(t, remote, caller, answeredBy("reviews", management), url)

	// A flat network: pods are asked directly, and no gateway opens.
	federate(t, w, `{"selectors":[{}],"flatNetwork":true}`)
	w.want(t, remote, caller, answeredBy("reviews", management), url)
	w.want(t, remote, caller, answered, "tcp://"+host+":9000")
	w.want(t, remote, caller, answeredBy("reviews", management), "grpc://"+host+":9090")
	pods := strings.Fields(w.jsonpath(management, "{.items[*].status.podIP}", "-n", "default", "pods", "-l", "app=reviews"))
	endpoints := strings.Fields(w.jsonpath(remote, "{.spec.endpoints[*].address}", "-n", "istio-system", "serviceentry", host))
	slices.Sort(pods)
	slices.Sort(endpoints)
	if !slices.Equal(pods, endpoints) {
		t.Errorf("pods %q, endpoints %q", pods, endpoints)
	}
	w.forged(t, remote, sni("reviews.default", 9080), refusal)

	// Another gateway.
	federate(t, w, `{"selectors":[{}],"ingressGatewaySelectors":[{"destinationSelectors":[{"kubeServiceRefs":{"services":[{"name":"istio-ingressgateway","namespace":"istio-system"}]}}],"portName":"https"}]}`)
	w.want(t, remote, caller, answeredBy("reviews", management), url)
	if ports := w.jsonpath(remote, "{.spec.endpoints[*].ports.http}", "-n", "istio-system", "serviceentry", host); ports != "443" {
		t.Errorf("the endpoint's port is %q, want 443", ports)
	}
	w.forged(t, remote, sni("reviews.default", 9080), refusal) // at the one that is not chosen

	// The gateway's address changes, and back.
	federate(t, w, everything)
	w.want(t, remote, caller, answeredBy("reviews", management), url)
	for _, kind := range []string{"NodePort", "LoadBalancer"} {
		w.kubectl(t, management, "-n", "istio-system", "patch", "service", "istio-eastwestgateway", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"type":%q}}`, kind))
		want := "15443"
		if kind == "NodePort" {
			want = w.jsonpath(management, "{.spec.ports[0].nodePort}", "-n", "istio-system", "service", "istio-eastwestgateway")
		}
		eventually(t, time.Minute, "endpoints follow the gateway to a "+kind, func() error {
			if got := w.jsonpath(remote, "{.spec.endpoints[*].ports.http}", "-n", "istio-system", "serviceentry", host); got != want {
				return fmt.Errorf("the port is %q, want %s", got, want)
			}
			return nil
		})
		w.want(t, remote, caller, answeredBy("reviews", management), url)
		w.want(t, remote, caller, answered, "tcp://"+host+":9000")
	}
}
