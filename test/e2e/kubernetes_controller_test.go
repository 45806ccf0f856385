package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// claimService leads the API server from the Service that the chart's webhooks name to the test.
const claimService = `apiVersion: v1
kind: Namespace
metadata: {name: godwit-system}
---
apiVersion: v1
kind: Service
metadata: {name: godwit-controller, namespace: godwit-system}
spec: {ports: [{port: 443, targetPort: %[2]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: godwit-controller, namespace: godwit-system, labels: {kubernetes.io/service-name: godwit-controller}}
addressType: IPv4
ports: [{port: %[2]d}]
endpoints: [{addresses: [%[1]s]}]
`

// controller runs godwit-controller with the webhook that claims pods, as the chart installs it, until the test ends.
func (k *kube) controller() {
	k.t.Helper()
	webhook := claimWebhook(k.t)
	host := hostOn(k.t, k.a.Addr())
	port := freePort(k.t, host)
	k.kubectl(fmt.Sprintf(claimService, host, port), "apply", "-f", "-")
	bin, err := lab.FindBin()
	if err != nil {
		k.t.Fatal(err)
	}
	out := new(bytes.Buffer)
	controller := exec.Command(filepath.Join(bin, "godwit-controller"), "--kubeconfig="+k.Kubeconfig(),
		"--webhook-port="+strconv.Itoa(port), "--health-address=0", "--metrics-address=0")
	controller.Stdout, controller.Stderr = out, out
	if err := controller.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(3*time.Minute))
		defer cancel()
		_, err := k.Kubectl(ctx, "", "delete", "mutatingwebhookconfiguration", v1alpha1.WebhookConfiguration)
		err = errors.Join(err, controller.Process.Signal(os.Interrupt), controller.Wait())
		if err != nil || k.t.Failed() {
			k.t.Errorf("godwit-controller: %v\n%s", err, out)
		}
	})
	k.kubectl(webhook, "apply", "-f", "-")
	k.until("the webhook called", func() bool {
		out, err := k.Kubectl(k.t.Context(), claimedPod, "create", "--dry-run=server", "-f", "-")
		if err != nil {
			k.t.Logf("the webhook: %v: %s", err, out)
		}
		return err == nil
	})
}

// claimedPod is one that the webhook is asked about.
const claimedPod = `apiVersion: v1
kind: Pod
metadata:
  name: asked
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: none, uid: 00000000-0000-0000-0000-000000000000, controller: true}]
spec:
  runtimeClassName: godwit
  containers: [{name: none, image: none}]
`

// claimWebhook is the chart's object.
func claimWebhook(t *testing.T) string {
	t.Helper()
	manifests, err := os.ReadFile(filepath.Join("..", "..", "contrib", "kubernetes", "godwit.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for object := range strings.SplitSeq(string(manifests), "\n---\n") {
		if strings.Contains(object, "\nkind: MutatingWebhookConfiguration\n") {
			return object
		}
	}
	t.Fatal("the manifests have no MutatingWebhookConfiguration")
	return ""
}

// freePort is one of an address of this machine's, which other tests' controllers may be on as well.
func freePort(t *testing.T, host string) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// hostOn is the address by which a lab's machines reach the host.
func hostOn(t *testing.T, node netip.Addr) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.Contains(node.AsSlice()) {
			return n.IP.String()
		}
	}
	t.Fatalf("no address of this machine is on the network of %v", node)
	return ""
}
