// Package certificates carries out the hub's orders (IssuedCertificate) in the agent's own cluster, in two halves that
// share one Secret, isthmus-ca-<mesh>:
//
//   - requesting needs the hub: order → key in Secret isthmus-pending-<hash> → CertificateRequest → signed chain, verified
//     → Secret isthmus-ca-<mesh>, which holds the plug-in CA that istiod shall have and the order it answers;
//   - installing does not: Secret isthmus-ca-<mesh> → Secret cacerts of istiod, in one write → is it in use by every
//     replica of istiod? → restarts of what still needs one, if the order allows them → what was seen.
//
// A private key is stored here before anything is asked with it and never leaves the cluster. Each write is complete in
// itself and follows from what is stored, so that the agent may end between any two of them and go on afterwards.
//
// The package signs nothing and knows nothing of rotations: signer and roots are what the order says.
package certificates
