package e2e

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

// TestMigration puts Isthmus in the place of a running installation of the third generation, as the guide to that says, while
// workloads talk within each mesh and across. Not one request may fail, and the root stays. The older programs themselves are not
// to be had: what they leave in clusters is made in their form, and who runs in their names does nothing.
func TestMigration(t *testing.T) {
	takesLong(t)
	w := newWorld(t, "e2e-migration")
	w.contexts = []string{management, remote}
	older(t, w)
	for _, context := range w.contexts {
		w.deploy(t, context, caller)
		o := other(context)
		w.want(t, context, caller, answeredBy("ratings", o), "http://"+federated("ratings.default", o)+":9080/")
		w.seesFailures(t, context, caller, "http://"+federated("ratings.default", o)+":9080")
	}
	migration(t, w)
}

// What the older installation called its virtual mesh, and what that is called here.
const (
	olderDefinition = "virtualmeshes.networking.mesh.gloo.solo.io"
	olderMesh       = "gloo-gloo-mesh-virtual-mesh"
)

// older makes what an installation of the third generation leaves: two meshes under its root, each of which calls ratings in the
// other one through the gateway, as a policy allows.
func older(t *testing.T, w *world) {
	t.Helper()
	w.run(t, time.Minute, "lab", "load", "--name", w.name, "--ref", "lab.local/cert-agent:1.1.0", "--binary", labProgram(t, "pause"))
	root := pkitest.NewRootOf(t, "", pkitest.RSAKey(t, 2048), time.Now(), func(c *x509.Certificate) {
		c.Subject, c.KeyUsage = pkix.Name{Organization: []string{"gloo-mesh"}}, x509.KeyUsageCertSign
	})
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(root.Key.(*rsa.PrivateKey))})
	for _, context := range w.contexts {
		w.apply(t, context, olderKind("certificates", "IssuedCertificate", "issuedcertificates")+olderAgent("cert-agent"))
		// The first generation's type stays when an installation is upgraded: it cannot be changed.
		kind := map[string]string{management: "certificates.mesh.gloo.solo.io/issued_certificate", remote: "solo.io/ca-intermediate"}[context]
		ca := root.Intermediate(t, "", func(c *x509.Certificate) {
			c.Subject, c.KeyUsage = pkix.Name{}, x509.KeyUsageCertSign
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/istio-system/sa/istiod-service-account"})
		})
		w.apply(t, context, olderSecret(t, "istio-system", "cacerts", kind, map[string]string{"agent.certificates.mesh.gloo.solo.io": "gloo-mesh"}, map[string][]byte{
			pki.CACertKey: ca.PEM(), pki.CAKeyKey: ca.KeyPEM(t), pki.RootCertKey: root.PEM(), pki.RootKeyKey: {},
			pki.CertChainKey: slices.Concat(ca.PEM(), root.PEM()),
		}))
		w.kubectl(t, context, "-n", "istio-system", "rollout", "restart", "deploy/istiod")
	}
	w.apply(t, management, olderKind("networking", "VirtualMesh", "virtualmeshes")+olderKind("discovery", "Mesh", "meshes")+olderAgent("discovery")+olderAgent("networking")+
		olderSecret(t, "gloo-mesh", "virtual-mesh.gloo-mesh", "certificates.mesh.gloo.solo.io/generated_signing_cert",
			map[string]string{"owner.networking.mesh.gloo.solo.io": "gloo-mesh", "cluster.multicluster.solo.io": ""},
			map[string][]byte{pki.RootCertKey: root.PEM(), pki.RootKeyKey: key}))
	for _, kind := range []string{olderDefinition, "meshes.discovery.mesh.gloo.solo.io"} {
		w.kubectl(t, management, "wait", "--for=condition=Established", "--timeout=60s", "crd/"+kind)
	}
	w.apply(t, management, olderVirtualMesh("generated: {}"))
	for _, context := range w.contexts {
		w.apply(t, management, `
apiVersion: discovery.mesh.gloo.solo.io/v1
kind: Mesh
metadata: {name: istiod-istio-system-`+cluster(context)+`, namespace: gloo-mesh}
spec: {istio: {installation: {namespace: istio-system, cluster: `+cluster(context)+`}}}
`)
		w.kubectl(t, context, "-n", "istio-system", "rollout", "status", "deploy/istiod", "--timeout=120s")
		eventually(t, time.Minute, "the former istiod is gone", func() error {
			if pods := strings.Fields(w.jsonpath(context, "{.items[*].metadata.name}", "-n", "istio-system", "pods", "-l", "app=istiod")); len(pods) != 1 {
				return fmt.Errorf("pods %v", pods)
			}
			return nil
		})
		for _, namespace := range []string{"istio-system", "default"} {
			eventually(t, time.Minute, "the root is published in "+namespace, func() error {
				if published := w.jsonpath(context, `{.data.root-cert\.pem}`, "-n", namespace, "configmap", "istio-ca-root-cert"); strings.TrimSpace(published) != strings.TrimSpace(string(root.PEM())) {
					return errors.New(published)
				}
				return nil
			})
			for d := range strings.FieldsSeq(w.jsonpath(context, "{.items[*].metadata.name}", "-n", namespace, "deploy")) {
				if d != "istiod" {
					w.kubectl(t, context, "-n", namespace, "rollout", "restart", "deploy/"+d)
				}
			}
		}
	}
	for _, context := range w.contexts {
		for _, namespace := range []string{"istio-system", "default"} {
			for d := range strings.FieldsSeq(w.jsonpath(context, "{.items[*].metadata.name}", "-n", namespace, "deploy")) {
				w.kubectl(t, context, "-n", namespace, "rollout", "status", "deploy/"+d, "--timeout=120s")
			}
		}
		eventually(t, time.Minute, "the former pods are gone", func() error {
			if pods := strings.Fields(w.jsonpath(context, "{.items[*].metadata.name}", "-n", "default", "pods", "-l", "app=ratings")); len(pods) != 1 {
				return fmt.Errorf("pods %v", pods)
			}
			return nil
		})
	}
	for _, context := range w.contexts {
		w.apply(t, context, olderObjects(w, t, context))
	}
}

