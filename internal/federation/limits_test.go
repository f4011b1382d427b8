package federation_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
)

// TestWhatIsSaidIsBounded: of thousands of addresses that cannot be, each of another cluster's choice, a few are named.
func TestWhatIsSaidIsBounded(t *testing.T) {
	client := mesh("west")
	home := mesh("east", addresses())
	for g := range 64 {
		home.Spec.Istio.Gateways = append(home.Spec.Istio.Gateways, gateway(fmt.Sprint("g", g), v1alpha1.GatewayEastWest))
		for a := range 64 {
			i := &home.Spec.Istio.Gateways[g+1]
			i.Addresses = append(i.Addresses, fmt.Sprintf("127.0.%d.%d%s", g, a, strings.Repeat("x", 200)))
		}
	}
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	_, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home))
	if refusal == nil {
		t.Fatal("it was imported")
	}
	if refusal.Reason != federation.ReasonForbiddenAddress || !strings.Contains(refusal.Message, "127.0.0.0x") || !strings.HasSuffix(refusal.Message, "and 4093 more") || len(refusal.Message) > 1500 {
		t.Errorf("it says %s: %s", refusal.Reason, refusal.Message)
	}

	home.Spec.Istio.Gateways[0].Addresses = []string{"192.0.2.1"}
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home))
	if refusal != nil {
		t.Fatal(refusal)
	}
	if len(got.ServiceEntry.Spec.Endpoints) != 1 || len(got.Notes) == 0 || len(got.Notes) > 64 {
		t.Errorf("%d endpoints and %d notes", len(got.ServiceEntry.Spec.Endpoints), len(got.Notes))
	}
}

// TestNamesOfGateways: every proxy of the client resolves each name again and again.
func TestNamesOfGateways(t *testing.T) {
	client := mesh("west")
	var names []string
	for i := range 64 {
		names = append(names, fmt.Sprintf("gw%d.east.example", i))
	}
	home := mesh("east", addresses(append(names, "192.0.2.1", "gw0.east.example")...))
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home))
	if refusal != nil {
		t.Fatal(refusal)
	}
	if n := len(got.ServiceEntry.Spec.Endpoints); n != 8+1 {
		t.Errorf("%d endpoints", n)
	}
	if n := len(got.Notes.With(federation.ReasonTooMany)); n == 0 || n > 56 {
		t.Errorf("%d notes", n)
	}
}

// TestForbiddenName: an API server may be known by name.
func TestForbiddenName(t *testing.T) {
	client := mesh("west")
	forbidden := func(address string, port int32) bool { return address == "hub.example.com" && port == 443 }
	for address, refused := range map[string]bool{"hub.example.com": true, "HUB.example.com.": true, "gw.example.com": false} {
		home := mesh("east", addresses(address), func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways[0].Ports[1].ExternalPort = 443 })
		vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
		_, refusal := federation.Import(vm, federation.Client{Mesh: client, Forbidden: forbidden}, home, destination(home))
		if (refusal != nil) != refused {
			t.Errorf("%s: %v", address, refusal)
		}
	}
}
