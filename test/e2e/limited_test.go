package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

const (
	// ingressPort is where others reach the ingress gateways: in the lab all load balancers of a cluster have one address, and the
	// east-west gateways have port 15443 of it.
	ingressPort = "15453"
	// gatewayAccount is the identity of gateways of limited trust within their mesh, with their name to come.
	gatewayAccount = "spiffe://cluster.local/ns/" + v1alpha1.GatewaysNamespace + "/sa/"
	// sharedConfig and limitedConfig are of the two sorts of trust.
	sharedConfig  = `{"autoRestartPods":true,"shared":{}}`
	limitedConfig = `{"autoRestartPods":true,"limited":{}}`
)

// intruder is a caller that speaks with gateways of limited trust itself.
var intruder = program{name: "intruder", namespace: "default", annotations: []string{
	`proxy.istio.io/config: '{proxyMetadata: {OUTPUT_CERTS: /certs}}'`,
	`sidecar.istio.io/userVolumeMount: '[{"name": "certs", "mountPath": "/certs"}]'`,
	`traffic.sidecar.istio.io/excludeOutboundPorts: "15443,` + ingressPort + `"`,
}}

// TestLimited joins two meshes that share no root by gateways alone, a third one later, replaces all certificates of gateways, and
// moves to shared trust and back, while workloads talk across. Every mesh has the trust domain cluster.local and a self-signed root.
func TestLimited(t *testing.T) {
	w := newWorld(t, "e2e-limited", "--clusters", "management-plane,remote-cluster,third-cluster")
	w.contexts = []string{management, remote}
	inOrder(t, w, []scenario[*world]{
		{"Install", limitedInstall},
		{"Strangers", limitedStrangers},
		{"Joined", limitedJoined},
		{"Hops", limitedHops},
		{"Roots", limitedRoots},
		{"Admits", limitedAdmits},
		{"AccessPolicies", limitedPolicies},
		{"GlobalPolicy", long(limitedGlobalPolicy)},
		{"PolicyChanges", long(limitedPolicyChanges)},
		{"ThirdJoins", limitedThirdJoins},
		{"LeftOut", limitedLeftOut},
		{"Unreachable", long(limitedUnreachable)},
		{"Many", long(limitedMany)},
		{"Renewal", long(limitedRenewal)},
		{"Rotation", limitedRotation},
		{"ThirdLeaves", limitedThirdLeaves},
		{"Moving", limitedMoving},
		{"OwnRoots", long(limitedOwnRoots)},
	})
}

// limitedInstall puts hub, agents, gateways and callers into place. Two clusters are members at first.
func limitedInstall(t *testing.T, w *world) {
	all := []string{management, remote, third}
	w.installAs(t, nil, []string{"--set", "kubeletProjection=5s", "--set", "extraArgs={--gateway-probe-interval=10s}"}, all...)
	for _, context := range all {
		w.run(t, 3*time.Minute, "meshctl", "gateway", "install", "--member-context", context, "--set", "ingress.service.port="+ingressPort)
		w.apply(t, context, `{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere, labels: {istio-injection: enabled}}}`)
		w.deploy(t, context, caller, stranger, intruder)
		eventually(t, time.Minute, "the gateways of "+cluster(context)+" are known, with their identities", func() error {
			for class, name := range map[v1alpha1.GatewayClass]string{v1alpha1.GatewayLimitedIngress: "isthmus-ingress", v1alpha1.GatewayLimitedEgress: "isthmus-egress"} {
				path := fmt.Sprintf(`{.spec.istio.gateways[?(@.class==%q)].identities[*]}`, class)
				if got := w.jsonpath(management, path, "-n", "isthmus-"+cluster(context), "mesh", meshOf(context)); got != gatewayAccount+name {
					return fmt.Errorf("%s: %q", class, got)
				}
			}
			return nil
		})
	}
	w.contexts = all[:2]
}

// limitedStrangers is the control: nothing has connected the meshes yet.
func limitedStrangers(t *testing.T, w *world) {
	for _, context := range w.contexts {
		host := federated("ratings.default", other(context))
		for _, u := range []string{"http://" + host + ":9080/", "tcp://" + host + ":9000", "grpc://" + host + ":9090"} {
			if o := w.insist(context, caller, u); answered(o) || o.Kind == "none" {
				t.Errorf("%s: %s: %s", context, u, o)
			}
		}
		w.want(t, context, intruder, refusal, "-sni", admittedName("ratings.default", other(context), context, 9080), "http://"+w.ingressAddress(t, other(context))+"/healthz")
	}
}

