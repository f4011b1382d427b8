package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestE2E runs every scenario, in order. Each leaves the lab as the next expects it: both clusters registered, their
// meshes in no virtual mesh unless it says otherwise.
func TestE2E(t *testing.T) {
	w := newWorld(t, "e2e")
	inOrder(t, w, []scenario[*world]{
		{"Install", install},
		{"Guide", guide},
		{"Federation", federation},
		{"FederatedSubsets", federatedSubsets},
		{"FederatedTCP", federatedTCP},
		{"FederationAdmits", federationAdmits},
		{"FederationReports", federationReports},
		{"FederatedIdentity", federatedIdentity},
		{"FederatedRollout", long(federatedRollout)},
		{"FederationOptions", federationOptions},
		{"Failover", failover},
		{"GlobalPolicy", globalPolicy},
		{"AccessPolicies", accessPolicies},
		{"TLSEnforcement", tlsEnforcement},
		{"ProgramsDown", programsDown},
		{"APIServersDown", long(apiServersDown)},
		{"ClusterCutOff", long(clusterCutOff)},
		{"ServiceChurn", long(serviceChurn)},
		{"Unfederated", unfederated},
		{"Refused", refused},
		{"HubAway", hubAway},
		{"HubKilled", hubKilled},
		{"AgentKilled", agentKilled},
		{"CredentialRotated", credentialRotated},
		{"ClusterAway", long(clusterAway)},
		{"APIServerRestarted", apiServerRestarted},
		{"Restored", restored},
		{"ProvidedRoot", providedRoot},
		{"CertManager", long(certManager)},
		{"Deregister", deregister},
	})
}

// install puts the hub into the management cluster and registers both clusters.
func install(t *testing.T, w *world) {
	w.install(t, management, remote)
	for _, d := range []string{"reviews.default", "ratings.default", "details.default", "productpage.default"} {
		eventually(t, time.Minute, "Destination "+d, func() error {
			_, err := w.try(time.Minute, "kubectl", "--context", management, "get", "destination", "-n", "isthmus-management-plane", d)
			return err
		})
	}
	if out := w.run(t, time.Minute, "meshctl", "cluster", "list", "--context", management); !strings.Contains(out, "remote-cluster") {
		t.Fatalf("cluster list: %s", out)
	}
	w.sound(t)
}

// install puts the hub into the cluster of the first context and registers the clusters of all, whose kubelets are quick.
func (w *world) install(t *testing.T, contexts ...string) {
	t.Helper()
	w.installWith(t, "kubeletProjection=5s", contexts...)
}

// installWith does so with a value of the agent's chart.
func (w *world) installWith(t *testing.T, value string, contexts ...string) {
	t.Helper()
	w.installAs(t, nil, []string{"--set", value}, contexts...)
}

// installAs does so with options of `meshctl install` and of `meshctl cluster register`.
func (w *world) installAs(t *testing.T, install, register []string, contexts ...string) {
	t.Helper()
	w.contexts = contexts
	hub := contexts[0]
	for _, image := range []string{"isthmus-hub", "isthmus-agent"} {
		w.run(t, 2*time.Minute, "lab", "load", "--name", w.name, "--ref", "lab.local/"+image+":dev", "--binary", w.bin+"/"+image)
	}
	images := []string{"--image-registry", "lab.local", "--image-tag", "dev"}
	w.run(t, 3*time.Minute, "meshctl", slices.Concat([]string{"install", "--context", hub}, images, install)...)
	for _, context := range contexts {
		w.run(t, 3*time.Minute, "meshctl", slices.Concat([]string{"cluster", "register", cluster(context), "--context", hub, "--member-context", context}, images, register)...)
	}
	for _, context := range contexts {
		w.created(t, hub, "-n", "isthmus-"+cluster(context), "mesh.isthmus.dev/istiod-istio-system-"+cluster(context))
	}
}

// deregister undoes a registration, and nothing of it stays.
func deregister(t *testing.T, w *world) {
	w.run(t, 3*time.Minute, "meshctl", "cluster", "deregister", "remote-cluster", "--context", management, "--member-context", remote)
	eventually(t, time.Minute, "nothing of the cluster is left in the hub", func() error {
		return absent(w, management, "namespace/isthmus-remote-cluster", "clusterrolebinding/isthmus-agent-remote-cluster")
	})
	eventually(t, time.Minute, "nothing of the agent is left in the member", func() error {
		return absent(w, remote, "deployment/isthmus-agent -n isthmus-agent", "secret/isthmus-hub-credential -n isthmus-agent")
	})
	if err := absent(w, remote, "secret/cacerts -n istio-system"); err == nil {
		t.Fatal("cacerts must stay when a cluster is deregistered: istiod would make up a root of its own at its next start")
	}
	w.run(t, 3*time.Minute, "meshctl", "cluster", "deregister", "management-plane", "--context", management, "--member-context", management)
	w.run(t, 3*time.Minute, "meshctl", "uninstall", "--context", management)
}
