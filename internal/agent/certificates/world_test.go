package certificates

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// world is one registered cluster with one mesh, on real API servers. What a cluster without nodes lacks, it supplies: the
// hub's signatures, the controllers and kubelet behind a Deployment of istiod, and an istiod that serves TLS with the CA
// that it found when it started.
type world struct {
	t            *testing.T
	hub, member  client.Client
	cluster      string
	rootNS       string
	agentNS      string
	root         pki.Material
	selfSigned   *pkitest.CA
	now          func() time.Time
	istiods      map[string]*server     // by pod
	sidecars     map[string]*server     // by workload
	roots        map[int64]pki.Material // that sign issuances, where it is not root
	neverAdopts  bool                   // istiod ignores cacerts
	live         bool                   // istiod takes changed files at once
	signerPaused bool
	rolled       string // the template that istiod's pods are of
	rolls        int    // how often they were replaced
	begunWith    []int  // how many roots the replicas had as they started
	existed      bool   // cacerts has existed
	vault        *vault.Options
}

var addresses atomic.Int32

// address is an unused loopback address: the IP of a pod.
func address() string {
	n := addresses.Add(1)
	return fmt.Sprintf("127.1.%d.%d", n/250, n%250+1)
}

func newWorld(t *testing.T, hub, member *testenv.Cluster, name string) *world {
	hub.Namespace(t, kube.ClusterNamespace(name), nil)
	w := newMember(t, hub, member, name)
	w.signerPaused = false
	return w
}

// newMember is a world in which the hub is somebody else.
func newMember(t *testing.T, hub, member *testenv.Cluster, name string) *world {
	w := &world{
		t: t, hub: hub.Client, member: member.Client, signerPaused: true,
		cluster: name, rootNS: "istio-" + name, agentNS: "agent-" + name,
		selfSigned: pkitest.NewRoot(t, "self-signed of "+name, time.Now()),
		root:       pkitest.NewRoot(t, "shared", time.Now()).Material(t),
		now:        time.Now,
		istiods:    map[string]*server{},
		sidecars:   map[string]*server{},
	}
	member.Namespace(t, w.rootNS, nil)
	member.Namespace(t, w.agentNS, nil)
	w.create(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: "istiod", Labels: map[string]string{"app": "istiod", "istio.io/rev": "default"}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "istiod"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "istiod"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "discovery", Image: "istio/pilot:1.31.1", Args: []string{"discovery"},
					Env: []corev1.EnvVar{{Name: "ISTIO_MULTIROOT_MESH", Value: "true"}},
				}}},
			},
		},
	})
	t.Cleanup(func() {
		for _, s := range w.istiods {
			s.close()
		}
	})
	w.turn()
	return w
}

// as makes a part of a test responsible until the returned function is called.
func (w *world) as(t *testing.T) func() {
	before := w.t
	w.t = t
	return func() { w.t = before }
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	if err := w.member.Create(context.Background(), o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) mesh() string { return kube.MeshName(w.rootNS, w.cluster) }

func (w *world) orderKey() types.NamespacedName {
	return types.NamespacedName{Namespace: kube.ClusterNamespace(w.cluster), Name: w.mesh()}
}

// order writes the order, creating it if need be.
func (w *world) order(edit func(*v1alpha1.IssuedCertificateSpec)) {
	w.t.Helper()
	ctx := context.Background()
	o := &v1alpha1.IssuedCertificate{}
	err := w.hub.Get(ctx, w.orderKey(), o)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		w.t.Fatal(err)
	}
	if missing {
		o.Namespace, o.Name = w.orderKey().Namespace, w.orderKey().Name
		o.Spec = v1alpha1.IssuedCertificateSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: "vm", Namespace: v1alpha1.SystemNamespace},
			Issuance:    1,
			Hosts:       []string{"spiffe://cluster.local/ns/" + w.rootNS + "/sa/istiod"},
			CertOptions: v1alpha1.CertOptions{TTLDays: ptr.To[int32](30), RSAKeySizeBytes: ptr.To[int32](2048), OrgName: "Istio"},
			Signer:      w.root.Root.ID().String(),
			Roots: []v1alpha1.RootCertificate{{
				Fingerprint: w.root.Root.ID().String(), Certificate: string(w.root.Root.PEM()),
			}},
			IssuedCertificateSecret: v1alpha1.SecretRef{Namespace: w.rootNS, Name: CACertsName},
			AutoRestartPods:         true,
		}
	}
	if edit != nil {
		edit(&o.Spec)
	}
	if missing {
		err = w.hub.Create(ctx, o)
	} else {
		err = w.hub.Update(ctx, o)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) getOrder() *v1alpha1.IssuedCertificate {
	w.t.Helper()
	o := &v1alpha1.IssuedCertificate{}
	if err := w.hub.Get(context.Background(), w.orderKey(), o); err != nil {
		w.t.Fatal(err)
	}
	return o
}