// limitedJoined: HTTP, gRPC and TCP pass from either mesh to the other, and nothing was restarted for it.
func limitedJoined(t *testing.T, w *world) {
	proxies := w.proxies(t)
	w.joinLimited(t, w.contexts...)
	for _, context := range w.contexts {
		host := federated("ratings.default", other(context))
		for _, u := range []string{"http://" + host + ":9080/", "grpc://" + host + ":9090"} {
			o := w.want(t, context, caller, answeredBy("ratings", other(context)), u)
			if want := gatewayAccount + "isthmus-ingress"; o.caller() != want {
				t.Errorf("%s: the server sees %q, want %s", u, o.caller(), want)
			}
		}
		w.want(t, context, caller, answered, "tcp://"+host+":9000")
		o := w.want(t, context, caller, answeredBy("ratings", context), "http://ratings:9080/") // its own, as before
		if want := "spiffe://cluster.local/ns/default/sa/caller"; o.caller() != want {
			t.Errorf("within %s the server sees %q, want %s", cluster(context), o.caller(), want)
		}
	}
	w.want(t, remote, stranger, answeredBy("details", management), "http://"+federated("details.default", management)+":9080/")
	w.unchanged(t, proxies)
	w.sound(t, "--member-context", remote)
	out := w.run(t, time.Minute, "meshctl", "describe", "virtualmesh", "virtual-mesh", "--context", management)
	if !strings.Contains(out, "limited") {
		t.Errorf("describe does not tell the trust:\n%s", out)
	}
}

// limitedHops looks at what each hop presents: the egress gateway as a workload of the client's mesh, the ingress gateway as a gateway
// of the virtual mesh.
func limitedHops(t *testing.T, w *world) {
	for _, context := range w.contexts {
		presents := func(what, identity, name string, args ...string) {
			t.Helper()
			o := w.want(t, context, intruder, func(o outcome) bool { return o.Handshake != nil && answeredBy("ratings", other(context))(o) }, append([]string{"-sni", name}, args...)...)
			if !slices.Equal(o.Handshake.Identities, []string{identity}) {
				t.Errorf("%s presents %v, want %s", what, o.Handshake.Identities, identity)
			}
		}
		presents("the egress gateway of "+cluster(context), gatewayAccount+"isthmus-egress", serverName("ratings.default", other(context), 9080),
			"-alpn", "istio", "-cert", "/certs/cert-chain.pem", "-key", "/certs/key.pem", "http://isthmus-egress."+v1alpha1.GatewaysNamespace+":15443/")
		w.stealGatewayKey(t, context)
		presents("the ingress gateway of "+cluster(other(context)), gatewayIdentity(other(context)), admittedName("ratings.default", other(context), context, 9080),
			"-cert", "/certs/gateway.crt", "-key", "/certs/gateway.key", "http://"+w.ingressAddress(t, other(context))+"/")
	}
}

// limitedRoots: no ConfigMap and no proxy of a mesh holds a root of another, and gateways alone hold that of gateways.
func limitedRoots(t *testing.T, w *world) {
	own := map[string]*x509.Certificate{}
	for _, context := range w.contexts {
		for namespace := range strings.FieldsSeq(w.jsonpath(context, "{.items[*].metadata.namespace}", "configmaps", "-A", "--field-selector", "metadata.name=istio-ca-root-cert")) {
			roots := parse([]byte(w.jsonpath(context, `{.data.root-cert\.pem}`, "-n", namespace, "configmap", "istio-ca-root-cert")))
			if len(roots) != 1 || own[context] != nil && !roots[0].Equal(own[context]) {
				t.Fatalf("%s: namespace %s has %d roots, or others than the namespaces before", cluster(context), namespace, len(roots))
			}
			own[context] = roots[0]
		}
	}
	if own[management] == nil || own[remote] == nil || own[management].Equal(own[remote]) {
		t.Fatal("the meshes have one root, or none")
	}
	gateways := w.gatewaySecret(t, management)["ca.crt"]
	if len(gateways) != 1 {
		t.Fatalf("gateways know others by %d roots", len(gateways))
	}
	for _, context := range w.contexts {
		for _, p := range []struct {
			namespace, deployment string
			want                  []*x509.Certificate
		}{
			{"default", "caller", []*x509.Certificate{own[context]}},
			{"default", "ratings-v1", []*x509.Certificate{own[context]}},
			{"istio-system", "istio-eastwestgateway", []*x509.Certificate{own[context]}},
			{v1alpha1.GatewaysNamespace, "isthmus-ingress", []*x509.Certificate{own[context], gateways[0]}},
			{v1alpha1.GatewaysNamespace, "isthmus-egress", []*x509.Certificate{own[context], gateways[0]}},
		} {
			want := map[string]bool{}
			for _, c := range p.want {
				want[c.SerialNumber.Text(16)] = true
			}
			if got := w.trusted(t, context, p.namespace, p.deployment); !maps.Equal(got, want) {
				t.Errorf("%s: %s/%s trusts %v, want %v", cluster(context), p.namespace, p.deployment, got, want)
			}
		}
	}
}