// olderKind is a definition as the older installation had it, with a schema that has no place for anything else in the status.
func olderKind(group, kind, plural string) string {
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[3]s.%[1]s.mesh.gloo.solo.io, labels: {app: gloo-mesh}}
spec:
  group: %[1]s.mesh.gloo.solo.io
  scope: Namespaced
  names: {kind: %[2]s, listKind: %[2]sList, plural: %[3]s, singular: %[4]s}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              observedGeneration: {type: integer, format: int64}
              state: {type: string}
              errors: {type: array, items: {type: string}}
---
`, group, kind, plural, strings.ToLower(kind))
}

// olderAgent is a Deployment in the name of one of the older programs.
func olderAgent(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: gloo-mesh}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: gloo-mesh}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: %[1]s, image: "lab.local/cert-agent:1.1.0", imagePullPolicy: IfNotPresent}]}
---
`, name)
}

func olderSecret(t *testing.T, namespace, name, kind string, labels map[string]string, data map[string][]byte) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": map[string]any{"name": name, "namespace": namespace, "labels": labels}, "data": data,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// olderVirtualMesh has a source of its root.
func olderVirtualMesh(source string) string {
	return `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: gloo-mesh}
spec:
  mtlsConfig:
    autoRestartPods: true
    shared: {rootCertificateAuthority: {` + source + `}}
  federation:
    selectors: [{}]
    ingressGatewaySelectors:
    - portName: tls
      destinationSelectors:
      - kubeServiceRefs:
          services:
          - {name: istio-eastwestgateway, namespace: istio-system, clusterName: management-plane}
          - {name: istio-eastwestgateway, namespace: istio-system, clusterName: remote-cluster}
  globalAccessPolicy: DISABLED
  meshes:
  - {name: istiod-istio-system-management-plane, namespace: gloo-mesh}
  - {name: istiod-istio-system-remote-cluster, namespace: gloo-mesh}
`
}