// cacerts returns nil if there is none.
func (w *world) cacerts() *corev1.Secret {
	w.t.Helper()
	s := &corev1.Secret{}
	err := w.member.Get(context.Background(), types.NamespacedName{Namespace: w.rootNS, Name: CACertsName}, s)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// process is an agent: its reconcilers and nothing that outlives it.
type process struct {
	requester *Requester
	installer *Installer
	authority *AuthorityReporter
}

func (w *world) newProcess(hub, member client.Client) *process {
	s := &store{Client: member, reader: member, namespace: w.agentNS}
	reports := NewReports()
	var signer *vaultSigner
	if w.vault != nil {
		c, err := vault.New(*w.vault, w.agentNS, member, member)
		if err != nil {
			w.t.Fatal(err)
		}
		signer = newVaultSigner(c)
	}
	return &process{
		requester: &Requester{Hub: hub, HubReader: hub, Cluster: w.cluster, RootNamespaces: []string{w.rootNS}, Now: w.now, store: s, reports: reports, vault: signer},
		installer: &Installer{Client: member, Reader: member, Recorder: events.NewFakeRecorder(1000), Now: w.now, store: s, reports: reports},
		authority: &AuthorityReporter{Hub: hub, Client: member, Reader: member, RootNamespaces: []string{w.rootNS}, Now: w.now},
	}
}

// round lets the agent and the world each do what they can.
func (w *world) round(ctx context.Context, p *process) error {
	w.turn()
	mesh := ctrl.Request{NamespacedName: types.NamespacedName{Name: w.mesh()}}
	order := ctrl.Request{NamespacedName: w.orderKey()}
	_, err1 := p.requester.Reconcile(ctx, order)
	_, err2 := p.installer.Reconcile(ctx, mesh)
	_, err3 := p.requester.Reconcile(ctx, order)
	_, err4 := p.authority.Reconcile(ctx, order) // a Mesh has its order's name
	return errors.Join(err1, err2, err3, err4)
}

// until runs rounds until the order satisfies f.
func (w *world) until(p *process, what string, f func(*v1alpha1.IssuedCertificate) bool) *v1alpha1.IssuedCertificate {
	w.t.Helper()
	var o *v1alpha1.IssuedCertificate
	var err error
	for range 60 {
		err = w.round(context.Background(), p)
		if o = w.getOrder(); err == nil && f(o) {
			return o
		}
	}
	status, _ := json.MarshalIndent(o.Status, "", " ")
	w.t.Fatalf("%s: %v\n%s", what, err, status)
	return nil
}

func finished(o *v1alpha1.IssuedCertificate) bool {
	return o.Status.State == v1alpha1.IssuedCertificateFinished && o.Status.ObservedGeneration == o.Generation
}

// turn is what goes on without the agent: the hub signs, controllers and kubelets replace pods, istiod publishes.
func (w *world) turn() {
	w.t.Helper()
	w.sign()
	w.roll()
}

// sign signs one request per issuance, as the hub does.
func (w *world) sign() {
	w.t.Helper()
	if w.signerPaused {
		return
	}
	ctx := context.Background()
	var list v1alpha1.CertificateRequestList
	if err := w.hub.List(ctx, &list, client.InNamespace(kube.ClusterNamespace(w.cluster))); err != nil {
		w.t.Fatal(err)
	}
	signed := map[int64]bool{}
	for _, r := range list.Items {
		signed[r.Spec.Issuance] = signed[r.Spec.Issuance] || r.Status.State == v1alpha1.CertificateRequestFinished
	}
	for i := range list.Items {
		r := &list.Items[i]
		if r.Status.State != "" {
			continue
		}
		r.Status.ObservedGeneration = r.Generation
		if signed[r.Spec.Issuance] {
			r.Status.State = v1alpha1.CertificateRequestFailed
			r.Status.Conditions = []metav1.Condition{{
				Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reasonAlreadySigned, LastTransitionTime: metav1.Now(),
			}}
		} else {
			signed[r.Spec.Issuance] = true
			csr, err := pki.CheckRequest([]byte(r.Spec.CertificateSigningRequest))
			if err != nil {
				w.t.Fatal(err)
			}
			name, err := pki.PublicKeyName(csr.PublicKey)
			if err != nil || kube.RequestName(w.mesh(), name) != r.Name {
				w.t.Fatalf("request %s is not named after its key: %v", r.Name, err)
			}
			o := w.getOrder()
			root, ok := w.roots[r.Spec.Issuance]
			if !ok {
				root = w.root
			}
			chain, err := pki.SignerIssuer{Material: root, Now: w.now}.Issue(ctx, csr, pki.Template{
				Organization: "Istio", Mesh: w.mesh(), URIs: o.Spec.Hosts, TTL: 24 * time.Hour,
			})
			if err != nil {
				w.t.Fatal(err)
			}
			r.Status.State = v1alpha1.CertificateRequestFinished
			r.Status.SignedCertificate = string(chain[:1].PEM())
			r.Status.CertChain = string(chain[1:].PEM()) + string(root.Root.PEM())
		}
		if err := w.hub.Status().Update(ctx, r); err != nil {
			w.t.Fatal(err)
		}
	}
}

// roll brings the pods of istiod up to date with its Deployment.
func (w *world) roll() {
	w.t.Helper()
	ctx := context.Background()
	d := &appsv1.Deployment{}
	if err := w.member.Get(ctx, types.NamespacedName{Namespace: w.rootNS, Name: "istiod"}, d); err != nil {
		w.t.Fatal(err)
	}
	if template := fmt.Sprint("annotations: ", d.Spec.Template.Annotations); template != w.rolled {
		if w.rolled != "" {
			w.rolls++
		}
		w.rolled = template
		old := w.istiods
		w.istiods = map[string]*server{}
		hash := fmt.Sprintf("g%d", w.rolls+1)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: w.rootNS, Name: "istiod-" + hash + "-x",
			Labels:      map[string]string{"app": "istiod", "pod-template-hash": hash},
			Annotations: d.Spec.Template.Annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "istiod-" + hash, UID: "u", Controller: new(true),
			}},
		}, Spec: d.Spec.Template.Spec}
		w.create(pod)
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address()}
		if err := w.member.Status().Update(ctx, pod); err != nil {
			w.t.Fatal(err)
		}
		ca := w.istiodCA()
		w.begunWith = append(w.begunWith, ca.Roots.Len())
		s := &server{plugged: w.cacerts() != nil}
		w.istiods[pod.Name] = s.serve(w.t, pod.Status.PodIP, evidence.IstiodPort, ca)
		for name, s := range old {
			s.close()
			if err := w.member.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: name}}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if d.Status.ObservedGeneration != d.Generation {
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
		if err := w.member.Status().Update(ctx, d); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, s := range w.istiods {
		if files := w.cacerts(); w.live && files != nil {
			if ca, err := pki.ReadCACerts(files.Data, w.now()); err == nil && (ca.Roots.SubsetOf(s.authority().Roots) || s.authority().Roots.SubsetOf(ca.Roots)) {
				s.use(w.t, ca)
			}
		}
		w.publish(s.authority().Roots)
	}
}