// limitedAdmits: gateways let in what is federated, and nobody but the gateways to which it is.
func limitedAdmits(t *testing.T, w *world) {
	at := "http://" + w.ingressAddress(t, management) + "/healthz"
	name := func(service string, port int) string { return admittedName(service, management, remote, port) }
	mesh := []string{"-cert", "/certs/cert-chain.pem", "-key", "/certs/key.pem"}
	gateway := []string{"-cert", "/certs/gateway.crt", "-key", "/certs/gateway.key"}
	w.want(t, remote, intruder, answered, append(gateway, "-sni", name("ratings.default", 9080), at)...)
	for what, args := range map[string][]string{
		"no certificate":              {"-sni", name("ratings.default", 9080), at},
		"a workload of another mesh":  append(mesh, "-sni", name("ratings.default", 9080), at),
		"a name of shared trust":      append(gateway, "-sni", sni("ratings.default", 9080), at),
		"a port that it has not":      append(gateway, "-sni", name("ratings.default", 9999), at),
		"what is never federated":     append(gateway, "-sni", name("istio-eastwestgateway.istio-system", 15443), at),
		"the gateway itself":          append(gateway, "-sni", name("isthmus-egress."+v1alpha1.GatewaysNamespace, 15443), at),
		"a name of the home mesh":     append(gateway, "-sni", "ratings.default.svc.cluster.local", at),
		"its own egress, no workload": {"-sni", serverName("ratings.default", management, 9080), "http://isthmus-egress." + v1alpha1.GatewaysNamespace + ":15443/healthz"},
		"its own egress, a name that leads nowhere": append(mesh, "-alpn", "istio", "-sni", serverName("ratings.default", remote, 9080),
			"http://isthmus-egress."+v1alpha1.GatewaysNamespace+":15443/healthz"),
	} {
		if o := w.insist(remote, intruder, args...); !refusal(o) {
			t.Errorf("%s: %s", what, o)
		}
	}
	// Narrow: what is not selected any more is closed to those who have a certificate still.
	federate(t, w, only("reviews.default"))
	w.gone(t, remote, federated("ratings.default", management))
	w.want(t, remote, intruder, refusal, append(gateway, "-sni", name("ratings.default", 9080), at)...)
	w.want(t, remote, intruder, answered, append(gateway, "-sni", name("reviews.default", 9080), at)...)
	federate(t, w, everything)
	w.want(t, remote, caller, answeredBy("ratings", management), "http://"+federated("ratings.default", management)+":9080/")
}

// limitedPolicies: sources are enforced where the client's mesh is left, paths and methods at the server.
func limitedPolicies(t *testing.T, w *world) {
	const name = "details"
	details := ", destinationSelector: " + to("details.default")
	url := "http://" + federated("details.default", management) + ":9080"
	tcp := "tcp://" + federated("details.default", management) + ":9000"
	check := func(what func(outcome) bool, from program, urls ...string) {
		t.Helper()
		for _, u := range urls {
			w.want(t, remote, from, what, u)
		}
	}
	check(answered, caller, url+"/", tcp)
	check(answered, stranger, url+"/", tcp)

	w.policy(t, name, "{sourceSelector: "+from("caller.default")+details+"}")
	check(refusal, stranger, url+"/", tcp)
	check(answered, caller, url+"/", tcp)
	w.want(t, management, caller, answered, "http://details:9080/")
	w.want(t, management, stranger, denied, "http://details.default:9080/")

	w.policy(t, name, "{sourceSelector: [{kubeIdentityMatcher: {namespaces: [elsewhere]}}]"+details+"}")
	check(refusal, caller, url+"/", tcp)
	check(answered, stranger, url+"/", tcp)

	// Clusters are told apart, though all have one trust domain: by the gateways that their callers come through.
	w.policy(t, name, "{sourceSelector: [{kubeIdentityMatcher: {clusters: [remote-cluster]}}]"+details+"}")
	check(answered, caller, url+"/", tcp)
	w.want(t, management, caller, denied, "http://details:9080/")
	w.policy(t, name, "{sourceSelector: [{kubeIdentityMatcher: {clusters: [management-plane]}}]"+details+"}")
	check(refusal, caller, url+"/", tcp)
	w.want(t, management, caller, answered, "http://details:9080/")

	w.policy(t, name, "{sourceSelector: "+from("caller.default")+details+", allowedPaths: [/healthz, /status/2*], allowedMethods: [GET]}")
	check(denied, caller, url+"/")
	check(answered, caller, url+"/healthz", url+"/status/204")
	check(refusal, stranger, url+"/healthz")
	w.want(t, remote, caller, denied, "-method", "POST", url+"/healthz")

	w.policy(t, name, "{sourceSelector: "+from("caller.default")+details+", allowedPorts: [9080]}")
	check(refusal, caller, tcp)
	check(answered, caller, url+"/")
	w.deletePolicies(t, name)
	check(answered, caller, url+"/", tcp)
	check(answered, stranger, url+"/", tcp)
	w.noAuthorizationPolicies(t)
}