// olderObjects are those of Istio that the older installation made in a cluster.
func olderObjects(w *world, t *testing.T, context string) string {
	t.Helper()
	o := other(context)
	var b strings.Builder
	object := func(apiVersion, kind, namespace, name, spec string) {
		fmt.Fprintf(&b, `
apiVersion: %s
kind: %s
metadata:
  name: %s
  namespace: %s
  labels: {owner.networking.mesh.gloo.solo.io: gloo-mesh, cluster.multicluster.solo.io: %s}
  annotations: {parents.networking.mesh.gloo.solo.io: '{"networking.mesh.gloo.solo.io/v1, Kind=VirtualMesh":[{"name":"virtual-mesh","namespace":"gloo-mesh"}]}'}
spec: %s
---
`, apiVersion, kind, name, namespace, cluster(context), spec)
	}
	const networking, security = "networking.istio.io/v1", "security.istio.io/v1"
	const mutual = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"
	const serviceEntry = "location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 9080, name: http, protocol: HTTP}, {number: 9000, name: tcp-echo, protocol: TCP}, {number: 9090, name: grpc, protocol: GRPC}]"
	selector := w.jsonpath(context, "{.spec.selector}", "-n", "istio-system", "service", "istio-eastwestgateway")
	pod := w.jsonpath(context, "{.items[0].status.podIP}", "-n", "default", "pods", "-l", "app=ratings")
	own, theirs := federated("ratings.default", context), federated("ratings.default", o)

	object(networking, "ServiceEntry", "istio-system", own, fmt.Sprintf(`{hosts: [%s], exportTo: ["."], %s, endpoints: [{address: %s, ports: {http: 9080, tcp-echo: 9000, grpc: 9090}, labels: {app: ratings, security.istio.io/tlsMode: istio}}]}`,
		own, serviceEntry, pod))
	object(networking, "DestinationRule", "istio-system", own, fmt.Sprintf("{host: %s, %s}", own, mutual))
	object(networking, "Gateway", "istio-system", "istio-eastwestgateway-istio-system",
		fmt.Sprintf(`{selector: %s, servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ["*.global"], tls: {mode: AUTO_PASSTHROUGH}}]}`, selector))
	object(networking, "ServiceEntry", "istio-system", theirs, fmt.Sprintf(`{hosts: [%s], addresses: [%s], %s, endpoints: [{address: %s, ports: {http: 15443, tcp-echo: 15443, grpc: 15443}, labels: {app: ratings, security.istio.io/tlsMode: istio}}]}`,
		theirs, "244.80.133.147", serviceEntry, w.gatewayAddress(t, o)))
	object(networking, "DestinationRule", "istio-system", "ratings-default-"+cluster(o), fmt.Sprintf("{host: %s, %s}", theirs, mutual))
	object(networking, "DestinationRule", "default", "ratings", fmt.Sprintf("{host: ratings.default.svc.cluster.local, %s}", mutual))
	object(security, "AuthorizationPolicy", "default", "ratings", `{selector: {matchLabels: {app: ratings}}, action: ALLOW, rules: [{from: [{source: {principals: ["cluster.local/ns/default/*"]}}]}]}`)
	return b.String()
}

