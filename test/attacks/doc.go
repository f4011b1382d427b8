// Package attacks tries what somebody would try who holds a stolen agent's credential, or may write VirtualMeshes and
// nothing else: on a real API server, with the rights and admission policies of the chart, against the real hub running
// with the rights of its own ServiceAccount. Beside each attack stands the honest deed that must succeed.
package attacks