// limitedGlobalPolicy: what policies allow goes on while everything else is denied, and allowed again.
func limitedGlobalPolicy(t *testing.T, w *world) {
	w.policy(t, "callers", "{sourceSelector: "+from("caller.default")+", destinationSelector: "+to("ratings.default")+"}")
	ratings, details := federated("ratings.default", management), federated("details.default", management)
	w.want(t, remote, caller, answered, "http://"+ratings+":9080/")
	w.seesFailures(t, remote, caller, "http://"+ratings+":9080")
	stop := talk(t, w, caller, true)
	for range 2 {
		globalAccess(t, w, "ENABLED")
		w.want(t, remote, caller, refusal, "http://"+details+":9080/healthz")
		w.want(t, remote, caller, refusal, "tcp://"+details+":9000")
		w.want(t, remote, stranger, refusal, "http://"+ratings+":9080/healthz")
		w.want(t, management, caller, denied, "http://details:9080/healthz")
		globalAccess(t, w, "DISABLED")
		w.want(t, remote, caller, answered, "http://"+details+":9080/healthz")
		w.want(t, management, caller, answered, "http://details:9080/healthz")
	}
	stop()
	w.deletePolicies(t, "callers")
	w.noAuthorizationPolicies(t)
}

// limitedPolicyChanges: a policy changes all of an egress gateway's settings, and Envoy ends what connections there were when its drain
// time is over. By then sidecars have left them: requests that take long, so that one is under way at any time, do not fail.
func limitedPolicyChanges(t *testing.T, w *world) {
	late := "http://" + federated("details.default", management) + ":9080/delay/500ms"
	var loads []*load
	for _, options := range [][]string{{"-rate", "20"}, {"-rate", "20", "-keep"}} {
		loads = append(loads, w.startLoadWith(t, remote, caller, options, late))
	}
	drained := w.drains(t, remote)
	for _, paths := range []string{"[/healthz]", "[/healthz, /]"} {
		w.policy(t, "ratings", "{sourceSelector: "+from("caller.default")+", destinationSelector: "+to("ratings.default")+", allowedPaths: "+paths+"}")
	}
	w.want(t, remote, stranger, refusal, "http://"+federated("ratings.default", management)+":9080/healthz")
	w.deletePolicies(t, "ratings")
	w.noAuthorizationPolicies(t)
	drained()
	for _, l := range loads {
		l.stopClean(t)
	}
}

// drains returns a function that waits until the egress gateways of a cluster have drained connections since, and have none to drain.
func (w *world) drains(t *testing.T, context string) (over func()) {
	t.Helper()
	const changes, draining = "listener_manager.listener_in_place_updated", "listener_manager.total_filter_chains_draining"
	before, err := w.sumAtGateways(context, v1alpha1.GatewayRoleEgress, changes)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		eventually(t, 2*time.Minute, "the egress gateways of "+cluster(context)+" have drained", func() error {
			now, err := w.sumAtGateways(context, v1alpha1.GatewayRoleEgress, changes)
			if err == nil && now == before {
				err = errors.New("their settings have not changed")
			}
			left, leftErr := w.sumAtGateways(context, v1alpha1.GatewayRoleEgress, draining)
			if leftErr == nil && left > 0 {
				leftErr = fmt.Errorf("%d filter chains drain", left)
			}
			return errors.Join(err, leftErr)
		})
	}
}

// sumAtGateways adds up a statistic of Envoy over the gateways of limited trust that have a role in a cluster.
func (w *world) sumAtGateways(context, role, statistic string) (sum int, err error) {
	pods := strings.Fields(w.jsonpath(context, "{.items[*].metadata.name}", "-n", v1alpha1.GatewaysNamespace, "pods", "-l", v1alpha1.LabelGateway+"="+role))
	for _, pod := range pods {
		out, err := w.stats(context+"/"+v1alpha1.GatewaysNamespace+"/"+pod, "^"+statistic+"$")
		if err != nil {
			return 0, err
		}
		_, value, _ := strings.Cut(out, statistic+":")
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			return 0, fmt.Errorf("%s says of %s: %s", pod, statistic, out)
		}
		sum += n
	}
	if len(pods) == 0 {
		err = fmt.Errorf("%s has no %s gateway", cluster(context), role)
	}
	return sum, err
}