// istiodCA is what an istiod that starts now signs with.
func (w *world) istiodCA() pki.CACerts {
	w.t.Helper()
	if s := w.cacerts(); s != nil && !w.neverAdopts {
		ca, err := pki.ReadCACerts(s.Data, w.now())
		if err != nil {
			w.t.Fatal(err)
		}
		return ca
	}
	ca, err := pki.ReadCACerts(w.selfSigned.SelfSignedSecret(w.t), w.now())
	if err != nil {
		w.t.Fatal(err)
	}
	return ca
}

func (w *world) publish(roots pki.Bundle) {
	w.t.Helper()
	ctx := context.Background()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: RootConfigMap}}
	err := w.member.Get(ctx, client.ObjectKeyFromObject(cm), cm)
	if err == nil && cm.Data[pki.RootCertKey] == string(roots.PEM()) {
		return
	}
	cm.Data = map[string]string{pki.RootCertKey: string(roots.PEM())}
	if apierrors.IsNotFound(err) {
		err = w.member.Create(ctx, cm)
	} else {
		err = w.member.Update(ctx, cm)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// invariants must hold after every write.
func (w *world) invariants() error {
	s := w.cacerts()
	if s == nil {
		if w.existed {
			return errors.New("cacerts is absent")
		}
	} else {
		w.existed = true
		if _, err := pki.ReadCACerts(s.Data, w.now()); err != nil {
			return fmt.Errorf("cacerts is inconsistent: %w", err)
		}
	}
	for _, list := range []client.ObjectList{
		&v1alpha1.IssuedCertificateList{}, &v1alpha1.CertificateRequestList{}, &v1alpha1.MeshList{},
		&corev1.SecretList{}, &corev1.ConfigMapList{}, &corev1.EventList{},
	} {
		if err := w.hub.List(context.Background(), list); err != nil {
			return err
		}
		if secrets, ok := list.(*corev1.SecretList); ok {
			secrets.Items = slices.DeleteFunc(secrets.Items, func(s corev1.Secret) bool { return s.Type == v1alpha1.SecretTypeRoot }) // its own
		}
		if err := noKey(list); err != nil {
			return err
		}
	}
	return nil
}

func noKey(o any) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	for _, s := range []string{"PRIVATE KEY", "PRIVATE KE", "RIVATE KEY", "IVATE KEY"} {
		enc := base64.StdEncoding.EncodeToString([]byte(s))
		if bytes.Contains(text, []byte(s)) || bytes.Contains(text, []byte(strings.TrimRight(enc, "=")[:8])) {
			return errors.New("a private key is in the hub")
		}
	}
	return nil
}

