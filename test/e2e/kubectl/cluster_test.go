package kubectl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// The nodes of the test: no kubelet has these names, so nobody but the test acts on what they are asked for.
const (
	source      = "ghost-1"
	destination = "ghost-2"
)

// labDir is where the lab of this test is: always the same, so that what a killed run left is found by the next.
func labDir() string {
	if dir := os.Getenv("GODWIT_E2E_DIR"); dir != "" {
		return dir + "-kubectl"
	}
	return "/var/tmp/godwit-e2e-kubectl"
}

// cluster is a lab's, with the plugin in the PATH of its kubectl.
type cluster struct {
	*lab.Cluster
	t    *testing.T
	bin  string
	user client.Client
}

func upCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("GODWIT_KUBERNETES") != "1" {
		t.Skip("starts a cluster, with GODWIT_KUBERNETES=1 only; see make e2e-kubernetes")
	}
	bin, err := lab.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("GODWIT_E2E_KEEP") == "" {
		if err := lab.Down(t.Context(), labDir()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := lab.Down(context.Background(), labDir()); err != nil {
				t.Error(err)
			}
		})
	}
	l, err := lab.Up(t.Context(), lab.Options{Dir: labDir(), Bin: bin, Kubernetes: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Cluster: l.Kubernetes(), t: t, bin: bin}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	if c.user, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	return c
}

// must runs kubectl, and fails the test if that fails.
func (c *cluster) must(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.Kubectl(c.t.Context(), stdin, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(out)
}

// command is `kubectl godwit ARGS...`.
func (c *cluster) command(args ...string) *exec.Cmd {
	cmd := c.KubectlCommand(c.t.Context(), append([]string{"godwit"}, args...)...)
	cmd.Env = append(cmd.Env, "PATH="+c.bin+":"+os.Getenv("PATH"))
	return cmd
}

// said is what a command came to.
type said struct {
	out, err string
	code     int
}

// godwit runs the plugin to its end.
func (c *cluster) godwit(args ...string) said {
	c.t.Helper()
	cmd := c.command(args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return said{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// refused runs the plugin, which must end with the code and say the words.
func (c *cluster) refused(code int, words string, args ...string) {
	c.t.Helper()
	if s := c.godwit(args...); s.code != code || !strings.Contains(s.err, words) {
		c.t.Errorf("kubectl godwit %s: exit code %d, want %d; said %q, want %q", strings.Join(args, " "), s.code, code, s.err, words)
	}
}

// done runs the plugin, which must succeed.
func (c *cluster) done(args ...string) string {
	c.t.Helper()
	s := c.godwit(args...)
	if s.code != 0 {
		c.t.Fatalf("kubectl godwit %s: exit code %d: %s", strings.Join(args, " "), s.code, s.err)
	}
	return s.out
}

// get reads the migration as it is.
func (c *cluster) get(name string) *v1alpha1.PodMigration {
	c.t.Helper()
	m := new(v1alpha1.PodMigration)
	if err := c.user.Get(c.t.Context(), client.ObjectKey{Namespace: "default", Name: name}, m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// play writes a status as the source's node controller would; the lab's own leave it alone for that node's name.
func (c *cluster) play(name string, change func(*v1alpha1.PodMigrationStatus)) {
	c.t.Helper()
	m := c.get(name)
	m.Status.SourceNode = source
	change(&m.Status)
	if m.Status.Phase.Over() {
		m.Status.CompletionTime = &metav1.Time{Time: time.Now()}
	}
	if err := c.user.Status().Update(c.t.Context(), m); err != nil {
		c.t.Fatal(err)
	}
}

// waiter is a plugin that waits.
type waiter struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	seen  []string
	err   bytes.Buffer
}

func (c *cluster) start(args ...string) *waiter {
	c.t.Helper()
	w := &waiter{t: c.t, cmd: c.command(args...), lines: make(chan string, 1000)}
	w.cmd.Stdout, w.cmd.Stderr = &lineWriter{to: w.lines}, &w.err
	w.cmd.WaitDelay = 10 * time.Second
	if err := w.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if w.cmd.ProcessState == nil { // the test broke off
			_ = w.cmd.Process.Kill()
			code := w.end()
			c.t.Logf("kubectl godwit %s, exit code %d, said\n%s%s%s", strings.Join(args, " "), code, strings.Join(w.seen, ""), w.rest(), &w.err)
		}
	})
	return w
}

// until waits for a line with the words, and returns it.
func (w *waiter) until(words string) string {
	w.t.Helper()
	deadline := time.After(pace.Stretch(3 * time.Minute))
	for {
		select {
		case line := <-w.lines:
			w.seen = append(w.seen, line)
			if strings.Contains(line, words) {
				return line
			}
		case <-deadline:
			w.t.Fatalf("%q was never said; but\n%s%s", words, strings.Join(w.seen, ""), &w.err)
		}
	}
}

// rest is what was said and not waited for.
func (w *waiter) rest() string {
	var text string
	for len(w.lines) > 0 {
		text += <-w.lines
	}
	return text
}

// end waits for the plugin's end and returns its exit code.
func (w *waiter) end() int {
	_ = w.cmd.Wait()
	return w.cmd.ProcessState.ExitCode()
}

// lineWriter takes a text apart.
type lineWriter struct {
	to   chan<- string
	rest []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		w.to <- string(w.rest[:i+1])
		w.rest = w.rest[i+1:]
	}
}

// decode reads what the plugin printed as JSON.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}