// limitedThirdJoins has a third mesh join while the others talk.
func limitedThirdJoins(t *testing.T, w *world) {
	stop := talk(t, w, caller, true)
	w.contexts = append(w.contexts, third)
	proxies := w.proxies(t)
	w.joinLimited(t, w.contexts...)
	for _, context := range w.contexts {
		for _, o := range w.others(context) {
			w.want(t, context, caller, answeredBy("ratings", o), "http://"+federated("ratings.default", o)+":9080/")
		}
	}
	stop()
	w.unchanged(t, proxies)
}

// other3 is the other one of the two clusters that call management.
func other3(context string) string {
	if context == third {
		return remote
	}
	return third
}

// limitedLeftOut: a member to which something is not federated is kept out by the gateway, whatever name it asks for.
func limitedLeftOut(t *testing.T, w *world) {
	details := federated("details.default", management)
	federate(t, w, `{"selectors":[{"destinationSelectors":[{"kubeServiceRefs":{"services":[{"name":"details","namespace":"default"}]}}],"meshes":[{"name":"`+meshOf(remote)+`"}]},`+
		`{"destinationSelectors":[{"kubeServiceRefs":{"services":[{"name":"ratings","namespace":"default"}]}}]}]}`)
	w.gone(t, third, details)
	w.want(t, remote, caller, answeredBy("details", management), "http://"+details+":9080/")
	at := "http://" + w.ingressAddress(t, management) + "/healthz"
	for _, context := range []string{remote, third} {
		w.stealGatewayKey(t, context)
		ask := func(service string) []string {
			return []string{"-cert", "/certs/gateway.crt", "-key", "/certs/gateway.key", "-sni", admittedName(service, management, context, 9080), at}
		}
		w.want(t, context, intruder, refusal, "-cert", "/certs/gateway.crt", "-key", "/certs/gateway.key", "-sni", admittedName("ratings.default", management, other3(context), 9080), at)
		w.want(t, context, intruder, answered, ask("ratings.default")...)
		if context == third {
			w.want(t, context, intruder, refusal, ask("details.default")...)
		} else {
			w.want(t, context, intruder, answered, ask("details.default")...)
		}
	}
	federate(t, w, everything)
	w.want(t, third, caller, answeredBy("details", management), "http://"+details+":9080/")
}

// limitedUnreachable: gateways that others do not reach are told, and who does not, until they do.
func limitedUnreachable(t *testing.T, w *world) {
	scale := func(replicas string) {
		w.kubectl(t, remote, "-n", v1alpha1.GatewaysNamespace, "scale", "deployment/isthmus-ingress", "--replicas", replicas)
	}
	told := func(what string, want bool) {
		t.Helper()
		eventually(t, 3*time.Minute, what, func() error {
			for _, context := range w.others(remote) {
				errs := w.jsonpath(management, "{.status.errors}", "-n", "isthmus-"+cluster(context), "mesh", meshOf(context))
				if strings.Contains(errs, "does not answer") != want {
					return fmt.Errorf("%s says %q", cluster(context), errs)
				}
			}
			return nil
		})
	}
	scale("0")
	told("that the gateways of remote-cluster do not answer is told", true)
	if out, err := w.try(time.Minute, "meshctl", "check", "--context", management); err == nil || !strings.Contains(out, "ISTH7009") {
		t.Errorf("check: %v\n%s", err, out)
	}
	scale("2")
	w.kubectl(t, remote, "-n", v1alpha1.GatewaysNamespace, "rollout", "status", "deployment/isthmus-ingress", "--timeout=90s")
	told("nothing is told of them any more", false)
	w.ready(t, "virtual-mesh", time.Minute)
	w.want(t, management, caller, answeredBy("ratings", remote), "http://"+federated("ratings.default", remote)+":9080/")
}

