// Package hublink connects an agent to the hub without ever depending on it: the agent's manager runs on its own cluster,
// and the link adds what needs the hub once the hub answers. A hub that is away, a credential that is missing, expired,
// replaced or for another address delays those parts and ends nothing.
//
// It knows how to reach the hub and how to tell the hub that the agent is alive (a Lease), and nothing of what is
// exchanged.
package hublink
