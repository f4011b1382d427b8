package loadbalancer

import (
	"encoding/json"
	"testing"
)

func TestNeeds(t *testing.T) {
	for _, tt := range []struct {
		why, service string
		want         bool
	}{
		{"it has none", `{"spec":{"type":"LoadBalancer"}}`, true},
		{"it has another", `{"spec":{"type":"LoadBalancer"},"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.2"}]}}}`, true},
		{"it has a host name", `{"spec":{"type":"LoadBalancer"},"status":{"loadBalancer":{"ingress":[{"hostname":"a.example"}]}}}`, true},
		{"it has it already", `{"spec":{"type":"LoadBalancer"},"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.1"}]}}}`, false},
		{"it wants none", `{"spec":{"type":"ClusterIP"}}`, false},
		{"it is going away", `{"metadata":{"deletionTimestamp":"2026-01-02T03:04:05Z"},"spec":{"type":"LoadBalancer"}}`, false},
	} {
		var s service
		if err := json.Unmarshal([]byte(tt.service), &s); err != nil {
			t.Fatal(err)
		}
		if got := needs(s, "10.0.0.1"); got != tt.want {
			t.Errorf("%s: got %v", tt.why, got)
		}
	}
}
