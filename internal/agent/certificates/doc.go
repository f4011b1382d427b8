// Package certificates carries out the hub's orders (IssuedCertificate) in the agent's own cluster, in two halves that
// share one Secret, isthmus-ca-<mesh>:
//
//   - requesting needs the hub: order → key in Secret isthmus-pending-<hash> → CertificateRequest, or Vault → signed chain, verified
//     → Secret isthmus-ca-<mesh>, which holds the plug-in CA that istiod shall have and the order it answers;
//   - installing does not: Secret isthmus-ca-<mesh> → Secret cacerts of istiod, in one write → is it in use by every
//     replica of istiod? → restarts of what still needs one, if the order allows them → what was seen.
//
// A private key is stored here before anything is asked with it and never leaves the cluster. Each write is complete in
// itself and follows from what is stored, so that the agent may end between any two of them and go on afterwards.
//
// While a root is replaced, isthmus-ca-<mesh> holds two intermediates: the one in use and a spare under the other root, which
// may be the CA that the mesh came with. With them the package signs no more than canaries, which live for minutes and are shown
// to proxies and istiods, and, where an order asks for it, a certificate of the new root under the mesh's own.
//
// It decides nothing about rotations: signer, roots, nudges and what may be restarted are what the order says.
package certificates