// server is a TLS server with a leaf of a CA that asks for client certificates: istiod, which lets clients in under the roots
// that it had when it started, or the proxy of a workload, which demands them and follows.
type server struct {
	listener net.Listener
	name     *url.URL // of a workload
	plugged  bool     // an istiod with a plug-in CA

	mu      sync.Mutex
	ca      pki.CACerts
	clients *x509.CertPool
	cert    tls.Certificate
}

func (s *server) serve(t *testing.T, ip string, port int, ca pki.CACerts) *server {
	t.Helper()
	s.use(t, ca)
	auth := tls.VerifyClientCertIfGiven
	if s.name != nil {
		auth = tls.RequireAndVerifyClientCert
	}
	l, err := tls.Listen("tcp", fmt.Sprintf("%s:%d", ip, port), &tls.Config{
		NextProtos: []string{"istio", "h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return &tls.Config{NextProtos: []string{"istio", "h2"}, ClientAuth: auth, ClientCAs: s.clients, Certificates: []tls.Certificate{s.cert}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.listener = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = c.(*tls.Conn).Handshake()
				_ = c.Close()
			}()
		}
	}()
	return s
}

// use makes a new leaf under a CA.
func (s *server) use(t *testing.T, ca pki.CACerts) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ca.Certificate != nil && bytes.Equal(s.ca.CertChain().PEM(), ca.CertChain().PEM()) && s.ca.Roots.Equal(ca.Roots) {
		return
	}
	if s.clients == nil || s.name != nil {
		s.clients = ca.Roots.Pool()
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{Organization: []string{"leaf"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(3 * time.Hour),
		DNSNames: []string{"istiod.istio-system.svc"},
	}
	if s.name != nil {
		template.URIs = []*url.URL{s.name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	s.ca = ca
	s.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if ca.Certificate.Equal(ca.Root.Certificate()) && !s.plugged {
		return // a self-signed istiod sends its leaf alone
	}
	for _, c := range ca.CertChain() {
		s.cert.Certificate = append(s.cert.Certificate, c.Raw)
	}
}

func (s *server) authority() pki.CACerts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ca
}

func (s *server) close() { _ = s.listener.Close() }

func (w *world) get(namespace, name string, o client.Object) {
	w.t.Helper()
	if err := w.member.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: name}, o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deployment() *appsv1.Deployment { return w.getDeployment("istiod") }

func (w *world) getDeployment(name string) *appsv1.Deployment {
	w.t.Helper()
	d := &appsv1.Deployment{}
	if err := w.member.Get(context.Background(), types.NamespacedName{Namespace: w.rootNS, Name: name}, d); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// workload creates a Deployment of the mesh and its pod, whose proxy has a leaf of ca and runs since a time.
func (w *world) workload(name, kind string, ca pki.CACerts, since time.Time) {
	w.t.Helper()
	proxy := corev1.Container{
		Name: "istio-proxy", Image: "istio/proxyv2:1.31.1", Args: []string{"proxy", kind},
		Env: []corev1.EnvVar{{Name: "CA_ADDR", Value: "istiod." + w.rootNS + ".svc:15012"}},
	}
	w.create(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
				Spec:       corev1.PodSpec{ServiceAccountName: name, Containers: []corev1.Container{proxy}},
			},
		},
	})
	w.podOf(name, kind, ca, since)
}