// migration goes through the guide.
func migration(t *testing.T, w *world) {
	var lasting, fresh []*load
	for i, l := range talking(t, w, caller, true) { // by turns
		if i%2 == 0 {
			fresh = append(fresh, l)
		} else {
			lasting = append(lasting, l)
		}
	}
	proxies := w.proxies(t)
	roots := map[string]string{}
	var guards []func()
	for _, context := range w.contexts {
		guards = append(guards, w.guard(t, context))
		roots[context] = w.jsonpath(context, `{.data.root-cert\.pem}`, "-n", "default", "configmap", "istio-ca-root-cert")
	}
	meshes := func(context string) string { return "istiod-istio-system-" + cluster(context) }

	// 1. The hub, which shall not follow yet, and all clusters.
	w.kubectl(t, management, "annotate", "crd", olderDefinition, "isthmus.dev/follow=false")
	w.installAs(t, []string{"--set", "legacy.enabled=true", "--set", "secretNamespaces={gloo-mesh}"}, []string{"--set", "kubeletProjection=5s"}, management, remote)
	eventually(t, time.Minute, "the older programs are seen", func() error {
		out, _ := w.try(time.Minute, "meshctl", "check", "--context", management)
		for _, words := range []string{"ISTH3007", "gloo-mesh/cert-agent", "ISTH3008", "Secret cacerts"} {
			if !strings.Contains(out, words) {
				return fmt.Errorf("no %q in %s", words, out)
			}
		}
		return nil
	})

	// 2. The older programs.
	w.kubectl(t, management, "-n", "gloo-mesh", "scale", "--replicas=0", "deploy/discovery", "deploy/networking")
	for _, context := range w.contexts {
		w.kubectl(t, context, "-n", "gloo-mesh", "scale", "--replicas=0", "deploy/cert-agent")
	}

	// 3. and 4. The older VirtualMesh, with the root that it has.
	w.apply(t, management, olderVirtualMesh("secret: {name: virtual-mesh.gloo-mesh, namespace: gloo-mesh}"))
	w.kubectl(t, management, "annotate", "--overwrite", "crd", olderDefinition, "isthmus.dev/follow=true")
	eventually(t, time.Minute, "the status says whose cacerts is", func() error {
		out := w.jsonpath(management, "{.status.conditions}", "-n", "isthmus-system", "virtualmesh.isthmus.dev", olderMesh)
		if !strings.Contains(out, "ForeignCA") || !strings.Contains(out, "adoptExistingCA: true") {
			return errors.New(out)
		}
		return nil
	})

	// 5. The CA of each mesh.
	w.kubectl(t, management, "-n", "isthmus-system", "patch", "virtualmesh.isthmus.dev", olderMesh, "--type=merge", "-p", `{"spec":{"mtlsConfig":{"adoptExistingCA":true}}}`)
	for _, context := range w.contexts {
		eventually(t, 5*time.Minute, "the intermediate of "+cluster(context), func() error {
			if now := issuance(w, cluster(context)); !strings.HasSuffix(now, "/FINISHED") {
				return fmt.Errorf("%s, %s", now, w.jsonpath(management, "{.status.conditions}", "-n", "isthmus-system", "virtualmesh.isthmus.dev", olderMesh))
			}
			return nil
		})
		if kind := w.jsonpath(context, "{.type}", "-n", "istio-system", "secret", "cacerts"); !strings.Contains(kind, "solo.io/") {
			t.Errorf("%s: cacerts is of type %s now", context, kind)
		}
	}

	// 6. and 7. The hosts.
	takeover := func(context string, args ...string) string {
		t.Helper()
		out := w.run(t, 3*time.Minute, "meshctl", slices.Concat([]string{"mesh", "takeover", meshes(context), "--context", management, "--member-context", context}, args)...)
		t.Logf("takeover %s %s:\n%s", context, strings.Join(args, " "), out)
		return out
	}
	uids := map[string]string{}
	for _, context := range w.contexts {
		host := federated("ratings.default", other(context))
		uids[context] = w.jsonpath(context, "{.metadata.uid}", "-n", "istio-system", "serviceentry", host)
		if out := takeover(context); !strings.Contains(out, "hand over") {
			t.Errorf("%s: nothing is to be handed over:\n%s", context, out)
		}
		takeover(context, "--apply")
		if uid := w.jsonpath(context, "{.metadata.uid}", "-n", "istio-system", "serviceentry", host); uid != uids[context] {
			t.Errorf("%s: ServiceEntry %s was made anew", context, host)
		}
		if err := absent(w, context, "destinationrule/ratings-default-"+cluster(other(context))+" -n istio-system"); err != nil {
			t.Errorf("%s: %v", context, err)
		}
	}
	for _, context := range w.contexts {
		eventually(t, 2*time.Minute, "nobody calls "+cluster(context)+" in the old way", func() error {
			out, err := w.try(time.Minute, "meshctl", "mesh", "takeover", meshes(context), "--context", management, "--member-context", context)
			if err != nil || strings.Contains(out, "still call in the old way") {
				return fmt.Errorf("%w %s", err, out)
			}
			return nil
		})
		takeover(context, "--apply")
	}
	w.ready(t, olderMesh, 2*time.Minute)

	// Envoy ends connections to a TCP port when the port's policies change, and so at step 8.
	for _, l := range lasting {
		l.stopClean(t)
	}

	// 8. What is left.
	w.policy(t, "ratings", "{sourceSelector: [{kubeIdentityMatcher: {namespaces: [default]}}], destinationSelector: "+to("ratings.default")+"}")
	for _, context := range w.contexts {
		w.kubectl(t, context, "-n", "default", "delete", "authorizationpolicy/ratings", "destinationrule/ratings")
		if left := w.kubectl(t, context, "get", "serviceentries,destinationrules,virtualservices,gateways.networking.istio.io,envoyfilters,authorizationpolicies", "-A",
			"-l", "owner.networking.mesh.gloo.solo.io", "-o", "name"); left != "" {
			t.Errorf("%s: left of the older installation are %s", context, left)
		}
		eventually(t, 2*time.Minute, "the hub knows of nothing older in "+cluster(context), func() error {
			if p := w.jsonpath(management, "{.status.predecessor}", "-n", "isthmus-"+cluster(context), "mesh.isthmus.dev", meshes(context)); p != `{"imports":0}` {
				return errors.New(p)
			}
			return nil
		})
	}

	// Leave the older kinds behind. The root's Secret is needed on, and its namespace goes.
	w.kubectl(t, management, "-n", "isthmus-system", "label", "virtualmesh.isthmus.dev", olderMesh, "isthmus.dev/managed-by-")
	w.apply(t, management, "{apiVersion: v1, kind: Secret, metadata: {name: virtual-mesh-root, namespace: isthmus-system}, type: Opaque, data: "+
		w.jsonpath(management, "{.data}", "-n", "gloo-mesh", "secret", "virtual-mesh.gloo-mesh")+"}")
	w.kubectl(t, management, "-n", "isthmus-system", "patch", "virtualmesh.isthmus.dev", olderMesh, "--type=merge", "-p",
		`{"spec":{"mtlsConfig":{"shared":{"rootCertificateAuthority":{"secret":{"name":"virtual-mesh-root","namespace":"isthmus-system"}}}}}}`)
	w.ready(t, olderMesh, time.Minute)
	w.kubectl(t, management, "-n", "gloo-mesh", "delete", "virtualmesh.networking.mesh.gloo.solo.io", "virtual-mesh")
	w.kubectl(t, management, "delete", "crd", olderDefinition, "meshes.discovery.mesh.gloo.solo.io")
	w.kubectl(t, management, "delete", "namespace", "gloo-mesh")
	w.sound(t)
	for _, l := range fresh {
		l.stopClean(t)
	}
	for _, check := range guards {
		check()
	}
	w.unchanged(t, proxies)
	w.ready(t, olderMesh, time.Minute)
	for _, context := range w.contexts {
		if now := w.jsonpath(context, `{.data.root-cert\.pem}`, "-n", "default", "configmap", "istio-ca-root-cert"); now != roots[context] {
			t.Errorf("%s: the roots of trust were\n%s and are\n%s", context, roots[context], now)
		}
		o := other(context)
		w.want(t, context, caller, answeredBy("ratings", o), "http://"+federated("ratings.default", o)+":9080/")
	}
}