// limitedMany federates thirty Services more while others are called: each is answered in every other cluster. With as many as
// ISTHMUS_E2E_MANY says nobody else calls, as pushes take all of a small machine, and what gateways need is told.
func limitedMany(t *testing.T, w *world) {
	many, given := 30, os.Getenv("ISTHMUS_E2E_MANY")
	quiet := func() {}
	if given == "" {
		l := w.startLoad(t, remote, caller, 10, "http://"+federated("details.default", management)+":9080/healthz", "tcp://"+federated("details.default", management)+":9000")
		quiet = func() { l.stopClean(t) }
	} else if n, err := strconv.Atoi(given); err != nil {
		t.Fatalf("ISTHMUS_E2E_MANY: %v", err)
	} else {
		many = n
		t.Logf("allocated by gateways before:%s", w.allocated(t))
	}
	var manifest strings.Builder
	services, urls := make([]string, many), make([]string, many)
	for i := range services {
		services[i] = fmt.Sprintf("many-%d", i)
		manifest.WriteString(service(services[i], "default", "ratings", "[{name: http, port: 9080}]"))
		urls[i] = "http://" + federated(services[i]+".default", management) + ":9080/healthz"
	}
	wait := func(want int) {
		t.Helper()
		for _, context := range w.others(management) {
			eventually(t, 15*time.Minute, fmt.Sprintf("%s has %d names more", cluster(context), want), func() error {
				if n := strings.Count(strings.Join(w.hosts(context), " "), "many-"); n != want {
					return fmt.Errorf("it has %d", n)
				}
				return nil
			})
		}
	}
	start := time.Now()
	w.apply(t, management, manifest.String())
	wait(many)
	t.Logf("%d names after %.1f s", many, time.Since(start).Seconds())
	for _, context := range w.others(management) {
		for _, u := range urls { // until gateways and proxies have heard of all
			w.want(t, context, caller, answered, u)
		}
	}
	if given != "" {
		eventually(t, 5*time.Minute, "nothing drains", func() error {
			for _, context := range w.contexts {
				for _, role := range []string{v1alpha1.GatewayRoleIngress, v1alpha1.GatewayRoleEgress} {
					n, err := w.sumAtGateways(context, role, "listener_manager.total_filter_chains_draining")
					if err == nil && n > 0 {
						err = fmt.Errorf("%d filter chains do, of %s in %s", n, role, cluster(context))
					}
					if err != nil {
						return err
					}
				}
			}
			return nil
		})
		t.Logf("allocated by gateways with %d Services more:%s", many, w.allocated(t))
	}
	w.kubectl(t, management, append([]string{"-n", "default", "delete", "service"}, services...)...)
	wait(0)
	quiet()
}

// allocated is the memory that the gateways of limited trust have allocated, a pair of each sort and member.
func (w *world) allocated(t *testing.T) (out string) {
	t.Helper()
	for _, context := range w.contexts {
		for _, role := range []string{v1alpha1.GatewayRoleIngress, v1alpha1.GatewayRoleEgress} {
			n, err := w.sumAtGateways(context, role, "server.memory_allocated")
			if err != nil {
				t.Fatal(err)
			}
			out += fmt.Sprintf(" %s of %s %.1f MiB,", role, cluster(context), float64(n)/(1<<20))
		}
	}
	return out
}

// limitedRenewal has the certificates of gateways renewed again and again.
func limitedRenewal(t *testing.T, w *world) {
	stop := talk(t, w, caller, true)
	proxies := w.proxies(t)
	patchVM(t, w, `{"spec":{"mtlsConfig":{"limited":{"gatewayCertOptions":{"ttlDays":1,"secretRotationGracePeriodRatio":"0.9999"}}}}}`)
	seen := map[string]map[string]bool{}
	eventually(t, 3*time.Minute, "certificates of all gateways are renewed", func() (err error) {
		for _, context := range w.contexts {
			if seen[context] == nil {
				seen[context] = map[string]bool{}
			}
			if seen[context][w.presented(t, context)] = true; len(seen[context]) < 6 {
				err = fmt.Errorf("%d of %s were seen", len(seen[context]), cluster(context))
			}
		}
		return err
	})
	patchVM(t, w, `{"spec":{"mtlsConfig":{"limited":{"gatewayCertOptions":null}}}}`)
	w.ready(t, "virtual-mesh", 3*time.Minute)
	stop()
	w.unchanged(t, proxies)
}

// limitedRotation replaces the CA of the gateways, twice in a row.
func limitedRotation(t *testing.T, w *world) {
	stop := talk(t, w, caller, true)
	proxies := w.proxies(t)
	for range 2 {
		was, before := w.gatewaySecret(t, management)["ca.crt"], w.rotation().RotationID
		start := time.Now()
		w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
		steps := w.finished(t, before, 10*time.Minute)
		t.Logf("finished after %.0f s: %s", time.Since(start).Seconds(), steps)
		for _, context := range w.contexts {
			now := w.gatewaySecret(t, context)
			if len(now["ca.crt"]) != 1 || now["ca.crt"][0].Equal(was[0]) {
				t.Errorf("%s: gateways know others by %d roots, or the old one", cluster(context), len(now["ca.crt"]))
			}
			if err := trusts(now["ca.crt"][0], now["tls.crt"]); err != nil {
				t.Errorf("%s: %v", cluster(context), err)
			}
		}
	}
	w.ready(t, "virtual-mesh", time.Minute)
	stop()
	w.unchanged(t, proxies)
}

