// Package e2e walks through what users do, on two real Kubernetes clusters with real Istio that the lab starts. The
// scenarios run one after the other in TestE2E, on one lab, in the order in which a user would meet them.
package e2e
