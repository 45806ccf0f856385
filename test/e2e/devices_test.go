package e2e

import (
	"testing"

	"godwit.dev/godwit/test/workload"
)

// A container's /dev is a file system in memory of its own, which CRIU does not see: what the pod has made there, and has open
// there, comes along all the same.
func TestWhatAPodHasInItsDevComesAlong(t *testing.T) {
	a, _ := nodes(t)
	p := program(t, a, workload.Devices, workload.Port)
	thereAndBack(t, p, func() { t.Log(p.check(workload.Port)) })
}
