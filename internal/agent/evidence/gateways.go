package evidence

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// CredentialPort is where the gateways of limited trust are asked, at their pods' addresses, by what certificate others know them
// and by which roots they know others.
const CredentialPort = 15445

// CredentialListener makes the gateways of a role in a namespace open a port at which they can be asked: it ends mutual TLS by the
// certificate that they have for others, lets in nobody but the gateways of the mesh itself, whose identity is given, and leads
// nowhere. What they use there they use everywhere: Envoy has one copy of it.
func CredentialListener(namespace, role, identity string) *networkingv1.Gateway {
	return &networkingv1.Gateway{
		TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "Gateway"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "isthmus-credential-" + role},
		Spec: networkingapi.Gateway{
			Selector: map[string]string{v1alpha1.LabelGateway: role},
			Servers: []*networkingapi.Server{{
				Port:  &networkingapi.Port{Number: CredentialPort, Name: "tls-isthmus-credential", Protocol: "HTTPS"},
				Hosts: []string{ListenerHost},
				Tls: &networkingapi.ServerTLSSettings{
					Mode: networkingapi.ServerTLSSettings_MUTUAL, CredentialName: v1alpha1.GatewaySecretName, SubjectAltNames: []string{identity},
				},
			}},
		},
	}
}

// OwnCanary is a certificate that is shown as it is: of one that signs nothing there can be no other canary.
func OwnCanary(m pki.Material) Canary {
	c := Canary{Root: m.Root}
	c.certificate.PrivateKey = m.Key
	for _, cert := range m.Chain() {
		c.certificate.Certificate = append(c.certificate.Certificate, cert.Raw)
	}
	return c
}

// AskGateways offers canaries to gateways of limited trust, given by the addresses of their pods, and returns what was seen, in their
// order. One that does not present a certificate for the identity under the root of a canary counts as not seen.
func AskGateways(ctx context.Context, addresses []string, identity string, canaries []Canary) []Sight {
	roots := make([]pki.Root, len(canaries))
	for i, c := range canaries {
		roots[i] = c.Root
	}
	return each(addresses, func(ip string) Sight {
		s := server{
			address: address(ip, CredentialPort), name: ListenerHost,
			request: "HEAD / HTTP/1.1\r\nHost: " + ListenerHost + "\r\nConnection: close\r\n\r\n",
		}
		s.check = func(p Presented) error {
			if !slices.ContainsFunc(p.Chain[0].URIs, func(u *url.URL) bool { return u.String() == identity }) {
				return fmt.Errorf("what answers at %s is not %s", ip, identity)
			}
			if _, ok := p.Signer(pki.NewBundle(roots...), time.Now()); !ok {
				return fmt.Errorf("what answers at %s presents a certificate that is valid under none of the roots", ip)
			}
			return nil
		}
		return s.consult(ctx, canaries)
	})
}
