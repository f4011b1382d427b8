// Package network makes the Istio objects of its own cluster be as virtual meshes want them: what is federated from here,
// what is federated to here, and who may call what.
//
// Each agent works for its own cluster and from what the hub has accepted. Of other agents it takes facts, each of which
// counts for no more than the namespace of the hub proves. What decides is packages federation and policy; this one reads,
// asks them, and applies.
//
// One changed Service costs work for that one: a Destination of this cluster, or of another, is a unit of work. Of a mesh
// there is one for gateways, mesh-wide policies and the report. What all of them depend on is a [view], made anew when a
// VirtualMesh, Mesh or AccessPolicy changes.
//
// Nothing is deleted but on evidence: that users want it so, or that the home agent of a destination, alive and up to date,
// says that it is gone. While the hub is away nothing is concluded.
package network