// limitedThirdLeaves: a mesh leaves, and its gateways are uninstalled, which they are not while they are needed.
func limitedThirdLeaves(t *testing.T, w *world) {
	uninstall := []string{"gateway", "uninstall", "--context", management, "--member-context", third}
	if _, err := w.try(time.Minute, "meshctl", uninstall...); err == nil || !strings.Contains(err.Error(), "virtual-mesh") {
		t.Fatalf("gateways of a member were removed: %v", err)
	}
	stop := talkOf(t, w, management, remote)
	w.joinLimited(t, management, remote)
	stop()
	w.contexts = []string{management, remote}
	w.run(t, 3*time.Minute, "meshctl", uninstall...)
	eventually(t, 3*time.Minute, "nothing of the gateways is left", func() error {
		return absent(w, third, "namespace/"+v1alpha1.GatewaysNamespace)
	})
	w.want(t, remote, caller, answeredBy("ratings", management), "http://"+federated("ratings.default", management)+":9080/")
}

// limitedMoving goes from limited to shared trust, and back.
func limitedMoving(t *testing.T, w *world) {
	host := "http://" + federated("ratings.default", management) + ":9080/"
	seenAs := func(identity string) {
		t.Helper()
		o := w.want(t, remote, caller, func(o outcome) bool { return answered(o) && o.caller() == identity }, host)
		t.Log(o)
	}
	stop := talk(t, w, caller, true)
	proxies := w.proxies(t)
	for _, move := range []struct{ config, identity string }{
		{sharedConfig, "spiffe://cluster.local/ns/default/sa/caller"},
		{limitedConfig, gatewayAccount + "isthmus-ingress"},
	} {
		start := time.Now()
		w.kubectl(t, management, "-n", "isthmus-system", "patch", "virtualmesh", "virtual-mesh", "--type=json", "-p",
			`[{"op":"replace","path":"/spec/mtlsConfig","value":`+move.config+`}]`)
		w.ready(t, "virtual-mesh", 10*time.Minute)
		seenAs(move.identity)
		t.Logf("moved after %.0f s", time.Since(start).Seconds())
	}
	stop()
	w.unchanged(t, proxies)
	// They kept what they had in common, and it is told.
	if out, _ := w.try(time.Minute, "meshctl", "check", "--context", management); !strings.Contains(out, "ISTH9005") {
		t.Errorf("check does not tell of the common root:\n%s", out)
	}
}

// limitedOwnRoots gives members that shared a root roots of their own, one after the other.
func limitedOwnRoots(t *testing.T, w *world) {
	stop := talk(t, w, caller, true)
	start := time.Now()
	patchVM(t, w, `{"spec":{"mtlsConfig":{"limited":{"ownRoots":true}}}}`)
	own := map[string]bool{}
	eventually(t, 10*time.Minute, "every mesh has a root of its own", func() error {
		clear(own)
		for _, context := range w.contexts {
			roots := parse([]byte(w.jsonpath(context, `{.data.root-cert\.pem}`, "-n", "default", "configmap", "istio-ca-root-cert")))
			if len(roots) != 1 || own[roots[0].SerialNumber.String()] {
				return fmt.Errorf("%s has %d roots, or that of another mesh", cluster(context), len(roots))
			}
			own[roots[0].SerialNumber.String()] = true
		}
		return nil
	})
	w.ready(t, "virtual-mesh", 5*time.Minute)
	t.Logf("apart after %.0f s", time.Since(start).Seconds())
	stop()
	if out := w.sound(t); strings.Contains(out, "ISTH9005") {
		t.Errorf("check tells of a common root:\n%s", out)
	}
}

// talkOf is talk between some members alone.
func talkOf(t *testing.T, w *world, contexts ...string) (stop func()) {
	t.Helper()
	some := *w
	some.contexts = contexts
	return talk(t, &some, caller, true)
}

// joinLimited has these meshes be the members of the virtual mesh under limited trust, and waits until they are.
func (w *world) joinLimited(t *testing.T, contexts ...string) {
	t.Helper()
	start := time.Now()
	meshes := ""
	for _, context := range contexts {
		meshes += "  - {name: " + meshOf(context) + "}\n"
	}
	w.apply(t, management, `
apiVersion: isthmus.dev/v1alpha1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: isthmus-system}
spec:
  mtlsConfig: `+limitedConfig+`
  federation: {selectors: [{}]}
  meshes:
`+meshes)
	w.ready(t, "virtual-mesh", 5*time.Minute)
	t.Logf("joined after %.0f s", time.Since(start).Seconds())
}

