package e2e

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// cri is the CRI of a node.
func cri(t *testing.T, n *lab.Node) runtimeapi.RuntimeServiceClient {
	t.Helper()
	runtime, err := n.Runtime()
	if err != nil {
		t.Fatal(err)
	}
	return runtime
}

// execIn runs a command in a container through CRI.
func execIn(t *testing.T, n *lab.Node, id string, args ...string) (output string, code int32) {
	t.Helper()
	r, err := cri(t, n).ExecSync(within(t, 20*time.Second), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: args, Timeout: int64(pace.Stretch(15 * time.Second).Seconds())})
	if err != nil {
		t.Fatal(err)
	}
	return string(r.Stdout) + string(r.Stderr), r.ExitCode
}

// status is a container's status.
func status(t *testing.T, n *lab.Node, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	r, err := cri(t, n).ContainerStatus(within(t, 10*time.Second), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

// awaitExit waits until a container has ended.
func awaitExit(t *testing.T, n *lab.Node, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	ctx := within(t, 20*time.Second)
	for {
		s := status(t, n, id)
		if s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("container %s is %s", id, s.State)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
