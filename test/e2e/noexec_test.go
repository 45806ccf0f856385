package e2e

import (
	"context"
	"testing"

	"godwit.dev/godwit/test/lab"
)

// Debian's and Ubuntu's initramfs mount /run, where containers' bundles are, so that nothing can be executed there.
func TestPodsMoveWhereNothingInRunCanBeExecuted(t *testing.T) {
	a, b := nodes(t)
	explain(t, a, b)
	for _, n := range []*lab.Node{a, b} {
		if _, err := n.Exec(t.Context(), "mount", "-o", "remount,noexec", "/run"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := n.Exec(context.Background(), "mount", "-o", "remount,exec", "/run"); err != nil {
				t.Error(err)
			}
		})
	}
	p := runPod(t, a, lab.PodSpec{Name: "noexec", Containers: []lab.ContainerSpec{redisContainer(t)}})
	w := startWriter(t, p, keys(4_000))
	w.follow(p, b)
	w.follow(p, a)
	w.awaitWrites(writeRate / 4)
	w.verify()
}