// meshOf is the name of the mesh of a context.
func meshOf(context string) string { return "istiod-istio-system-" + cluster(context) }

// gatewayIdentity is how the gateways of a mesh are known to those of others.
func gatewayIdentity(context string) string {
	return membership.GatewayIdentity("virtual-mesh.isthmus-system", v1alpha1.ObjectRef{Name: meshOf(context), Namespace: "isthmus-" + cluster(context)})
}

// admittedName is what the gateways of a client ask those of another cluster for when they want a port of a service,
// "<service>.<namespace>".
func admittedName(service, context, client string, port int) string {
	return fmt.Sprintf("p%d.%s.%s", port, meshOf(client), federated(service, context))
}

// serverName is what workloads ask their egress gateway for when they want one.
func serverName(service, context string, port int) string {
	return fmt.Sprintf("p%d.%s", port, federated(service, context))
}

// ingressAddress is where others reach the ingress gateway of a mesh.
func (w *world) ingressAddress(t *testing.T, context string) string {
	t.Helper()
	address := w.jsonpath(context, "{.status.loadBalancer.ingress[0].ip}", "-n", v1alpha1.GatewaysNamespace, "service", "isthmus-ingress")
	if address == "" {
		t.Fatalf("%s: the ingress gateway has no address", context)
	}
	return address + ":" + ingressPort
}

// gatewaySecret are the certificates that a cluster's gateways have for others: tls.crt and ca.crt.
func (w *world) gatewaySecret(t *testing.T, context string) map[string][]*x509.Certificate {
	t.Helper()
	out := map[string][]*x509.Certificate{}
	for key, text := range w.gatewayKeys(t, context) {
		out[key] = parse(text)
	}
	return out
}

// presented is the serial number of the certificate in the Secret of a cluster's gateways.
func (w *world) presented(t *testing.T, context string) string {
	t.Helper()
	chain := w.gatewaySecret(t, context)["tls.crt"]
	if len(chain) == 0 {
		t.Fatalf("%s: no certificate of gateways", cluster(context))
	}
	return chain[0].SerialNumber.Text(16)
}

func (w *world) gatewayKeys(t *testing.T, context string) map[string][]byte {
	t.Helper()
	data := map[string][]byte{}
	text := w.kubectl(t, context, "-n", v1alpha1.GatewaysNamespace, "get", "secret", v1alpha1.GatewaySecretName, "-o", "jsonpath={.data}")
	if err := json.Unmarshal([]byte(text), &data); err != nil {
		t.Fatalf("%s: Secret %s: %v in %.20q", cluster(context), v1alpha1.GatewaySecretName, err, text)
	}
	return data
}

// stealGatewayKey gives the intruder of a cluster what the gateways there have: it is then an attacker who has taken one over.
func (w *world) stealGatewayKey(t *testing.T, context string) {
	t.Helper()
	keys := w.gatewayKeys(t, context)
	for file, key := range map[string]string{"gateway.crt": "tls.crt", "gateway.key": "tls.key"} {
		text := base64.StdEncoding.EncodeToString(keys[key])
		w.run(t, time.Minute, "kubectl", "--context", context, "exec", "deploy/intruder", "-c", "istio-proxy", "--",
			"sh", "-c", "echo "+text+" | base64 -d > /certs/"+file)
	}
}

// trusted are the serial numbers of the roots by which a proxy knows others, as its Envoy says.
func (w *world) trusted(t *testing.T, context, namespace, deployment string) map[string]bool {
	t.Helper()
	serials := map[string]bool{}
	eventually(t, time.Minute, "the roots of "+namespace+"/"+deployment+" in "+cluster(context), func() error {
		out, err := w.try(time.Minute, "kubectl", "--context", context, "-n", namespace, "exec", "deploy/"+deployment, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "certs")
		if err != nil {
			return err
		}
		var seen struct {
			Certificates []struct {
				CA []struct {
					SerialNumber string `json:"serial_number"`
				} `json:"ca_cert"`
			}
		}
		if err := json.Unmarshal([]byte(out[max(0, strings.Index(out, "\n{")):]), &seen); err != nil {
			return err
		}
		clear(serials)
		for _, c := range seen.Certificates {
			for _, ca := range c.CA {
				n, ok := new(big.Int).SetString(ca.SerialNumber, 16)
				if !ok {
					return fmt.Errorf("serial number %q", ca.SerialNumber)
				}
				serials[n.Text(16)] = true
			}
		}
		if len(serials) == 0 {
			return errors.New("none")
		}
		return nil
	})
	return serials
}
