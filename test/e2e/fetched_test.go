package e2e

import (
	"testing"

	"godwit.dev/godwit/test/lab"
)

// Pages that were left at the source are fetched while the pod runs at its destination: nothing
// is lost, every value is right, and the pod moves on afterwards.
func TestRedisRunsWhileItsPagesAreFetched(t *testing.T) {
	for _, mode := range []string{"postcopy", "hybrid"} {
		t.Run(mode, func(t *testing.T) {
			a, b := nodes(t)
			p := runPod(t, a, lab.PodSpec{Name: "redis-" + mode, Containers: []lab.ContainerSpec{redisContainer(t)}})
			w := startWriter(t, p, keys(100_000))
			w.awaitWrites(writeRate / 2)
			r := w.follow(p, b, "--mode", mode)
			if r.Mode != mode || r.LeftPages == 0 {
				t.Errorf("mode %s, %d pages left at the source", r.Mode, r.LeftPages)
			}
			if mode == "hybrid" && r.StopReason == "" {
				t.Error("it is not said why the rounds ended, or why there were none")
			}
			t.Logf("%s: downtime %.0f ms, %d pages left, %d faults waited for some, total %.0f ms", mode, r.DowntimeMS, r.LeftPages, r.RemoteFaults, r.TotalMS)
			w.awaitWrites(writeRate)
			w.verifyAndGoOn()
			if r := w.follow(p, a); r.Mode != "live" {
				t.Errorf("moved on in mode %s", r.Mode)
			}
			w.awaitWrites(writeRate)
			w.verify()
		})
	}
}
