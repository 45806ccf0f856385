package e2e

import (
	"fmt"
	"testing"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// Ten pods of 64 MiB are asked to move at once, and then all back.
func TestKubernetesPodMigrationsOfTenPods(t *testing.T) {
	k := newKube(t)
	k.nodesUp()
	const pods = 10
	load := travellerLoad{60_000, writeRate / pods}
	all := make([]*traveller, pods)
	for i := range all {
		all[i] = k.traveller(fmt.Sprintf("ten-%d", i), k.a, load)
	}
	for _, way := range []string{"there", "and back"} {
		t.Run(way, func(t *testing.T) {
			var asked [pods]*v1alpha1.PodMigration
			for i, v := range all {
				asked[i] = v.in(t).ask()
			}
			for i, v := range all {
				// The client hears of its address when this comes to it: the pods that have moved wait for it till then.
				end := v.settled(asked[i])
				if end.Status.Phase != v1alpha1.PhaseSucceeded {
					t.Errorf("pod %s is %s: %s", v.app, end.Status.Phase, end.Status.Message)
					continue
				}
				if d := end.Status.Downtime; d != nil { // else the destination's answer to the commit was lost
					t.Logf("pod %s: downtime %v, total %v", v.app, d.Duration, end.Status.Total.Duration)
				}
			}
		})
	}
	for _, v := range all {
		v.in(t).verify()
	}
	k.nothingLeft()
}
