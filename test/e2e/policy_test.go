package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// policy applies an AccessPolicy, its spec as YAML in one line, and waits until it is in force in all members.
func (w *world) policy(t *testing.T, name, spec string) {
	t.Helper()
	w.applyPolicy(t, name, spec)
	w.kubectl(t, management, "-n", "isthmus-system", "wait", "accesspolicy/"+name, "--for=condition=Ready", "--timeout=60s")
}

func (w *world) applyPolicy(t *testing.T, name, spec string) {
	t.Helper()
	w.apply(t, management, fmt.Sprintf("{apiVersion: isthmus.dev/v1alpha1, kind: AccessPolicy, metadata: {name: %s, namespace: isthmus-system}, spec: %s}", name, spec))
}

// invalidPolicy waits until a policy is said not to be in force as it is written, in words that name what is wrong.
func (w *world) invalidPolicy(t *testing.T, name string, words ...string) {
	t.Helper()
	eventually(t, time.Minute, "policy "+name+" is not in force as written", func() error {
		state := w.jsonpath(management, "{.status.state} {.status.observedGeneration}/{.metadata.generation} {.status.errors} {.status.conditions} {.status.destinations}",
			"-n", "isthmus-system", "accesspolicy", name)
		for _, word := range append(words, "INVALID") {
			if !strings.Contains(state, word) {
				return fmt.Errorf("no %q in %s", word, state)
			}
		}
		return nil
	})
}

func (w *world) deletePolicies(t *testing.T, names ...string) {
	t.Helper()
	w.kubectl(t, management, append([]string{"-n", "isthmus-system", "delete", "accesspolicy"}, names...)...)
}

// noAuthorizationPolicies waits until nothing of policies is left.
func (w *world) noAuthorizationPolicies(t *testing.T) {
	t.Helper()
	for _, context := range []string{management, remote} {
		eventually(t, time.Minute, "no policy is left in "+cluster(context), func() error {
			if left := w.objects(t, context, ".metadata.uid"); strings.Contains(left, "AuthorizationPolicy") || strings.Contains(left, "PeerAuthentication") {
				return errors.New(left)
			}
			return nil
		})
	}
}

// from is a source selector of service accounts, each "<name>.<namespace>".
func from(accounts ...string) string {
	return "[{kubeServiceAccountRefs: {serviceAccounts: " + refs(accounts) + "}}]"
}

// to is a destination selector of services, each "<name>.<namespace>".
func to(services ...string) string { return "[{kubeServiceRefs: {services: " + refs(services) + "}}]" }

