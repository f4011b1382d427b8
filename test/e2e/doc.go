// Package e2e walks through what users do, on real Kubernetes clusters with real Istio that the lab starts. The scenarios
// run one after the other in TestE2E, on one lab of two clusters, in the order in which a user would meet them;
// the other tests have a lab of their own each.
//
// Requests are made by the lab's sample program inside of pods, through their sidecars. A scenario that says that no request
// fails has requests under way all the time, at a fixed rate, and has shown before that it would see a failure.
package e2e
