package e2e

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// A kubelet is silent for a while, as to an API server that was away: its node is where a pod goes as soon as it is Ready.
func TestKubernetesPodMigrationsWaitForANodeToBeReady(t *testing.T) {
	k := newKube(t)
	k.nodesUp()
	v := k.traveller("patient", k.a, smallLoad)
	kubelet := pidOf(t, v.elsewhere(), "kubelet", "")
	if err := unix.Kill(kubelet, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = unix.Kill(kubelet, unix.SIGCONT) }
	t.Cleanup(goOn)
	k.kubectl("", "wait", "--for=condition=Ready=Unknown", "node", v.elsewhere().Name, "--timeout=170s")

	waits := func(m *v1alpha1.PodMigration) bool {
		return m.Status.Phase.Over() || strings.Contains(m.Status.Message, "is not Ready")
	}
	m := v.await(v.ask(), "it waits", waits)
	if m.Status.Phase != v1alpha1.PhasePending {
		t.Fatalf("it is %s: %s", m.Status.Phase, m.Status.Message)
	}
	goOn()
	if end := v.settled(m); end.Status.Phase != v1alpha1.PhaseSucceeded {
		t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
	}
	v.verify()
	k.nodesUp()
}
