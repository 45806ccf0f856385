package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// addEcho gives the nodes the image "echo": one static program.
func addEcho(t *testing.T, l *Lab, name string, nodes ...string) {
	t.Helper()
	root := t.TempDir()
	out, err := exec.Command("cc", "-Os", "-static", "-o", filepath.Join(root, "echo"), "testdata/echo.c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile: %v: %s", err, out)
	}
	if _, err := l.AddImage(t.Context(), ImageSpec{Name: name, Dir: root, Entrypoint: []string{"/echo"}, Env: []string{"GREETING=hello "}, Nodes: nodes}); err != nil {
		t.Fatal(err)
	}
}

func runEcho(t *testing.T, n *Node, name string) *Pod {
	t.Helper()
	pod, err := n.RunPod(t.Context(), PodSpec{Name: name, Handler: "runc", Containers: []ContainerSpec{
		{Image: "echo"}, {Image: "echo", Args: []string{"8"}, Env: []string{"GREETING=second "}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// ask sends a line and returns the answer; it tries until the server listens.
func ask(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var answer string
	var last error
	err := poll(ctx, func() (bool, error) {
		conn, err := dial(ctx, "tcp", address)
		if err != nil {
			last = err
			return false, nil
		}
		defer conn.Close()
		fmt.Fprintln(conn, "world")
		answer, last = bufio.NewReader(conn).ReadString('\n')
		return last == nil, nil
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w (last: %w)", address, err, last)
	}
	return strings.TrimSpace(answer), nil
}

func wantAnswer(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error), address, want string) {
	t.Helper()
	got, err := ask(t.Context(), dial, address)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("%s answered %q, want %q", address, got, want)
	}
}

func fromHost(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}