func refs(names []string) string {
	var out []string
	for _, n := range names {
		name, namespace, _ := strings.Cut(n, ".")
		out = append(out, fmt.Sprintf("{name: %s, namespace: %s}", name, namespace))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// openIngress leads the ingress gateway of the management cluster to details.
func openIngress(t *testing.T, w *world) (url string) {
	t.Helper()
	w.apply(t, management, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: ingress, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ingress, namespace: istio-system}
spec:
  hosts: ["*"]
  gateways: [ingress]
  http: [{route: [{destination: {host: details.default.svc.cluster.local, port: {number: 9080}}}]}]
`)
	url = "http://" + w.gatewayAddress(t, management) + ":80/"
	w.want(t, remote, outside, answeredBy("details", management), url)
	return url
}

func closeIngress(t *testing.T, w *world) {
	t.Helper()
	w.kubectl(t, management, "-n", "istio-system", "delete", "virtualservice/ingress", "gateway.networking.istio.io/ingress")
}

// globalPolicy: what policies allow goes on while everything else is denied and allowed again; so do gateways.
func globalPolicy(t *testing.T, w *world) {
	federate(t, w, everything)
	url := openIngress(t, w)
	w.policy(t, "callers", "{sourceSelector: "+from("caller.default")+", destinationSelector: "+to("reviews.default", "ratings.default")+"}")
	w.policy(t, "reviews", "{sourceSelector: "+from("bookinfo-reviews.default")+", destinationSelector: "+to("ratings.default")+"}")
	w.policy(t, "ingress", "{sourceSelector: "+from("istio-ingressgateway-service-account.istio-system")+", destinationSelector: "+to("details.default")+"}")

	reviews, ratings, page := federated("reviews.default", management), federated("ratings.default", management), federated("productpage.default", management)
	allowed := []string{
		"http://" + reviews + ":9080/", "grpc://" + reviews + ":9090", "tcp://" + reviews + ":9000", "http://" + ratings + ":9080/",
		"http://ratings:9080/", "tcp://ratings:9000",
	}
	for _, u := range allowed {
		w.want(t, remote, caller, answered, u)
	}
	w.want(t, remote, outside, answered, url)
	w.seesFailures(t, remote, caller, "http://"+ratings+":9080")
	loads := []*load{
		w.startLoad(t, remote, caller, 60, allowed...),
		w.startLoad(t, remote, outside, 20, url),
		w.startLoad(t, management, caller, 40, "http://"+federated("ratings.default", remote)+":9080/", "tcp://"+federated("reviews.default", remote)+":9000", "http://reviews:9080/", "tcp://ratings:9000"),
	}
	for range 2 {
		globalAccess(t, w, "ENABLED")
		w.want(t, management, caller, denied, "http://productpage:9080/healthz")
		w.want(t, remote, caller, denied, "http://"+page+":9080/healthz")
		w.want(t, remote, caller, denied, "tcp://"+page+":9000")
		w.want(t, remote, caller, denied, "grpc://"+page+":9090")
		w.want(t, remote, stranger, denied, "http://"+reviews+":9080/healthz")
		w.want(t, management, stranger, denied, "tcp://reviews.default:9000")
		globalAccess(t, w, "DISABLED")
		w.want(t, management, caller, answered, "http://productpage:9080/healthz")
		w.want(t, remote, caller, answered, "http://"+page+":9080/healthz")
		w.want(t, remote, stranger, denied, "http://"+reviews+":9080/healthz") // by the policies, as before
	}
	for _, l := range loads {
		l.stopClean(t)
	}
	out := w.run(t, time.Minute, "meshctl", "describe", "destination", "ratings.default", "--namespace", "isthmus-management-plane", "--context", management)
	for _, name := range []string{"callers", "reviews"} {
		if !strings.Contains(out, name) {
			t.Errorf("describe does not tell that policy %s is in force:\n%s", name, out)
		}
	}
	w.deletePolicies(t, "callers", "reviews", "ingress")
	w.noAuthorizationPolicies(t)
	closeIngress(t, w)
}

// accessPolicies: every matcher, inside of a cluster and across.
func accessPolicies(t *testing.T, w *world) {
	host := federated("details.default", management)
	type ask struct {
		context string
		from    program
		args    []string
	}
	// both ways to details: from its own cluster and from the other.
	both := func(from program, scheme, rest string, flags ...string) []ask {
		return []ask{
			{management, from, append(flags, scheme+"://details.default"+rest)},
			{remote, from, append(flags, scheme+"://"+host+rest)},
		}
	}
	check := func(what func(outcome) bool, asks ...[]ask) {
		t.Helper()
		for _, as := range asks {
			for _, a := range as {
				w.want(t, a.context, a.from, what, a.args...)
			}
		}
	}
	const name = "details"
	details := ", destinationSelector: " + to("details.default")
	byCaller, byStranger := both(caller, "http", ":9080/"), both(stranger, "http", ":9080/")
	tcpByCaller, tcpByStranger := both(caller, "tcp", ":9000"), both(stranger, "tcp", ":9000")
	grpcByCaller := both(caller, "grpc", ":9090")
	check(answered, byCaller, byStranger, tcpByCaller, tcpByStranger, grpcByCaller)

	w.policy(t, name, "{sourceSelector: [{kubeIdentityMatcher: {namespaces: [default]}}]"+details+"}")
	check(denied, byStranger, tcpByStranger)
	check(answered, byCaller, tcpByCaller, grpcByCaller)

	w.policy(t, name, "{sourceSelector: "+from("stranger.elsewhere")+details+"}")
	check(denied, byCaller, tcpByCaller, grpcByCaller)
	check(answered, byStranger, tcpByStranger)

	// Both clusters have one trust domain: what would have to tell them apart allows nobody, and says so.
	w.applyPolicy(t, name, "{sourceSelector: [{kubeIdentityMatcher: {clusters: [remote-cluster]}}]"+details+"}")
	w.invalidPolicy(t, name, "details.default.isthmus-management-plane", "trust domain")
	check(denied, byCaller, byStranger, tcpByCaller, tcpByStranger)

	w.policy(t, name, "{sourceSelector: "+from("caller.default")+details+", allowedPaths: [/healthz, /status/2*]}")
	check(denied, byCaller)
	check(answered, both(caller, "http", ":9080/healthz"), both(caller, "http", ":9080/status/204"))
	check(denied, both(stranger, "http", ":9080/healthz"))

	w.policy(t, name, "{sourceSelector: "+from("caller.default")+details+", allowedMethods: [GET]}")
	check(answered, byCaller)
	check(denied, both(caller, "http", ":9080/", "-method", "POST"), byStranger)

	w.policy(t, name, "{sourceSelector: "+from("caller.default")+details+", allowedPorts: [9080]}")
	check(denied, tcpByCaller, grpcByCaller, byStranger)
	check(answered, byCaller, both(caller, "http", ":9080/", "-method", "POST"))

	// Two add up, and each takes its own effect with it.
	const second = "details-too"
	w.policy(t, second, "{sourceSelector: "+from("stranger.elsewhere")+details+"}")
	check(answered, byStranger, tcpByStranger, byCaller)
	check(denied, tcpByCaller)
	w.deletePolicies(t, second)
	check(denied, byStranger, tcpByStranger)
	check(answered, byCaller)

	// An edit with an error changes nothing.
	w.applyPolicy(t, name, "{sourceSelector: [{kubeIdentityMatcher: {clusters: [nowhere]}}]"+details+"}")
	w.invalidPolicy(t, name, "nowhere")
	for range 5 {
		check(answered, byCaller)
		check(denied, byStranger)
	}
	w.deletePolicies(t, name)
	check(answered, byCaller, byStranger, tcpByCaller, tcpByStranger, grpcByCaller)
	w.noAuthorizationPolicies(t)
}

// tlsEnforcement: servers that take mutual TLS alone, once Settings say that clients offer it.
func tlsEnforcement(t *testing.T, w *world) {
	url := openIngress(t, w)
	pod := w.jsonpath(remote, "{.items[0].status.podIP}", "-n", "default", "pods", "-l", "app=ratings")
	plain := "tcp://" + pod + ":9000"
	host := federated("ratings.default", management)
	w.want(t, remote, outside, answered, plain)
	w.calm(t)
	loads := []*load{
		w.startLoad(t, remote, caller, 40, "http://"+host+":9080/", "tcp://"+host+":9000", "tcp://ratings:9000"),
		w.startLoad(t, remote, outside, 20, url),
	}
	const strict = `{"selectors":[{}],"tlsEnforcementSettings":{"enforcementMode":"STRICT"}}`
	w.kubectl(t, management, "-n", "isthmus-system", "patch", "virtualmesh", "virtual-mesh", "--type=json", "-p", `[{"op":"add","path":"/spec/federation","value":`+strict+`}]`)
	eventually(t, time.Minute, "STRICT is refused without Settings, by the name of both fields", func() error {
		state := w.jsonpath(management, "{.status.state} {.status.errors}", "-n", "isthmus-system", "virtualmesh", "virtual-mesh")
		for _, word := range []string{"INVALID", "tlsEnforcementSettings.enforcementMode", "spec.mtls.istio.tlsMode"} {
			if !strings.Contains(state, word) {
				return fmt.Errorf("no %q in %s", word, state)
			}
		}
		return nil
	})
	w.want(t, remote, outside, answered, plain)
	w.apply(t, management, `{apiVersion: isthmus.dev/v1alpha1, kind: Settings, metadata: {name: settings, namespace: isthmus-system}, spec: {mtls: {istio: {tlsMode: ISTIO_MUTUAL}}}}`)
	w.ready(t, "virtual-mesh", time.Minute)
	w.want(t, remote, outside, refusal, plain)
	w.want(t, remote, caller, answered, "tcp://"+host+":9000")
	w.want(t, remote, outside, answeredBy("details", management), url)
	federate(t, w, everything)
	w.want(t, remote, outside, answered, plain)
	for _, l := range loads {
		l.stopClean(t)
	}
	w.kubectl(t, management, "-n", "isthmus-system", "delete", "settings.isthmus.dev", "settings")
	w.noAuthorizationPolicies(t)
	closeIngress(t, w)
	w.ready(t, "virtual-mesh", time.Minute)
}