// rollWorkload replaces the pod of a workload, as its controller does, by one whose proxy starts now.
func (w *world) rollWorkload(name, kind string, ca pki.CACerts) {
	w.t.Helper()
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: name + "-g1-x"}}
	if err := w.member.Delete(context.Background(), old, client.GracePeriodSeconds(0)); err != nil {
		w.t.Fatal(err)
	}
	w.podOf(name, kind, ca, time.Now().Add(time.Second)) // Kubernetes counts whole seconds
}

func (w *world) podOf(name, kind string, ca pki.CACerts, since time.Time) {
	w.t.Helper()
	ctx := context.Background()
	d := w.getDeployment(name)
	hash := fmt.Sprintf("g%d", d.Generation)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: w.rootNS, Name: name + "-" + hash + "-x",
		Labels:      map[string]string{"app": name, "pod-template-hash": hash},
		Annotations: d.Spec.Template.Annotations,
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name + "-" + hash, UID: "u", Controller: new(true),
		}},
	}, Spec: d.Spec.Template.Spec}
	pod.Spec.NodeName = "node" // a pod that is nowhere has no grace period
	w.create(pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address(), ContainerStatuses: []corev1.ContainerStatus{{
		Name: "istio-proxy", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(since)}},
	}}}
	if err := w.member.Status().Update(ctx, pod); err != nil {
		w.t.Fatal(err)
	}
	if kind == string(evidence.Sidecar) {
		id := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + w.rootNS + "/sa/" + name}
		s := &server{name: id}
		w.sidecars[name] = s.serve(w.t, pod.Status.PodIP, evidence.ProxyPort, ca)
		w.t.Cleanup(s.close)
	}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
	if err := w.member.Status().Update(ctx, d); err != nil {
		w.t.Fatal(err)
	}
}

// push has the proxies take the bundle and a leaf of istiod, as live ones do when its bytes have changed.
func (w *world) push() {
	w.t.Helper()
	for _, istiod := range w.istiods {
		for _, s := range w.sidecars {
			if ca := istiod.authority(); !s.authority().Roots.Equal(ca.Roots) {
				s.use(w.t, ca)
			}
		}
	}
}

func (w *world) restarted(name string) bool {
	w.t.Helper()
	return w.getDeployment(name).Spec.Template.Annotations[restart.Annotation] != ""
}
