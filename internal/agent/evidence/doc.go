// Package evidence finds out which certificates are really in use in a mesh: by TLS handshakes with every replica of
// istiod and with proxies, each at the address of its pod, and from the ConfigMaps in which istiod publishes its roots.
//
// It only looks. It decides nothing about certificates and changes nothing; no application sees a probe, no port of
// administration is used and nothing is executed in a pod.
package evidence
