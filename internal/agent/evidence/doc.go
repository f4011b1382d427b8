// Package evidence finds out which certificates are really in use in a mesh: by TLS handshakes with every replica of
// istiod and with proxies, each at the address of its pod, and from the ConfigMaps in which istiod publishes its roots.
//
// Which roots a server trusts is seen by what it does with canaries: client certificates that live for minutes, one under each
// root ([Probe], [AskReplicasWith]). What is not proven is unknown, and never taken for an answer.
//
// It only looks. It decides nothing about certificates and changes nothing; no application sees a probe, no port of
// administration is used and nothing is executed in a pod.
package evidence
